//! The command line: commands, options and exit codes.
//!
//! Rule: `--help` is enough to operate bascule; each command says what it does, what it waits for, how it
//! exits, and shows an example.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::telemetry::LogFormat;

/// Where the configuration is looked for when neither `--config` nor `BASCULE_CONFIG` says.
pub const DEFAULT_CONFIG: &str = "/etc/bascule/bascule.toml";

const EXIT_CODES: &str = "\
Exit codes:
    0   done
    1   refused or failed; nothing was changed
    2   the command line or the configuration is wrong, or a file that it names
    3   the cutover was aborted; the old pool serves
    4   Limbo: neither pool takes writes, `bascule status` says what it needs
    5   bascule is not running, or stopped answering
  130   interrupted with Ctrl-C; a cutover that was started goes on

Files:
  /etc/bascule/bascule.toml   configuration; --config or BASCULE_CONFIG name another
  STATE_DIR/control.sock      what the commands talk to; its owner alone may";

/// Switchover proxy for mail clusters: moves live sessions from one mail platform to another.
///
/// `bascule serve` stands in front of the pools. The other commands talk to it through the Unix socket in its
/// state_dir, so they run on the same machine and as the same user (or root).
#[derive(Debug, Parser)]
#[command(name = "bascule", version, after_long_help = EXIT_CODES, after_help = "More with --help, also after each command.")]
pub struct Cli {
    /// Configuration file [default: $BASCULE_CONFIG, else /etc/bascule/bascule.toml]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Answer with one JSON document on stdout, errors too ({"why": [...], "instead": "..."})
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A record of the journal has room for so much.
fn reason(text: &str) -> Result<String, String> {
    const LONGEST: usize = 500;
    match text.trim() {
        "" => Err("say why: it stands in the report and in the journal".to_owned()),
        text if text.len() > LONGEST => {
            Err(format!("write {LONGEST} bytes or less, these are {}", text.len()))
        }
        text => Ok(text.to_owned()),
    }
}

impl Cli {
    /// The configuration file: the option, else `variable` (`$BASCULE_CONFIG`), else [`DEFAULT_CONFIG`].
    pub fn config_path(&self, variable: Option<std::ffi::OsString>) -> PathBuf {
        let set = variable.filter(|v| !v.is_empty()).map(PathBuf::from);
        self.config.clone().or(set).unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG))
    }
}

/// The commands.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Create the state_dir and record which pool is active now.
    ///
    /// Done once per installation, before the first `serve`. Refuses a state_dir that has a journal already.
    /// Waits for nothing. Exits 0, 1 or 2.
    #[command(after_long_help = "Example:\n  bascule init --active v4")]
    Init {
        /// The pool that serves the mail today
        #[arg(long, value_name = "POOL")]
        active: String,
    },
    /// Run the proxy until SIGTERM.
    ///
    /// First undoes or completes a cutover that a crash has interrupted, then opens its listeners. SIGHUP reloads
    /// certificates (all or none) and logs which other changes of the configuration need a restart; a configuration
    /// that would make a pool an open relay is refused. A listener whose pool is an open relay serves nobody until
    /// it refuses strangers. SIGTERM
    /// stops accepting, says farewell to the sessions over `limits.shutdown` and exits; a second one exits at
    /// once. Log lines go to stderr, filtered by BASCULE_LOG (default "info"); what it does not take is lost and
    /// counted (bascule_log_lines_lost_total). Exits 0, 1 or 2.
    #[command(after_long_help = "Example:\n  BASCULE_LOG=info,bascule::session=debug bascule serve")]
    Serve {
        /// How log lines look: text or json
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        log: LogFormat,
    },
    /// Check the configuration and the files that it names; change nothing.
    ///
    /// Needs no running bascule and contacts no pool. Exits 0 or 2.
    #[command(after_long_help = "Example:\n  bascule check-config --config new.toml")]
    CheckConfig,
    /// Show which pool is active, how a cutover stands, and what to do next.
    ///
    /// Waits for nothing. Exits 0, 4 in Limbo, or 5.
    #[command(after_long_help = "Example:\n  bascule status")]
    Status,
    /// Plan, start, follow and abort the switch to another pool.
    #[command(subcommand)]
    Cutover(Cutover),
    /// Look at the client sessions.
    #[command(subcommand)]
    Sessions(Sessions),
}

