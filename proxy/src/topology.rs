//! Where a cohort's sessions belong: pools and, for the cohort `all`, the active pool and its epoch.
//!
//! Rule: one immutable snapshot behind one `ArcSwap`; a swap raises the epoch, and nothing else does.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use arc_swap::ArcSwap;

use crate::config::Pool;

/// Index of a pool in [`Topology::pools`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PoolId(pub u8);

/// Raised by every swap of the active pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Epoch(pub u32);

/// One snapshot.
#[derive(Debug, Clone)]
pub struct Topology {
    /// All pools of the configuration.
    pub pools: Arc<[Arc<Pool>]>,
    /// The pool that serves.
    pub active: PoolId,
    /// How often the active pool has been swapped.
    pub epoch: Epoch,
}

impl Topology {
    /// The pool that serves.
    pub fn active(&self) -> &Arc<Pool> {
        &self.pools[usize::from(self.active.0)]
    }

    /// A pool by its id.
    pub fn pool(&self, id: PoolId) -> &Arc<Pool> {
        &self.pools[usize::from(id.0)]
    }

    /// The id of the pool of this name.
    pub fn find(&self, name: &str) -> Option<PoolId> {
        self.pools.iter().position(|p| p.name == name).and_then(|i| u8::try_from(i).ok()).map(PoolId)
    }
}

/// The shared cell that holds the current [`Topology`], and which pool a cutover goes to.
#[derive(Debug)]
pub struct Current(ArcSwap<Topology>, AtomicU8);

/// No pool.
const NONE: u8 = u8::MAX;

impl Current {
    /// Begins with what the journal says.
    pub fn new(topology: Topology) -> Self {
        Self(ArcSwap::from_pointee(topology), AtomicU8::new(NONE))
    }

    /// The current snapshot.
    pub fn load(&self) -> Arc<Topology> {
        self.0.load_full()
    }

    /// The current epoch, for whoever wants no more than that.
    pub fn epoch(&self) -> Epoch {
        self.0.load().epoch
    }

    /// The pool that the cutover in progress goes to.
    pub fn target(&self) -> Option<PoolId> {
        Some(self.1.load(Ordering::Acquire)).filter(|id| *id != NONE).map(PoolId)
    }

    /// A cutover to `to` begins; `None`: it is over.
    pub fn set_target(&self, to: Option<PoolId>) {
        self.1.store(to.map_or(NONE, |id| id.0), Ordering::Release);
    }

    /// The one store of a cutover: `to` is active from here on, one epoch later. Nothing, if it is already.
    pub fn swap(&self, to: PoolId) -> Epoch {
        let now = self.0.load_full();
        if now.active == to {
            return now.epoch;
        }
        let epoch = Epoch(now.epoch.0 + 1);
        self.0.store(Arc::new(Topology { pools: now.pools.clone(), active: to, epoch }));
        epoch
    }
}
