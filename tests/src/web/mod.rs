//! Real web servers (aiohttp) and a real browser (Chromium), from the distribution's packages.
//!
//! Rule: the browser's console is a witness: whoever ends a test looks into it.

mod browser;

use std::{net::SocketAddr, path::Path};

use anyhow::{Result, ensure};
use tokio::{
    net::TcpStream,
    process::Child,
    time::{Duration, sleep},
};

pub use self::browser::Browser;
use crate::process;

/// A server with a page, a stream of events and a WebSocket; it ends when dropped.
#[derive(Debug)]
pub struct WebServer(#[expect(dead_code, reason = "ends when dropped")] Child);

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
        let mut child = command.spawn()?;
        while TcpStream::connect(at).await.is_err() {
            ensure!(child.try_wait()?.is_none(), "the web server has ended: is python3-aiohttp there?");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self(child))
    }
}
