//! Real servers that share the folder of their rig, whatever program they are and of whatever system.
//!
//! Rule: every process of a rig ends with the test, however that ends; the script `ctl` beside this file does
//! all that is done to a server, for tests and for the hooks of a proxy alike.

use std::{
    io,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::process;

/// One server of a rig.
#[derive(Debug, Clone)]
pub struct Instance {
    rig: PathBuf,
    name: &'static str,
    log: &'static str,
}

/// What is run, and where.
#[derive(Debug)]
pub(crate) struct Program {
    /// The system's folder; empty: the one that the tests run on.
    pub(crate) root: PathBuf,
    /// A command line that stays in the foreground. The rig lies at `/mnt`.
    pub(crate) command: String,
    /// Files of the instance: where its number stands, and what it says.
    pub(crate) master: &'static str,
    pub(crate) log: &'static str,
    /// How long it may take to end before it is killed.
    pub(crate) grace: Duration,
}

/// What can be done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Until it greets: a promotion, and the release of every kind of fence.
    Start,
    /// Until no process is left: a fence that holds.
    Stop,
    /// Dovecot's `doveadm stop`: a fence that does not hold yet when it returns.
    StopEarly,
    /// Dovecot: new logins are refused and old sessions go on writing: a fence that never holds.
    Refuse,
    /// As if the machine had died.
    Kill,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::StopEarly => "stop-early",
            Self::Refuse => "refuse",
            Self::Kill => "kill",
        }
    }
}

impl Instance {
    /// Makes the folder of a server at this address; starts nothing.
    pub(crate) fn lay(rig: &Path, name: &'static str, address: Ipv4Addr, program: &Program) -> Result<Self> {
        let folder = rig.join(name);
        std::fs::create_dir(&folder)?;
        let Program { root, command, master, log, grace } = program;
        let lines = format!(
            "address={address} root='{}' program='{command}' master={master} log={log} grace={}\n",
            root.display(),
            grace.as_secs_f32()
        );
        std::fs::write(folder.join("instance"), lines)?;
        Ok(Self { rig: rig.to_owned(), name, log })
    }

    /// The name in the rig: `old` or `new`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A file of its own.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.rig.join(self.name).join(file)
    }

    /// The command line of an action, for a hook.
    pub fn command(&self, action: Action) -> Vec<String> {
        vec![self.rig.join("ctl").display().to_string(), action.name().to_owned(), self.name.to_owned()]
    }

    /// Does it and waits until it is done.
    pub async fn act(&self, action: Action) -> Result<()> {
        let [program, arguments @ ..] = &self.command(action)[..] else { bail!("no program") };
        let run = Command::new(program).args(arguments).output().await.context(program.clone())?;
        if !run.status.success() {
            let error = String::from_utf8_lossy(&run.stderr);
            bail!("ctl {} {}: {}\n{error}", action.name(), self.name, run.status);
        }
        Ok(())
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        process::tail(&self.path("console.log"), 20) + &process::tail(&self.path(self.log), 60)
    }
}

/// Ends the rig when its input ends: when it is dropped, and also when the test is killed.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Puts the script into the rig, and lets it wait.
    pub(crate) fn start(rig: &Path) -> io::Result<Self> {
        let script = rig.join("ctl");
        std::fs::write(&script, include_str!("ctl"))?;
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
        let mut command = std::process::Command::new(script);
        // A group of its own, so that Ctrl-C does not reach it before its work.
        command.arg("guard").process_group(0).stdin(Stdio::piped()).spawn().map(Self)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait(); // nothing can be done about a failure here
    }
}

/// A system in a folder of `BASCULE_REAL`, which only `tests/run` makes.
pub(crate) fn system(name: &str, program: &str) -> Result<PathBuf> {
    let Some(folder) = std::env::var_os("BASCULE_REAL").map(PathBuf::from) else {
        bail!(
            "needs real servers: run it by `tests/run real`, which makes them and sets BASCULE_REAL to their folder"
        );
    };
    let root = folder.join(name);
    if !root.join(program).exists() {
        bail!("needs real servers: no {program} in {}; `tests/run real` puts it there", root.display());
    }
    Ok(root)
}
