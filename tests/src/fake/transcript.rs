//! What a platform saw: counters, and on request every byte that arrived.
//!
//! Rule: recording changes nothing that a client could see.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What a platform counted since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were accepted.
    pub accepted: usize,
    /// Logins that succeeded, by user.
    pub logins: BTreeMap<String, usize>,
    /// Commands that arrived whole, by verb (`UID FETCH` is one, and so are `relay MAIL`, `submission AUTH`, `lmtp
    /// DOT`, which is the end of a message and in LMTP comes once for each recipient).
    pub verbs: BTreeMap<String, usize>,
    /// Bytes that break the protocol.
    pub violations: Vec<String>,
}

/// What arrived on one connection.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    /// The number of the connection, from 1.
    pub connection: usize,
    /// Who logged in.
    pub user: Option<String>,
    /// Every byte, TLS taken off.
    pub received: Vec<u8>,
}

impl Transcript {
    /// Whether these bytes arrived.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.received.windows(bytes.len().max(1)).any(|w| w == bytes)
    }
}

/// Who came and who went, in order; platforms that are given clones of one share it.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    platform: &'static str,
    visits: Arc<Mutex<Vec<Visit>>>,
}

/// A login, or the end of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Where.
    pub platform: &'static str,
    /// Who.
    pub user: String,
    /// False: went.
    pub came: bool,
}

impl Attendance {
    /// The same list, for the platform of this name.
    pub fn at(&self, platform: &'static str) -> Self {
        Self { platform, visits: self.visits.clone() }
    }

    /// Everything so far.
    pub fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, user: &str, came: bool) {
        let visit = Visit { platform: self.platform, user: user.into(), came };
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
    }
}

/// All that a platform recorded.
#[derive(Debug, Default)]
pub(super) struct Records {
    keep: bool,
    attendance: Attendance,
    counters: Mutex<Counters>,
    transcripts: Mutex<Vec<Arc<Mutex<Transcript>>>>,
}

impl Records {
    pub(super) fn new(keep: bool, attendance: Attendance) -> Self {
        Self { keep, attendance, ..Self::default() }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn logins(&self) -> usize {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).logins.values().sum()
    }

    pub(super) fn transcripts(&self) -> Vec<Transcript> {
        let all = self.transcripts.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|t| t.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// A connection begins; it ends when the recorder is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Recorder {
        let mut number = 0;
        self.count(|c| {
            c.connections += 1;
            c.accepted += 1;
            number = c.accepted;
        });
        let transcript = self.keep.then(|| {
            let transcript = Arc::new(Mutex::new(Transcript { connection: number, ..Transcript::default() }));
            self.transcripts.lock().unwrap_or_else(PoisonError::into_inner).push(transcript.clone());
            transcript
        });
        Recorder { records: self.clone(), transcript, user: None }
    }
}

/// One connection's place in the records.
pub(super) struct Recorder {
    records: Arc<Records>,
    transcript: Option<Arc<Mutex<Transcript>>>,
    user: Option<String>,
}

impl Recorder {
    pub(super) fn received(&self, bytes: &[u8]) {
        self.note(|t| t.received.extend_from_slice(bytes));
    }

    pub(super) fn login(&mut self, user: &str) {
        self.records.attendance.note(user, true);
        self.user = Some(user.into());
        self.known_as(user);
    }

    /// A login that opens no mailbox.
    pub(super) fn known_as(&self, user: &str) {
        self.records.count(|c| *c.logins.entry(user.into()).or_default() += 1);
        self.note(|t| t.user = Some(user.into()));
    }

    /// The user is gone before the connection is; whoever sees its end may come back at once.
    pub(super) fn logout(&mut self) {
        if let Some(user) = self.user.take() {
            self.records.attendance.note(&user, false);
        }
    }

    pub(super) fn command(&self, verb: &str) {
        self.records.count(|c| *c.verbs.entry(verb.into()).or_default() += 1);
    }

    pub(super) fn violation(&self, what: &str) {
        self.records.count(|c| c.violations.push(what.into()));
    }

    fn note(&self, change: impl FnOnce(&mut Transcript)) {
        if let Some(transcript) = &self.transcript {
            change(&mut transcript.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.logout();
        self.records.count(|c| c.connections -= 1);
    }
}
