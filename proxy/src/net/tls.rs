//! TLS towards clients and towards pools.

/// TLS towards the pools, by pool.
#[derive(Debug, Default)]
pub struct Connectors;
