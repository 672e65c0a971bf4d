//! Real Dovecot servers: 2.3 of this system and 2.4 in a Debian 13 folder, on one mail store.
//!
//! Rule: what is done to them is up to [`Instance`]; here stands how they are set up.

mod pair;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

pub use self::pair::Pair;
pub use crate::instance::Action;
use crate::{
    client::{Client, Security},
    instance::{Instance, Program, system},
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
    instance: Instance,
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
        let root = match version {
            Version::V23 => PathBuf::new(),
            Version::V24 => system("debian-13", "usr/sbin/dovecot")?,
        };
        let program = Program {
            root,
            command: format!("dovecot -F -c /mnt/{name}/dovecot.conf"),
            master: "run/master.pid",
            log: "dovecot.log",
            grace: options.grace,
        };
        let instance = Instance::lay(rig, name, address, &program)?;
        let config = version.config(name, [address, relay], options.format);
        std::fs::write(instance.path("dovecot.conf"), config)?;
        std::fs::write(instance.path("refuse"), version.refuse())?;
        Ok(Self { instance, address, relay })
    }

    /// The name in the rig: `old` or `new`.
    pub fn name(&self) -> &'static str {
        self.instance.name()
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
        let file = self.instance.path("dovecot.conf");
        let config = std::fs::read_to_string(&file)?;
        ensure!(config.contains(text), "{} does not contain {text:?}", file.display());
        Ok(std::fs::write(file, config.replace(text, by))?)
    }

    /// The command line of an action, for a hook.
    pub fn command(&self, action: Action) -> Vec<String> {
        self.instance.command(action)
    }

    /// Does it and waits until it is done.
    pub async fn act(&self, action: Action) -> Result<()> {
        self.instance.act(action).await
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        self.instance.log()
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
