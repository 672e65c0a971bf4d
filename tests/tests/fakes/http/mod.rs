//! HTTP on web servers in memory, beside IMAP on platforms in memory.
//!
//! Rule: three witnesses: what the client was told, which requests the servers saw, and what stands on their shelf.

mod front;
mod hold;
mod limits;
mod load;
mod loss;
mod odd;
mod parked;
mod passing;
mod phones;
mod proofs;
mod push;
mod servers;
mod smuggling;
mod sockets;
mod streams;

use bascule_tests::http::{Client, Two};

use super::rig::{Plan, Rig, Spoken};

const USERS: &[&str] = &["alice"];

/// Platforms with web servers.
fn plan() -> Plan {
    Plan::replicated().web("", Spoken::One)
}

impl Rig {
    /// A client of HTTP/1.1 in clear text.
    async fn browser(&self) -> Client {
        Client::connect(self.proxy.http(), bascule_tests::client::Security::Plain).await.unwrap()
    }

    /// The same over TLS.
    async fn secure_browser(&self) -> Client {
        Client::connect(self.proxy.https(), self.proxy.tls().unwrap()).await.unwrap()
    }

    /// A client of HTTP/2.
    async fn two(&self) -> Two {
        Two::connect(self.proxy.https(), self.proxy.tls().unwrap()).await.unwrap()
    }
}
