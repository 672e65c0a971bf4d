//! HTTP/2 over TLS, one connection, many requests at once.
//!
//! Rule: clones share the connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Answer;
use crate::client::Security;

/// Longest wait for an answer, and for each piece of it.
const PATIENCE: Duration = Duration::from_secs(90);

/// One connection.
#[derive(Debug, Clone)]
pub struct Two(http2::SendRequest<Full<Bytes>>);

impl Two {
    /// Connects; HTTP/2 must be agreed on.
    pub async fn connect(to: SocketAddr, security: Security) -> Result<Self> {
        let tls = secure(to, security).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Asks for a stream of events; returns what comes, as it comes.
    pub async fn listen(&mut self, target: &str) -> Result<(u16, Incoming)> {
        let request = Self::request("GET", target).header("Accept", "text/event-stream");
        let answer = self.send(request.body(Full::default())?).await?;
        Ok((answer.status().as_u16(), answer.into_body()))
    }

    fn request(method: &str, target: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("https://mail.bascule.test{target}"))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        let request = Self::request(method, target).body(Full::new(Bytes::copy_from_slice(body)))?;
        let answer = self.send(request).await.with_context(|| format!("{method} {target}"))?;
        let status = answer.status().as_u16();
        let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let fields = answer.headers().iter().map(field).collect();
        let body = timeout(PATIENCE, answer.into_body().collect()).await??.to_bytes().to_vec();
        Ok(Answer { status, fields, body })
    }
}

async fn secure(to: SocketAddr, security: Security) -> Result<TlsStream<TcpStream>> {
    let Security::Tls(config, name) = security else { anyhow::bail!("HTTP/2 is spoken over TLS here") };
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    ensure!(tls.get_ref().1.alpn_protocol() == Some(b"h2"), "no HTTP/2");
    Ok(tls)
}

/// One connection whose requests are sent in pieces.
#[derive(Debug, Clone)]
pub struct Uploads(h2::client::SendRequest<Bytes>);

/// A request whose body is not whole.
#[derive(Debug)]
pub struct Upload {
    body: h2::SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
}

/// An answer whose head has come.
#[derive(Debug)]
pub struct Begun {
    status: u16,
    body: h2::RecvStream,
}

impl Uploads {
    /// Connects.
    pub async fn connect(to: SocketAddr, security: Security) -> Result<Self> {
        Self::reading(to, security, 65_535).await
    }

    /// Connects; so many bytes of an answer's body come before they are asked for.
    pub async fn reading(to: SocketAddr, security: Security, window: u32) -> Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (sender, connection) = builder.handshake(secure(to, security).await?).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// The head of a request with a body of so many bytes, if that is to be said.
    pub async fn begin(&self, method: &str, target: &str, length: Option<usize>) -> Result<Upload> {
        self.head(method, target, length, false).await
    }

    /// A request that is whole with its head.
    pub async fn ask(&self, method: &str, target: &str) -> Result<Upload> {
        self.head(method, target, None, true).await
    }

    async fn head(&self, method: &str, target: &str, length: Option<usize>, whole: bool) -> Result<Upload> {
        let uri = format!("https://mail.bascule.test{target}");
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let request = request.body(())?;
        let (answer, body) = self.0.clone().ready().await?.send_request(request, whole)?;
        Ok(Upload { body, answer })
    }
}

impl Upload {
    /// A piece of the body; it leaves as the server's windows allow.
    pub fn send(&mut self, piece: Vec<u8>, end: bool) -> Result<()> {
        Ok(self.body.send_data(piece.into(), end)?)
    }

    /// The status of the answer, and its body.
    pub async fn answer(self) -> Result<(u16, Vec<u8>)> {
        let begun = self.begins().await?;
        Ok((begun.status, begun.whole().await?))
    }

    /// An answer of which nobody reads more than its head.
    pub async fn begins(self) -> Result<Begun> {
        let answer = timeout(PATIENCE, self.answer).await??;
        Ok(Begun { status: answer.status().as_u16(), body: answer.into_body() })
    }
}

impl Begun {
    /// Its body.
    pub async fn whole(mut self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(piece) = timeout(PATIENCE, self.body.data()).await? {
            let piece = piece?;
            self.body.flow_control().release_capacity(piece.len())?;
            whole.extend(piece);
        }
        Ok(whole)
    }
}
