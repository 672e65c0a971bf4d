//! One byte stream with a lent read buffer, plain or TLS.

use std::{io, pin::Pin, task::{Context, Poll}};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// A connection to a backend.
#[derive(Debug)]
pub struct Leg;

impl AsyncRead for Leg {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> { todo!() }
}
impl AsyncBufRead for Leg {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> { todo!() }
    fn consume(self: Pin<&mut Self>, _: usize) { todo!() }
}
impl AsyncWrite for Leg {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> { todo!() }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { todo!() }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> { todo!() }
}
