//! bascule as a process: its configuration, its start, and the commands that an operator would give.
//!
//! Rule: the demo does nothing that an operator could not do with the same command line.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bascule_certs::testing::Authority;
use bascule_tests::client::{self, Client, Security};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::platforms::{Platforms, beside_us};

/// Longest start; past it something is broken.
const START: Duration = Duration::from_secs(30);

/// bascule, running.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) imaps: SocketAddr,
    trust: Arc<rustls::ClientConfig>,
    imap: SocketAddr,
    program: PathBuf,
    folder: PathBuf,
    serve: Child,
}

/// What bascule says about a cutover that ended.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    from: String,
    to: String,
    outcome: String,
    reason: String,
    phases: Vec<Phase>,
    hold: Holds,
    hold_own: Holds,
    sessions: u64,
    kept: u64,
    moved: u64,
    pause_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Phase {
    name: String,
    ms: u64,
}

#[derive(Debug, Deserialize)]
struct Holds {
    count: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Report {
    pub(crate) fn went_through(&self) -> bool {
        self.outcome == "done" && self.kept == self.sessions
    }

    /// The report in four lines.
    pub(crate) fn summary(&self) -> String {
        let phases: Vec<String> = self.phases.iter().map(|p| format!("{} {} ms", p.name, p.ms)).collect();
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
        let line = |name: &str, h: &Holds| {
            let ms = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
            format!("  {name:9} p50 {:>10}  p99 {:>10}  max {:>10}", ms(h.p50_us), ms(h.p99_us), ms(h.max_us))
        };
        format!(
            "{} → {}: {}{reason}; {} of {} sessions kept, {} moved; gate shut {} ms; {} commands held\n{}\n{}\n  {}",
            self.from,
            self.to,
            self.outcome,
            self.kept,
            self.sessions,
            self.moved,
            self.pause_ms,
            self.hold.count,
            line("hold", &self.hold),
            line("hold_own", &self.hold_own),
            phases.join(", "),
        )
    }
}

impl Proxy {
    /// Writes a configuration, runs `init` and `serve`, and returns when it greets.
    pub(crate) async fn start(folder: &Path, platforms: &Platforms) -> Result<Self> {
        let program = beside_us("bascule")?;
        let authority = Authority::new();
        authority.write(folder)?;
        let (cert, key) = authority.issue(&["localhost", "127.0.0.1"]).write(folder, "demo")?;
        private(&key, None)?;
        private(&folder.join("secret"), Some(platforms.pools[0].password))?;
        let (imap, imaps) = (free(1143)?, free(1993)?);
        let config = format!(
            r#"[server]
hostname  = "localhost"
state_dir = "{state}"
[tls.certificate.default]
cert = "{cert}"
key  = "{key}"
[listener.imap]
protocol = "imap"
bind     = ["{imap}"]
tls      = "starttls"
[listener.imaps]
protocol = "imap"
bind     = ["{imaps}"]
tls      = "implicit"
{old}{new}[cutover]
{cutover}"#,
            state = folder.join("state").display(),
            cert = cert.display(),
            key = key.display(),
            old = platforms.pools[0].config,
            new = platforms.pools[1].config,
            cutover = platforms.cutover,
        );
        std::fs::write(folder.join("bascule.toml"), config)?;
        succeed(command(&program, folder).args(["init", "--active", platforms.names()[0]]).output().await?)?;
        let serve = command(&program, folder)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("bascule.log"))?)
            .spawn()?;
        let trust = client::trusting(&authority.pem())?;
        let mut proxy = Self { imaps, trust, imap, program, folder: folder.into(), serve };
        proxy.wait_until_itserves(platforms).await?;
        Ok(proxy)
    }

    /// How the listener with implicit TLS is to be trusted.
    pub(crate) fn security(&self) -> Security {
        Security::Tls(self.trust.clone(), ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()))
    }

    /// Nothing tells from outside when a process begins to serve, so it is tried.
    async fn wait_until_itserves(&mut self, platforms: &Platforms) -> Result<()> {
        let serves = async {
            loop {
                if let Some(status) = self.serve.try_wait()? {
                    bail!("bascule ended with {status}:\n{}", self.log());
                }
                if let Ok(mut client) = Client::connect(self.imaps, self.security()).await
                    && let Ok(reply) = client.login(&platforms.users[0], platforms.pools[0].password).await
                    && reply.ok().is_ok()
                {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(START, serves).await {
            Ok(served) => served,
            Err(_) => bail!("bascule does not serve:\n{}", self.log()),
        }
    }

    /// Asks for the plan until it says GO: what the probes wrote has to be replicated first.
    pub(crate) async fn plan(&self, to: &str) -> Result<()> {
        let go = async {
            while !self.ask(&["cutover", "plan", to]).await?.status.success() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(START, go).await {
            Ok(planned) => planned,
            Err(_) => bail!("NO-GO: {}", text(&self.ask(&["cutover", "plan", to]).await?.stdout)),
        }
    }

    /// `bascule cutover start`, to its end.
    pub(crate) async fn cutover(&self, to: &str) -> Result<Report> {
        let run = self.ask(&["cutover", "start", to, "--yes"]).await?;
        serde_json::from_slice(&run.stdout).with_context(|| {
            format!("no cutover to {to}: {}{}\n{}", text(&run.stderr), text(&run.stdout), self.log())
        })
    }

    /// The pool that serves.
    pub(crate) async fn active(&self) -> Result<String> {
        let status: serde_json::Value = serde_json::from_slice(&succeed(self.ask(&["status"]).await?)?)?;
        Ok(status["active"].as_str().context("a status names the active pool")?.to_owned())
    }

    async fn ask(&self, words: &[&str]) -> Result<Output> {
        Ok(command(&self.program, &self.folder).arg("--json").args(words).output().await?)
    }

    /// How to join in with a mail client.
    pub(crate) fn how_to_connect(&self, platforms: &Platforms) -> String {
        format!(
            "Join in with a mail client: IMAP at {} (TLS) or {} (STARTTLS), user {}, password {}.\nIts certificate \
             is signed by {}; accept the warning, or trust that file.\n",
            self.imaps,
            self.imap,
            platforms.users[0],
            platforms.pools[0].password,
            self.folder.join("ca.pem").display(),
        )
    }

    /// What an operator would type.
    pub(crate) fn command_line(&self, words: &str) -> String {
        format!("{} --config {} {words}", self.program.display(), self.folder.join("bascule.toml").display())
    }

    /// The end of bascule's log.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("bascule.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    // A process group of its own: Ctrl-C is for us to hear.
    command.arg("--config").arg(folder.join("bascule.toml")).env("NO_COLOR", "1");
    command.process_group(0).kill_on_drop(true);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(run: Output) -> Result<Vec<u8>> {
    anyhow::ensure!(run.status.success(), "bascule ended with {}: {}", run.status, text(&run.stderr));
    Ok(run.stdout)
}

/// The usual port where it is free, or any.
fn free(port: u16) -> Result<SocketAddr> {
    let bound = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    Ok(bound(port).or_else(|_| bound(0))?.local_addr()?)
}

/// A file that nobody else reads, as bascule demands of keys and passwords.
fn private(path: &Path, content: Option<&str>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(content) = content {
        std::fs::write(path, content)?;
    }
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}
