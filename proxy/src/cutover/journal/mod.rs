//! The journal: what a cutover entered, decided and undid, on the disk before it counts.
//!
//! Rule: an append that returns has reached the disk; one that fails makes the journal unusable until the
//! operator says what is true, for nobody knows how much of it was written.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    cutover::{
        machine::{Side, Terms},
        types::Stage,
    },
    topology::{Epoch, PoolId},
};

mod file;
mod frame;
mod history;
#[cfg(test)]
mod tests;

use file::{JournalFile, Medium};
use history::History;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Space kept ahead, so that a decision cannot fail for want of it.
const ROOM: u64 = 64 * 1024;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// Record 0: the pool that serves when bascule is introduced.
    Init {
        /// Its name.
        active: String,
    },
    /// A state of a cutover is entered; `deciding` is written for a torn record that may have been the decision.
    Entered {
        /// The cutover's number.
        id: u64,
        /// The pool that serves.
        from: String,
        /// The pool that is to serve.
        to: String,
        /// The epoch that is served.
        epoch: Epoch,
        /// The state.
        stage: Stage,
        /// What the contracts allow.
        terms: Terms,
    },
    /// The decision: `to` serves.
    Decided {
        /// The cutover's number.
        id: u64,
        /// The pool.
        to: String,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The pool that served before serves again.
    Undone {
        /// The cutover's number.
        id: u64,
    },
    /// The cutover is over.
    Done {
        /// The cutover's number.
        id: u64,
    },
    /// The operator's word on which pool serves.
    Adopted {
        /// The pool.
        pool: String,
        /// Its epoch.
        epoch: Epoch,
        /// Why, in the operator's words.
        reason: String,
        /// Nothing is to be proved after it: it ends the cutover that it finds.
        #[serde(default)]
        unproved: bool,
    },
}

/// A record with what every one of them carries.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    v: u32,
    at_ms: u64,
    #[serde(flatten)]
    record: Record,
}

/// What the journal said when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The pool that serves.
    pub active: PoolId,
    /// Unix time in milliseconds at which it became active.
    pub active_since_ms: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The number of the last cutover; 0 before the first.
    pub last_id: u64,
    /// A cutover that is not over.
    pub unfinished: Option<Unfinished>,
    /// The last record was torn when this or an earlier process began, and may have been that cutover's decision.
    pub undecided: bool,
}

/// A cutover that the journal shows begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Its number.
    pub id: u64,
    /// The pool that served when it began.
    pub from: PoolId,
    /// The pool that was to serve.
    pub to: PoolId,
    /// The last state that was entered.
    pub stage: Stage,
    /// What the contracts allowed.
    pub terms: Terms,
    /// The pool that a record decided for, if any.
    pub decided: Option<Side>,
}

/// Why the journal cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is none.
    #[error(
        "{0}: there is no journal here; if this is a new installation, say which pool serves: `bascule init --active POOL`"
    )]
    Absent(String),
    /// There is one.
    #[error(
        "{0}: there is a journal already; to change what it says: `bascule cutover adopt POOL --reason …`"
    )]
    Present(String),
    /// Another process has it.
    #[error("{0}: another bascule uses this journal")]
    Locked(String),
    /// A record in the middle cannot be read.
    #[error(
        "{path}: the record at byte {offset} is damaged ({why}) and may not be the last one; keep a copy of the file, find out \
         which pool takes writes, move the file away and run `bascule init --active POOL`"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// Where the record begins.
        offset: usize,
        /// What is wrong.
        why: String,
    },
    /// A newer bascule wrote it.
    #[error(
        "{path}: the record at byte {offset} has version {version}, this bascule reads {VERSION}; use the newer one"
    )]
    Version {
        /// The file.
        path: String,
        /// Where the record begins.
        offset: usize,
        /// Its version.
        version: u32,
    },
    /// The configuration lacks a pool that matters.
    #[error(
        "{path}: pool {pool:?} serves or takes part in an unfinished cutover, and the configuration has no such pool; \
         add it, or say which one serves, and that nothing is to be proved any more: \
         `bascule cutover adopt POOL --reason … --unproved`"
    )]
    UnknownPool {
        /// The file.
        path: String,
        /// The pool's name.
        pool: String,
    },
    /// A start would take up this cutover, and prove what it does.
    #[error(
        "{path}: cutover {id} from {from} to {to} is not over ({stage}): `bascule serve` takes it up and proves what it does, \
         it goes back to {from} by itself or asks; where that cannot be, and you have seen to it that {from} cannot write \
         and that {pool} has everything, say it again with --unproved"
    )]
    Unfinished {
        /// The file.
        path: String,
        /// The cutover's number.
        id: u64,
        /// The pool that served when it began.
        from: String,
        /// The pool that was to serve.
        to: String,
        /// The last state that was entered.
        stage: Stage,
        /// The pool that the operator named.
        pool: String,
    },
    /// An earlier write failed: what is on the disk is not known.
    #[error("the journal cannot be trusted since a write failed: {0}")]
    FailStop(String),
    /// The system said no before anything was written.
    #[error("{path}: {doing}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Where a cutover's states and its decision are kept. The journal on this machine's disk is one; a fleet's
