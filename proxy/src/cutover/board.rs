//! The status as it is published: at every change, with what is waited for.
//!
//! Rule: whoever looks gets one consistent value; nothing is decided by it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::Instant};

use crate::{
    cutover::{
        book::millis,
        course::Course,
        machine::State,
        types::{Doing, Running, Stage, Status},
    },
    session::World,
};

/// Where the status is kept and published.
#[derive(Debug)]
pub(super) struct Board {
    world: Arc<World>,
    facts: Mutex<Facts>,
    published: watch::Sender<Status>,
}

#[derive(Debug)]
struct Facts {
    state: State,
    course: Option<Course>,
    active_since_ms: u64,
    /// The step under way, and since when.
    doing: Option<(String, Instant)>,
    waits: BTreeMap<&'static str, Vec<String>>,
    alarms: Vec<String>,
    /// Why the last record could not be written.
    journal: Option<String>,
}

impl Board {
    pub(super) fn new(world: Arc<World>, active_since_ms: u64) -> Self {
        let facts = Facts {
            state: State::Idle,
            course: None,
            active_since_ms,
            doing: None,
            waits: BTreeMap::new(),
            alarms: vec![],
            journal: None,
        };
        let published = watch::Sender::new(status(&world, &facts));
        let board = Self { world, facts: Mutex::new(facts), published };
        board.publish(&board.facts());
        board
    }

    /// The status now.
    pub(super) fn status(&self) -> Status {
        status(&self.world, &self.facts())
    }

    /// Every change from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Status> {
        self.published.subscribe()
    }

    /// The machine's state.
    pub(super) fn state(&self) -> State {
        self.facts().state.clone()
    }

    /// A cutover begins, or is taken up again.
    pub(super) fn begin(&self, course: &Course) {
        let mut facts = self.facts();
        facts.course = Some(course.clone());
        facts.alarms.clear();
        self.publish(&facts);
    }

    /// The machine is in this state.
    pub(super) fn enter(&self, state: &State) {
        let mut facts = self.facts();
        if facts.state.stage() != state.stage() {
            facts.waits.clear();
        }
        if *state == State::Idle {
            facts.course = None;
        }
        facts.state = state.clone();
        self.publish(&facts);
    }

    /// The gate or the sessions changed.
    pub(super) fn refresh(&self) {
        self.publish(&self.facts());
    }

    /// Another pool serves.
    pub(super) fn swapped(&self, at_ms: u64) {
        let mut facts = self.facts();
        facts.active_since_ms = at_ms;
        self.publish(&facts);
    }

    /// A step begins that may take long; nothing: it is over.
    pub(super) fn begins(&self, what: Option<String>) {
        let mut facts = self.facts();
        if what.is_some() || facts.doing.is_some() {
            facts.doing = what.map(|what| (what, Instant::now()));
            self.publish(&facts);
        }
    }

    /// What is not over yet: the step, for how long, and whom it waits for.
    pub(super) fn unfinished(&self) -> String {
        let facts = self.facts();
        let doing = facts.doing();
        let step =
            doing.map(|Doing { what, ms }| format!("{what} (for {}.{:02} s)", ms / 1000, ms % 1000 / 10));
        step.into_iter().chain(facts.waits.values().flatten().cloned()).collect::<Vec<_>>().join("; ")
    }

    /// What `topic` waits for; nothing: it is over.
    pub(super) fn waits(&self, topic: &'static str, lines: Vec<String>) {
        let mut facts = self.facts();
        if facts.waits.get(topic).is_none_or(|known| *known != lines) {
            facts.waits.insert(topic, lines);
            self.publish(&facts);
        }
    }

    /// Something that a person must see, shown until the cutover is over.
    pub(super) fn alarm(&self, text: String) {
        tracing::error!("{text}");
        let mut facts = self.facts();
        if !facts.alarms.contains(&text) {
            facts.alarms.push(text);
            self.publish(&facts);
        }
    }

    /// Whether the last record was written; otherwise why not. Shown until one is.
    pub(super) fn journal(&self, failed: Option<String>) {
        let mut facts = self.facts();
        if facts.journal != failed {
            facts.journal = failed;
            self.publish(&facts);
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, facts: &Facts) {
        let status = status(&self.world, facts);
        let metrics = &self.world.metrics;
        metrics.cutover_state.set(status.state.name());
        metrics.gate_state.set(status.gate.name());
        metrics.active_pool.set(&status.active);
        metrics.epoch.set(status.epoch.0.into());
        metrics.journal_failed.set(status.journal.is_some().into());
        self.published.send_replace(status);
    }
}

impl Facts {
    fn doing(&self) -> Option<Doing> {
        self.doing.as_ref().map(|(what, since)| Doing { what: what.clone(), ms: millis(since.elapsed()) })
    }
}

fn status(world: &World, facts: &Facts) -> Status {
    let topology = world.topology.load();
    let gate = world.gate.phase();
    let stage = facts.state.stage();
    // On the way home and in Limbo the gate may still count; nothing comes of it.
    let ends_by_itself = (Stage::Holding..=Stage::Verified).contains(&stage);
    let running = facts.course.as_ref().map(|course| {
        let waits = facts.waits.values().flatten().cloned();
        Running {
            id: course.id,
            from: topology.pool(course.from).name.clone(),
            to: topology.pool(course.to).name.clone(),
            since_ms: course.since_ms,
            doing: facts.doing(),
            waits_for: facts.alarms.iter().map(|alarm| format!("ALARM: {alarm}")).chain(waits).collect(),
            budget_left_ms: world.gate.left(Instant::now().into_std()).filter(|_| ends_by_itself).map(millis),
            way_back: course.way_back(stage),
        }
    });
    Status {
        state: stage,
        active: topology.active().name.clone(),
        active_since_ms: Some(facts.active_since_ms),
        epoch: topology.epoch,
        cutover: running,
        gate,
        sessions: (world.registry.len() + world.http.parked()) as u64,
        held: u64::try_from(world.metrics.held_commands.get()).unwrap_or_default(),
        limbo: limbo(&facts.state),
        not_reached: world.not_reached(),
        journal: facts.journal.clone(),
        not_served: world.barred(),
    }
}

fn limbo(state: &State) -> Option<String> {
    let State::Limbo(home, _, needs) = state else { return None };
    Some(format!("{needs} (it turned back because of {})", home.reason))
}
