//! Real Dovecot servers: 2.3 of this system and 2.4 in a Debian 13 folder, on one mail store.
//!
//! Rule: every process of a rig ends with the test, however that ends; the script `ctl` beside this file does
//! all that is done to a server, for tests and for the hooks of a proxy alike.

mod pair;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

pub use self::pair::Pair;
use crate::{
    client::{Client, Security},
    process,
};

/// The user ids of all mail. Dovecot needs no account by that number.
const VMAIL: u32 = 5000;

/// What differs between rigs.
#[derive(Debug, Clone)]
pub struct Options {
    /// How mail is stored.
    pub format: Format,
    /// How long a server that is stopped may take before it is killed.
    pub grace: Duration,
}

impl Default for Options {
    /// mdbox, which 2.4 reads as 2.3 left it; and a second, for Dovecot lets idle sessions live for ten.
    fn default() -> Self {
        Self { format: Format::Mdbox, grace: Duration::from_secs(1) }
    }
}

/// How mail is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Dovecot's own.
    Mdbox,
    /// One file per message.
    Maildir,
}

/// Which Dovecot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Of Debian 12, which the tests run on.
    V23,
    /// Of Debian 13, in a folder that `tests/run` makes.
    V24,
}

/// One server of a rig. Every user's password is `pass`.
#[derive(Debug, Clone)]
pub struct Dovecot {
    rig: PathBuf,
    name: &'static str,
    address: Ipv4Addr,
    relay: Ipv4Addr,
}

impl Dovecot {
    /// Writes the server's files; starts nothing.
    fn lay(
        rig: &Path,
        name: &'static str,
        version: Version,
        [address, relay]: [Ipv4Addr; 2],
        options: &Options,
    ) -> Result<Self> {
        let folder = rig.join(name);
        std::fs::create_dir(&folder)?;
        let root = match version {
            Version::V23 => PathBuf::new(),
            Version::V24 => debian_13()?,
        };
        let instance =
            format!("address={address} root='{}' grace={}\n", root.display(), options.grace.as_secs_f32());
        std::fs::write(folder.join("instance"), instance)?;
        std::fs::write(folder.join("dovecot.conf"), version.config(name, [address, relay], options.format))?;
        std::fs::write(folder.join("refuse"), version.refuse())?;
        Ok(Self { rig: rig.to_owned(), name, address, relay })
    }

    /// The name in the rig: `old` or `new`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Clear text and STARTTLS; the certificate is for [`Pair::HOST`].
    pub fn imap(&self) -> SocketAddr {
        (self.address, 10143).into()
    }

    /// Implicit TLS.
    pub fn imaps(&self) -> SocketAddr {
        (self.address, 10993).into()
    }

    /// Deliveries.
    pub fn lmtp(&self) -> SocketAddr {
        (self.address, 10024).into()
    }

    /// Mail from users: clear text and STARTTLS.
    pub fn submission(&self) -> SocketAddr {
        (self.address, 10587).into()
    }

    /// The same with TLS first.
    pub fn submissions(&self) -> SocketAddr {
        (self.address, 10465).into()
    }

    /// Dovecot's protocol for who may log in, which Postfix speaks.
    pub fn sasl(&self) -> SocketAddr {
        (self.address, 10012).into()
    }

    /// Where its submission sends to: the place of its [`Postfix`](crate::postfix::Postfix).
    pub fn relay(&self) -> Ipv4Addr {
        self.relay
    }

    /// A session on the server itself, past any proxy.
    pub async fn session(&self, user: &str) -> Result<Client> {
        let mut client = Client::connect(self.imap(), Security::Plain).await?;
        client.login(user, "pass").await?.ok()?;
        Ok(client)
    }

    /// Replaces text in its configuration, which counts from its next start.
    pub fn configure(&self, text: &str, by: &str) -> Result<()> {
        let file = self.rig.join(self.name).join("dovecot.conf");
        let config = std::fs::read_to_string(&file)?;
        ensure!(config.contains(text), "{} does not contain {text:?}", file.display());
        Ok(std::fs::write(file, config.replace(text, by))?)
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
        let folder = self.rig.join(self.name);
        process::tail(&folder.join("console.log"), 20) + &process::tail(&folder.join("dovecot.log"), 60)
    }
}

/// What can be done to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Until it greets: a promotion, and the release of every kind of fence.
    Start,
    /// Until no process is left: a fence that holds.
    Stop,
    /// `doveadm stop`: a fence that does not hold yet when it returns.
    StopEarly,
    /// New logins are refused and old sessions go on writing: a fence that never holds.
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

impl Version {
    fn config(self, name: &str, [address, relay]: [Ipv4Addr; 2], format: Format) -> String {
        let template = match self {
            Self::V23 => include_str!("dovecot-2.3.conf"),
            Self::V24 => include_str!("dovecot-2.4.conf"),
        };
        let format = match format {
            Format::Mdbox => "mdbox",
            Format::Maildir => "maildir",
        };
        template
            .replace("@NAME@", name)
            .replace("@ADDRESS@", &address.to_string())
            .replace("@RELAY@", &relay.to_string())
            .replace("@FORMAT@", format)
    }

    /// The passdb that answers before all others while logins are refused.
    fn refuse(self) -> &'static str {
        match self {
            Self::V23 => "passdb {\n  driver = static\n  args = nopassword nologin reason=maintenance\n}\n",
            Self::V24 => {
                "passdb refuse {\n  driver = static\n  fields {\n    nopassword = yes\n    nologin = yes\n    \
                 reason = maintenance\n  }\n}\n"
            }
        }
    }
}

/// The folder with Debian 13, which only `tests/run` makes.
fn debian_13() -> Result<PathBuf> {
    let Some(folder) = std::env::var_os("BASCULE_REAL").map(PathBuf::from) else {
        bail!(
            "needs real servers: run it by `tests/run real`, which sets BASCULE_REAL to a folder with Dovecot 2.4"
        );
    };
    if !folder.join("usr/sbin/dovecot").exists() {
        bail!("needs real servers: no Dovecot 2.4 in {}; `tests/run real` puts it there", folder.display());
    }
    Ok(folder)
}
