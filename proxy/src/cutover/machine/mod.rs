//! The cutover as a pure machine: what is done next, and what every failure leads to.
//!
//! Rule: no clock, no runtime, no I/O. A state names the work in progress and owns what is known; `step` takes
//! it and returns the next one with the effects to carry out, in order. A state is entered when its record is
//! on the disk, so that whatever a state does outside can be undone after a crash.
//!
//! ```text
//!  Idle → Armed → Holding → Fenced → CaughtUp → Promoted → Verified → Deciding ┊→ Decided → Switching
//!    ▲      └────────┴─────────┴─────────┴─────────┴──────────┘           │    ┊      → Resuming → Soaking ─┐
//!    │                         ▼ failure, abort, expiry                   │    ┊                            │
//!    ├──── Aborting: leave new → fence new → release old → reopen         │    ┊ only forward               │
//!    │                         ▼ what cannot be done or proved            ▼    ┊                            │
//!    ├──── Limbo: the same steps, retried;    or the record is in doubt: the operator says                  │
//!    └──────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use serde::{Deserialize, Serialize};

use crate::cutover::types::Stage;

mod step;
#[cfg(test)]
mod walk;

/// One of the two pools of a cutover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The pool that serves when the cutover begins.
    Old,
    /// The pool that is to serve.
    New,
}

/// What the contracts of both pools allow in this cutover. The old pool always has a fence: the plan refuses
/// a cutover without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// The old pool's fence can be released again.
    pub fence_reversible: bool,
    /// The new pool has something to promote it.
    pub has_promote: bool,
    /// The new pool's own fence undoes its promote.
    pub promote_reversible: bool,
    /// The new pool has a fence.
    pub new_has_fence: bool,
}

/// How a new pool that may have been made able to write is made unable again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// Nothing was done to it: it is able to write at all times.
    Nothing,
    /// By its fence.
    Fence,
    /// Not by us.
    Impossible,
}

impl Terms {
    fn undo(self) -> Undo {
        match (self.has_promote, self.new_has_fence) {
            (false, false) => Undo::Nothing,
            (false, true) => Undo::Fence,
            (true, true) if self.promote_reversible => Undo::Fence,
            (true, _) => Undo::Impossible,
        }
    }
}

/// How far a cutover had gone outside when it turned back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Neither pool was touched.
    Sessions,
    /// The old pool's fence may be engaged.
    Fence,
    /// The new pool may be promoted.
    Promote,
}

/// Why a cutover turned back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Something failed, or could not be found out.
    Failed(Stage, String),
    /// A word from outside, and why: the operator's, or that the process is to end.
    Aborted(String),
    /// The hold's deadline passed, and this was waited for; empty where that was nothing by name.
    Expired(Stage, String),
    /// The process ended in this state.
    Restarted(Stage),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(stage, why) => write!(f, "{stage}: {why}"),
            Self::Aborted(why) => write!(f, "aborted: {why}"),
            Self::Expired(stage, waited) if waited.is_empty() => {
                write!(f, "{stage}: the hold's deadline passed")
            }
            Self::Expired(stage, waited) => {
                write!(f, "{stage}: the hold's deadline passed, still waiting for {waited}")
            }
            Self::Restarted(stage) => write!(f, "{stage}: the process was restarted"),
        }
    }
}

/// A way home, and what is known on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Return {
    /// What the contracts allow.
    pub terms: Terms,
    /// Why.
    pub reason: Reason,
    /// What has to be undone.
    pub reach: Reach,
}

/// The steps home, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// No session touches the new pool.
    LeaveNew,
    /// The new pool is fenced, and that is proved.
    FenceNew,
    /// The old pool's fence is released, and that it writes is proved.
    ReleaseOld,
    /// The gate opens on the old pool and sessions that lost their backend get one.
    Reopen,
}

/// What only the operator can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question {
    /// Whether the decision's record is on the disk, and with it which pool serves.
    Record,
    /// Which pool serves now that the new one is promoted and no fence undoes that.
    Promote,
}

