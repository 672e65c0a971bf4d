//! The two platforms of the demo.
//!
//! Rule: everything that differs between kinds of platforms is here; the play knows only pools.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use bascule_bench::beside_us;
use bascule_tests::{
    bascule::Setup,
    client::{self, Client, Security},
    dovecot::{Action, Options, Pair},
    fake::apart::{Apart, Plan},
    oracle::Stage,
};
use rustls_pki_types::ServerName;

/// Both platforms, running.
#[derive(Debug)]
pub(crate) struct Platforms {
    /// The one that serves first, and the other.
    pub(crate) pools: [Pool; 2],
    pub(crate) users: Vec<String>,
    pub(crate) password: &'static str,
    /// How a proxy is set up in front of them.
    pub(crate) setup: Setup,
    running: Running,
}

/// One platform, as the judge sees it around the proxy.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) security: Security,
}

/// What must stay alive.
#[derive(Debug)]
enum Running {
    Fakes(Apart),
    Dovecot { _pair: Pair },
}

const NAMES: [&str; 2] = Apart::NAMES;

impl Platforms {
    /// Two in-memory platforms with replication both ways, in a process of their own.
    pub(crate) async fn fakes(users: usize) -> Result<Self> {
        let program = beside_us("bascule-fake")?;
        let apart = Apart::start(&Plan { program: &program, users, messages: 20, shared: false }).await?;
        let addresses = apart.addresses;
        let pool = |name, title, address| Pool { name, title, address, security: Security::Plain };
        Ok(Self {
            pools: [
                pool(NAMES[0], "in-memory platform 1", addresses[0]),
                pool(NAMES[1], "in-memory platform 2", addresses[1]),
            ],
            users: names(users),
            password: Apart::PASSWORD,
            setup: apart.setup.clone(),
            running: Running::Fakes(apart),
        })
    }

    /// Dovecot 2.3 and 2.4 on one mail store.
    pub(crate) async fn dovecot(users: usize) -> Result<Self> {
        let pair = Pair::shared(Options::default()).await?;
        let trust = client::trusting(&pair.authority.pem())?;
        let security = Security::Tls(trust, ServerName::try_from(Pair::HOST)?);
        let mut setup = pair.setup(Action::Stop);
        // Nobody can ask it once it is stopped; for the way back it has to be declared.
        setup.pools[0].capabilities = capabilities(pair.old.imaps(), security.clone()).await?;
        let pool = |name, title, address| Pool { name, title, address, security: security.clone() };
        Ok(Self {
            pools: [
                pool(NAMES[0], "Dovecot 2.3", pair.old.imaps()),
                pool(NAMES[1], "Dovecot 2.4", pair.new.imaps()),
            ],
            users: names(users),
            password: "pass",
            setup,
            running: Running::Dovecot { _pair: pair },
        })
    }

    pub(crate) fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|p| p.name == name)
    }

    /// What the platforms saw that breaks the protocol, as far as they look for it.
    pub(crate) async fn violations(&self) -> Result<Vec<String>> {
        match &self.running {
            Running::Fakes(apart) => apart.violations().await,
            Running::Dovecot { .. } => Ok(Vec::new()),
        }
    }
}

async fn capabilities(server: SocketAddr, security: Security) -> Result<Vec<String>> {
    let mut client = Client::connect(server, security).await?;
    client.login("probe1", "pass").await?.ok()?;
    client.command("CAPABILITY").await?.ok()?;
    let shown = client.oracle().capabilities(Stage::Authenticated).context("CAPABILITY shows them")?;
    Ok(shown.iter().cloned().collect())
}

fn names(users: usize) -> Vec<String> {
    (1..=users).map(|n| format!("user{n}")).collect()
}
