//! The effect ledger: what clients asked for, what they were told, and what there is in the end.
//!
//! Rule: the judge is the final store alone. Acknowledged must be there exactly once and unchanged, refused not at
//! all, and whatever nobody was told about at most once (design invariant D2). Mail has an effect for each recipient.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::smtp::Sent;

/// The header fields that carry an effect's id and the digest of all that stands behind them. They come first: what
/// servers on the way add stands above them.
const FIELD: &str = "X-Effect: ";
const DIGEST: &str = "X-Digest: ";

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
    fates: Mutex<BTreeMap<Effect, Fate>>,
}

/// A message's id, and the recipient; empty for what has none.
type Effect = (String, String);

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
    /// There, and not as it was sent.
    pub changed: Vec<String>,
}

impl Verdict {
    /// Whether nothing was lost, doubled, changed or done in spite of a refusal.
    pub fn clean(&self) -> bool {
        [&self.lost, &self.doubled, &self.phantom, &self.changed].iter().all(|wrong| wrong.is_empty())
    }
}

/// What was found in mailboxes that are emptied while a test runs.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<Effect, usize>,
    changed: Vec<String>,
}

impl Tally {
    /// One message in the mailboxes of these recipients; nothing if it carries no effect.
    pub fn add<R: Into<String> + Clone>(&mut self, recipients: &[R], body: &[u8]) {
        let Some(id) = id_of(body) else { return };
        let changed = !unchanged(body);
        for recipient in recipients {
            let effect = (id.to_owned(), recipient.clone().into());
            if changed {
                self.changed.push(named(&effect));
            }
            *self.counts.entry(effect).or_default() += 1;
        }
    }

    /// How many were found.
    pub fn found(&self) -> usize {
        self.counts.values().sum()
    }
}

impl Ledger {
    /// A new effect: its id and a message that carries it, with about `size` bytes of text.
    pub fn message(&self, size: usize) -> (String, Vec<u8>) {
        self.mail(size, &[""])
    }

    /// The same for mail, with an effect for each recipient.
    pub fn mail(&self, size: usize, to: &[&str]) -> (String, Vec<u8>) {
        let id = format!("effect-{}", self.next.fetch_add(1, Ordering::Relaxed));
        for recipient in to {
            self.settle_for(&id, recipient, Fate::Unknown);
        }
        let line = "All work and no play makes a dull message.\r\n";
        let text = line.repeat(size.div_ceil(line.len()));
        let rest = format!(
            "From: ledger@example.org\r\nTo: {}\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
             Message-ID: <{id}@ledger.example.org>\r\nSubject: {id}\r\n\r\n{text}",
            if to == [""] { "ledger@example.org".into() } else { to.join(", ") }
        );
        let message = format!("{FIELD}{id}\r\n{DIGEST}{}\r\n{rest}", digest(rest.as_bytes()));
        (id, message.into_bytes())
    }

    /// What became of an effect without recipients.
    pub fn settle(&self, id: &str, fate: Fate) {
        self.settle_for(id, "", fate);
    }

    /// What became of a message for one recipient.
    pub fn settle_for(&self, id: &str, recipient: &str, fate: Fate) {
        let effect = (id.to_owned(), recipient.to_owned());
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).insert(effect, fate);
    }

    /// What a client was told about a message to these recipients.
    pub fn record(&self, id: &str, to: &[&str], sent: &Sent) {
        let acknowledged = sent.acknowledged(to);
        for recipient in to {
            let told = acknowledged.contains(recipient);
            self.settle_for(id, recipient, if told { Fate::Acknowledged } else { Fate::Refused });
        }
    }

    /// Judges by the bodies of the final store.
    pub fn judge<B: AsRef<[u8]>>(&self, bodies: impl IntoIterator<Item = B>) -> Verdict {
        self.judge_mail(bodies.into_iter().map(|body| ("", body)))
    }

    /// Judges by the recipients and bodies of the final mailboxes.
    pub fn judge_mail<R, B>(&self, found: impl IntoIterator<Item = (R, B)>) -> Verdict
    where
        R: Into<String> + Clone,
        B: AsRef<[u8]>,
    {
        let mut tally = Tally::default();
        for (recipient, body) in found {
            tally.add(&[recipient], body.as_ref());
        }
        self.judge_tally(&tally)
    }

    /// Judges by what was found from time to time.
    pub fn judge_tally(&self, tally: &Tally) -> Verdict {
        Verdict { changed: tally.changed.clone(), ..self.weigh(&tally.counts) }
    }

    /// Judges by how often each effect without recipients was found.
    pub fn judge_counts(&self, found: &BTreeMap<String, usize>) -> Verdict {
        self.weigh(&found.iter().map(|(id, times)| ((id.clone(), String::new()), *times)).collect())
    }

    fn weigh(&self, found: &BTreeMap<Effect, usize>) -> Verdict {
        let mut verdict = Verdict::default();
        for (effect, fate) in self.fates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let times = found.get(effect).copied().unwrap_or_default();
            match fate {
                Fate::Acknowledged => verdict.acknowledged += 1,
                Fate::Refused => verdict.refused += 1,
                Fate::Unknown => verdict.unknown += 1,
            }
            match (fate, times) {
                (Fate::Acknowledged, 0) => verdict.lost.push(named(effect)),
                (Fate::Refused, 1..) => verdict.phantom.push(named(effect)),
                (Fate::Acknowledged | Fate::Unknown, 2..) => verdict.doubled.push(named(effect)),
                (Fate::Acknowledged, 1) | (Fate::Refused, 0) | (Fate::Unknown, 0 | 1) => {}
            }
        }
        verdict
    }
}

fn named((id, recipient): &Effect) -> String {
    if recipient.is_empty() { id.clone() } else { format!("{id} for {recipient}") }
}

fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}

/// Whether a message has the digest that it carries.
fn unchanged(message: &[u8]) -> bool {
    let start = format!("\n{DIGEST}");
    let at = message.windows(start.len()).position(|window| window == start.as_bytes());
    let Some((carried, rest)) = at.and_then(|at| message[at + start.len()..].split_at_checked(16)) else {
        return false;
    };
    rest.strip_prefix(b"\r\n").is_some_and(|rest| digest(rest).as_bytes() == carried)
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

    #[test]
    fn each_recipient_has_the_message_once_as_it_was_sent() {
        let ledger = Ledger::default();
        let to = ["anna", "bob"];
        let (id, message) = ledger.mail(100, &to);
        ledger.settle_for(&id, "anna", Fate::Acknowledged);
        ledger.settle_for(&id, "bob", Fate::Acknowledged);
        let traced = [b"Received: from a\r\n".as_slice(), &message].concat();
        assert!(ledger.judge_mail([("anna", &traced), ("bob", &message)]).clean());
        assert_eq!(ledger.judge_mail([("anna", &message)]).lost, [format!("{id} for bob")]);
        assert_eq!(ledger.judge_mail([("anna", &message); 2]).doubled, [format!("{id} for anna")]);
        let cut = message[..message.len() - 2].to_vec();
        let dotted = String::from_utf8(message.clone()).unwrap().replace("\r\nAll", "\r\n.All").into_bytes();
        for other in [&cut, &dotted] {
            let verdict = ledger.judge_mail([("anna", &message), ("bob", other)]);
            assert_eq!(verdict.changed, [format!("{id} for bob")]);
            assert!(!verdict.clean());
        }
    }
}
