//! The effect ledger: what clients asked for, what they were told, and what there is in the end.
//!
//! Rule: the judge is the final store alone. Acknowledged must be there exactly once, refused not at all,
//! and whatever nobody was told about at most once (design invariant D2).

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The header field that carries an effect's id.
const FIELD: &str = "X-Effect: ";

/// What the client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sent, no answer yet; stays so where the connection broke.
    Unknown,
    /// OK
    Acknowledged,
    /// NO or BAD
    Refused,
}

/// All effects of a test.
#[derive(Debug, Default)]
pub struct Ledger {
    next: AtomicU64,
    fates: Mutex<BTreeMap<String, Fate>>,
}

/// The account at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many were acknowledged.
    pub acknowledged: usize,
    /// How many were refused.
    pub refused: usize,
    /// How many nobody knows about.
    pub unknown: usize,
    /// Acknowledged and not there.
    pub lost: Vec<String>,
    /// There more than once.
    pub doubled: Vec<String>,
    /// Refused and there all the same.
    pub phantom: Vec<String>,
}

impl Verdict {
    /// Whether nothing was lost, doubled or done in spite of a refusal.
    pub fn clean(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.phantom.is_empty()
    }
}

impl Ledger {
    /// A new effect: its id and a message that carries it, with about `size` bytes of text.
    pub fn message(&self, size: usize) -> (String, Vec<u8>) {
        let id = format!("effect-{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Fate::Unknown);
        let line = "All work and no play makes a dull message.\r\n";
        let text = line.repeat(size.div_ceil(line.len()));
        let message = format!("From: ledger@example.org\r\nSubject: {id}\r\n{FIELD}{id}\r\n\r\n{text}");
        (id, message.into_bytes())
    }

    /// What became of an effect.
    pub fn settle(&self, id: &str, fate: Fate) {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into(), fate);
    }

    /// Judges by the bodies of the final store.
    pub fn judge<B: AsRef<[u8]>>(&self, bodies: impl IntoIterator<Item = B>) -> Verdict {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for body in bodies {
            if let Some(id) = id_of(body.as_ref()) {
                *found.entry(id.to_owned()).or_default() += 1;
            }
        }
        self.judge_counts(&found)
    }

    /// Judges by how often each effect was found.
    pub fn judge_counts(&self, found: &BTreeMap<String, usize>) -> Verdict {
        let mut verdict = Verdict::default();
        for (id, fate) in self.fates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let times = found.get(id).copied().unwrap_or_default();
            match fate {
                Fate::Acknowledged => verdict.acknowledged += 1,
                Fate::Refused => verdict.refused += 1,
                Fate::Unknown => verdict.unknown += 1,
            }
            match (fate, times) {
                (Fate::Acknowledged, 0) => verdict.lost.push(id.clone()),
                (Fate::Refused, 1..) => verdict.phantom.push(id.clone()),
                (Fate::Acknowledged | Fate::Unknown, 2..) => verdict.doubled.push(id.clone()),
                (Fate::Acknowledged, 1) | (Fate::Refused, 0) | (Fate::Unknown, 0 | 1) => {}
            }
        }
        verdict
    }
}

/// The id of the effect that a message carries.
pub fn id_of(message: &[u8]) -> Option<&str> {
    let header = message.split(|b| *b == b'\n').take_while(|line| !matches!(*line, b"\r" | b""));
    let field = { header }.find_map(|line| line.strip_prefix(FIELD.as_bytes()))?;
    std::str::from_utf8(field).ok().map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::{Fate, Ledger};

    #[test]
    fn the_verdict_names_what_went_wrong() {
        let ledger = Ledger::default();
        let effects: Vec<_> = (0..5).map(|_| ledger.message(100)).collect();
        let [kept, lost, doubled, phantom, unknown] = effects.as_slice() else { panic!("five") };
        for (id, _) in [kept, lost, doubled] {
            ledger.settle(id, Fate::Acknowledged);
        }
        ledger.settle(&phantom.0, Fate::Refused);
        let verdict = ledger.judge([&kept.1, &doubled.1, &doubled.1, &phantom.1, &unknown.1]);
        assert_eq!(verdict.lost, [lost.0.as_str()]);
        assert_eq!(verdict.doubled, [doubled.0.as_str()]);
        assert_eq!(verdict.phantom, [phantom.0.as_str()]);
        assert_eq!((verdict.acknowledged, verdict.refused, verdict.unknown), (3, 1, 1));
        assert!(!verdict.clean());
    }
}
