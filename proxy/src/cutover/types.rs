//! What a cutover tells people and programs: its status, its plan, its report and its refusals.
//!
//! Rule: plain data with serde on both sides, so that the API, the command line and the reports on disk
//! speak the same words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{gate::Phase, session::holds::Summary, topology::Epoch};

/// Where things stand, published at every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The state of the cutover machine.
    pub state: Stage,
    /// Name of the pool that serves.
    pub active: String,
    /// Unix time in milliseconds at which it became active; `None` where the journal does not say.
    #[serde(default)]
    pub active_since_ms: Option<u64>,
    /// How often the active pool has been swapped.
    pub epoch: Epoch,
    /// The cutover that runs, also while it aborts or is stuck in Limbo.
    pub cutover: Option<Running>,
    /// What the gate says.
    pub gate: Phase,
    /// Sessions that are alive.
    pub sessions: u64,
    /// Commands that wait at the gate.
    pub held: u64,
    /// What cannot be done or undone, and what it needs; `None` outside Limbo.
    pub limbo: Option<String>,
    /// Servers of the active pool that sessions could not reach when they last tried, and why.
    #[serde(default)]
    pub not_reached: Vec<String>,
    /// Why the journal's last record could not be written; `None` when it was. No cutover can begin.
    #[serde(default)]
    pub journal: Option<String>,
    /// Listeners whose clients are turned away, and why.
    #[serde(default)]
    pub not_served: Vec<String>,
}

/// A cutover in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its number.
    pub id: u64,
    /// The pool that served when it began.
    pub from: String,
    /// The pool that is to serve.
    pub to: String,
    /// Unix time in milliseconds at which it began.
    pub since_ms: u64,
    /// The step that is being carried out, where it may take long.
    #[serde(default)]
    pub doing: Option<Doing>,
    /// What it waits for, by name.
    pub waits_for: Vec<String>,
    /// Milliseconds until the hold expires and the cutover turns back; `None` where it has turned back, is decided, or
    /// holds nobody.
    pub budget_left_ms: Option<u64>,
    /// Which way back is open now.
    pub way_back: String,
}

/// A step that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    /// Which.
    pub what: String,
    /// For how long, in milliseconds.
    pub ms: u64,
}

/// The states of design §5.2 by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// No cutover.
    Idle,
    /// Preparing while traffic flows.
    Armed,
    /// The gate is shut; writes drain.
    Holding,
    /// The old pool is being fenced, or is.
    Fenced,
    /// Barriers are asked, or passed.
    CaughtUp,
    /// The new pool is being promoted, or is.
    Promoted,
    /// Sessions are verified on the new pool.
    Verified,
    /// The decision is being written.
    Deciding,
    /// The decision stands.
    Decided,
    /// The new pool becomes the active one.
    Switching,
    /// Sessions are attached to the new pool.
    Resuming,
    /// The new pool is watched.
    Soaking,
    /// Going back to the old pool.
    Aborting,
    /// Neither side takes writes until something outside is repaired.
    Limbo,
}

impl Stage {
    /// Every state, in the order of a cutover.
    pub const ALL: [Self; 14] = [
        Self::Idle,
        Self::Armed,
        Self::Holding,
        Self::Fenced,
        Self::CaughtUp,
        Self::Promoted,
        Self::Verified,
        Self::Deciding,
        Self::Decided,
        Self::Switching,
        Self::Resuming,
        Self::Soaking,
        Self::Aborting,
        Self::Limbo,
    ];

    /// The name as people and programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Armed => "armed",
            Self::Holding => "holding",
            Self::Fenced => "fenced",
            Self::CaughtUp => "caught_up",
            Self::Promoted => "promoted",
            Self::Verified => "verified",
            Self::Deciding => "deciding",
            Self::Decided => "decided",
            Self::Switching => "switching",
            Self::Resuming => "resuming",
            Self::Soaking => "soaking",
            Self::Aborting => "aborting",
            Self::Limbo => "limbo",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The dry run of a cutover: what speaks for it and against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it may start: no item failed, none is unknown.
    pub go: bool,
    /// The pool that serves.
    pub from: String,
    /// The pool that would.
    pub to: String,
    /// What was looked at, in order.
    pub items: Vec<Item>,
    /// Which ways back there will be, before and after the decision.
    pub way_back: String,
}

impl Plan {
    /// Why it may not start, in the words of its items.
    pub fn refusal(&self) -> Refusal {
        let blocking = self.items.iter().filter(|item| item.answer.blocks());
        let why = blocking.map(|item| format!("{}: {}", item.name, item.saw)).collect();
        Refusal {
            why,
            instead: format!("bascule cutover plan {} shows everything that was looked at", self.to),
        }
    }
}

/// One thing that a plan looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What was looked at.
    pub name: String,
    /// What came of it.
    pub answer: Finding,
    /// What was seen.
    pub saw: String,
}

/// What came of looking at one [`Item`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// As it should be.
    Pass,
    /// Not as it should be: no cutover.
    Fail,
    /// Could not be found out: no cutover either.
    Unknown,
    /// Worth knowing; does not decide.
    Note,
}

impl Finding {
    /// Whether it forbids the cutover.
    pub fn blocks(self) -> bool {
        match self {
            Self::Fail | Self::Unknown => true,
            Self::Pass | Self::Note => false,
        }
    }
}

/// The account of a cutover that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its number.
    pub id: u64,
    /// The pool that served when it began.
    pub from: String,
    /// The pool that was to serve.
    pub to: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so; empty when it went through.
    pub reason: String,
    /// The phases in order.
    pub phases: Vec<PhaseTime>,
    /// How long commands were held.
    pub hold: Summary,
    /// The same without hooks, fences and barriers.
    pub hold_own: Summary,
    /// Sessions alive when the gate shut.
    pub sessions: u64,
    /// Of these, logged in to the standby by then.
    #[serde(default)]
    pub prewarmed: u64,
    /// Of these, alive at the end.
    pub kept: u64,
    /// Of these, on the new pool; mail between two messages is on none, and its next one goes there.
    pub moved: u64,
    /// What became of messages between its start and its end, by outcome: `relayed`, `refused`, `held` at their last
    /// byte, `ambiguous_…`, …
    #[serde(default)]
    pub messages: BTreeMap<String, u64>,
    /// What became of streams of HTTP between its start and its end, by outcome: `events_moved`, `polls_again`,
    /// `sockets_told`, …
    #[serde(default)]
    pub streams: BTreeMap<String, u64>,
    /// Sessions that were given up, by reason.
    pub unmovable: BTreeMap<String, u64>,
    /// How long the gate was shut.
    pub pause_ms: u64,
}

/// Duration of one phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// `drain`, `fence`, …
    pub name: String,
    /// Milliseconds.
    pub ms: u64,
}

/// How a cutover ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new pool serves.
    Done,
    /// The old pool serves, as before.
    Aborted,
    /// Neither side takes writes.
    Limbo,
}

/// Something was asked for that is not done; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", why.join("; "))]
pub struct Refusal {
    /// Every reason.
    pub why: Vec<String>,
    /// What to do instead; empty where there is nothing.
    pub instead: String,
}

impl Refusal {
    /// One reason and what to do instead.
    pub fn new(why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { why: vec![why.into()], instead: instead.into() }
    }
}
