//! A real Thunderbird without a screen: a person's account in it, and whatever would have bothered that person.
//!
//! Rule: how it speaks to servers is as it was installed. It is told what a person tells it, by the functions of `page.js`
//! beside this file; what went over the wire stands in its own logs.

mod marionette;

use std::{net::Ipv4Addr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::Child,
    time::{Instant, sleep},
};

use self::marionette::Marionette;
use crate::{bascule::Bascule, process};

/// How long it may take to start, and one thing that it is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Thunderbird that has its inbox on the screen; ends when dropped.
#[derive(Debug)]
pub struct Thunderbird {
    page: Marionette,
    // Before its folder: fields are dropped in this order.
    process: Child,
    folder: TempDir,
}

impl Thunderbird {
    /// Starts it with the account of this user behind a proxy: IMAP and submission, TLS first.
    pub async fn start(proxy: &Bascule, user: &str, password: &str) -> Result<Self> {
        const PROGRAM: &str = "/usr/lib/thunderbird/thunderbird";
        ensure!(Path::new(PROGRAM).exists(), "no Thunderbird; `tests/run real` installs it");
        let folder = tempfile::Builder::new().prefix("bascule-thunderbird-").tempdir()?;
        let address = proxy.imaps().ip().to_string();
        std::fs::write(
            folder.path().join("user.js"),
            include_str!("user.js").replace("@ADDRESS@", &address),
        )?;
        let console = std::fs::File::create(folder.path().join("console"))?;
        let mut command = process::tied(PROGRAM);
        command.args([
            "--headless",
            "--marionette",
            "--remote-allow-system-access",
            "--no-remote",
            "--profile",
        ]);
        command.arg(folder.path()).env("HOME", folder.path()).env("TMPDIR", folder.path());
        command.env("MOZ_LOG", "IMAP:4,sync").env("MOZ_LOG_FILE", folder.path().join("imap"));
        command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        let process = command.spawn()?;
        let port = listens(folder.path()).await?;
        let page = Marionette::connect((Ipv4Addr::LOCALHOST, port).into(), PATIENCE).await?;
        let mut this = Self { page, process, folder };
        this.page
            .run(&format!("globalThis.page = (() => {{{}}})()", include_str!("page.js")), json!([]))
            .await?;
        let account = json!({
            "host": Bascule::HOST, "imaps": proxy.imaps().port(), "submissions": proxy.submissions().port(),
            "user": user, "password": password, "address": format!("{user}@example.org"),
            "authority": proxy.authority.pem(),
        });
        this.tell("begin", json!([account])).await?;
        Ok(this)
    }

    /// The subjects in the inbox, as the screen shows them.
    pub async fn subjects(&mut self) -> Result<Vec<String>> {
        self.list("subjects").await
    }

    /// Waits until the inbox shows this.
    pub async fn shows(&mut self, subject: &str) -> Result<()> {
        self.tell("shows", json!([subject])).await.map(drop)
    }

    /// Marks it as read, and does not wait for the server.
    pub async fn read(&mut self, subject: &str) -> Result<()> {
        self.tell("read", json!([subject])).await.map(drop)
    }

    /// Begins to send a message. A copy goes into Sent.
    pub async fn send(&mut self, to: &str, subject: &str) -> Result<()> {
        self.tell("post", json!(["Now", to, subject])).await.map(drop)
    }

    /// Begins to save a message among the drafts.
    pub async fn save(&mut self, to: &str, subject: &str) -> Result<()> {
        self.tell("post", json!(["SaveAsDraft", to, subject])).await.map(drop)
    }

    /// Waits for the end of what was begun: `sent 0` and `copied 0` if all went well.
    pub async fn posted(&mut self, subject: &str) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.tell("posted", json!([subject])).await?)?)
    }

    /// Windows, dialogs, alerts and complaints about certificates since it was started.
    pub async fn troubles(&mut self) -> Result<Vec<String>> {
        self.list("troubles").await
    }

    /// The lines of its console.
    pub async fn console(&mut self) -> Result<Vec<String>> {
        self.list("log").await
    }

    /// What its IMAP sessions said and heard so far, line by line.
    pub fn imap(&self) -> Result<Vec<String>> {
        let log = std::fs::read(self.folder.path().join("imap.moz_log"))?;
        Ok(String::from_utf8_lossy(&log).lines().map(str::to_owned).collect())
    }

    async fn list(&mut self, name: &str) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.tell(name, json!([])).await?)?)
    }

    async fn tell(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let said = self.page.run(&format!("return page.{name}(...arguments)"), arguments).await;
        said.with_context(|| format!("{name} in Thunderbird"))
    }
}

impl Drop for Thunderbird {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its client said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = |name: &str| process::tail(&self.folder.path().join(name), 60);
            eprintln!("--- Thunderbird\n{}{}", file("console"), file("imap.moz_log"));
        }
        process::end(&mut self.process);
    }
}

/// Waits until it can be controlled: the port.
async fn listens(profile: &Path) -> Result<u16> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // It may be there and be empty.
        let port = std::fs::read_to_string(profile.join("MarionetteActivePort")).unwrap_or_default();
        if let Ok(port) = port.parse() {
            return Ok(port);
        }
        let console = process::tail(&profile.join("console"), 20);
        ensure!(Instant::now() < deadline, "Thunderbird does not listen:\n{console}");
        sleep(Duration::from_millis(20)).await;
    }
}
