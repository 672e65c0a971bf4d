//! Listeners, streams, TLS, buffers, the spool.

pub mod stream;
pub mod tls;