/// `bascule cutover …`
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Cutover {
    /// Say whether a cutover would be allowed now, and why not; change nothing.
    ///
    /// Waits for the probes and checks of both pools, each within its own timeout. Exits 0 (GO), 1 (NO-GO), or 5.
    #[command(after_long_help = "Example:\n  bascule cutover plan v5")]
    Plan {
        /// The pool that is to serve
        #[arg(value_name = "POOL")]
        to: String,
    },
    /// Move every session to another pool.
    ///
    /// Shows the plan, asks for the pool's name as confirmation, then shows the state, the time left, what is
    /// waited for by name and which way back is open, until every session has moved (or is back), and ends with
    /// the report; soaking goes on behind it. In Limbo it ends with the status instead. A cutover aborts by
    /// itself when `cutover.max_hold` cannot be kept. Ctrl-C leaves the display, not the cutover.
    /// Exits 0, 1, 2, 3, 4, 5 or 130.
    #[command(
        after_long_help = "Examples:\n  bascule cutover start v5\n  bascule cutover start v5 --yes --json"
    )]
    Start {
        /// The pool that is to serve
        #[arg(value_name = "POOL")]
        to: String,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
    },
    /// Follow the cutover that runs, as `start` shows it.
    ///
    /// Waits until every session has moved or is back. Exits 0, 1 (none runs), 3, 4, 5 or 130.
    #[command(after_long_help = "Example:\n  bascule cutover watch")]
    Watch,
    /// Go back to the old pool.
    ///
    /// Possible until the decision; refused after it (then a cutover in the other direction is the way).
    /// Returns when the abort has been taken up; `bascule cutover watch` follows it. Exits 0, 1 or 5.
    #[command(after_long_help = "Example:\n  bascule cutover abort --reason 'wrong window'")]
    Abort {
        /// Stands in the report and the log
        #[arg(long, value_name = "TEXT", default_value = "asked for by the operator", value_parser = reason)]
        reason: String,
    },
    /// Repair by hand: declare which pool is active.
    ///
    /// For Limbo, and for a state_dir whose journal does not fit the configuration. Goes through the running
    /// bascule, which fences the other pool, promotes this one and proves both; or straight to the journal when
    /// none runs. Then nothing is fenced, promoted or proved: make sure first that the other pool cannot write,
    /// and say it as the owner of the state_dir. Exits 0, 1, 2 or 5.
    #[command(
        after_long_help = "Example:\n  bascule cutover adopt v5 --reason 'v4 burnt down, v5 promoted by hand'"
    )]
    Adopt {
        /// The pool that serves from now on
        #[arg(value_name = "POOL")]
        pool: String,
        /// Stands in the journal for ever
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// While no bascule runs: end the cutover that the journal shows unfinished. The next start would undo it,
        /// with proofs that a dead pool never passes, or ask; this ends it without any, also for the old pool
        #[arg(long)]
        unproved: bool,
    },
    /// Show the report of the last cutover.
    ///
    /// Waits for nothing. Exits 0 (it went through), 1 (there was none), 3, 4 or 5.
    #[command(after_long_help = "Example:\n  bascule cutover report --json")]
    Report,
}

/// `bascule sessions …`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Sessions {
    /// List every session: who, where from, on which pool, doing what.
    ///
    /// Waits for nothing. Exits 0 or 5.
    #[command(after_long_help = "Example:\n  bascule sessions list")]
    List,
}

/// How the process ends. The numbers stand in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Refused or failed; nothing was changed.
    Refused = 1,
    /// The command line or the configuration is wrong. clap exits with the same number.
    Usage = 2,
    /// The cutover was aborted; the old pool serves.
    Aborted = 3,
    /// Neither pool takes writes.
    Limbo = 4,
    /// Nobody answers on the socket.
    NotRunning = 5,
    /// Ctrl-C; a cutover that was started goes on.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
