//! What is wrong with a configuration file, where, and what to write instead.
//!
//! Rule: every mistake names file, line and key, and ends with what is allowed.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, NamedSource, SourceSpan};

/// The first mistake that was found. [`Self::render`] is for people, `Display` for logs.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{place}: {what}")]
pub struct ConfigError {
    /// File, line and key.
    place: String,
    what: String,
    #[help]
    instead: String,
    #[source_code]
    text: Option<Arc<NamedSource<String>>>,
    #[label("here")]
    at: Option<SourceSpan>,
}

impl ConfigError {
    /// The mistake with the lines of the file around it, without colours.
    pub fn render(&self) -> String {
        let mut page = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
        match handler.with_wrap_lines(false).render_report(&mut page, self) {
            Ok(()) => page,
            Err(std::fmt::Error) => format!("{self}\nhelp: {}", self.instead),
        }
    }
}

/// A configuration file that was read: the text to which mistakes point.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    text: Arc<NamedSource<String>>,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |place: String, what: String, instead: &str| ConfigError {
            place,
            what,
            instead: instead.to_owned(),
            text: None,
            at: None,
        };
        let bytes = std::fs::read(path).map_err(|error| {
            let instead =
                "name the file with --config or BASCULE_CONFIG; the proxy's user must be able to read it";
            let what = format!("the configuration cannot be read: {error}");
            refuse(path.display().to_string(), what, instead)
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            let place = format!("{}:{line}", path.display());
            refuse(place, "a character is not UTF-8".to_owned(), "save the file as UTF-8")
        })?;
        let text = Arc::new(NamedSource::new(path.display().to_string(), text).with_language("toml"));
        // Programs beside a file that was named without its folder must not be looked for in PATH.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, text })
    }

    pub(super) fn text(&self) -> &str {
        self.text.inner()
    }

    /// A mistake at `at`; an empty `key` is left out.
    pub(super) fn refuse(
        &self,
        key: &str,
        at: Range<usize>,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) -> ConfigError {
        let start = at.start.min(self.text().len());
        let line = 1 + self.text().as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
        let key = if key.is_empty() { String::new() } else { format!(": {key}") };
        ConfigError {
            place: format!("{}:{line}{key}", self.path.display()),
            what: what.into(),
            instead: instead.into(),
            text: Some(self.text.clone()),
            at: Some((start..at.end.clamp(start, self.text().len())).into()),
        }
    }

    /// What the TOML reader or serde did not like, in our words.
    pub(super) fn unreadable(&self, mut error: toml::de::Error) -> ConfigError {
        let at = error.span().unwrap_or(0..0);
        let message = error.message().to_owned();
        error.set_input(None);
        // Without its input the error prints the table that it is in, which it does not tell otherwise.
        let printed = error.to_string();
        let table =
            printed.rsplit_once("\nin `").and_then(|(_, t)| t.trim_end().strip_suffix('`')).unwrap_or("");
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        match quoted.split_first() {
            Some((key, known)) if message.starts_with("unknown field") => {
                let parent = table.strip_suffix(key).map_or(table, |t| t.trim_end_matches('.'));
                self.refuse(
                    &join(parent, key),
                    at,
                    format!("`{key}` is not a key of this table"),
                    nearest(key, known),
                )
            }
            Some((key, _)) if message.starts_with("missing field") => self.refuse(
                table,
                at,
                format!("the key `{key}` is missing"),
                format!("add `{key}`; the README describes every key"),
            ),
            Some(_) | None => {
                let (what, instead) = in_words(&message, &self.text()[at.clone()]);
                self.refuse(table, at, what, instead)
            }
        }
    }
}

/// serde speaks of Rust's types, an operator of what may be written.
fn in_words(message: &str, written: &str) -> (String, &'static str) {
    const TOML: &str = "the file must be TOML, with the keys that the README describes";
    if message == "duplicate key" {
        return (format!("`{written}` stands twice"), "leave one of them");
    }
    let Some((what, expected)) = message.rsplit_once(", expected ") else {
        return (message.to_owned(), TOML);
    };
    let (kind, instead) = match expected {
        "u16" | "u32" | "u64" | "usize" | "u8" => {
            ("a number", "write a whole number, such as 5, without quotes")
        }
        "a sequence" => ("a list", "write a list, such as [\"one\", \"two\"]"),
        "a boolean" => ("true or false", "write true or false, without quotes"),
        "a string" | "path string" => ("text", "write it in quotes"),
        "a map" => ("a table", "write a table: a line such as [server], and its keys below it"),
        _ if expected.starts_with("struct ") => {
            ("a table", "write a table: a line such as [server] and its keys below it, or { key = value }")
        }
        _ => return (message.to_owned(), TOML),
    };
    (format!("{what}, expected {kind}"), instead)
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// What is allowed, the likeliest first.
pub(super) fn nearest(written: &str, allowed: &[&str]) -> String {
    let likeness = |word: &&&str| (strsim::jaro_winkler(written, word) * 1000.0) as u32;
    let guess = allowed.iter().max_by_key(likeness).filter(|word| likeness(word) > 800);
    let mut sorted = allowed.to_vec();
    sorted.sort_unstable();
    let all = format!("`{}`", sorted.join("`, `"));
    match guess {
        Some(guess) => format!("did you mean `{guess}`? Allowed: {all}"),
        None if allowed.is_empty() => "nothing is allowed here".to_owned(),
        None => format!("allowed: {all}"),
    }
}
