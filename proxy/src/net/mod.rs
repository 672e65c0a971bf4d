//! Listeners, streams, TLS, outgoing bytes, kept uploads: what every protocol stands on.
//!
//! Rule: nothing in here knows a protocol.

pub mod buffer;
pub mod listener;
pub mod lot;
pub mod outgoing;
pub mod proxy_protocol;
pub mod secure;
pub mod spool;
pub mod stream;
pub mod tls;
