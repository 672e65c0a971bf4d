//! HTTP/2 over TLS, one connection, many requests at once.
//!
//! Rule: clones share the connection.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Answer;
use crate::client::Security;

/// One connection.
#[derive(Debug, Clone)]
pub struct Two(http2::SendRequest<Full<Bytes>>);

impl Two {
    /// Connects; HTTP/2 must be agreed on.
    pub async fn connect(to: SocketAddr, security: Security) -> Result<Self> {
        let Security::Tls(config, name) = security else { anyhow::bail!("HTTP/2 is spoken over TLS here") };
        let mut config = rustls::ClientConfig::clone(&config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        ensure!(tls.get_ref().1.alpn_protocol() == Some(b"h2"), "no HTTP/2");
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
        let body = answer.into_body().collect().await?.to_bytes().to_vec();
        Ok(Answer { status, fields, body })
    }
}
