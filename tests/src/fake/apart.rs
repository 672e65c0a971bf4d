//! Two platforms in a process of their own: for loads that one process has not descriptors enough for.
//!
//! Rule: the process lives as long as its handle, and never longer.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use super::control::{self, Reply};
use crate::{bascule::Setup, process};

/// How they are to be.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The program `bascule-fake`.
    pub program: &'a Path,
    /// Accounts: user1, user2, …
    pub users: usize,
    /// Messages in every INBOX.
    pub messages: usize,
    /// One store under both instead of replication.
    pub shared: bool,
}

/// Platforms `old` and `new`, running.
#[derive(Debug)]
pub struct Apart {
    /// Where they listen.
    pub addresses: [SocketAddr; 2],
    /// How a proxy is set up in front of them.
    pub setup: Setup,
    /// The process.
    pub child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Apart {
    /// Their names.
    pub const NAMES: [&'static str; 2] = ["old", "new"];
    /// The password of all accounts.
    pub const PASSWORD: &'static str = "secret";

    /// Starts them; both have their messages when this returns.
    pub async fn start(plan: &Plan<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-apart-").tempdir()?;
        let socket = folder.path().join("fake.sock");
        let mut command = process::tied(plan.program);
        command.args(["serve", "--users", &plan.users.to_string(), "--messages", &plan.messages.to_string()]);
        command.args(["--password", Self::PASSWORD, "--socket"]).arg(&socket);
        if plan.shared {
            command.arg("--shared");
        }
        // A group of its own: Ctrl-C on a terminal is for who started it.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has a pipe")?).lines();
        let mut address = async || {
            let line =
                lines.next_line().await?.context("bascule-fake ended before it said where it listens")?;
            anyhow::Ok(line.parse::<SocketAddr>()?)
        };
        let addresses = [address().await?, address().await?];
        let ctl = [plan.program.display().to_string(), "ctl".into(), socket.display().to_string()];
        let setup = control::setup(Self::NAMES, addresses, Self::PASSWORD, &ctl, plan.shared);
        Ok(Self { addresses, setup, child, socket, _folder: folder })
    }

    /// Gives one order.
    pub async fn order(&self, order: &str) -> Result<Reply> {
        control::ask(&self.socket, order).await
    }

    /// What both saw that breaks the protocol, as far as they look for it.
    pub async fn violations(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for name in Self::NAMES {
            let reply = self.order(&format!("counters {name}")).await?;
            let counters: serde_json::Value = serde_json::from_str(&reply.text)?;
            let seen = counters["violations"].as_array().context("counters have violations")?;
            all.extend(seen.iter().map(ToString::to_string));
        }
        Ok(all)
    }
}
