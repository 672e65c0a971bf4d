//! The operator's programs: fences, promotes and `exec` checks.
//!
//! Rule: a hook never outlives its time limit or the future that runs it, and neither do its children; one
//! that ended by itself may leave a service behind. No shell, a bare environment, bounded output.

use std::{
    fmt, io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    task::spawn_blocking,
    time::{sleep_until, timeout, timeout_at},
};

use crate::{checks::note, config::Hook};

/// Output that is kept: its end, which says why a program gave up.
const OUTPUT: usize = 64 * 1024;
/// Lines of it that an [`Outcome`] shows.
const LINES: usize = 20;
/// A service that the hook left behind may hold the pipe open; what the hook wrote itself is there already.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// After SIGKILL the kernel needs a moment; a process that hangs in it is left to be reaped later.
const REAP: Duration = Duration::from_secs(1);

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that was not ours.
    Signalled(i32),
    /// Killed at its time limit.
    TimedOut,
    /// It never ran.
    NotStarted(String),
}

/// What running a hook came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// The last lines of its standard output and error, in the order of writing.
    pub output: String,
    /// How long it ran.
    pub took: Duration,
}

impl Outcome {
    /// Exit code 0.
    pub fn succeeded(&self) -> bool {
        self.status == Status::Exited(0)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Status::Exited(code) => write!(f, "exit {code}")?,
            Status::Signalled(signal) => write!(f, "ended by signal {signal}")?,
            Status::TimedOut => f.write_str("killed at its time limit")?,
            Status::NotStarted(why) => return write!(f, "not started: {why}"),
        }
        write!(f, " after {:.1} s", self.took.as_secs_f64())?;
        self.output.lines().next_back().map_or(Ok(()), |line| write!(f, ": {line}"))
    }
}

/// Runs a hook to its end or its time limit. `env` adds to `PATH` and `LANG`, the only variables it inherits.
pub async fn run(hook: &Hook, env: &[(&str, String)]) -> Outcome {
    begin(hook, env, None, None).await
}

/// The same, noted in `dir`: if this process is killed meanwhile, the next one ends the hook before it does anything.
pub async fn run_noted(hook: &Hook, env: &[(&str, String)], dir: &Path) -> Outcome {
    begin(hook, env, None, Some(dir.into())).await
}

/// The same, with everything that it writes to its standard output in `text`, up to `limit` bytes of it; the rest is
/// read and dropped. Of its standard error the end is kept.
pub async fn read(hook: &Hook, env: &[(&str, String)], text: &mut Vec<u8>, limit: usize) -> Outcome {
    begin(hook, env, Some((text, limit)), None).await
}

async fn begin(
    hook: &Hook,
    env: &[(&str, String)],
    text: Option<(&mut Vec<u8>, usize)>,
    note: Option<PathBuf>,
) -> Outcome {
    let begun = Instant::now();
    let until = begun + hook.timeout;
    let started = async {
        let (command, said, apart) = prepare(hook, env, text.is_some())?;
        Ok((start(command, note.is_some()).await?, said, apart))
    };
    let ended = |status| Outcome { status, output: String::new(), took: begun.elapsed() };
    let ((mut child, mut group, noted), said, apart) = match timeout_at(until.into(), started).await {
        Ok(Ok(started)) => started,
        Ok(Err(error)) => {
            let error: io::Error = error;
            return ended(Status::NotStarted(error.to_string()));
        }
        Err(_) => return ended(Status::TimedOut),
    };
    let keeping = note.zip(noted).map(|(dir, noted)| spawn_blocking(move || keep(&dir, &noted)));
    let mut tail = Tail { pipe: said, kept: Vec::new() };
    let mut whole = apart.zip(text).map(|(pipe, (text, limit))| Whole { pipe, text, limit });
    let status = tokio::select! {
        ended = wait(&mut child, &mut tail, whole.as_mut()) => {
            group.release();
            ended.map_or_else(|error| Status::NotStarted(error.to_string()), status_of)
        }
        () = sleep_until(until.into()) => {
            drop(group);
            // Only so that it leaves no zombie; what it says no longer counts.
            let _ = timeout(REAP, child.wait()).await;
            Status::TimedOut
        }
    };
    if let Some(keeping) = keeping {
        // So that it does not take the place of the next one's. What the hook came to is known already.
        let _ = timeout_at(until.into(), keeping).await;
    }
    let _ = timeout(LAST_WORDS, tail.read()).await;
    if let Some(whole) = &mut whole {
        let _ = timeout(LAST_WORDS, whole.read()).await;
    }
    Outcome { status, output: tail.lines(), took: begun.elapsed() }
}

/// A program in a process group of its own, with one pipe for both outputs, or one for each: the other is that of the
/// standard output.
fn prepare(
    hook: &Hook,
    env: &[(&str, String)],
    apart: bool,
) -> io::Result<(Command, Receiver, Option<Receiver>)> {
    let (program, arguments) =
        hook.exec.split_first().ok_or_else(|| io::Error::other("no program is configured"))?;
    let (read, write) = io::pipe()?;
    let (text, written) =
        if apart { io::pipe().map(|(read, write)| (Some(read), write))? } else { (None, write.try_clone()?) };
    let inherited = ["PATH", "LANG"].into_iter().filter_map(|key| Some((key, std::env::var_os(key)?)));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(inherited)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(written)
        .stderr(write)
        .process_group(0);
    let receiver = |pipe: io::PipeReader| Receiver::from_owned_fd(OwnedFd::from(pipe));
    Ok((command, receiver(read)?, text.map(receiver).transpose()?))
}

