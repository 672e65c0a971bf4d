//! One IMAP session: the driver between a client, a backend and the machines of `bascule_protocols::imap`.
//!
//! Rule: one task per session, no channel and no lock on the way of a command. The client's side is served in
//! every phase; whatever takes time towards a backend (leave, verify, attach) runs as the session's errand
//! beside it.

mod backend;
mod client;
mod converse;
mod end;
mod greet;
mod hold;
mod literals;
mod login;
pub mod open;
mod orders;
mod pipe;
mod relay;
mod release;
mod upload;

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    config::{Listener, ListenerTls},
    net::{proxy_protocol, secure::Secure, stream::Leg},
    session::World,
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

    async fn handshake(&self, tcp: TcpStream) -> Option<Leg> {
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

/// Serves one connection from its first byte to its last. Each phase has a future of its own, freed when the phase is
/// over: what stays for hours is the session alone.
pub async fn serve(door: Arc<Door>, mut tcp: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
    door.world.metrics.connections_accepted.inc();
    let Some(peer) = Box::pin(door.client_behind(&mut tcp, peer)).await else { return };
    let client = match door.listener.tls {
        ListenerTls::Implicit => Box::pin(door.handshake(tcp)).await,
        ListenerTls::None | ListenerTls::Starttls => Some(Leg::plain(tcp)),
    };
    let Some(client) = client else { return };
    let gauge = door.world.metrics.sessions(&door.name);
    gauge.inc();
    let entry = door.world.registry.enter(peer, door.name.clone());
    if let Some(session) = Box::pin(greet::run(&door, client, entry)).await {
        session.run().await;
    }
    gauge.dec();
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Design §8: an idle session is small. What would grow past these is boxed, or does not belong here.
    #[test]
    fn a_session_is_small() {
        let sizes = [
            ("the task", future_size(serve), 384),
            ("the session", size_of::<relay::Session>(), 1280),
            ("the relay machine", size_of::<bascule_protocols::imap::relay::Relay>(), 448),
            ("the registry's handle", size_of::<crate::session::registry::Handle>(), 264),
        ];
        for (what, size, limit) in sizes {
            assert!(size <= limit, "{what} takes {size} bytes, {limit} are allowed");
        }
    }
}
