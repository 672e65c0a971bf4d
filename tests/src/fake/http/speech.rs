//! How a web server is spoken to.
//!
//! Rule: whatever comes before the requests, and whatever they come in, they are the same requests.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{At, Shared, message::Head, serve};

/// How a web server is spoken to.
#[derive(Debug, Clone, Default)]
pub enum Speech {
    /// HTTP/1.1
    #[default]
    One,
    /// HTTP/2 from the first byte; nothing breaks there, but requests may be stalled.
    Two,
    /// HTTP/1.1 after a PROXY header, whose address stands in the heads that were seen.
    Proxied,
    /// HTTP/1.1 over TLS.
    Tls(Arc<ServerConfig>),
}

impl Shared {
    pub(super) async fn speak(self: &Arc<Self>, mut tcp: TcpStream, number: u64) -> io::Result<()> {
        match &self.speech {
            Speech::One => serve::connection(self, tcp, number, "").await,
            Speech::Two => two(self, tcp, number).await,
            Speech::Proxied => {
                let client = proxied(&mut tcp).await?;
                serve::connection(self, tcp, number, &format!("X-Proxied: {client}\r\n")).await
            }
            Speech::Tls(config) => {
                let tls = TlsAcceptor::from(config.clone()).accept(tcp).await?;
                serve::connection(self, tls, number, "").await
            }
        }
    }
}

/// Reads a PROXY header, version 2, of IPv4.
async fn proxied(tcp: &mut TcpStream) -> io::Result<IpAddr> {
    let mut header = [0; 28];
    tcp.read_exact(&mut header).await?;
    if !header.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(IpAddr::from([header[16], header[17], header[18], header[19]]))
}

async fn two(shared: &Arc<Shared>, tcp: TcpStream, number: u64) -> io::Result<()> {
    let service = service_fn(|request| answer(shared.clone(), number, request));
    let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service);
    served.await.map_err(io::Error::other)
}

async fn answer(
    shared: Arc<Shared>,
    number: u64,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let method = request.method().to_string();
    let mut text = format!("{method} {target} HTTP/2\r\n");
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let seen = shared.begin(number, &text);
    let body = request.into_body().collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    shared.note(seen, body.len(), true);
    if let Some(At::Stall(stall)) = shared.faults_of(&target) {
        stall.wait().await;
    }
    let head = Head { method, target, text };
    let (status, _, said) = shared.shelf.carry_out(shared.name, &head, body);
    let mut answer = Response::new(Full::new(said.into()));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    Ok(answer)
}
