//! A client's connection as pingora sees it.
//!
//! Rule: it holds no buffer while nothing is in it, and says whose connection it is wherever it turns up.

use std::{
    io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, raw_connect::ProxyDigest,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::conn::Conn;
use crate::net::{outgoing::Outgoing, stream::Leg};

/// So much is collected before it is written: a head and a small body are one record.
const COLLECT: usize = 16 * 1024;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Edge {
    leg: Leg,
    out: Outgoing,
    /// Bytes handed to pingora since [`Self::begin`] was called last.
    taken: u64,
    conn: Arc<Conn>,
    whose: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
}

impl Edge {
    pub(super) fn new(leg: Leg, conn: &Arc<Conn>) -> Option<Self> {
        let socket = SocketDigest::from_raw_fd(leg.tcp().as_raw_fd());
        let _ = socket.peer_addr.set(Some(conn.entry.handle.peer.into()));
        // pingora has no place of its own for what a connection's owner wants to know.
        let head = ResponseHeader::build(200, None).ok()?;
        let whose = ProxyDigest::new(Box::new(head), Some(Box::new(conn.clone())));
        let (whose, socket, conn) = (Arc::new(whose), Arc::new(socket), conn.clone());
        Some(Self { leg, out: Outgoing::default(), taken: 0, conn, whose, socket })
    }

    /// Resolves when something is there to read; false at its end.
    pub(super) fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.leg).poll_fill_buf(cx).map(|read| read.is_ok_and(|bytes| !bytes.is_empty()))
    }

    /// Bytes handed out since the last call.
    pub(super) fn begin(&mut self) -> u64 {
        std::mem::take(&mut self.taken)
    }

    /// Whether the client has ended its side, as far as the kernel knows without reading.
    pub(super) fn is_gone(&self) -> bool {
        let ready = self.leg.tcp().ready(tokio::io::Interest::READABLE);
        let mut ready = std::pin::pin!(ready);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match ready.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed() || ready.is_error(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

impl AsyncRead for Edge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut self.leg).poll_read(cx, out);
        let taken = (out.filled().len() - before) as u64;
        if self.taken == 0 && taken > 0 {
            self.conn.begun();
        }
        self.taken += taken;
        if taken > 0 && self.conn.overflows(self.taken) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        read
    }
}

impl AsyncWrite for Edge {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.out.len() + bytes.len() > COLLECT {
            std::task::ready!(this.out.poll_flush(cx, &mut this.leg))?;
            if bytes.len() >= COLLECT {
                return Pin::new(&mut this.leg).poll_write(cx, bytes);
            }
        }
        this.out.keep(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        std::task::ready!(this.out.poll_flush(cx, &mut this.leg))?;
        Pin::new(&mut this.leg).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        std::task::ready!(this.out.poll_flush(cx, &mut this.leg))?;
        Pin::new(&mut this.leg).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Edge {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Edge {
    fn id(&self) -> i32 {
        self.leg.tcp().as_raw_fd()
    }
}

impl Ssl for Edge {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.leg {
            Leg::Plain(_) => None,
            Leg::Tls(tls) => Some(if tls.alpn() == Some(b"h2") { ALPN::H2 } else { ALPN::H1 }),
        }
    }
}

impl GetTimingDigest for Edge {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Edge {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.whose.clone())
    }
}

impl GetSocketDigest for Edge {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Edge {}