/// Starts it. A program on a file system that hangs would keep this thread; whoever no longer waits for it leaves
/// nothing behind. With what is to be noted of it, which is not written here: a disk that hangs must not keep back what
/// would end it.
async fn start(mut command: Command, noted: bool) -> io::Result<(Child, Group, Option<String>)> {
    let started = move || {
        let child = command.spawn().map_err(|error| {
            let program = command.as_std().get_program().display();
            io::Error::new(error.kind(), format!("{program}: {error}"))
        })?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let note = leader.filter(|_| noted).map_or(Ok(None), note::of).unwrap_or_else(|error| {
            unnoted(&error);
            None
        });
        Ok((child, Group(leader), note))
    };
    spawn_blocking(started).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn keep(dir: &Path, note: &str) {
    if let Err(error) = note::write(dir, note) {
        unnoted(&error);
    }
}

fn unnoted(error: &io::Error) {
    tracing::warn!(%error, "a hook was started and could not be noted");
}

/// Waits for the end and reads meanwhile, so that a full pipe stops nobody.
async fn wait(child: &mut Child, tail: &mut Tail, whole: Option<&mut Whole<'_>>) -> io::Result<ExitStatus> {
    let text = async {
        if let Some(whole) = whole {
            whole.read().await;
        }
    };
    tokio::select! {
        ended = child.wait() => return ended,
        _ = async { tokio::join!(tail.read(), text) } => {}
    }
    child.wait().await
}

fn status_of(status: ExitStatus) -> Status {
    status.code().map_or_else(|| Status::Signalled(status.signal().unwrap_or_default()), Status::Exited)
}

/// A process group that dies with this value, unless its leader was reaped: from then on the number may
/// belong to somebody else.
struct Group(Option<Pid>);

impl Group {
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody left to kill is what was wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The beginning of what is written into a pipe.
struct Whole<'a> {
    pipe: Receiver,
    text: &'a mut Vec<u8>,
    limit: usize,
}

impl Whole<'_> {
    /// Reads until the last writer has gone. Cancelling it loses nothing.
    async fn read(&mut self) {
        loop {
            self.text.reserve(4096);
            if !matches!(self.pipe.read_buf(self.text).await, Ok(1..)) {
                return;
            }
            self.text.truncate(self.limit);
        }
    }
}

/// The end of what is written into a pipe.
struct Tail {
    pipe: Receiver,
    kept: Vec<u8>,
}

impl Tail {
    /// Reads until the last writer has gone. Cancelling it loses nothing.
    async fn read(&mut self) {
        loop {
            if self.kept.len() >= 2 * OUTPUT {
                self.kept.drain(..self.kept.len() - OUTPUT);
            }
            self.kept.reserve(4096);
            if !matches!(self.pipe.read_buf(&mut self.kept).await, Ok(1..)) {
                return;
            }
        }
    }

    /// The last lines, without bytes that would upset a terminal.
    fn lines(&self) -> String {
        let end = &self.kept[self.kept.len().saturating_sub(OUTPUT)..];
        let text: String = String::from_utf8_lossy(end)
            .chars()
            .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
            .collect();
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    fn script(dir: &Path, body: &str) -> Hook {
        let path = dir.join("hook");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        Hook {
            // Read and not executed: what another test is just starting may have it open for writing still.
            exec: vec!["/bin/sh".into(), path.to_str().unwrap().into(), "an argument".into()],
            timeout: Duration::from_secs(60),
        }
    }

    fn fifo(path: &Path) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
    }

    /// A named pipe that a child of the hook holds open: its end is an event, not a guess.
    struct Child(Receiver);

    impl Child {
        /// The pipe, and a script that starts a child which says that it lives and then stays.
        fn new(dir: &Path) -> (Self, Hook) {
            Self::of(dir, |alive| format!("(echo >&3; sleep 1000) 3>{alive} & echo begun; wait"))
        }

        /// The same with a script of the test's own.
        fn of(dir: &Path, body: impl Fn(std::path::Display<'_>) -> String) -> (Self, Hook) {
            let path = dir.join("alive");
            fifo(&path);
            let pipe = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&path).unwrap();
            (Self(pipe), script(dir, &body(path.display())))
        }

        async fn born(&mut self) {
            assert_eq!(self.0.read_u8().await.unwrap(), b'\n');
        }

        async fn gone(mut self) {
            assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn exit_code_and_both_outputs_are_seen_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let outcome =
            run(&script(dir.path(), "echo one; echo \"two $1\" >&2; echo three; exit 2"), &[]).await;
        assert_eq!(outcome.status, Status::Exited(2));
        assert_eq!(outcome.output, "one\ntwo an argument\nthree");
        assert!(outcome.to_string().starts_with("exit 2 after ") && outcome.to_string().ends_with(": three"));
        assert!(!outcome.succeeded());
    }

