//! Real Cyrus servers on one spool: 3.6 of Debian 12 and 3.10 of Debian 13, each in a folder that `tests/run` makes, for
//! Debian has no place for it beside Dovecot.
//!
//! Rule: what 3.6 made 3.10 can read and not the other way round, as upgrades are; twice 3.10 is a platform of two sites.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use tempfile::TempDir;

pub use crate::instance::Action;
use crate::{
    bascule::{Fence, Pool, Service, Setup},
    client::{Client, Security},
    instance::{Guard, Instance, Program, system},
    process,
};

/// What 3.10 says after the login; declared, for it does not run while the capabilities are learnt.
const CAPABILITIES_310: &str = "IMAP4rev1 IMAP4rev2 ACL ANNOTATE-EXPERIMENT-1 APPENDLIMIT=2147483647 BINARY CATENATE \
    CHILDREN COMPRESS=DEFLATE CONDSTORE CREATE-SPECIAL-USE ENABLE ESEARCH ESORT ID IDLE LIST-EXTENDED LIST-METADATA \
    LIST-MYRIGHTS LIST-STATUS LITERAL+ LOGINDISABLED MAILBOX-REFERRALS METADATA MOVE MULTIAPPEND MULTISEARCH NAMESPACE \
    OBJECTID PREVIEW QRESYNC QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE QUOTA=RES-ANNOTATION-STORAGE \
    QUOTA=RES-MAILBOX QUOTASET REPLACE RIGHTS=kxten SAVEDATE SEARCH=FUZZY SEARCHRES SORT SORT=DISPLAY SPECIAL-USE \
    STATUS=SIZE THREAD=ORDEREDSUBJECT THREAD=REFERENCES UIDONLY UIDPLUS UNSELECT URL-PARTIAL URLAUTH URLAUTH=BINARY \
    WITHIN DIGEST=SHA1 NO_ATOMIC_RENAME SCAN SORT=MODSEQ SORT=UID THREAD=REFS X-CREATEDMODSEQ X-REPLICATION \
    X-REPLICATION-ARCHIVE X-SIEVE-MAILBOX XCONVERSATIONS XLIST XMOVE";
/// The user `mail` of every Debian; the user `cyrus` has another number in each.
const MAIL: u32 = 8;
/// What clients of LMTP are shown.
const KEYWORDS: &str = "keywords = [\"8BITMIME\", \"ENHANCEDSTATUSCODES\", \"PIPELINING\", \"SIZE\"]\n";
/// Where a calendar's event shows whether it can be written to.
const WEB: &str =
    "tls = { mode = \"none\" }\nprobe = \"/dav/calendars/user/{user}/Default/bascule-probe.ics\"\n";

/// Which Cyrus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V36,
    V310,
}

/// One server of a rig. Every password is right.
#[derive(Debug, Clone)]
pub struct Cyrus {
    instance: Instance,
    address: Ipv4Addr,
}

impl Cyrus {
    /// Writes the server's files; starts nothing.
    fn lay(rig: &Path, name: &'static str, version: Version) -> Result<Self> {
        let [address, ..] = process::addresses();
        let root = match version {
            Version::V36 => "cyrus-3.6",
            Version::V310 => "cyrus-3.10",
        };
        let files = format!("-C /mnt/{name}/imapd.conf -M /mnt/{name}/cyrus.conf -p /mnt/{name}/master.pid");
        let program = Program {
            root: system(root, "usr/sbin/cyrmaster")?,
            command: format!(
                "env CYRUS_USER=mail CYRUS_GROUP=mail /usr/sbin/cyrmaster -D {files} -L /mnt/{name}/log"
            ),
            master: "master.pid",
            log: "log",
            grace: Duration::from_secs(3),
        };
        let instance = Instance::lay(rig, name, address, &program)?;
        let files = [("imapd.conf", include_str!("imapd.conf")), ("cyrus.conf", include_str!("cyrus.conf"))];
        for (file, template) in files {
            let text = template
                .replace("@NAME@", name)
                .replace("@ADDRESS@", &address.to_string())
                .replace("@HOST@", Pair::HOST);
            std::fs::write(instance.path(file), text)?;
        }
        for folder in ["", "proc", "lock"] {
            ours(&instance.path(folder))?;
        }
        Ok(Self { instance, address })
    }