/// What Limbo is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stuck {
    /// A step home takes too long, or is tried again.
    Home(Step),
    /// A step home failed; it is tried again in a moment.
    Pausing(Step),
    /// Only the operator can say.
    Asks(Question),
    /// The record that this pool serves is being written.
    Recording(Side),
    /// The operator said that the new pool serves: it is made so and proved. If it cannot be, the question
    /// stands again; where there was none, the way home is tried again.
    Adopting(Option<Question>),
}

/// Where a cutover is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// No cutover.
    Idle,
    /// Traffic flows; guards, views and canaries are made ready.
    Armed(Terms),
    /// The gate shuts; writes drain.
    Holding(Terms),
    /// The old pool is fenced and that is proved.
    Fenced(Terms),
    /// Barriers are asked.
    CaughtUp(Terms),
    /// The new pool is promoted and its writes are proved.
    Promoted(Terms),
    /// Sessions are verified; then the gate's word moves to Deciding, unless the deadline came first.
    Verified(Terms),
    /// The decision is being written. Neither abort nor expiry reach it.
    Deciding(Terms),
    /// The decision is on the disk. From here everything goes forward.
    Decided(Terms),
    /// The new pool becomes the active one.
    Switching(Terms),
    /// The gate opens on the new pool; sessions are attached.
    Resuming(Terms),
    /// Watched until it is over.
    Soaking(Terms),
    /// On the way home.
    Aborting(Return, Step),
    /// Neither side takes writes; `String` says what is needed.
    Limbo(Return, Stuck, String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The operator starts a cutover.
    Start(Terms),
    /// Every effect of the last step was carried out.
    Done,
    /// One of them failed or its outcome is unknown; the ones after it were not begun.
    Failed(String),
    /// What carried effects out has panicked, which says nothing about what they have done.
    Panicked(String),
    /// The operator wants to go back.
    Abort(String),
    /// The hold's deadline passed before a decision, and this was waited for.
    Expired(String),
    /// `max_hold` passed and the gate is still shut.
    Overdue,
    /// The soak is over because the operator wants to go on.
    Finish,
    /// The operator says which pool shall serve.
    Adopt(Side),
}

/// One thing to do. They are carried out in order; one that fails ends the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write a record and have it on the disk.
    Journal(Mark),
    /// Canaries, guards, views.
    Arm,
    /// The gate shuts and its deadline runs.
    Shut,
    /// Writes in flight are answered.
    Drain,
    /// No session touches this pool, as far as the contract asks for it.
    Leave(Side),
    /// Run the pool's fence.
    Engage(Side),
    /// Run the fence's release.
    Release(Side),
    /// Run the new pool's promote.
    Promote,
    /// Prove with the canaries that the old pool does not write.
    ProveFenced,
    /// Prove without canaries that a pool does not write.
    ProveRefuses(Side),
    /// Prove that a pool writes.
    ProveWrites(Side),
    /// Every barrier passes.
    Barriers,
    /// Sessions are verified on the new pool.
    Verify,
    /// The gate's word goes from Shut to Deciding.
    Decide,
    /// The gate's word goes from Deciding to Decided.
    Settle,
    /// The gate's word goes from Deciding to `FailStop`.
    FailStop,
    /// The new pool becomes the active one.
    Swap,
    /// The gate opens for the sessions of a pool.
    Open(Side),
    /// Sessions get their backend on the active pool.
    Attach,
    /// Sessions give their spare connections back; nothing is kept for a cutover any more.
    Rest,
    /// Wait until the soak is over.
    Soak,
    /// Wait a moment before the next try.
    Pause,
}

/// A journal record, its cutover aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// This state is entered.
    Entered(Stage),
    /// The new pool serves.
    Decided,
    /// The old pool serves as before.
    Undone,
    /// The cutover is over.
    Done,
    /// The operator said that this pool serves.
    Adopted(Side),
}

/// What an event asks of whoever carries out effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaction {
    /// Leave what is being done and do this.
    Go(Vec<Effect>),
    /// Go on with what is being done.
    Stay,
    /// Go on, and tell the operator why his word has no effect.
    Refuse(&'static str),
}