    #[tokio::test]
    async fn the_environment_is_bare() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = run(&script(dir.path(), "/usr/bin/env"), &[("BASCULE_FROM", "v4".into())]).await;
        let names: Vec<_> =
            outcome.output.lines().filter_map(|l| l.split_once('=')).map(|(n, _)| n).collect();
        assert!(outcome.output.contains("BASCULE_FROM=v4"));
        // PWD and its kin are set by the shell itself.
        let allowed = ["PATH", "LANG", "BASCULE_FROM", "PWD", "OLDPWD", "SHLVL", "_"];
        assert!(names.iter().all(|name| allowed.contains(name)), "{names:?}");
    }

    #[tokio::test]
    async fn what_cannot_run_says_so() {
        let hook = Hook { exec: vec!["/nonexistent/fence".into()], timeout: Duration::from_secs(1) };
        let Status::NotStarted(why) = run(&hook, &[]).await.status else { panic!("it ran") };
        assert!(why.contains("/nonexistent/fence"));
        let empty = Hook { exec: vec![], timeout: Duration::from_secs(1) };
        assert!(matches!(run(&empty, &[]).await.status, Status::NotStarted(_)));
    }

    #[tokio::test]
    async fn a_signal_is_not_an_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run(&script(dir.path(), "kill -TERM $$"), &[]).await.status, Status::Signalled(15));
    }

    #[tokio::test]
    async fn the_time_limit_kills_the_grandchildren_too() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, mut hook) = Child::new(dir.path());
        hook.timeout = Duration::from_secs(2);
        let watch = async {
            child.born().await;
            child.gone().await;
        };
        let (outcome, ()) = tokio::join!(run(&hook, &[]), watch);
        assert_eq!(outcome.status, Status::TimedOut);
        assert_eq!(outcome.output, "begun");
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, hook) = Child::new(dir.path());
        let running = tokio::spawn(async move { run(&hook, &[]).await.status });
        child.born().await;
        running.abort();
        child.gone().await;
    }

    /// The disk hangs under the note: nobody reads what a pipe in its place is given.
    #[tokio::test]
    async fn the_time_limit_and_the_kill_wait_for_no_note() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [note, go, done] = [state.path().join("hook"), dir.path().join("go"), dir.path().join("done")];
        fifo(&note);
        fifo(&go);
        let both = |path| fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut word = both(&go);
        let body = format!("echo >&3; read word <{}; touch {}", go.display(), done.display());
        let (mut child, mut hook) = Child::of(dir.path(), |alive| format!("exec 3>{alive}; {body}"));
        hook.timeout = Duration::from_secs(2);
        let (outcome, ()) = tokio::join!(run_noted(&hook, &[], state.path()), child.born());
        // Were it alive it would go on now.
        word.write_all(b"go\n").unwrap();
        child.gone().await;
        // The thread that writes the note is let go, wherever it is.
        let _disk = both(&note);
        fs::remove_file(&note).unwrap();
        assert_eq!((outcome.status, done.exists()), (Status::TimedOut, false));
    }

    #[tokio::test]
    async fn a_service_left_behind_lives_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let hook = script(dir.path(), &format!("sleep 1000 & echo $! > {}; echo started", pid.display()));
        let outcome = run(&hook, &[]).await;
        assert!(outcome.succeeded());
        assert_eq!(outcome.output, "started");
        let pid = fs::read_to_string(pid).unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).expect("the service was killed with its hook");
    }

    #[tokio::test]
    async fn output_is_bounded_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let flood = "i=0; while [ $i -lt 20000 ]; do echo \"line $i of a flood that no pipe can hold\"; i=$((i+1)); done";
        let (command, pipe, _) = prepare(&script(dir.path(), flood), &[], false).unwrap();
        let (mut child, _group, _) = start(command, false).await.unwrap();
        let mut tail = Tail { pipe, kept: Vec::new() };
        tail.read().await;
        assert!(child.wait().await.unwrap().success());
        assert!(tail.kept.len() <= 2 * OUTPUT + 8192, "{}", tail.kept.len());
        assert!(tail.lines().ends_with("line 19999 of a flood that no pipe can hold"));
        assert_eq!(tail.lines().lines().count(), LINES);
    }

    #[tokio::test]
    async fn standard_output_can_be_read_whole_and_apart() {
        let dir = tempfile::tempdir().unwrap();
        let body = "i=0; while [ $i -lt 20000 ]; do echo line; i=$((i+1)); done; echo trouble >&2";
        let mut text = Vec::new();
        let outcome = read(&script(dir.path(), body), &[], &mut text, 1 << 20).await;
        assert!(outcome.succeeded(), "{outcome}");
        assert_eq!((text.len(), &*outcome.output), (100_000, "trouble"));
        let mut text = Vec::new();
        let outcome = read(&script(dir.path(), body), &[], &mut text, 7).await;
        assert!(outcome.succeeded(), "{outcome}");
        assert_eq!(text, b"line\nli");
    }
}
