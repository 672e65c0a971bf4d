//! The proxy as a process: its configuration, its life, its command line.
//!
//! Rule: only what an operator can do, with files, signals and commands; nothing reaches inside.

mod setup;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bascule_certs::testing::Authority;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

pub use self::setup::{Fence, Pool, Service, Setup};
use crate::{
    client::{Client, Security, trusting},
    process,
};

/// A proxy with its folder.
#[derive(Debug)]
pub struct Bascule {
    /// Issued the certificate that clients see, for [`Bascule::HOST`].
    pub authority: Authority,
    address: Ipv4Addr,
    program: Option<PathBuf>,
    process: Option<Child>,
    logs: Option<&'static str>,
    folder: TempDir,
}

/// What a command of the command line came to.
#[derive(Debug)]
pub struct Ran {
    /// 0 when it did what it was asked for; `--help` tells the others.
    pub code: i32,
    /// What it wrote to stdout.
    pub json: Value,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Bascule {
    /// The name in its certificate.
    pub const HOST: &'static str = "mail.bascule.test";

    /// Sets it up with this pool active, and serves.
    pub async fn start(setup: &Setup, active: &str) -> Result<Self> {
        let mut proxy = Self::lay(setup)?;
        let init = proxy.run(&["init", "--active", active]).await?;
        ensure!(init.code == 0, "init: {init:?}");
        proxy.serve().await?;
        Ok(proxy)
    }

    /// Writes its files; starts nothing.
    pub fn lay(setup: &Setup) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-").tempdir()?;
        let authority = Authority::new();
        authority.issue(&[Self::HOST]).write(folder.path(), "server")?;
        let [_, _, address] = process::addresses();
        let program = setup.program.clone();
        let proxy = Self { authority, address, program, process: None, logs: None, folder };
        proxy.configure(setup)?;
        Ok(proxy)
    }

