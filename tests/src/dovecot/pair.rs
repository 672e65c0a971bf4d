//! Two servers on one mail store: 2.3 serves, 2.4 waits to be promoted.
//!
//! Rule: both see the store at the same path and with the same owner, and only one of them runs.

use std::{
    io,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Result;
use bascule_certs::testing::Authority;
use tempfile::TempDir;

use super::{Action, Dovecot, Options, VMAIL, Version};
use crate::process;

/// Dovecot 2.3 and 2.4 on one mail store.
#[derive(Debug)]
pub struct Pair {
    /// Dovecot 2.3, which runs.
    pub old: Dovecot,
    /// Dovecot 2.4, which does not run yet.
    pub new: Dovecot,
    /// Issued the servers' certificate.
    pub authority: Authority,
    // Before the folder: fields are dropped in this order.
    _guard: Guard,
    folder: TempDir,
}

impl Pair {
    /// The name in the servers' certificate.
    pub const HOST: &'static str = "imap.bascule.test";

    /// Makes the rig and starts the old server.
    pub async fn shared(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-rig-").tempdir()?;
        let rig = folder.path();
        std::fs::set_permissions(rig, PermissionsExt::from_mode(0o755))?;
        script(&rig.join("ctl"))?;
        let mail = rig.join("mail");
        std::fs::create_dir(&mail)?;
        chown(&mail, Some(VMAIL), Some(VMAIL))?;
        let authority = Authority::new();
        let certs = rig.join("certs");
        std::fs::create_dir(&certs)?;
        authority.write(&certs)?;
        authority.issue(&[Self::HOST]).write(&certs, "dovecot")?;
        let [old, new, _] = process::addresses();
        let old = Dovecot::lay(rig, "old", Version::V23, old, &options)?;
        let new = Dovecot::lay(rig, "new", Version::V24, new, &options)?;
        let guard = Guard::start(rig)?;
        let pair = Self { old, new, authority, _guard: guard, folder };
        pair.old.act(Action::Start).await?;
        Ok(pair)
    }

    /// The folder of one user's mail.
    pub fn mail(&self, user: &str) -> PathBuf {
        self.folder.path().join("mail").join(user)
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("certs/ca.pem")
    }
}

impl Drop for Pair {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its servers said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Dovecot 2.3\n{}--- Dovecot 2.4\n{}", self.old.log(), self.new.log());
        }
    }
}

fn script(path: &Path) -> io::Result<()> {
    std::fs::write(path, include_str!("ctl"))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))
}

/// Ends the rig when its input ends: when it is dropped, and also when the test is killed.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn start(rig: &Path) -> io::Result<Self> {
        let mut command = Command::new(rig.join("ctl"));
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