/// common store can be another.
pub trait DecisionLog: Send + std::fmt::Debug {
    /// Makes sure that the records of a cutover have room.
    fn prepare(&mut self) -> Result<(), JournalError>;
    /// Returns when the record is safe. After an error nobody knows whether it is.
    fn append(&mut self, record: &Record) -> Result<(), JournalError>;
    /// The operator's word: replaces whatever is in doubt, also after a failed append.
    fn settle(&mut self, record: &Record) -> Result<(), JournalError>;
}

/// The journal in `state_dir`, locked for this process.
#[derive(Debug)]
pub struct Journal {
    medium: Box<dyn Medium>,
    /// Every record that is known to be on the disk, as it stands there.
    known: Vec<u8>,
    /// Bytes that the file has room for.
    room: u64,
    failed: Option<String>,
}

/// Writes record 0 into a directory that has no journal.
pub fn init(dir: &Path, pool: &str) -> Result<(), JournalError> {
    JournalFile::create(dir, &encode(&Record::Init { active: pool.into() })?)
}

/// Opens the journal and says what it holds.
pub fn open(dir: &Path, config: &Config) -> Result<(Journal, Recovered), JournalError> {
    let (journal, history) = Journal::load(dir)?;
    let recovered = history.resolve(dir, config)?;
    Ok((journal, recovered))
}

/// Repair by hand while no proxy runs: `pool`, one of the configuration, serves, whatever the journal said. A cutover in
/// course is ended by it only if that is said to be `unproved`: the next start believes it.
pub fn adopt(dir: &Path, pool: &str, reason: &str, unproved: bool) -> Result<(), JournalError> {
    let (mut journal, history) = Journal::load(dir)?;
    if !unproved {
        history.leaves_open(dir, pool)?;
    }
    let epoch = Epoch(history.epoch.0 + 1);
    journal.settle(&Record::Adopted { pool: pool.into(), epoch, reason: reason.into(), unproved })
}

impl Journal {
    fn load(dir: &Path) -> Result<(Self, History), JournalError> {
        let (medium, bytes) = JournalFile::open(dir)?;
        Self::read(Box::new(medium), bytes, &file::name(dir))
    }

    fn read(medium: Box<dyn Medium>, bytes: Vec<u8>, path: &str) -> Result<(Self, History), JournalError> {
        let frames = frame::read(&bytes).map_err(|offset| JournalError::Corrupt {
            path: path.into(),
            offset,
            why: "checksum".into(),
        })?;
        let history = History::of(&frames, path)?;
        let (last, end) = (frames.last_at(), frames.end);
        let mut known = bytes;
        known.truncate(end);
        let mut journal = Self { medium, known, room: 0, failed: None };
        match history.doubt() {
            // The torn record goes, the doubt stays: a later start must not answer for the operator either.
            Some(doubt) => journal.settle(&doubt)?,
            None => journal.confirm(last).map_err(|error| JournalError::Io {
                path: path.into(),
                doing: "write",
                error,
            })?,
        }
        Ok((journal, history))
    }

    /// What was read may stand in the page cache alone, after a write that failed: it is written again. What
    /// follows it, a torn record, goes.
    fn confirm(&mut self, last: usize) -> io::Result<()> {
        self.medium.set_len(self.known.len() as u64)?;
        write_all(&mut *self.medium, &self.known[last..], last as u64)?;
        self.medium.sync()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all(&mut *self.medium, bytes, self.known.len() as u64)?;
        self.medium.sync()
    }
}

impl DecisionLog for Journal {
    fn prepare(&mut self) -> Result<(), JournalError> {
        let room = self.known.len() as u64 + ROOM;
        self.medium.allocate(room).map_err(|error| self.medium.error("make room", error))?;
        self.room = room;
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if let Some(why) = &self.failed {
            return Err(JournalError::FailStop(why.clone()));
        }
        let bytes = encode(record)?;
        if (self.known.len() + bytes.len()) as u64 > self.room {
            self.prepare()?;
        }
        if let Err(error) = self.write(&bytes) {
            let why = self.medium.error("write", error).to_string();
            self.failed = Some(why.clone());
            return Err(JournalError::FailStop(why));
        }
        self.known.extend(bytes);
        Ok(())
    }

    fn settle(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut bytes = self.known.clone();
        bytes.extend(encode(record)?);
        if let Err(error) = self.medium.replace(&bytes) {
            let why = self.medium.error("replace", error).to_string();
            self.failed = Some(why.clone());
            return Err(JournalError::FailStop(why));
        }
        (self.room, self.known, self.failed) = (bytes.len() as u64, bytes, None);
        Ok(())
    }
}

fn write_all(medium: &mut dyn Medium, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = medium.write_at(bytes, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn encode(record: &Record) -> Result<Vec<u8>, JournalError> {
    let at_ms = crate::cutover::unix_ms();
    serde_json::to_vec(&Entry { v: VERSION, at_ms, record: record.clone() })
        .map_err(io::Error::from)
        .and_then(|json| frame::write(&json))
        .map_err(|error| JournalError::Io { path: "journal".into(), doing: "encode a record", error })
}
