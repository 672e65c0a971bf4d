//! One cutover: its number, its pools, and what their contracts allow.
//!
//! Rule: fixed when the cutover starts; after a restart it comes from the journal.

use crate::{
    config::{Config, Pool, Reverse, Storage},
    cutover::{
        journal::{Record, Unfinished},
        machine::{Mark, Side, Terms},
        types::Stage,
    },
    topology::{Epoch, PoolId},
};

/// One cutover.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// Its number.
    pub(super) id: u64,
    /// The pool that serves when it begins.
    pub(super) from: PoolId,
    /// The pool that is to serve.
    pub(super) to: PoolId,
    /// The epoch that is served when it begins.
    pub(super) epoch: Epoch,
    /// What the contracts allow.
    pub(super) terms: Terms,
    /// What the new pool's contract says of the way back after the decision.
    pub(super) reverse: Reverse,
    /// One store under both pools, or two.
    pub(super) storage: Storage,
    /// When it began, for people.
    pub(super) since_ms: u64,
}

/// What the contracts of these pools allow.
pub(super) fn terms(from: &Pool, to: &Pool) -> Terms {
    Terms {
        fence_reversible: from.contract.fence_reversible,
        has_promote: to.promote.is_some(),
        promote_reversible: to.contract.promote_reversible,
        new_has_fence: to.fence.is_some(),
    }
}

impl Course {
    /// The cutover that a restart finds unfinished. `epoch` is the one that the journal says is served now.
    pub(super) fn resumed(unfinished: &Unfinished, epoch: Epoch, config: &Config) -> Self {
        let swapped = unfinished.decided == Some(Side::New);
        Self {
            id: unfinished.id,
            from: unfinished.from,
            to: unfinished.to,
            epoch: if swapped { Epoch(epoch.0.saturating_sub(1)) } else { epoch },
            terms: unfinished.terms,
            reverse: config.pools[usize::from(unfinished.to.0)].contract.reverse,
            storage: config.pools[usize::from(unfinished.to.0)].contract.storage,
            since_ms: super::unix_ms(),
        }
    }

    /// The pool on this side.
    pub(super) fn pool(&self, side: Side) -> PoolId {
        match side {
            Side::Old => self.from,
            Side::New => self.to,
        }
    }

    /// The journal's record of a mark; `said` is the operator's reason, `name` tells a pool's name.
    pub(super) fn record(&self, mark: Mark, said: &str, name: impl Fn(PoolId) -> String) -> Record {
        let id = self.id;
        let next = Epoch(self.epoch.0 + 1);
        match mark {
            Mark::Entered(stage) => Record::Entered {
                id,
                from: name(self.from),
                to: name(self.to),
                epoch: self.epoch,
                stage,
                terms: self.terms,
            },
            Mark::Decided => Record::Decided { id, to: name(self.to), epoch: next },
            Mark::Undone => Record::Undone { id },
            Mark::Done => Record::Done { id },
            Mark::Adopted(side) => Record::Adopted {
                pool: name(self.pool(side)),
                epoch: if side == Side::New { next } else { self.epoch },
                reason: format!("cutover {id}: {said}"),
                unproved: false,
            },
        }
    }

    /// Which way back is open in this state.
    pub(super) fn way_back(&self, stage: Stage) -> String {
        let text = match stage {
            Stage::Idle | Stage::Armed | Stage::Holding => "abort: neither pool was touched",
            Stage::Fenced | Stage::CaughtUp if self.terms.fence_reversible => {
                "abort: the old pool's fence is released"
            }
            Stage::Fenced | Stage::CaughtUp => {
                "none by itself: the old pool's fence cannot be released again"
            }
            Stage::Promoted | Stage::Verified if !self.terms.promote_can_be_undone() => {
                "none by itself: the new pool's promote cannot be undone"
            }
            Stage::Promoted | Stage::Verified if self.terms.fence_reversible => {
                "abort: the new pool is fenced, the old one's fence released"
            }
            Stage::Promoted | Stage::Verified => {
                "none by itself: the old pool's fence cannot be released again"
            }
            Stage::Deciding | Stage::Decided | Stage::Switching | Stage::Resuming | Stage::Soaking => {
                match self.reverse {
                    _ if self.storage == Storage::Shared => {
                        "a cutover in the other direction: both pools use one store, as long as the old version reads \
                         what the new one writes"
                    }
                    Reverse::Replication => "a cutover in the other direction, with checks of its own",
                    Reverse::None => "only with loss: nothing replicates the new pool's writes back",
                }
            }
            Stage::Aborting => "on it",
            Stage::Limbo => "see what it needs",
        };
        text.into()
    }
}