    /// Writes the configuration anew; it counts from the next [`Bascule::serve`].
    pub fn configure(&self, setup: &Setup) -> Result<()> {
        for pool in &setup.pools {
            let file = self.path(&format!("{}.password", pool.name));
            std::fs::write(&file, &pool.password)?;
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600))?;
        }
        std::fs::write(self.path("bascule.toml"), setup.text(self.address, &self.state_dir()))
            .context("bascule.toml")
    }

    /// Starts it and waits until it is ready.
    pub async fn serve(&mut self) -> Result<()> {
        self.launch().await?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.ready().await {
            if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.process = None;
                bail!("serve ended with {status}:\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "serve is not ready after 30 seconds:\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Starts it and does not wait.
    pub async fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let mut command = process::tied("env");
        // A file size limit that a test sets is to be an error, not a death.
        command.arg("--ignore-signal=XFSZ").arg(self.binary().await?);
        command.arg("--config").arg(self.path("bascule.toml")).arg("serve");
        if let Some(filter) = self.logs {
            command.env("BASCULE_LOG", filter);
        }
        self.process = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// What it logs from the next [`Bascule::serve`] on, instead of what BASCULE_LOG says.
    pub fn set_logs(&mut self, filter: &'static str) {
        self.logs = Some(filter);
    }

    /// Implicit TLS.
    pub fn imaps(&self) -> SocketAddr {
        (self.address, 10993).into()
    }

    /// STARTTLS.
    pub fn imap(&self) -> SocketAddr {
        (self.address, 10143).into()
    }

    /// Clear text for ever.
    pub fn clear(&self) -> SocketAddr {
        (self.address, 10144).into()
    }

    /// Mail from other servers: STARTTLS, if the pools have it.
    pub fn smtp(&self) -> SocketAddr {
        (self.address, setup::SMTP).into()
    }

    /// Mail from other servers: implicit TLS, if the pools have it.
    pub fn smtps(&self) -> SocketAddr {
        (self.address, setup::SMTPS).into()
    }

    /// Mail from users: STARTTLS, if the pools have it.
    pub fn submission(&self) -> SocketAddr {
        (self.address, setup::SUBMISSION).into()
    }

    /// Mail from users: implicit TLS, if the pools have it.
    pub fn submissions(&self) -> SocketAddr {
        (self.address, setup::SUBMISSIONS).into()
    }

    /// Deliveries: clear text, if the pools have it.
    pub fn lmtp(&self) -> SocketAddr {
        (self.address, setup::LMTP).into()
    }

    /// HTTP in clear text, if the setup has it.
    pub fn http(&self) -> SocketAddr {
        (self.address, setup::HTTP).into()
    }

    /// HTTP over TLS, if the setup has it.
    pub fn https(&self) -> SocketAddr {
        (self.address, setup::HTTPS).into()
    }

    /// The one that leads there, if the setup has it.
    pub fn redirect(&self) -> SocketAddr {
        (self.address, setup::REDIRECT).into()
    }

    /// How clients protect themselves where TLS comes first.
    pub fn tls(&self) -> Result<Security> {
        Ok(Security::Tls(trusting(&self.authority.pem())?, Self::HOST.try_into()?))
    }

    /// How they do where STARTTLS is said.
    pub fn starttls(&self) -> Result<Security> {
        Ok(Security::Starttls(trusting(&self.authority.pem())?, Self::HOST.try_into()?))
    }

    /// A client connection, TLS from the start.
    pub async fn connect(&self) -> Result<Client> {
        Ok(Client::connect(self.imaps(), self.tls()?).await?)
    }

    /// A client that has logged in.
    pub async fn session(&self, user: &str, password: &str) -> Result<Client> {
        let mut client = self.connect().await?;
        client.login(user, password).await?.ok()?;
        Ok(client)
    }

    /// Journal, spool and socket.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().and_then(Child::id)
    }

    /// A file of its folder: `bascule.toml`, `log`, `server.crt`, …
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn binary(&self) -> Result<&Path> {
        match &self.program {
            Some(path) => Ok(path),
            None => binary().await,
        }
    }

    /// Runs a command with `--json`.
    pub async fn run(&self, arguments: &[&str]) -> Result<Ran> {
        let mut command = process::tied(self.binary().await?);
        command.arg("--json").arg("--config").arg(self.path("bascule.toml")).args(arguments);
        let output = command.stdin(Stdio::null()).output().await?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let Some(code) = output.status.code() else { bail!("{arguments:?}: {}\n{stderr}", output.status) };
        // A usage error says nothing on stdout.
        let json =
            if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout)? };
        Ok(Ran { code, json, stderr })
    }

    /// The command line of this proxy, for a person.
    pub async fn command_line(&self) -> Result<String> {
        let (program, config) = (self.binary().await?, self.path("bascule.toml"));
        Ok(format!("{} --config {}", program.display(), config.display()))
    }

    /// Moves everything to this pool and returns the report, whatever it says.
    pub async fn cutover(&self, to: &str) -> Result<Ran> {
        self.run(&["cutover", "start", to, "--yes"]).await
    }

    /// `bascule status`
    pub async fn status(&self) -> Result<Value> {
        Ok(self.run(&["status"]).await?.json)
    }

    /// Asks for the status until it is as wished.
    pub async fn until(&self, wish: impl Fn(&Value) -> bool) -> Result<Value> {
        self.ask_until(&["status"], wish).await
    }

    /// Asks for the sessions until one of them is as wished.
    pub async fn until_session(&self, wish: impl Fn(&Value) -> bool) -> Result<()> {
        let any = |all: &Value| all.as_array().is_some_and(|all| all.iter().any(&wish));
        self.ask_until(&["sessions", "list"], any).await.map(drop)
    }

    async fn ask_until(&self, words: &[&str], wish: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = self.run(words).await?.json;
            if wish(&said) {
                return Ok(said);
            }
            ensure!(Instant::now() < deadline, "still {said:#} after a minute\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value of one metric, with its labels as they are written.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.observe("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
    }

    async fn ready(&self) -> bool {
        self.observe("/readyz").await.is_ok_and(|(status, _)| status == 200)
    }

    /// Asks the monitoring port: the HTTP status and the body.
    pub async fn observe(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.address, 9464)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.id().context("it does not run")?;
        let pid = Pid::from_raw(id.cast_signed()).context("no such process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        Ok(process.kill().await?)
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("it does not run")?;
        Ok(process.wait().await?)
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        process::tail(&self.path("log"), 100)
    }
}

impl Drop for Bascule {
    #[expect(clippy::print_stderr, reason = "a failing test shows what the proxy said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            let ended = ended.map_or_else(String::new, |status| format!(", ended: {status}"));
            eprintln!("--- bascule{ended}\n{}", self.log());
        }
    }
}

/// The proxy's binary: `BASCULE_BIN`, or built on first use beside the running test.
async fn binary() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BUILT.get() {
        return Ok(path);
    }
    let path = match std::env::var_os("BASCULE_BIN") {
        Some(path) => PathBuf::from(path),
        None => build().await?,
    };
    Ok(BUILT.get_or_init(|| path))
}

async fn build() -> Result<PathBuf> {
    // target/debug/deps/integration-… → target
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("where is the target folder?")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "bascule", "--bin", "bascule", "--target-dir"]).arg(target);
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().await?;
    ensure!(status.success(), "the proxy does not build");
    Ok(target.join("debug/bascule"))
}
