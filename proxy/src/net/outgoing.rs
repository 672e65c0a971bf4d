//! Bytes on their way to one side: written at once where the socket takes them, kept where it does not.
//!
//! Rule: whoever has bytes pending here reads nothing from the other side, so a slow reader costs one record
//! of memory, and the two directions never wait for each other.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::AsyncWrite;

use super::buffer::Buffer;

/// What one side has not taken yet.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Buffer,
    unflushed: bool,
}

impl Outgoing {
    /// Whether everything was taken by the socket.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes `bytes` after what is pending. What the socket does not take is copied and kept.
    pub fn push(&mut self, to: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
        let mut cx = Context::from_waker(Waker::noop());
        self.unflushed |= !bytes.is_empty();
        while self.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(&mut cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => bytes = &bytes[n..],
                Poll::Pending => break,
            }
        }
        if !bytes.is_empty() {
            self.bytes.push(bytes);
        }
        Ok(())
    }

    /// Keeps `bytes` until the next [`Self::poll_flush`]: for many small pieces in a row.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.unflushed |= !bytes.is_empty();
        self.bytes.push(bytes);
    }

    /// Writes what is pending and flushes.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, self.bytes.bytes())? else {
                self.bytes.rest();
                return Poll::Pending;
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.consume(written);
        }
        if self.unflushed {
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
