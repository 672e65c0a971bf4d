//! One byte stream with a lent read buffer, plain or TLS: a leg of a session.
//!
//! Rule: an idle leg holds no buffer. TLS lends the record that rustls decrypted; a plain leg takes a buffer
//! when bytes are there and gives it back when they are read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// Read at once from a plain socket.
const READ: usize = 16 * 1024;

/// A leg to a client or to a backend.
#[derive(Debug)]
pub enum Leg {
    /// Clear text.
    Plain(Plain),
    /// TLS; boxed, since most of it is only needed in the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A TCP stream with a buffer that exists only while something is in it.
#[derive(Debug)]
pub struct Plain {
    tcp: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Leg {
    /// Clear text over `tcp`.
    pub fn plain(tcp: TcpStream) -> Self {
        Self::Plain(Plain { tcp, buffer: Vec::new(), at: 0 })
    }

    /// TLS, client or server side.
    pub fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self::Tls(Box::new(stream.into()))
    }

    /// The socket of a plain leg, for a TLS handshake on it. What was read ahead is thrown away: nothing that
    /// came before the handshake may count after it (CVE-2011-0411 and its kin).
    pub fn into_tcp(self) -> Option<TcpStream> {
        match self {
            Self::Plain(plain) => Some(plain.tcp),
            Self::Tls(_) => None,
        }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(plain) => &plain.tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Plain {
    fn poll_fill_buf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        while self.at == self.buffer.len() {
            ready!(self.tcp.poll_read_ready(cx))?;
            self.buffer = Vec::with_capacity(READ);
            self.at = 0;
            match self.tcp.try_read_buf(&mut self.buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.buffer = Vec::new(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(&self.buffer[self.at..]))
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
        if self.at >= self.buffer.len() {
            (self.buffer, self.at) = (Vec::new(), 0);
        }
    }
}

impl AsyncBufRead for Leg {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.get_mut() {
            Self::Plain(plain) => plain.poll_fill_buf(cx),
            // Many mail clients close without close_notify.
            Self::Tls(tls) => match ready!(Pin::new(&mut **tls).poll_fill_buf(cx)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(&[])),
                other => Poll::Ready(other),
            },
        }
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        match self.get_mut() {
            Self::Plain(plain) => plain.consume(n),
            Self::Tls(tls) => Pin::new(&mut **tls).consume(n),
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
            Self::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(&mut plain.tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}
