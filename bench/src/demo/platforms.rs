//! The two platforms of the demo.
//!
//! Rule: everything that differs between kinds of platforms is here; the play knows only pools.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use bascule_tests::{
    bascule::Setup,
    client::{self, Client, Security},
    dovecot::{Action, Options, Pair},
    fake::control,
    oracle::Stage,
    process,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

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
    Fakes { socket: PathBuf, _process: Child, _folder: tempfile::TempDir },
    Dovecot { _pair: Pair },
}

const NAMES: [&str; 2] = ["old", "new"];

impl Platforms {
    /// Two in-memory platforms with replication both ways, in a process of their own.
    pub(crate) async fn fakes(users: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-demo-").tempdir()?;
        let (program, socket) = (beside_us("bascule-fake")?, folder.path().join("fake.sock"));
        let mut process = process::tied(&program)
            .args(["serve", "--users", &users.to_string(), "--password", "secret", "--socket"])
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("it has a pipe")?).lines();
        let mut address = async || {
            let line =
                lines.next_line().await?.context("bascule-fake ended before it said where it listens")?;
            anyhow::Ok(line.parse::<SocketAddr>()?)
        };
        let addresses = [address().await?, address().await?];
        let ctl = [program.display().to_string(), "ctl".into(), socket.display().to_string()];
        let pool = |name, title, address| Pool { name, title, address, security: Security::Plain };
        Ok(Self {
            pools: [
                pool(NAMES[0], "in-memory platform 1", addresses[0]),
                pool(NAMES[1], "in-memory platform 2", addresses[1]),
            ],
            users: names(users),
            password: "secret",
            setup: control::setup(NAMES, addresses, "secret", &ctl),
            running: Running::Fakes { socket, _process: process, _folder: folder },
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
        let Running::Fakes { socket, .. } = &self.running else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for pool in &self.pools {
            let reply = control::ask(socket, &format!("counters {}", pool.name)).await?;
            let counters: serde_json::Value = serde_json::from_str(&reply.text)?;
            let seen = counters["violations"].as_array().context("counters have violations")?;
            all.extend(seen.iter().map(ToString::to_string));
        }
        Ok(all)
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

/// A program that was built together with this one.
fn beside_us(name: &str) -> Result<PathBuf> {
    let path: PathBuf = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(Path::exists(&path), "{} is not built: bench/demo builds everything", path.display());
    Ok(path)
}
