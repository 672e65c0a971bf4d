//! Connections to a pool's HTTP servers: dialled here, kept by pingora.
//!
//! Rule: whoever may have to leave a pool can cut what leads there; pingora's own pool cannot be emptied.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    connectors::L4Connect,
    protocols::{
        Digest, GetProxyDigest, l4::socket::SocketAddr as PingoraAddr, l4::stream::Stream,
        raw_connect::ProxyDigest,
    },
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use rustix::net::Shutdown;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::conn::Conn;
use crate::{net::proxy_protocol, topology::Epoch};

/// A connection to a server, for whoever may have to end it.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    cut: AtomicBool,
}

impl Wire {
    pub(super) fn of(tcp: &TcpStream) -> std::io::Result<Self> {
        Ok(Self { socket: tcp.as_fd().try_clone_to_owned()?, cut: AtomicBool::new(false) })
    }

    /// Ends it, whatever it carries.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        // It fails where the server was faster.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Whether it was ended from here: an end of file on it says nothing then.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// The one below a connection of pingora's.
    pub(super) fn below(digest: Option<&Digest>) -> Option<Arc<Self>> {
        let data = digest?.proxy_digest.as_ref()?.user_data.as_ref()?;
        data.downcast_ref::<Arc<Self>>().cloned()
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Dials one server for one request.
pub(super) struct Dialer {
    pub(super) server: String,
    pub(super) limit: Duration,
    /// The client and the address that it came to, for the PROXY header.
    pub(super) from: Option<(SocketAddr, SocketAddr)>,
    pub(super) conn: Arc<Conn>,
    pub(super) epoch: Epoch,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A connection on which a server knows already who comes, if it is to know.
pub(super) async fn connect(
    server: &str,
    from: Option<(SocketAddr, SocketAddr)>,
) -> std::io::Result<TcpStream> {
    let mut tcp = TcpStream::connect(server).await?;
    tcp.set_nodelay(true)?;
    if let Some((client, local)) = from {
        tcp.write_all(&proxy_protocol::header(client, local)).await?;
    }
    Ok(tcp)
}

impl Dialer {
    /// A connection, and what cuts it.
    pub(super) async fn tcp(&self) -> std::io::Result<(TcpStream, Arc<Wire>)> {
        let tcp = connect(&self.server, self.from).await?;
        let wire = Arc::new(Wire::of(&tcp)?);
        Ok((tcp, wire))
    }

    /// The same as pingora takes it.
    async fn stream(&self) -> std::io::Result<Stream> {
        let (tcp, wire) = self.tcp().await?;
        let mut stream = Stream::from(tcp);
        let head = ResponseHeader::build_no_case(200, Some(0)).map_err(std::io::Error::other)?;
        stream.set_proxy_digest(ProxyDigest::new(Box::new(head), Some(Box::new(wire))));
        Ok(stream)
    }

    /// What `dialling` comes to, while there is time and the gate lets anybody go there.
    pub(super) async fn within<T>(&self, dialling: impl Future<Output = std::io::Result<T>>) -> Result<T> {
        let failed = |why: String| Error::explain(ErrorType::ConnectError, format!("{}: {why}", self.server));
        tokio::select! {
            dialled = timeout(self.limit, dialling) => match dialled {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(_) => Err(failed(format!("no connection within {:?}", self.limit))),
            },
            () = self.shut() => Err(failed("the gate has shut".to_owned())),
        }
    }

    /// Resolves when nobody may go there any more.
    async fn shut(&self) {
        loop {
            let moved = self.conn.moved.notified();
            let mut moved = std::pin::pin!(moved);
            moved.as_mut().enable();
            if !self.conn.world().gate.admits(self.epoch) {
                return;
            }
            moved.await;
        }
    }
}

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, _: &PingoraAddr) -> Result<Stream> {
        self.within(self.stream()).await
    }
}
