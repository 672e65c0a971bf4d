//! The connection under every test client: TLS, patience, each byte counted and kept on request.
//!
//! Rule: whoever reads takes bytes out of the buffer in one step, so that a call may be dropped while it waits and
//! nothing is lost.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Empty},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Error, Result};
use crate::{Stream, oracle::Violation};

/// Bytes over a socket.
trait Socket: Stream {
    /// The socket, if there is one.
    fn tcp(&self) -> Option<&TcpStream>;
}

impl Socket for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Socket for TlsStream<Box<dyn Socket>> {
    fn tcp(&self) -> Option<&TcpStream> {
        self.get_ref().0.tcp()
    }
}

impl Socket for Empty {
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

/// The longest line that a client accepts.
const LINE: usize = 8 << 20;

/// How many bytes were taken, and what they completed.
pub(crate) type Taken<T> = io::Result<(usize, Option<T>)>;

/// One connection.
pub(crate) struct Link {
    io: BufReader<Box<dyn Socket>>,
    local: SocketAddr,
    received: u64,
    transcript: Option<Vec<u8>>,
    patience: Duration,
}

impl Link {
    /// In clear text.
    pub(crate) async fn plain(to: SocketAddr) -> Result<Self> {
        let tcp = dial(to).await?;
        let local = tcp.local_addr()?;
        Ok(Self::over(Box::new(tcp), local))
    }

    /// TLS first.
    pub(crate) async fn tls(
        to: SocketAddr,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self> {
        let tcp = dial(to).await?;
        let local = tcp.local_addr()?;
        let tcp: Box<dyn Socket> = Box::new(tcp);
        Ok(Self::over(Box::new(TlsConnector::from(config).connect(name, tcp).await?), local))
    }

    fn over(stream: Box<dyn Socket>, local: SocketAddr) -> Self {
        Self {
            local,
            io: BufReader::with_capacity(2048, stream),
            received: 0,
            transcript: None,
            patience: Duration::from_secs(90),
        }
    }

    /// TLS from here on, after a STARTTLS that was answered.
    pub(crate) async fn secure(
        &mut self,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<()> {
        if !self.io.buffer().is_empty() {
            return Err(Error::Violation(Violation("clear text behind the answer to STARTTLS".into())));
        }
        let nothing: Box<dyn Socket> = Box::new(tokio::io::empty());
        let plain = std::mem::replace(&mut self.io, BufReader::new(nothing)).into_inner();
        let secure = TlsConnector::from(config).connect(name, plain).await?;
        self.io = BufReader::with_capacity(2048, Box::new(secure));
        Ok(())
    }

    /// Where it comes from.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Keeps every byte from now on.
    pub(crate) fn keep_transcript(&mut self) {
        self.transcript = Some(Vec::new());
    }

    /// What was kept.
    pub(crate) fn transcript(&self) -> &[u8] {
        self.transcript.as_deref().unwrap_or_default()
    }

    /// How many bytes have come: those that were taken, TLS taken off, and those that nobody has read yet.
    pub(crate) fn received(&self) -> u64 {
        let unread = self.io.get_ref().tcp().map_or(0, |tcp| rustix::io::ioctl_fionread(tcp).unwrap_or(0));
        self.received + self.io.buffer().len() as u64 + unread
    }

    /// How long one call may wait before it fails with [`Error::Silence`].
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }

    /// Waits until something has come, and takes nothing of it.
    pub(crate) async fn answered(&mut self) -> Result<()> {
        match timeout(self.patience, self.io.fill_buf()).await {
            Err(_) => Err(Error::Silence),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Feeds what arrives to `take`, which tells how much of it it took and what that completed.
    pub(crate) async fn next<T>(&mut self, mut take: impl FnMut(&[u8]) -> Taken<T>) -> Result<T> {
        let Self { io, received, transcript, patience, .. } = self;
        let read = async {
            loop {
                let chunk = io.fill_buf().await?;
                if chunk.is_empty() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                let (taken, whole) = take(chunk)?;
                *received += taken as u64;
                if let Some(transcript) = transcript {
                    transcript.extend_from_slice(&chunk[..taken]);
                }
                io.consume(taken);
                if let Some(whole) = whole {
                    return Ok(whole);
                }
            }
        };
        Ok(timeout(*patience, read).await.map_err(|_| Error::Silence)??)
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Adds bytes to a line up to its end, which is CRLF; how many, and the line without its end once it is whole.
pub(crate) fn take_line(line: &mut Vec<u8>, chunk: &[u8]) -> Taken<Vec<u8>> {
    let end = chunk.iter().position(|b| *b == b'\n');
    let taken = end.map_or(chunk.len(), |at| at + 1);
    line.extend_from_slice(&chunk[..taken]);
    if line.len() > LINE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
    }
    if end.is_none() {
        return Ok((taken, None));
    }
    line.pop();
    if line.pop() != Some(b'\r') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line end that is not CRLF"));
    }
    Ok((taken, Some(std::mem::take(line))))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_nobody_has_read_has_come_all_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut link = Link::plain(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        assert_eq!(link.received(), 0);
        peer.write_all(b"* OK\r\n* OK\r\n").await.unwrap();
        assert_eq!(link.received(), 12);
        let mut line = Vec::new();
        link.next(|chunk| take_line(&mut line, chunk)).await.unwrap();
        assert_eq!(link.received(), 12, "one line of two was taken");
    }
}
