//! One IMAP session: the driver between a client, a backend and the machines of `bascule_protocols::imap`.
//!
//! Rule: one task per session, no channel and no lock on the way of a command. The client's side is served in
//! every phase; whatever takes time towards a backend (leave, verify, attach) runs as the session's errand
//! beside it.

mod backend;
mod client;
mod converse;
pub(super) mod end;
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

use std::sync::Arc;

use super::{door::Door, registry::Entry};
use crate::net::stream::Leg;

/// Serves one connection under TLS, or in clear text where the listener says so, to its end. Each phase has a future of
/// its own, freed when the phase is over: what stays for hours is the session alone.
pub(super) async fn serve(door: Arc<Door>, client: Leg, entry: Entry) {
    if let Some(session) = Box::pin(greet::run(&door, client, entry)).await {
        session.run().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
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
