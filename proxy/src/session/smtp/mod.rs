//! One SMTP, submission or LMTP session: the driver between a client, a backend and `bascule_protocols::smtp`.
//!
//! Rule: the client's side never depends on the backend's: whoever says EHLO is answered, whoever sends is read, and
//! only what takes effect (the final dot, the last chunk) waits for the gate. Between messages a session holds nothing
//! on a pool that anybody would miss.

mod address;
mod backend;
mod claim;
mod client;
mod content;
pub mod delivered;
mod end;
mod greet;
mod login;
pub(crate) mod open;
mod orders;
mod relay;

use std::{net::SocketAddr, sync::Arc};

use bascule_protocols::smtp::{
    keywords::Keywords,
    relay::{Hello, Role},
};

use super::{World, door::Door, registry::Entry};
use crate::{config::Protocol, net::stream::Leg, topology::PoolId};

/// Serves one connection to its end.
pub(super) async fn serve(door: Arc<Door>, client: Leg, entry: Entry) {
    if let Some(session) = Box::pin(relay::Session::greet(door, client, entry)).await {
        session.run().await;
    }
}

/// What a pool's server of `protocol` says to EHLO or LHLO, as sessions reach it: with TLS, and with the client's address
/// told where that is configured.
pub async fn keywords(world: &World, pool: PoolId, protocol: Protocol) -> Result<Keywords, String> {
    let whom = open::Whom {
        protocol,
        role: if protocol == Protocol::Lmtp { Role::Lmtp } else { Role::Relay },
        hello: Hello { extended: true, name: world.config.server.hostname.as_bytes().into() },
        // Dovecot takes no port 0 for a client's.
        client: SocketAddr::from(([127, 0, 0, 1], 1)),
        local: None,
        credentials: None,
    };
    let topology = world.topology.load();
    let service = topology.pool(pool).service(protocol).ok_or("there is no such service")?;
    let opened = open::open(world, pool, &whom, None, service.dial_timeout).await;
    opened.map(|opened| opened.keywords).map_err(|error| error.to_string())
}
