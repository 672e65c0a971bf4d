//! One byte stream with a lent read buffer, plain or TLS: a leg of a session.
//!
//! Rule: an idle leg holds no buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::net::{
    buffer::{Buffer, READ},
    secure::Secure,
};

/// A leg to a client or to a backend.
#[derive(Debug)]
pub enum Leg {
    /// Clear text.
    Plain(Plain),
    /// TLS; boxed, so that a plain leg stays small.
    Tls(Box<Secure>),
}

/// A TCP stream with a buffer that exists only while something is in it.
#[derive(Debug)]
pub struct Plain {
    tcp: TcpStream,
    buffer: Buffer,
}

impl Leg {
    /// Clear text over `tcp`.
    pub fn plain(tcp: TcpStream) -> Self {
        Self::Plain(Plain { tcp, buffer: Buffer::default() })
    }

    /// TLS, client or server side.
    pub fn tls(stream: Secure) -> Self {
        Self::Tls(Box::new(stream))
    }

    /// The socket of a plain leg, for a TLS handshake on it. What was read ahead is thrown away: nothing that
    /// came before the handshake may count after it (CVE-2011-0411 and its kin).
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self {
            Self::Plain(plain) => Some(plain.tcp),
            Self::Tls(_) => None,
        }
    }

    /// The first `n` of the bytes that were read and not consumed, with the room that they are in.
    pub fn take(&mut self, n: usize) -> Buffer {
        match self {
            Self::Plain(plain) => plain.buffer.take(n),
            Self::Tls(tls) => tls.take(n),
        }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(plain) => &plain.tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }
}

/// Reads `most` of what is there behind `buffer`'s bytes; 0 is the end. No room is taken before something is there.
pub(super) fn poll_fill(
    tcp: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut Buffer,
    most: usize,
) -> Poll<io::Result<usize>> {
    ready!(tcp.poll_read_ready(cx))?;
    let space = buffer.space();
    let most = most.min(space.len());
    let space = &mut space[..most];
    if space.is_empty() {
        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message without an end")));
    }
    let mut space = ReadBuf::new(space);
    // tokio knows from a short read that the socket is empty, and spares the next one.
    let read = Pin::new(tcp).poll_read(cx, &mut space);
    let n = space.filled().len();
    buffer.filled(n);
    read.map_ok(|()| n)
}

impl Plain {
    fn poll_fill_buf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.buffer.is_empty() {
            ready!(poll_fill(&mut self.tcp, cx, &mut self.buffer, READ))?;
        }
        Poll::Ready(Ok(self.buffer.bytes()))
    }
}

impl AsyncBufRead for Leg {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.get_mut() {
            Self::Plain(plain) => plain.poll_fill_buf(cx),
            Self::Tls(tls) => tls.poll_fill_buf(cx),
        }
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        match self.get_mut() {
            Self::Plain(plain) => plain.buffer.consume(n),
            Self::Tls(tls) => tls.consume(n),
        }
    }
}

impl AsyncRead for Leg {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = bytes.len().min(out.remaining());
        out.put_slice(&bytes[..n]);
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Leg {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.tcp).poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // The kernel has it already.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.tcp).poll_shutdown(cx),
            Self::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}
