//! A client's connection as pingora sees it.
//!
//! Rule: it holds no buffer while nothing is in it, says whose connection it is wherever it turns up, and of HTTP/1.1 it
//! lets nothing by that could be read in two ways: pingora's parser forgives too much.

use std::{
    io,
    net::TcpStream,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bascule_protocols::http::{
    framing::Refused,
    wire::{Bad, Wire},
};
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

/// So much is read, and thrown away, of a client that was refused.
const UNREAD: usize = 256 * 1024;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Edge {
    leg: Leg,
    out: Outgoing,
    /// Looks at what comes in; `None`: frames of HTTP/2.
    wire: Option<Wire>,
    /// What must not pass, and how far that is settled.
    bad: Option<(Bad, Settled)>,
    /// Requests that pingora was asked to serve.
    served: u64,
    /// Whether a byte has come since [`Self::begin`].
    came: bool,
    conn: Arc<Conn>,
}

impl Edge {
    pub(super) fn new(leg: Leg, conn: &Arc<Conn>) -> Self {
        let wire = (!conn.two).then(|| Wire::new(conn.limits().header_size));
        let (out, conn) = (Outgoing::default(), conn.clone());
        Self { leg, out, wire, bad: None, served: 0, came: false, conn }
    }

    /// The socket, where there is nothing else to it.
    pub(super) fn into_tcp(self) -> Option<TcpStream> {
        self.leg.into_tcp()?.into_std().ok()
    }

    /// Resolves when something is there to read; false at its end.
    pub(super) fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.leg).poll_fill_buf(cx).map(|read| read.is_ok_and(|bytes| !bytes.is_empty()))
    }

    /// One more request is to be served. False: nobody knows what came since the last one.
    pub(super) fn begin(&mut self) -> bool {
        (self.came, self.served) = (false, self.served + 1);
        self.wire.as_mut().is_none_or(Wire::resume)
    }

    /// Whether pingora has read the beginning of the next request with the last one. It keeps that to itself.
    pub(super) fn is_ahead(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.heads() > self.served || wire.is_within_head())
    }

    /// Why nothing of the client passes any more.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.bad.map(|(bad, _)| bad.why)
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

    /// Looks at what has come behind `before`, and takes back what must not pass.
    fn look(&mut self, out: &mut ReadBuf<'_>, before: usize) {
        if !self.came && out.filled().len() > before {
            self.came = true;
            self.conn.begun();
        }
        let Some(wire) = &mut self.wire else { return };
        if let Err(bad) = wire.feed(&out.filled()[before..]) {
            self.bad = Some((bad, Settled::Not));
            out.set_filled(before + bad.good);
        }
    }

    /// The end of a connection that something bad came from.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, bad: Bad, settled: Settled) -> Poll<io::Result<()>> {
        if bad.body {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if self.conn.is_busy() {
            // The requests before it have their answers coming.
            return Poll::Pending;
        }
        if settled == Settled::Not {
            self.conn.refuse(bad.why);
            self.out.keep(refusal(bad.why).as_bytes());
            self.bad = Some((bad, Settled::Said(UNREAD)));
        }
        let mut this = Pin::new(self);
        std::task::ready!(this.as_mut().poll_shutdown(cx))?;
        // What is left unread would make the system throw the answer away. The deadline of heads bounds it.
        while let Some((bad, Settled::Said(left @ 1..))) = this.bad {
            let length = std::task::ready!(Pin::new(&mut this.leg).poll_fill_buf(cx))?.len();
            Pin::new(&mut this.leg).consume(length);
            let left = if length == 0 { 0 } else { left.saturating_sub(length) };
            this.bad = Some((bad, Settled::Said(left)));
        }
        Poll::Ready(Ok(()))
    }
}

/// How far a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Not,
    /// The client was told; so many bytes of it are read yet.
    Said(usize),
}

/// What the client is told whose request pingora never sees.
fn refusal(why: Refused) -> String {
    let (status, body) = (why.status(), why.name());
    format!(
        "HTTP/1.1 {status} Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}\n",
        body.len() + 1
    )
}

impl AsyncRead for Edge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some((bad, settled)) = this.bad {
            return this.poll_refuse(cx, bad, settled);
        }
        let before = out.filled().len();
        std::task::ready!(Pin::new(&mut this.leg).poll_read(cx, out))?;
        let ended = out.filled().len() == before;
        this.look(out, before);
        match this.bad {
            // To return nothing is to say that the client has ended.
            Some((bad, settled)) if !ended && out.filled().len() == before => {
                this.poll_refuse(cx, bad, settled)
            }
            Some(_) | None => Poll::Ready(Ok(())),
        }
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

// It is made when a request asks for it: between two requests there is nobody who looks.

impl GetProxyDigest for Edge {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        // pingora has no place of its own for what a connection's owner wants to know.
        let head = ResponseHeader::build_no_case(200, Some(0)).ok()?;
        Some(Arc::new(ProxyDigest::new(Box::new(head), Some(Box::new(self.conn.clone())))))
    }
}

impl GetSocketDigest for Edge {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for Edge {}