    /// Clear text.
    pub fn imap(&self) -> SocketAddr {
        (self.address, 10143).into()
    }

    /// Deliveries.
    pub fn lmtp(&self) -> SocketAddr {
        (self.address, 10024).into()
    }

    /// JMAP, calendars and contacts.
    pub fn http(&self) -> SocketAddr {
        (self.address, 10080).into()
    }

    /// A session on the server itself, past any proxy.
    pub async fn session(&self, user: &str) -> Result<Client> {
        let mut client = Client::connect(self.imap(), Security::Plain).await?;
        client.login(user, "pass").await?.ok()?;
        Ok(client)
    }

    /// Does it and waits until it is done.
    pub async fn act(&self, action: Action) -> Result<()> {
        self.instance.act(action).await
    }

    fn pool(&self, capabilities: Vec<String>) -> Pool {
        Pool {
            name: self.instance.name().to_owned(),
            server: self.imap(),
            tls: None,
            contract: "storage = \"shared\", standby_login = \"no\"",
            password: "pass".to_owned(),
            capabilities,
            mail: vec![Service {
                protocol: "lmtp",
                server: self.lmtp(),
                tls: None,
                lines: KEYWORDS.to_owned(),
            }],
            http: vec![("cyrus", vec![self.http()], WEB.to_owned())],
            fence: Some(Fence {
                kind: "stop",
                engage: self.instance.command(Action::Stop),
                release: self.instance.command(Action::Start),
            }),
            promote: Some(self.instance.command(Action::Start)),
        }
    }
}

/// Two servers on one spool.
#[derive(Debug)]
pub struct Pair {
    /// Runs.
    pub old: Cyrus,
    /// Does not run yet.
    pub new: Cyrus,
    // Before the folder: fields are dropped in this order.
    _guard: Guard,
    _folder: TempDir,
}

impl Pair {
    /// What the servers call themselves.
    pub const HOST: &'static str = "cyrus.bascule.test";

    /// From 3.6 to 3.10: there is no way back for mailboxes that 3.10 makes.
    pub async fn upgrade() -> Result<Self> {
        Self::of(Version::V36).await
    }

    /// Two sites with 3.10.
    pub async fn sites() -> Result<Self> {
        Self::of(Version::V310).await
    }

    async fn of(old: Version) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-rig-").tempdir()?;
        let rig = folder.path();
        std::fs::set_permissions(rig, PermissionsExt::from_mode(0o755))?;
        for part in ["lib", "lib/socket", "lib/user", "mail", "sieve"] {
            ours(&rig.join(part))?;
        }
        let old = Cyrus::lay(rig, "old", old)?;
        let new = Cyrus::lay(rig, "new", Version::V310)?;
        let guard = Guard::start(rig)?;
        let pair = Self { old, new, _guard: guard, _folder: folder };
        pair.old.act(Action::Start).await?;
        Ok(pair)
    }

    /// A proxy in front of both.
    pub fn setup(&self) -> Setup {
        let capabilities = CAPABILITIES_310.split_whitespace().map(str::to_owned).collect();
        Setup {
            pools: vec![self.old.pool(Vec::new()), self.new.pool(capabilities)],
            http: "routes = [{ path = \"/\", service = \"cyrus\" }]\n".to_owned(),
            ..Setup::default()
        }
    }
}

impl Drop for Pair {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its servers said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- old\n{}--- new\n{}", self.old.instance.log(), self.new.instance.log());
        }
    }
}

/// A folder that Cyrus may write to, made if it is not there.
fn ours(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    Ok(chown(folder, Some(MAIL), Some(MAIL))?)
}
