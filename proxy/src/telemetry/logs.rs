//! The log: lines on stderr.
//!
//! Rule: whoever logs never waits. A thread of its own writes; while stderr takes nothing, a full pipe or a journal that
//! hangs, lines beyond [`LINES`] are lost and counted.

use std::{
    io::{self, IsTerminal as _},
    str::FromStr,
};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// The variable with the log filter, in the syntax of `tracing_subscriber::EnvFilter`.
pub const LOG_VARIABLE: &str = "BASCULE_LOG";

/// What is logged where nothing else is asked for. What goes wrong with one client or server is no news of pingora's own:
/// it is counted, and at level debug it is ours to tell.
const QUIET: &str = "info,pingora_core=off,pingora_proxy=off,pingora_pool=off";

/// Lines that wait for stderr at most: some megabytes.
const LINES: usize = 16 * 1024;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not a log format: write text or json")),
        }
    }
}

/// Writes lines while it lives; the last ones when it is dropped.
#[derive(Debug)]
pub struct Logs {
    lost: ErrorCounter,
    _writer: WorkerGuard,
}

impl Logs {
    /// Sends log lines to stderr from here on: level info, or what [`LOG_VARIABLE`] says.
    pub fn begin(format: LogFormat) -> Result<Self, String> {
        let filter = filter()?;
        let (writer, logs) = Self::to(io::stderr(), LINES);
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            // A line that cannot be written, on a full disk say, is lost. To say so on stderr would panic there.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        let set = match format {
            LogFormat::Text => lines.try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        };
        set.map(|()| logs).map_err(|error| error.to_string())
    }

    /// Where lines go for a thread of their own to write.
    fn to(stderr: impl io::Write + Send + 'static, lines: usize) -> (NonBlocking, Self) {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines);
        let (writer, guard) = builder.thread_name("logs").finish(stderr);
        let lost = writer.error_counter();
        (writer, Self { lost, _writer: guard })
    }

    /// Counts the lines that found no room.
    pub(super) fn lost(&self) -> ErrorCounter {
        self.lost.clone()
    }
}

fn filter() -> Result<EnvFilter, String> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(LOG_VARIABLE)
        .try_from_env();
    match filter {
        Ok(filter) => Ok(filter),
        Err(_) if std::env::var_os(LOG_VARIABLE).is_none() => Ok(EnvFilter::new(QUIET)),
        Err(error) => Err(format!("{LOG_VARIABLE}: {error}: write something like info,bascule=debug")),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::mpsc};

    use super::*;
    use crate::telemetry::Metrics;

    /// Says that it was given a line, and takes it when it is let.
    struct Stuck(mpsc::Sender<Vec<u8>>, mpsc::Receiver<()>);

    impl io::Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(line.to_vec());
            let _ = self.1.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_stderr_that_takes_nothing_and_what_is_lost_is_counted() {
        let ((given, lines), (let_go, wait)) = (mpsc::channel(), mpsc::channel());
        let (mut writer, logs) = Logs::to(Stuck(given, wait), 2);
        let metrics = Metrics::new();
        metrics.watch_logs(&logs);
        writer.write_all(b"first").unwrap();
        assert_eq!(lines.recv().unwrap(), b"first");
        // Two have room behind it.
        for line in ["second", "third", "fourth", "fifth"] {
            writer.write_all(line.as_bytes()).unwrap();
        }
        for _ in 0..2 {
            assert!(metrics.render().contains("bascule_log_lines_lost_total 2\n"), "{}", metrics.render());
        }
        drop(let_go);
        drop((writer, logs));
        assert_eq!(lines.iter().collect::<Vec<_>>(), [&b"second"[..], b"third"]);
    }

    #[test]
    fn log_formats_have_names() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().unwrap_err().contains("text or json"));
    }
}
