//! A connection to a pool's IMAP server, up to the point where somebody may log in.
//!
//! Rule: what comes back has been greeted, is protected as the configuration says, and has no byte unread.

use crate::{net::stream::Leg, session::World, topology::PoolId};

/// Why no usable connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answered the dial: refused, unreachable. Nothing was sent.
    #[error("{server}: dial: {error}")]
    Dial {
        /// `host:port`
        server: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It took longer than `dial_timeout`.
    #[error("{server}: no greeting within {limit:?}")]
    Timeout {
        /// `host:port`
        server: String,
        /// `dial_timeout`
        limit: std::time::Duration,
    },
    /// The server answered, but not as an IMAP server that can be used (BYE, PREAUTH, TLS refused …).
    #[error("{server}: {saw}")]
    Unusable {
        /// `host:port`
        server: String,
        /// What was seen.
        saw: String,
    },
}

/// Dials the pool's IMAP server: TCP, TLS or STARTTLS, greeting read.
pub async fn open(world: &World, pool: PoolId) -> Result<Leg, OpenError> {
    let _ = (world, pool);
    todo!()
}
