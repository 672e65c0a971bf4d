//! Real web servers (aiohttp) and a real browser (Chromium), from the distribution's packages.
//!
//! Rule: the browser's console is a witness: whoever ends a test looks into it.

mod browser;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::{Duration, timeout},
};

pub use self::browser::Browser;
use crate::process;

/// Longest wait for it to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with a page, a stream of events and a WebSocket; it ends when dropped.
#[derive(Debug)]
pub struct WebServer {
    name: String,
    folder: PathBuf,
    _child: Child,
}

impl WebServer {
    /// Serves under this name. Servers with one folder are one platform's: each line of its file `news` is an event, and
    /// what was posted stands in its file `posts`, with the server's name before it.
    pub async fn start(name: &str, at: SocketAddr, folder: &Path) -> Result<Self> {
        let news = folder.join("news");
        if !news.exists() {
            std::fs::write(news, "")?;
        }
        let (host, port) = (at.ip().to_string(), at.port().to_string());
        let mut command = process::tied("/usr/bin/python3");
        command.args(["-c", include_str!("server.py"), name, &host, &port]).arg(folder);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("it has a pipe")?).lines();
        let ready = timeout(PATIENCE, said.next_line()).await.context("the web server is not ready")??;
        ensure!(ready.is_some(), "the web server has ended: is python3-aiohttp there?");
        // Each time that it comes back it says so again, to nobody.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Ok(Self { name: name.to_owned(), folder: folder.to_owned(), _child: child })
    }

    /// A hook that stops it and sees to it that it is gone, before this other hook.
    pub fn stops_before(&self, hook: &[String]) -> Vec<String> {
        self.before(hook, "touch \"$0.off\"; until [ -e \"$0.is-off\" ]; do sleep 0.01; done")
    }

    /// A hook that starts it again, before this other hook.
    pub fn starts_before(&self, hook: &[String]) -> Vec<String> {
        self.before(hook, "rm -f \"$0.off\"; while [ -e \"$0.is-off\" ]; do sleep 0.01; done")
    }

    fn before(&self, hook: &[String], script: &str) -> Vec<String> {
        let file = self.folder.join(&self.name).display().to_string();
        let shell = ["/bin/sh".into(), "-c".into(), format!("{script}; exec \"$@\""), file];
        [&shell, hook].concat()
    }
}
