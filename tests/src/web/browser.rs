//! Chromium without a window, told what to do over WebDriver (W3C).
//!
//! Rule: it ends with all of its processes when it is dropped, and when the test is killed.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::{client::Security, http::Client, process};

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    driver: Client,
    session: String,
    folder: tempfile::TempDir,
    child: Child,
}

impl Drop for Browser {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

impl Browser {
    /// Starts it. It takes any certificate.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-browser-").tempdir()?;
        // All of its processes are in a namespace that ends with the first of them.
        let mut command = process::tied("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromedriver", "--port=0"]);
        // What it leaves behind goes with the folder.
        command.env("TMPDIR", folder.path()).env("HOME", folder.path());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("chromedriver")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let port: u16 = loop {
            let line =
                lines.next_line().await?.context("chromedriver has ended: is chromium-driver there?")?;
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').parse()?;
            }
        };
        // What else it says is read by nobody, and must not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let driver = Client::connect(([127, 0, 0, 1], port).into(), Security::Plain).await?;
        let mut browser = Self { driver, session: String::new(), folder, child };
        let profile = format!("--user-data-dir={}", browser.folder.path().display());
        let options = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--window-size=900,300", profile]},
        }}});
        let session = browser.command("POST", "/session", &options).await?;
        browser.session = format!("/session/{}", session["sessionId"].as_str().context("no session")?);
        Ok(browser)
    }

    /// Goes to a page.
    pub async fn visit(&mut self, url: &str) -> Result<()> {
        self.here("POST", "/url", &json!({ "url": url })).await.map(drop)
    }

    /// What a script on the page comes to.
    pub async fn run(&mut self, script: &str) -> Result<Value> {
        self.here("POST", "/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Asks the page again and again, until its answer is as wished.
    pub async fn until(&mut self, script: &str, wish: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + tokio::time::Duration::from_secs(60);
        loop {
            let answer = self.run(script).await?;
            if wish(&answer) {
                return Ok(answer);
            }
            ensure!(tokio::time::Instant::now() < deadline, "{script}: still {answer}");
            tokio::time::sleep(tokio::time::Duration::from_millis(20)).await;
        }
    }

    /// What was written to the console since this was last asked, messages of the browser's own among it.
    pub async fn console(&mut self) -> Result<Vec<String>> {
        let log = self.here("POST", "/se/log", &json!({"type": "browser"})).await?;
        let entry = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        Ok(log.as_array().context("no console")?.iter().map(entry).collect())
    }

    /// A picture of the page, PNG.
    pub async fn picture(&mut self, file: &Path) -> Result<()> {
        let picture = self.here("GET", "/screenshot", &Value::Null).await?;
        Ok(std::fs::write(file, STANDARD.decode(picture.as_str().context("no picture")?)?)?)
    }

    async fn here(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let path = format!("{}{path}", self.session);
        self.command(method, &path, body).await
    }

    async fn command(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // It answers only to its own name.
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        self.driver.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await?;
        let answer = self.driver.answer().await?;
        let mut value: Value = serde_json::from_slice(&answer.body)?;
        if !answer.ok() {
            bail!("{method} {path}: {value}");
        }
        Ok(value["value"].take())
    }
}
