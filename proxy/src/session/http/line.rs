//! A connection of our own to a server: for streams that outlive one, for questions about what became of a request, and
//! for proofs.
//!
//! Rule: who lets go of it ends it, whatever it carries.

use std::{io, net::SocketAddr, os::fd::AsFd, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{task::JoinHandle, time::timeout};

use super::{dial, peer::Authorities};
use crate::{
    config::{HttpService, HttpVersion, ServiceTls},
    net::{secure::Secure, stream::Leg},
};

/// A server that is silent for so long is asked by the kernel whether it is there: nobody else would ask.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Has the kernel ask whether its server is there.
pub(super) fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    let often = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(socket).set_tcp_keepalive(&often)
}

/// A connection that speaks HTTP.
#[derive(Debug)]
pub struct Line {
    sender: Sender,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a line leads.
#[derive(Debug)]
pub struct To<'a> {
    /// Of the pool.
    pub service: &'a HttpService,
    /// One of its servers.
    pub server: &'a str,
    /// The client and the address that it came to, where a PROXY header says so.
    pub from: Option<(SocketAddr, SocketAddr)>,
    /// What is spoken.
    pub version: HttpVersion,
}

impl Line {
    /// Connects.
    pub(super) async fn open(to: To<'_>, authorities: &Authorities) -> io::Result<Self> {
        let tcp = dial::connect(to.server, to.from).await?;
        keep_alive(&tcp)?;
        let leg = match (&to.service.tls, authorities.config(&to.service.tls, to.version)) {
            (ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify), Some(config)) => {
                let name = ServerName::try_from(verify.name.clone()).map_err(io::Error::other)?;
                Leg::tls(Secure::connect(tcp, config, name).await?)
            }
            (ServiceTls::None, _) => Leg::plain(tcp),
            (ServiceTls::Starttls(_) | ServiceTls::Implicit(_), None) => {
                return Err(io::Error::other("nobody vouches for this service"));
            }
        };
        let io = TokioIo::new(leg);
        match to.version {
            HttpVersion::One => {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                let task = tokio::spawn(async move { drop(connection.with_upgrades().await) });
                Ok(Self { sender: Sender::One(sender), task })
            }
            HttpVersion::Two => {
                let executor = TokioExecutor::new();
                let (sender, connection) = http2::handshake(executor, io).await.map_err(io::Error::other)?;
                let task = tokio::spawn(async move { drop(connection.await) });
                Ok(Self { sender: Sender::Two(sender), task })
            }
        }
    }

    /// Whether the server ends the connection within `wait`.
    pub async fn ended(&mut self, wait: Duration) -> bool {
        // A task that has ended cannot be awaited again.
        self.task.is_finished() || timeout(wait, &mut self.task).await.is_ok()
    }

    /// Waits until a request can be sent. An error: the server has closed, and got none.
    pub async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.sender {
            Sender::One(sender) => sender.ready().await,
            Sender::Two(sender) => sender.ready().await,
        }
    }

    /// Sends the request; returns the answer's head.
    pub async fn ask(&mut self, question: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::One(sender) => sender.send_request(question).await,
            Sender::Two(sender) => sender.send_request(question).await,
        }
    }
}
