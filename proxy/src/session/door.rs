//! What a connection goes through before anybody speaks: the PROXY header, TLS, a place in the registry.
//!
//! Rule: the same for every protocol; nothing in here knows one.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use prometheus::IntGauge;
use tokio::{net::TcpStream, time::timeout};

use super::{World, http, imap, rates::Rates, smtp};
use crate::{
    config::{Listener, ListenerTls, Protocol},
    net::{proxy_protocol, secure::Secure, stream::Leg},
};

/// One listener with what its sessions share.
#[derive(Debug)]
pub struct Door {
    /// The listener.
    pub listener: Listener,
    /// Its name, shared by the handles of its sessions.
    pub name: Arc<str>,
    /// The rest of the process.
    pub world: Arc<World>,
    /// What its clients have done lately.
    pub rates: Rates,
    /// TLS towards clients; `None` where `tls = "none"`.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Door {
    /// The client's address: the peer's, or what the PROXY header of a trusted peer says.
    async fn client_behind(&self, tcp: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        if !self.listener.proxy_trusted.iter().any(|network| network.contains(peer.ip())) {
            return Some(peer);
        }
        match timeout(self.world.config.limits.handshake, proxy_protocol::read(tcp)).await {
            Ok(Ok(client)) => Some(client.unwrap_or(peer)),
            failed => {
                let why = failed.map_or_else(
                    |_| "too slow".to_owned(),
                    |r| r.err().map_or_else(String::new, |e| e.to_string()),
                );
                tracing::warn!(%peer, listener = %self.name, why, "PROXY header");
                self.world.metrics.connections_refused.count("proxy_header");
                None
            }
        }
    }

    /// Why nobody is let in now.
    fn bars(&self) -> Option<&'static str> {
        self.world.relays.bars(self.world.topology.load().active, self.listener.protocol)
    }

    pub(super) async fn handshake(&self, tcp: TcpStream) -> Option<Leg> {
        let config = self.tls.clone()?;
        let refused = &self.world.metrics.connections_refused;
        match timeout(self.world.config.limits.handshake, Secure::accept(tcp, config)).await {
            Ok(Ok(stream)) => Some(Leg::tls(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, listener = %self.name, "TLS handshake");
                refused.count("handshake");
                None
            }
            Err(_) => {
                refused.count("handshake_timeout");
                None
            }
        }
    }
}

/// One session more, until it ends, be it by a panic.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A session of any protocol: a future of its own, so that none takes the room of the largest.
enum Session {
    Mail(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It may leave its socket.
    Web(Pin<Box<dyn Future<Output = Option<http::Away>> + Send>>),
}

impl Session {
    fn new(door: &Arc<Door>, client: Leg, peer: SocketAddr) -> Self {
        let (door, protocol) = (door.clone(), door.listener.protocol);
        let entry = door.world.registry.enter(peer, door.name.clone(), protocol);
        match protocol {
            Protocol::Imap => Self::Mail(Box::pin(imap::serve(door, client, entry))),
            Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => {
                Self::Mail(Box::pin(smtp::serve(door, client, entry)))
            }
            Protocol::Http => Self::Web(Box::pin(http::serve(door, client, entry))),
        }
    }
}

impl Future for Session {
    type Output = Option<http::Away>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<http::Away>> {
        match &mut *self {
            Self::Mail(mail) => mail.as_mut().poll(cx).map(|()| None),
            Self::Web(web) => web.as_mut().poll(cx),
        }
    }
}

/// What a connection keeps for as long as it is there.
struct Stay<P> {
    door: Arc<Door>,
    _counted: Counted,
    _place: P,
}

impl<P: Send + 'static> Stay<P> {
    /// Goes on without a session until the client says something.
    fn park(self, away: http::Away) {
        let world = self.door.world.clone();
        let http::Away { tcp, until, peer } = away;
        match world.http.lot() {
            Ok(lot) => lot.park(tcp, until, move |tcp| self.unpark(tcp, peer)),
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be parked");
                self.unpark(tcp, peer);
            }
        }
    }

    fn unpark(self, tcp: std::net::TcpStream, peer: SocketAddr) {
        let client = match TcpStream::from_std(tcp) {
            Ok(tcp) => Leg::plain(tcp),
            Err(error) => return tracing::warn!(%error, "a parked connection cannot be served"),
        };
        let session = Session::new(&self.door, client, peer);
        tokio::spawn(async move {
            if let Some(away) = session.await {
                self.park(away);
            }
        });
    }
}

/// Serves one connection from its first byte to its last, and keeps `place` for so long.
pub async fn serve<P>(door: Arc<Door>, mut tcp: TcpStream, peer: SocketAddr, place: P)
where
    P: Send + 'static,
{
    door.world.metrics.connections_accepted.inc();
    if let Some(why) = door.bars() {
        door.world.metrics.connections_refused.count(why);
        return;
    }
    let Some(peer) = Box::pin(door.client_behind(&mut tcp, peer)).await else { return };
    // Mail is told; whoever comes by HTTP shall not cost a handshake.
    if door.listener.protocol == Protocol::Http
        && let Err(limit) = door.rates.connection(peer.ip())
    {
        door.world.metrics.limits_hit.count(limit);
        door.world.metrics.connections_refused.count("rate");
        return;
    }
    let client = match door.listener.tls {
        ListenerTls::Implicit => Box::pin(door.handshake(tcp)).await,
        ListenerTls::None | ListenerTls::Starttls => Some(Leg::plain(tcp)),
    };
    let Some(client) = client else { return };
    let counted = Counted::new(door.world.metrics.sessions(&door.name));
    if let Some(away) = Session::new(&door, client, peer).await {
        Stay { door, _counted: counted, _place: place }.park(away);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_that_panics_is_not_counted_for_ever() {
        let gauge = IntGauge::new("sessions", "of a test").unwrap();
        let counted = Counted::new(gauge.clone());
        assert_eq!(gauge.get(), 1);
        let panicked = std::thread::spawn(move || {
            let _counted = counted;
            panic!("a mistake");
        });
        assert!(panicked.join().is_err());
        assert_eq!(gauge.get(), 0);
    }

    /// It stays for as long as the session, whatever that speaks.
    #[test]
    fn what_all_sessions_have_is_small() {
        // The places that it has: of the process, and of its thread.
        let size = future_size(serve::<[usize; 3]>);
        assert!(size <= 320, "{size} bytes");
    }
}
