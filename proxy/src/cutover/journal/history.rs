//! What the records of a journal add up to.
//!
//! Rule: read in order, each record says all that it changes; nothing is guessed from what is missing.

use std::path::Path;

use serde::Deserialize;

use super::{Entry, JournalError, Record, Recovered, Unfinished, VERSION, file, frame};
use crate::{
    config::Config,
    cutover::{machine::Side, types::Stage},
    topology::{Epoch, PoolId},
};

/// What the records say, by the names that they use.
#[derive(Debug)]
pub(super) struct History {
    pub(super) active: String,
    pub(super) active_since_ms: u64,
    pub(super) epoch: Epoch,
    pub(super) last_id: u64,
    pub(super) unfinished: Option<Record>,
    pub(super) decided: Option<Side>,
    pub(super) torn: bool,
}

impl History {
    pub(super) fn of(frames: &frame::Frames<'_>, path: &str) -> Result<Self, JournalError> {
        let corrupt = |offset, why: String| JournalError::Corrupt { path: path.into(), offset, why };
        let mut history: Option<Self> = None;
        for &(offset, json) in &frames.records {
            let entry = entry(json, offset, path)?;
            match (&mut history, entry.record) {
                (None, Record::Init { active }) => {
                    history = Some(Self::begin(active, entry.at_ms, frames.torn))
                }
                (None, _) => {
                    return Err(corrupt(offset, "the first record does not say which pool serves".into()));
                }
                (Some(_), Record::Init { .. }) => {
                    return Err(corrupt(offset, "a second first record".into()));
                }
                (Some(history), record) => history.add(record, entry.at_ms),
            }
        }
        match history {
            Some(history) => Ok(history),
            None if frames.torn => Err(corrupt(0, "no record can be read".into())),
            None => Err(JournalError::Absent(path.into())),
        }
    }

    fn begin(active: String, at_ms: u64, torn: bool) -> Self {
        let (unfinished, decided) = (None, None);
        Self { active, active_since_ms: at_ms, epoch: Epoch(0), last_id: 0, unfinished, decided, torn }
    }

    fn add(&mut self, record: Record, at_ms: u64) {
        match record {
            Record::Init { .. } => {}
            Record::Entered { id, .. } => {
                self.last_id = id;
                self.unfinished = Some(record);
                self.decided = None;
            }
            Record::Decided { to, epoch, .. } => {
                (self.active, self.active_since_ms, self.epoch) = (to, at_ms, epoch);
                self.decided = Some(Side::New);
            }
            Record::Undone { .. } | Record::Done { .. } => self.unfinished = None,
            Record::Adopted { pool, epoch, unproved, .. } => self.adopted(pool, epoch, unproved, at_ms),
        }
    }

    /// The operator's word on an unfinished cutover completes it or undoes it, with proofs; a third pool ends it, and so
    /// does a word without proofs: the other pool may be dead, and no start would ever get over it.
    fn adopted(&mut self, pool: String, epoch: Epoch, unproved: bool, at_ms: u64) {
        self.decided = match &self.unfinished {
            _ if unproved => None,
            Some(Record::Entered { to, .. }) if *to == pool => Some(Side::New),
            Some(Record::Entered { from, .. }) if *from == pool => Some(Side::Old),
            Some(_) | None => None,
        };
        if self.decided.is_none() {
            self.unfinished = None;
        }
        if self.active != pool {
            self.active_since_ms = at_ms;
        }
        (self.active, self.epoch) = (pool, epoch);
    }

    /// What is to stand in the place of a torn record that may have been the decision, which only follows Verified.
    pub(super) fn doubt(&self) -> Option<Record> {
        match self.unfinished.clone() {
            Some(Record::Entered { id, from, to, epoch, stage: Stage::Verified, terms })
                if self.torn && self.decided.is_none() =>
            {
                Some(Record::Entered { id, from, to, epoch, stage: Stage::Deciding, terms })
            }
            Some(_) | None => None,
        }
    }

    /// Refuses a word that would decide a cutover in course. On the pool that it began with it decides nothing: the way
    /// home is proved.
    pub(super) fn leaves_open(&self, dir: &Path, pool: &str) -> Result<(), JournalError> {
        match &self.unfinished {
            Some(Record::Entered { id, from, to, stage, .. }) if self.decided.is_none() && from != pool => {
                let (path, pool) = (file::name(dir), pool.to_owned());
                let (from, to) = (from.clone(), to.clone());
                Err(JournalError::Unfinished { path, id: *id, from, to, stage: *stage, pool })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn resolve(self, dir: &Path, config: &Config) -> Result<Recovered, JournalError> {
        let torn = self.doubt().is_some();
        let find = |name: &str| {
            let index = config.pools.iter().position(|p| p.name == name).and_then(|i| u8::try_from(i).ok());
            index
                .map(PoolId)
                .ok_or_else(|| JournalError::UnknownPool { path: file::name(dir), pool: name.into() })
        };
        let unfinished = match self.unfinished {
            Some(Record::Entered { id, from, to, stage, terms, .. }) => Some(Unfinished {
                id,
                from: find(&from)?,
                to: find(&to)?,
                stage,
                terms,
                decided: self.decided,
            }),
            Some(_) | None => None,
        };
        let deciding = unfinished.as_ref().is_some_and(|u| u.stage == Stage::Deciding && u.decided.is_none());
        Ok(Recovered {
            active: find(&self.active)?,
            active_since_ms: self.active_since_ms,
            epoch: self.epoch,
            last_id: self.last_id,
            undecided: torn || deciding,
            unfinished,
        })
    }
}

fn entry(json: &[u8], offset: usize, path: &str) -> Result<Entry, JournalError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let corrupt = |error: serde_json::Error| JournalError::Corrupt {
        path: path.into(),
        offset,
        why: format!("not a record: {error}"),
    };
    let Version { v: version } = serde_json::from_slice(json).map_err(corrupt)?;
    if version != VERSION {
        return Err(JournalError::Version { path: path.into(), offset, version });
    }
    serde_json::from_slice(json).map_err(corrupt)
}
