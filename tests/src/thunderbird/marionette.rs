//! Marionette, Mozilla's remote control: JSON behind its length, one command at a time.
//!
//! Rule: nothing of any program that is controlled; what a script threw comes back as an error.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Longest wait for an answer: a program that is stuck does not heed how long a script may run.
const LONGEST: Duration = Duration::from_secs(90);

/// A connection whose scripts run with the program's own rights.
#[derive(Debug)]
pub(super) struct Marionette {
    stream: BufReader<TcpStream>,
    last: u64,
}

impl Marionette {
    /// Connects, and lets a script run for so long.
    pub(super) async fn connect(to: SocketAddr, patience: Duration) -> Result<Self> {
        let mut this = Self { stream: BufReader::new(TcpStream::connect(to).await?), last: 0 };
        let hello = this.read().await?;
        ensure!(hello["marionetteProtocol"] == 3, "{hello}");
        this.call("WebDriver:NewSession", json!({})).await?;
        let milliseconds = u64::try_from(patience.as_millis())?;
        this.call("WebDriver:SetTimeouts", json!({ "script": milliseconds })).await?;
        this.call("Marionette:SetContext", json!({ "value": "chrome" })).await?;
        Ok(this)
    }

    /// Runs a script, waits if it returns a promise, and returns what it came to. Scripts share their globals.
    pub(super) async fn run(&mut self, script: &str, arguments: Value) -> Result<Value> {
        let parameters = json!({
            "script": script, "args": arguments, "sandbox": "system", "newSandbox": false,
        });
        Ok(self.call("WebDriver:ExecuteScript", parameters).await?["value"].take())
    }

    async fn call(&mut self, name: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let command = json!([0, self.last, name, parameters]).to_string();
        self.stream.write_all(format!("{}:{command}", command.len()).as_bytes()).await?;
        let answer = timeout(LONGEST, self.read()).await;
        let mut answer = answer.with_context(|| format!("{name}: no answer within {LONGEST:?}"))??;
        ensure!(answer[1] == self.last, "{answer}");
        let error = &answer[2];
        ensure!(error.is_null(), "{name}: {}: {}", error["error"], error["message"]);
        Ok(answer[3].take())
    }

    async fn read(&mut self) -> Result<Value> {
        let mut length = Vec::new();
        self.stream.read_until(b':', &mut length).await?;
        ensure!(length.pop() == Some(b':'), "Marionette has gone");
        let length = String::from_utf8(length)?.parse().context("a length")?;
        let mut packet = vec![0; length];
        self.stream.read_exact(&mut packet).await?;
        Ok(serde_json::from_slice(&packet)?)
    }
}
