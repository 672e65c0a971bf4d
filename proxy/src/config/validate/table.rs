//! One table of the file and the questions that every check asks of its keys.
//!
//! Rule: a helper either returns a value that the program may rely on, or says which key, what and what instead.

use std::{
    fs,
    io::Read,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_spanned::Spanned;
use zeroize::Zeroizing;

use crate::config::{
    Account, ConfigError, Hook, Secret, defaults,
    error::{Source, nearest},
    raw::{self, Maybe, Size, Time},
};

/// Passwords are short; a longer file is another file.
const LONGEST_PASSWORD: u64 = 4096;
/// More of anything is a slip of the pen, and clocks, sums and semaphores have an end.
const LONGEST_TIME: Duration = Duration::from_secs(366 * 24 * 3600);
const LARGEST_SIZE: u64 = 1 << 40;
const LARGEST_COUNT: u32 = 1_000_000_000;

/// A table: its dotted name and its place.
#[derive(Debug, Clone)]
pub(super) struct Table<'a> {
    source: &'a Source,
    name: String,
    at: Range<usize>,
}

impl<'a> Table<'a> {
    pub(super) fn new(source: &'a Source, name: impl Into<String>, at: Range<usize>) -> Self {
        Self { source, name: name.into(), at }
    }

    /// A table inside this one.
    pub(super) fn table(&self, key: &str, at: Range<usize>) -> Self {
        Self { source: self.source, name: self.key(key), at }
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// A mistake in one key.
    pub(super) fn refuse(
        &self,
        key: &str,
        at: Range<usize>,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) -> ConfigError {
        self.source.refuse(&self.key(key), at, what, instead)
    }

    /// A mistake in the table as a whole.
    pub(super) fn refuse_all(&self, what: impl Into<String>, instead: impl Into<String>) -> ConfigError {
        self.source.refuse(&self.name, self.at.clone(), what, instead)
    }

    /// The place of a key that may be left out.
    pub(super) fn place<T>(&self, value: &Maybe<T>) -> Range<usize> {
        value.as_ref().map_or_else(|| self.at.clone(), Spanned::span)
    }

    /// The meaning of a word. `later` lists words of the design that this release does not know.
    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        value: &Spanned<String>,
        allowed: &[(&str, T)],
        later: &[&str],
    ) -> Result<T, ConfigError> {
        let written = value.get_ref().as_str();
        if let Some((_, meaning)) = allowed.iter().find(|(word, _)| *word == written) {
            return Ok(*meaning);
        }
        let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
        let (what, instead) = if later.contains(&written) {
            (format!("`{written}` is not supported yet"), format!("allowed now: `{}`", words.join("`, `")))
        } else {
            (format!("`{written}` is not allowed"), nearest(written, &words))
        };
        Err(self.refuse(key, value.span(), what, instead))
    }

    /// [`Self::word`] for a key that may be left out.
    pub(super) fn word_or<T: Copy>(
        &self,
        key: &str,
        value: &Maybe<String>,
        default: T,
        allowed: &[(&str, T)],
        later: &[&str],
    ) -> Result<T, ConfigError> {
        value.as_ref().map_or(Ok(default), |value| self.word(key, value, allowed, later))
    }

    /// A duration above zero, of a year at most.
    pub(super) fn time(
        &self,
        key: &str,
        value: &Maybe<Time>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        self.within(key, value, (default, LONGEST_TIME), |time| time.0, span)
    }

    /// A size above zero, of a TiB at most.
    pub(super) fn size(&self, key: &str, value: &Maybe<Size>, default: u64) -> Result<u64, ConfigError> {
        self.within(key, value, (default, LARGEST_SIZE), |size| size.0, bytes)
    }

    /// A size in memory above zero.
    pub(super) fn memory(
        &self,
        key: &str,
        value: &Maybe<Size>,
        default: usize,
    ) -> Result<usize, ConfigError> {
        let size = self.size(key, value, u64::try_from(default).unwrap_or(u64::MAX))?;
        Ok(usize::try_from(size).unwrap_or(usize::MAX))
    }

    /// A number above zero, of a thousand millions at most.
    pub(super) fn count<N: Copy + Default + TryFrom<u32> + Ord + ToString>(
        &self,
        key: &str,
        value: &Maybe<N>,
        default: N,
    ) -> Result<N, ConfigError> {
        let most = N::try_from(LARGEST_COUNT).unwrap_or(default);
        self.within(key, value, (default, most), |count| *count, |count| count.to_string())
    }

