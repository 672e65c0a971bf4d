//! Sessions: one task per client connection, its backend, and the registry of all of them.
//!
//! Rule: a session sees the gate, the registry and the topology, never the cutover.

pub mod door;
pub mod holds;
pub mod http;
pub mod imap;
pub mod rates;
pub mod registry;
pub mod smtp;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bascule_protocols::{
    imap::capability::{Capabilities, Pinned},
    smtp::keywords,
};

use tokio::sync::Semaphore;

use crate::{
    config::{Config, Protocol},
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
    /// Places for client connections.
    pub slots: Arc<Semaphore>,
    /// All sessions.
    pub registry: Arc<registry::Registry>,
    /// What clients are shown; changes count for new connections. `None`: not learnt yet, nobody is served.
    pub pinned: ArcSwap<Option<Pinned>>,
    /// What EHLO and LHLO show.
    pub keywords: Keywords,
    /// What messages are called.
    pub names: smtp::delivered::Names,
    /// Who has which message.
    pub delivered: Arc<smtp::delivered::Delivered>,
    /// What the servers of each pool said last after a login.
    pub said: Said,
    /// TLS towards the pools, by pool.
    pub connectors: Connectors,
    /// What connections of HTTP share.
    pub http: http::Shared,
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

impl World {
    /// How many of a thousand places for client connections are taken.
    pub fn fullness(&self) -> usize {
        let all = self.config.limits.connections.max(1);
        all.saturating_sub(self.slots.available_permits()) * 1000 / all
    }
}

/// What EHLO and LHLO show, by protocol; `None`: not learnt yet, nobody is served.
#[derive(Debug, Default)]
pub struct Keywords([ArcSwapOption<keywords::Pinned>; 3]);

impl Keywords {
    fn cell(&self, protocol: Protocol) -> Option<&ArcSwapOption<keywords::Pinned>> {
        match protocol {
            Protocol::Smtp => self.0.first(),
            Protocol::Submission => self.0.get(1),
            Protocol::Lmtp => self.0.get(2),
            Protocol::Imap | Protocol::Http => None,
        }
    }

    /// What clients of `protocol` are shown.
    pub fn of(&self, protocol: Protocol) -> Option<Arc<keywords::Pinned>> {
        self.cell(protocol)?.load_full()
    }

    /// From here on new connections are shown this.
    pub fn pin(&self, protocol: Protocol, pinned: keywords::Pinned) {
        if let Some(cell) = self.cell(protocol) {
            cell.store(Some(Arc::new(pinned)));
        }
    }
}
