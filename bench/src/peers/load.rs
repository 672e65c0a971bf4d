//! The load generator, as the process that it is.
//!
//! Rule: it does nothing between two words that it is told.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use bascule_tests::process;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

use crate::beside_us;

/// Longest wait for one of its lines; nine thousand logins are the longest work.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where a load goes.
#[derive(Debug, Clone)]
pub(crate) struct Door<'a> {
    pub(crate) address: SocketAddr,
    /// The authority, if it is a door with TLS.
    pub(crate) ca: Option<&'a Path>,
}

/// One run of it.
#[derive(Debug)]
pub(crate) struct Load {
    process: Child,
    orders: ChildStdin,
    news: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts it; it stands ready when this returns.
    pub(crate) async fn start(door: &Door<'_>, work: &str) -> Result<Self> {
        let mut command = process::tied(beside_us("bascule-load")?);
        command.args(["--to", &door.address.to_string()]);
        if let Some(ca) = door.ca {
            command.arg("--ca").arg(ca);
        }
        command.args(work.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let orders = process.stdin.take().context("it has a pipe")?;
        let news = BufReader::new(process.stdout.take().context("it has a pipe")?).lines();
        let mut load = Self { process, orders, news };
        let _: Value = load.news().await.with_context(|| format!("load {work}"))?;
        Ok(load)
    }

    /// Tells it to go on, and waits for what it says then.
    pub(crate) async fn go<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.orders.write_all(b"\n").await?;
        self.news().await
    }

    /// Tells it to end.
    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.orders);
        timeout(PATIENCE, self.process.wait()).await.context("the load does not end")??;
        Ok(())
    }

    async fn news<T: DeserializeOwned>(&mut self) -> Result<T> {
        match timeout(PATIENCE, self.news.next_line()).await.context("the load says nothing")?? {
            Some(line) => Ok(serde_json::from_str(&line).with_context(|| line.clone())?),
            None => bail!("the load ended: {}", self.last_words().await),
        }
    }

    async fn last_words(&mut self) -> String {
        let Some(mut stderr) = self.process.stderr.take() else { return String::new() };
        let mut said = String::new();
        let read = tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut said);
        match read.await {
            Ok(_) => said.trim_end().to_owned(),
            Err(error) => error.to_string(),
        }
    }
}
