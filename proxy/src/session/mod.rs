//! Sessions: one task per client connection, its backend, and the registry of all of them.
//!
//! Rule: a session sees the gate, the registry and the topology, never the cutover.

pub mod door;
pub mod holds;
pub mod http;
pub mod imap;
pub mod rates;
pub mod registry;
pub mod relays;
pub mod smtp;
mod stays;
pub mod unreachable;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bascule_protocols::{
    imap::capability::{Capabilities, Pinned},
    smtp::keywords,
};

use tokio::sync::Semaphore;

use crate::{
    config::{Config, Listener, Protocol},
    gate::Gate,
    net::{spool::Spool, tls::Connectors},
    session::{holds::Holds, relays::Verdict},
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
    /// Whose servers would relay for strangers.
    pub relays: relays::Relays,
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
    /// Servers that sessions could not reach.
    pub unreachable: unreachable::Unreachable,
    /// Where large uploads are kept.
    pub spool: Arc<Spool>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl World {
    /// What the relay self-test saw. An open relay serves nobody from here on, neither who comes nor who is there.
    pub fn found_relay(&self, pool: PoolId, protocol: Protocol, verdict: Verdict) {
        let before = self.relays.keep(pool, protocol, verdict);
        let topology = self.topology.load();
        let (name, word) = (&topology.pool(pool).name, protocol.name());
        self.metrics.open_relay(name, word, self.relays.bars(pool, protocol) == Some("open_relay"));
        match verdict {
            Verdict::Relays => {
                tracing::error!(pool = name, protocol = word, "an open relay: not served");
                let here = |handle: &registry::Handle| topology.active == pool && handle.protocol == protocol;
                for handle in self.registry.select(here) {
                    handle.give(registry::Order::End);
                }
            }
            Verdict::Refuses if before != Some(Verdict::Refuses) => {
                tracing::info!(pool = name, protocol = word, "no open relay");
            }
            Verdict::Refuses | Verdict::Unknown | Verdict::Untested => {}
        }
    }

    /// Listeners whose clients are turned away, and why.
    pub fn barred(&self) -> Vec<String> {
        let topology = self.topology.load();
        let barred = |listener: &Listener| {
            let why = match self.relays.bars(topology.active, listener.protocol)? {
                "open_relay" => "would relay for strangers; `bascule cutover plan` and the log say more",
                _ => "has not been tested yet",
            };
            Some(format!(
                "{}: {} of pool {} {why}",
                listener.name,
                listener.protocol.name(),
                topology.active().name
            ))
        };
        self.config.listeners.values().filter_map(barred).collect()
    }
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
