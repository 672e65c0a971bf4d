//! Two servers on one mail store: 2.3 serves, 2.4 waits to be promoted.
//!
//! Rule: both see the store at the same path and with the same owner, and only one of them runs.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
};

use anyhow::Result;
use bascule_certs::testing::Authority;
use tempfile::TempDir;

use super::{Action, Dovecot, Options, VMAIL, Version};
use crate::{
    bascule::{Fence, Pool, Setup},
    instance::Guard,
    process,
};

/// What 2.4 says after the login; declared, for it does not run while the capabilities are learnt.
const CAPABILITIES_24: &str = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT SORT=DISPLAY THREAD=REFERENCES \
    THREAD=REFS THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT CHILDREN NAMESPACE UIDPLUS \
    LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN CONTEXT=SEARCH LIST-STATUS BINARY \
    MOVE REPLACE SNIPPET=FUZZY PREVIEW=FUZZY PREVIEW SPECIAL-USE STATUS=SIZE SAVEDATE COMPRESS=DEFLATE INPROGRESS \
    NOTIFY LITERAL+";

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
    /// What 2.4 says to LHLO, as far as clients of a proxy may be shown it.
    pub const LMTP_24: [&'static str; 4] = ["PIPELINING", "8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES"];
    /// What its submission says to EHLO, as far as clients of a proxy may be shown it.
    pub const SUBMISSION_24: [&'static str; 4] =
        ["PIPELINING", "8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES"];

    /// Makes the rig and starts the old server.
    pub async fn shared(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-rig-").tempdir()?;
        let rig = folder.path();
        std::fs::set_permissions(rig, PermissionsExt::from_mode(0o755))?;
        let mail = rig.join("mail");
        std::fs::create_dir(&mail)?;
        chown(&mail, Some(VMAIL), Some(VMAIL))?;
        let authority = Authority::new();
        let certs = rig.join("certs");
        std::fs::create_dir(&certs)?;
        authority.write(&certs)?;
        authority.issue(&[Self::HOST]).write(&certs, "dovecot")?;
        let [old, old_relay, _] = process::addresses();
        let [new, new_relay, _] = process::addresses();
        let old = Dovecot::lay(rig, "old", Version::V23, [old, old_relay], &options)?;
        let new = Dovecot::lay(rig, "new", Version::V24, [new, new_relay], &options)?;
        let guard = Guard::start(rig)?;
        let pair = Self { old, new, authority, _guard: guard, folder };
        pair.old.act(Action::Start).await?;
        Ok(pair)
    }

    /// A proxy in front of both, with this fence of the old server.
    pub fn setup(&self, fence: Action) -> Setup {
        let capabilities = CAPABILITIES_24.split_whitespace().map(str::to_owned).collect();
        let pools =
            vec![self.pool(&self.old, fence, Vec::new()), self.pool(&self.new, Action::Stop, capabilities)];
        // Starting and stopping a service is slower than the defaults allow for.
        let cutover = "max_hold = \"15s\"\nfence = \"3s\"\nguard_interval = \"50ms\"\nsoak = \"100ms\"";
        Setup { pools, cutover: cutover.to_owned(), ..Setup::default() }
    }

    fn pool(&self, server: &Dovecot, fence: Action, capabilities: Vec<String>) -> Pool {
        let kind = if fence == Action::Refuse { "refuse" } else { "stop" };
        Pool {
            name: server.name().to_owned(),
            server: server.imap(),
            tls: Some((self.ca(), Self::HOST.to_owned())),
            contract: "storage = \"shared\", standby_login = \"no\"",
            password: "pass".to_owned(),
            capabilities,
            mail: Vec::new(),
            http: Vec::new(),
            fence: Some(Fence {
                kind,
                engage: server.command(fence),
                release: server.command(Action::Start),
            }),
            promote: Some(server.command(Action::Start)),
        }
    }

    /// The folder of one user's mail.
    pub fn mail(&self, user: &str) -> PathBuf {
        self.folder.path().join("mail").join(user)
    }

    /// A file of the rig, which both servers see under `/mnt`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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
