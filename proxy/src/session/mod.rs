//! Sessions: one task per client connection, its backend, and the registry of all of them.
//!
//! Rule: a session sees the gate, the registry and the topology, never the cutover.

pub mod door;
pub mod holds;
pub mod imap;
pub mod registry;
pub mod smtp;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bascule_protocols::imap::capability::{Capabilities, Pinned};

use crate::{
    config::Config,
    gate::Gate,
    net::{spool::Spool, tls::Connectors},
    session::holds::Holds,
    telemetry::Metrics,
    topology::{Current, PoolId},
};

/// What every session and the control plane share.
#[derive(Debug)]
pub struct World {
    /// The configuration that is in force.
    pub config: Arc<Config>,
    /// Which pool serves.
    pub topology: Current,
    /// The gate of the cohort `all`.
    pub gate: Gate,
    /// All sessions.
    pub registry: Arc<registry::Registry>,
    /// What clients are shown; changes count for new connections. `None`: not learnt yet, nobody is served.
    pub pinned: ArcSwap<Option<Pinned>>,
    /// What the servers of each pool said last after a login.
    pub said: Said,
    /// TLS towards the pools, by pool.
    pub connectors: Connectors,
    /// How long commands were held.
    pub holds: Holds,
    /// Where large uploads are kept.
    pub spool: Arc<Spool>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The last list of capabilities of each pool. The servers of a pool all say the same, so that its sessions share
/// one copy.
#[derive(Debug, Default)]
pub struct Said([ArcSwap<Capabilities>; 4]);

impl Said {
    /// `list`, or the equal one that others have.
    pub fn share(&self, pool: PoolId, list: Capabilities) -> Capabilities {
        let last = &self.0[usize::from(pool.0) % self.0.len()];
        let known = last.load();
        if **known == list {
            return Capabilities::clone(&known);
        }
        last.store(Arc::new(list.clone()));
        list
    }
}
