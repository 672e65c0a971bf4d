//! Requests of our own to one server of a service, on one connection.
//!
//! Rule: what was not answered is told apart by whether it was sent: only what was never sent has no effect for certain.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{error::Elapsed, timeout},
};

use crate::{
    checks::server::PATIENCE,
    config::{HttpAddress, HttpService, HttpVersion, ServiceTls},
    net::{proxy_protocol, secure::Secure, stream::Leg},
};

/// The most of a page that is looked at.
const LARGEST: usize = 256 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Talk {
    sender: Sender,
    task: JoinHandle<()>,
    host: String,
    secure: bool,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) fields: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, fields: &[], body: &[] }
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// The connection had ended.
    #[error("the connection was closed")]
    Unsent,
    /// It may have been carried out.
    #[error("no answer to what was sent: {0}")]
    Unanswered(String),
    /// Nothing that could be said.
    #[error("not a request: {0}")]
    Nonsense(String),
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Talk {
    /// Connects; requests will be for `host`.
    pub(super) async fn open(service: &HttpService, server: &str, host: &str) -> io::Result<Self> {
        let opened = timeout(service.dial_timeout, Self::connect(service, server, host)).await;
        opened.unwrap_or_else(|_: Elapsed| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {:?}", service.dial_timeout),
            ))
        })
    }

    async fn connect(service: &HttpService, server: &str, host: &str) -> io::Result<Self> {
        let leg = dial(service, server).await?;
        let io = TokioIo::new(leg);
        let (sender, task) = match service.version {
            HttpVersion::One => {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                (Sender::One(sender), tokio::spawn(async move { drop(connection.await) }))
            }
            HttpVersion::Two => {
                let shaken = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = shaken.map_err(io::Error::other)?;
                (Sender::Two(sender), tokio::spawn(async move { drop(connection.await) }))
            }
        };
        let secure = !matches!(service.tls, ServiceTls::None);
        Ok(Self { sender, task, host: host.to_owned(), secure })
    }

    /// Whether the server ends the connection within `wait`.
    pub(super) async fn ended(&mut self, wait: Duration) -> bool {
        timeout(wait, &mut self.task).await.is_ok()
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask(&mut self, ask: Ask<'_>) -> Result<Said, Lost> {
        let request = self.request(ask)?;
        let answer = timeout(PATIENCE, async {
            let sent = match &mut self.sender {
                Sender::One(sender) => {
                    sender.ready().await.map_err(|_| Lost::Unsent)?;
                    sender.send_request(request).await
                }
                Sender::Two(sender) => {
                    sender.ready().await.map_err(|_| Lost::Unsent)?;
                    sender.send_request(request).await
                }
            };
            let unanswered = |error: hyper::Error| match error.is_canceled() {
                true => Lost::Unsent,
                false => Lost::Unanswered(error.to_string()),
            };
            let (head, body) = sent.map_err(unanswered)?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| Lost::Unanswered(error.to_string()))?;
            Ok(Said { status: head.status.as_u16(), fields: head.headers, body: body.to_bytes() })
        });
        answer.await.unwrap_or_else(|_: Elapsed| Err(Lost::Unanswered(format!("within {PATIENCE:?}"))))
    }

    fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, Lost> {
        let mut request = Request::builder().method(ask.method).header("User-Agent", "bascule");
        request = match self.sender {
            Sender::One(_) => request.uri(ask.path).header("Host", &self.host),
            Sender::Two(_) => {
                let scheme = if self.secure { "https" } else { "http" };
                request.uri(format!("{scheme}://{}{}", self.host, ask.path))
            }
        };
        for (name, value) in ask.fields {
            request = request.header(*name, *value);
        }
        request
            .body(Full::new(Bytes::copy_from_slice(ask.body)))
            .map_err(|error| Lost::Nonsense(format!("{} {}: {error}", ask.method, ask.path)))
    }
}

async fn dial(service: &HttpService, server: &str) -> io::Result<Leg> {
    let mut tcp = TcpStream::connect(server).await?;
    if service.client_address == HttpAddress::ProxyV2 {
        let (local, there) = (tcp.local_addr()?, tcp.peer_addr()?);
        tokio::io::AsyncWriteExt::write_all(&mut tcp, &proxy_protocol::header(local, there)).await?;
    }
    match &service.tls {
        ServiceTls::None => Ok(Leg::plain(tcp)),
        ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify) => {
            let shared = bascule_certs::client_config(verify.ca.as_deref()).map_err(io::Error::other)?;
            let mut config = ClientConfig::clone(&shared);
            if service.version == HttpVersion::Two {
                config.alpn_protocols = vec![b"h2".to_vec()];
            }
            let name = ServerName::try_from(verify.name.clone()).map_err(io::Error::other)?;
            Ok(Leg::tls(Secure::connect(tcp, Arc::new(config), name).await?))
        }
    }
}
