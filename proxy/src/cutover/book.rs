//! The book of one cutover: times, sessions, reasons; the report is made of it.
//!
//! Rule: it measures and never decides.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::Protocol,
    cutover::{
        machine::{Effect, Side},
        types::{Outcome, PhaseTime, Report, Stage},
    },
    session::{
        World,
        registry::{Handle, SessionId},
    },
    topology::PoolId,
};

/// What is noted while a cutover runs.
#[derive(Debug)]
pub(super) struct Book {
    phases: Vec<(&'static str, Duration)>,
    shut_at: Option<Instant>,
    pause: Duration,
    sessions: Vec<SessionId>,
    prewarmed: usize,
    unmovable: BTreeMap<SessionId, String>,
    /// The counts of messages and of streams when it began.
    messages: BTreeMap<&'static str, u64>,
    streams: BTreeMap<&'static str, u64>,
}

/// What was counted since.
fn since(before: &BTreeMap<&'static str, u64>, now: BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    let counted =
        now.into_iter().map(|(outcome, count)| (outcome, count - before.get(outcome).unwrap_or(&0)));
    counted.filter(|(_, count)| *count > 0).map(|(outcome, count)| (outcome.to_owned(), count)).collect()
}

/// The part of the budget that an effect belongs to.
pub(super) fn share(stage: Stage, effect: Effect) -> Option<&'static str> {
    match stage {
        Stage::Holding if effect == Effect::Drain => Some("drain"),
        Stage::Holding if effect == Effect::Leave(Side::Old) => Some("leave"),
        Stage::Verified if effect != Effect::Verify => Some("decide"),
        Stage::Armed => Some("arm"),
        Stage::Fenced => Some("fence"),
        Stage::CaughtUp => Some("barrier"),
        Stage::Promoted => Some("promote"),
        Stage::Verified => Some("verify"),
        Stage::Deciding | Stage::Decided | Stage::Switching => Some("decide"),
        Stage::Resuming => Some("attach"),
        Stage::Aborting | Stage::Limbo => Some("abort"),
        Stage::Holding | Stage::Idle | Stage::Soaking => None,
    }
}

impl Book {
    pub(super) fn new(world: &World) -> Self {
        Self {
            phases: vec![],
            shut_at: None,
            pause: Duration::ZERO,
            sessions: vec![],
            prewarmed: 0,
            unmovable: BTreeMap::new(),
            messages: world.metrics.messages.counts(),
            streams: world.metrics.http_streams.counts(),
        }
    }

    /// Adds time to a phase.
    pub(super) fn spent(&mut self, phase: &'static str, time: Duration) {
        match self.phases.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, sum)) => *sum += time,
            None => self.phases.push((phase, time)),
        }
    }

    /// The gate shut with these sessions alive, so many of them logged in to the standby.
    pub(super) fn shut(&mut self, sessions: Vec<SessionId>, prewarmed: usize) {
        self.shut_at = Some(Instant::now());
        (self.sessions, self.prewarmed) = (sessions, prewarmed);
    }

    /// The gate opened.
    pub(super) fn opened(&mut self) {
        if let Some(shut_at) = self.shut_at.take() {
            self.pause = shut_at.elapsed();
        }
    }

    /// A session cannot be moved; the first reason is kept. How many there are.
    pub(super) fn unmovable(&mut self, lost: impl IntoIterator<Item = (SessionId, String)>) -> usize {
        for (id, why) in lost {
            self.unmovable.entry(id).or_insert(why);
        }
        self.unmovable.len()
    }

    /// Unmovable sessions by reason.
    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for why in self.unmovable.values() {
            *reasons.entry(why.clone()).or_insert(0) += 1;
        }
        reasons
    }

    /// The account of a cutover that ended so.
    pub(super) fn report(
        &self,
        world: &World,
        id: u64,
        between: [PoolId; 2],
        outcome: Outcome,
        reason: String,
    ) -> Report {
        let topology = world.topology.load();
        let [from, to] = between.map(|pool| topology.pool(pool).name.clone());
        let alive: Vec<_> = self.sessions.iter().filter_map(|id| world.registry.get(*id)).collect();
        let there = |handle: &&Arc<Handle>| match handle.word.read().backend {
            Some(pool) => pool == between[1],
            None => handle.protocol != Protocol::Imap && topology.active == between[1],
        };
        let moved = alive.iter().filter(there).count();
        let (hold, hold_own) = world.holds.summary();
        let pause = self.pause + self.shut_at.map_or(Duration::ZERO, |at| at.elapsed());
        Report {
            id,
            from,
            to,
            outcome,
            reason,
            phases: self
                .phases
                .iter()
                .map(|(name, time)| PhaseTime { name: (*name).into(), ms: millis(*time) })
                .collect(),
            hold,
            hold_own,
            sessions: self.sessions.len() as u64,
            prewarmed: self.prewarmed as u64,
            kept: alive.len() as u64,
            moved: moved as u64,
            messages: since(&self.messages, world.metrics.messages.counts()),
            streams: since(&self.streams, world.metrics.http_streams.counts()),
            unmovable: self.reasons(),
            pause_ms: millis(pause),
        }
    }
}

/// Keeps a report as `state_dir/reports/ID.json`. Blocks as long as the disk does.
pub(super) fn keep(state_dir: &Path, report: &Report) -> io::Result<()> {
    let dir = state_dir.join("reports");
    fs::create_dir_all(&dir)?;
    let json = serde_json::to_vec_pretty(report)?;
    let mut file = tempfile::NamedTempFile::new_in(&dir)?;
    io::Write::write_all(&mut file, &json)?;
    file.persist(dir.join(format!("{}.json", report.id))).map_err(|error| error.error)?;
    Ok(())
}

/// The last report that was kept, if it can be read, and its number.
pub(super) fn latest(state_dir: &Path) -> (Option<Report>, u64) {
    let dir = state_dir.join("reports");
    let files = fs::read_dir(&dir).into_iter().flatten().flatten();
    let number = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
    let Some(last) = files.filter_map(|file| number(file.file_name())).max() else { return (None, 0) };
    let text = fs::read(dir.join(format!("{last}.json"))).ok();
    (text.and_then(|text| serde_json::from_slice(&text).ok()), last)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