    /// What was written, if it is above zero and at most `most`.
    fn within<T, N: Default + Ord>(
        &self,
        key: &str,
        value: &Maybe<T>,
        (default, most): (N, N),
        read: impl Fn(&T) -> N,
        show: impl Fn(N) -> String,
    ) -> Result<N, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let number = read(value.get_ref());
        let (what, instead) = match () {
            () if number == N::default() && default == N::default() => {
                ("zero is not allowed".to_owned(), "leave it out for no limit".to_owned())
            }
            () if number == N::default() => {
                ("zero is not allowed".to_owned(), format!("leave it out for the default, {}", show(default)))
            }
            () if number > most => {
                (format!("{} is too much", show(number)), format!("write {} or less", show(most)))
            }
            () => return Ok(number),
        };
        Err(self.refuse(key, value.span(), what, instead))
    }

    /// Text without blanks, quotes or control characters, for wires and lists.
    pub(super) fn plain(&self, key: &str, value: &Spanned<String>) -> Result<String, ConfigError> {
        let text = value.get_ref();
        if text.is_empty() || text.chars().any(|c| !c.is_ascii_graphic() || c == '"' || c == '\\') {
            let instead = "write visible ASCII characters without blanks and quotes";
            return Err(self.refuse(key, value.span(), format!("{text:?} is not allowed"), instead));
        }
        Ok(text.clone())
    }

    /// Words with one blank between them, each as [`Self::plain`] has it.
    pub(super) fn words(&self, key: &str, value: &Spanned<String>) -> Result<String, ConfigError> {
        let text = value.get_ref();
        let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        if !text.split(' ').all(|word| !word.is_empty() && word.chars().all(plain)) {
            let instead = "write words of visible ASCII characters with one blank between them";
            return Err(self.refuse(key, value.span(), format!("{text:?} is not allowed"), instead));
        }
        Ok(text.clone())
    }

    /// A path, relative to the folder of the configuration.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.source.path.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// A file that can be read now.
    pub(super) fn file(&self, key: &str, value: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
        let path = self.path(value.get_ref());
        self.open(key, value, &path).map(|_| path)
    }

    fn open(&self, key: &str, value: &Spanned<PathBuf>, path: &Path) -> Result<fs::File, ConfigError> {
        let refuse = |why: String| {
            let instead = "write the path of a file that the proxy's user can read; a relative path begins at the \
                           folder of the configuration";
            self.refuse(key, value.span(), format!("{} cannot be read: {why}", path.display()), instead)
        };
        // Looked at before it is opened: opening a named pipe would wait for ever.
        let kind = fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
        if !kind.is_file() {
            return Err(refuse("it is not a file".to_owned()));
        }
        fs::File::open(path).map_err(|error| refuse(error.to_string()))
    }

    /// A login with the password from its file.
    pub(super) fn account(
        &self,
        user: &Spanned<String>,
        file: &Spanned<PathBuf>,
    ) -> Result<Account, ConfigError> {
        if user.get_ref().is_empty() || user.get_ref().chars().any(char::is_control) {
            let what = format!("{:?} is not a login name", user.get_ref());
            return Err(self.refuse("user", user.span(), what, "write the name as the pool knows it"));
        }
        let user = user.get_ref().clone();
        Ok(Account { address: user.clone(), user, password: self.password(file)? })
    }

    fn password(&self, value: &Spanned<PathBuf>) -> Result<Secret, ConfigError> {
        let path = self.path(value.get_ref());
        let file = self.open("password_file", value, &path)?;
        let path = path.display();
        let refuse =
            |what: String, instead: String| self.refuse("password_file", value.span(), what, instead);
        let unreadable = |error: std::io::Error| {
            refuse(format!("{path} cannot be read: {error}"), "check the file and its rights".to_owned())
        };
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        if mode & 0o007 != 0 {
            let what = format!("{path} is open to every user of this machine (mode {:03o})", mode & 0o777);
            return Err(refuse(what, format!("run: chmod o= {path}")));
        }
        let mut secret = Zeroizing::new(Vec::with_capacity(LONGEST_PASSWORD as usize + 1));
        file.take(LONGEST_PASSWORD + 1).read_to_end(&mut secret).map_err(unreadable)?;
        let line = secret.strip_suffix(b"\n").unwrap_or(&secret);
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        secret.truncate(length);
        if secret.is_empty()
            || length as u64 >= LONGEST_PASSWORD
            || secret.iter().any(|b| b"\0\r\n".contains(b))
        {
            let what = format!("{path} does not contain a password");
            return Err(refuse(what, "write the password as the one line of the file".to_owned()));
        }
        Ok(Secret(Arc::new(secret)))
    }

    /// A hook; `self` is its own table.
    pub(super) fn hook(&self, raw: &raw::Hook) -> Result<Hook, ConfigError> {
        self.program(&raw.exec, &raw.timeout)
    }

    /// A program with its time limit.
    pub(super) fn program(
        &self,
        exec: &Spanned<Vec<String>>,
        timeout: &Maybe<Time>,
    ) -> Result<Hook, ConfigError> {
        let refuse = |what: String| {
            let instead = r#"write the program's path and its arguments, such as ["/etc/bascule/fence", "on"]; there is no shell and no search path"#;
            self.refuse("exec", exec.span(), what, instead)
        };
        let Some((program, arguments)) = exec.get_ref().split_first() else {
            return Err(refuse("no program is named".to_owned()));
        };
        if exec.get_ref().iter().any(|word| word.contains('\0')) {
            return Err(refuse("an argument contains NUL".to_owned()));
        }
        let program = self.path(Path::new(program));
        match fs::metadata(&program) {
            Ok(file) if !file.is_file() => {
                return Err(refuse(format!("{} is not a file", program.display())));
            }
            Ok(file) if file.permissions().mode() & 0o111 == 0 => {
                return Err(refuse(format!("{0} is not executable (chmod +x {0})", program.display())));
            }
            Ok(_) => {}
            Err(error) => return Err(refuse(format!("{}: {error}", program.display()))),
        }
        let Some(program) = program.to_str() else {
            return Err(refuse(format!("{} is not UTF-8", program.display())));
        };
        let exec = std::iter::once(program.to_owned()).chain(arguments.iter().cloned()).collect();
        Ok(Hook { exec, timeout: self.time("timeout", timeout, defaults::HOOK_TIMEOUT)? })
    }
}

/// A duration as it is written in the file.
pub(super) fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// A size as it is written in the file, without a loss.
pub(super) fn bytes(size: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let exact = units.iter().find(|(_, unit)| size >= *unit && size.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{size}B"), |(name, unit)| format!("{}{name}", size / unit))
}
