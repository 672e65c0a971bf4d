//! A connection to a server of HTTP/1.1, in the shape in which pingora's parser takes one.
//!
//! Rule: it holds no buffer while nothing is in it, and whoever has to leave its pool can cut it.

use std::{
    io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, raw_connect::ProxyDigest,
};
use pingora_error::{Error, ErrorType, Result};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::super::{dial::Wire, peer::Way, request::Request};
use crate::{
    config::{HttpVersion, ServiceTls},
    net::{secure::Secure, stream::Leg},
};

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Server {
    leg: Leg,
    wire: Arc<Wire>,
}

impl Server {
    /// A new one, as long as the gate lets anybody go there.
    pub(super) async fn dial(request: &Request, way: &Way<'_>) -> Result<Self> {
        let dialer =
            way.dialer(request).ok_or_else(|| Error::explain(ErrorType::ConnectError, "it goes nowhere"))?;
        let tls = match &way.service.tls {
            ServiceTls::None => None,
            ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify) => Some(&verify.name),
        };
        let config = request.conn.world().http.authorities.config(&way.service.tls, HttpVersion::One);
        let dialling = async {
            let (tcp, wire) = dialer.tcp().await?;
            let leg = match (tls, config) {
                (None, _) => Leg::plain(tcp),
                (Some(name), Some(config)) => {
                    let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
                    Leg::tls(Secure::connect(tcp, config, name).await?)
                }
                (Some(_), None) => return Err(io::Error::other("nobody vouches for this service")),
            };
            Ok(Self { leg, wire })
        };
        // Boxed: most requests find a kept connection, and need no room for this.
        Box::pin(dialer.within(dialling)).await
    }

    /// For whoever may have to end it.
    pub(super) fn wire(&self) -> Arc<Wire> {
        self.wire.clone()
    }

    /// Whether the server has neither closed nor said anything that nobody asked for.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.leg).poll_fill_buf(&mut cx).is_pending()
    }
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_read(cx, out)
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.leg).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Server {
    async fn shutdown(&mut self) {
        let _ = self.leg.shutdown().await;
    }
}

impl UniqueID for Server {
    fn id(&self) -> i32 {
        self.leg.tcp().as_raw_fd()
    }
}

// What pingora's own connections tell its log of themselves. The rule of ours is [`Wire`].

impl Ssl for Server {}

impl Peek for Server {}

impl GetTimingDigest for Server {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Server {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Server {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
impl Server {
    pub(super) fn of(tcp: tokio::net::TcpStream) -> Self {
        let wire = Wire::of(&tcp).unwrap();
        Self { leg: Leg::plain(tcp), wire: Arc::new(wire) }
    }

    pub(super) async fn ended(&self) {
        self.leg.tcp().readable().await.unwrap();
    }
}
