//! Which recipient has which message: of a second copy nothing is delivered (semantics §2.6).
//!
//! Rule: only what a server acknowledged counts, in the memory of this process and for an hour. What it did not see, or
//! has forgotten, is delivered again: twice is better than never.
//!
//! A message is known by the name that its server gives it (XFORWARD IDENT). One that came through this proxy has a name
//! that nobody else has, so that copies which took different ways are the same message. Another server's names are used
//! again after a while (Postfix `enable_long_queue_ids = no`), so that there the content must be the same as well.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, DefaultHasher, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a delivery is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Most deliveries remembered: about 50 MB.
const LARGEST: usize = 500_000;
/// How the names begin that this proxy gives.
const OURS: &str = "bascule-";

/// Names the messages of one process.
#[derive(Debug)]
pub struct Names(String);

impl Default for Names {
    /// Another one each time.
    fn default() -> Self {
        Self(format!("{OURS}{:016x}", RandomState::new().build_hasher().finish()))
    }
}

impl Names {
    /// The name of a session's message.
    pub fn name(&self, session: u64, message: u32) -> String {
        format!("{}.{session}.{message}", self.0)
    }
}

/// A recipient of a message: a hash that no sender can foresee.
type Key = u128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Being delivered.
    Claimed,
    Done,
}

/// Everything that is remembered.
#[derive(Debug, Default)]
pub struct Delivered {
    hashes: [RandomState; 2],
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<Key, State>,
    done: VecDeque<(Instant, Key)>,
}

/// A message, as far as it can be told from others.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its name where it came from.
    pub ident: &'a str,
    /// Envelope sender.
    pub sender: &'a [u8],
    /// Of the content.
    pub digest: u64,
}

/// Whether anybody has the message already.
#[derive(Debug)]
pub enum Claim {
    /// Nobody: all are claimed.
    Fresh(Claimed),
    /// Those at these places of the list.
    Known(Vec<usize>),
    /// Another copy is on its way to one of them.
    Busy,
}

/// Deliveries under way; what was not settled when this is dropped may be delivered by anybody.
#[derive(Debug)]
pub struct Claimed {
    of: Arc<Delivered>,
    keys: VecDeque<Key>,
}

impl Delivered {
    /// Claims a message for all these recipients, or for none.
    pub fn claim(self: &Arc<Self>, message: Message<'_>, recipients: &[&[u8]], now: Instant) -> Claim {
        let keys: VecDeque<Key> = recipients.iter().map(|recipient| self.key(message, recipient)).collect();
        let mut table = self.lock();
        table.forget(now);
        let states: Vec<Option<State>> = keys.iter().map(|key| table.known.get(key).copied()).collect();
        let known: Vec<usize> =
            (0..).zip(&states).filter(|(_, s)| **s == Some(State::Done)).map(|(n, _)| n).collect();
        if !known.is_empty() {
            return Claim::Known(known);
        }
        if states.contains(&Some(State::Claimed)) {
            return Claim::Busy;
        }
        table.known.extend(keys.iter().map(|key| (*key, State::Claimed)));
        drop(table);
        Claim::Fresh(Claimed { of: self.clone(), keys })
    }

    fn key(&self, message: Message<'_>, recipient: &[u8]) -> Key {
        let digest = if message.ident.starts_with(OURS) { 0 } else { message.digest };
        let half = |hash: &RandomState| {
            u128::from(hash.hash_one((message.ident, message.sender, recipient, digest)))
        };
        half(&self.hashes[0]) << 64 | half(&self.hashes[1])
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) >= REMEMBERED;
        while let Some((at, key)) = self.done.front().copied()
            && (old(at) || self.done.len() > LARGEST)
        {
            self.done.pop_front();
            self.known.remove(&key);
        }
    }
}

impl Claimed {
    /// The next recipient was answered.
    pub fn settle(&mut self, delivered: bool, now: Instant) {
        let Some(key) = self.keys.pop_front() else { return };
        let mut table = self.of.lock();
        if delivered {
            table.known.insert(key, State::Done);
            table.done.push_back((now, key));
        } else {
            table.known.remove(&key);
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut table = self.of.lock();
        for key in self.keys.drain(..) {
            if let Entry::Occupied(entry) = table.known.entry(key)
                && *entry.get() == State::Claimed
            {
                entry.remove();
            }
        }
    }
}

/// The digest of a content that comes in pieces.
#[derive(Debug, Default)]
pub struct Digest(DefaultHasher);

impl Digest {
    /// The next piece. However it is cut, the digest is the same.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Of everything so far.
    pub fn value(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Message<'_> = Message { ident: "4bX", sender: b"s@a.test", digest: 1 };
    const BOTH: &[&[u8]] = &[b"anna", b"bert"];

    fn fresh(claim: Claim) -> Claimed {
        match claim {
            Claim::Fresh(claimed) => claimed,
            Claim::Known(_) | Claim::Busy => panic!("{claim:?}"),
        }
    }

    #[test]
    fn who_was_acknowledged_is_known_and_who_was_not_is_delivered_again() {
        let (delivered, now) = (Arc::new(Delivered::default()), Instant::now());
        let mut first = fresh(delivered.claim(A, BOTH, now));
        assert!(matches!(delivered.claim(A, BOTH, now), Claim::Busy));
        first.settle(true, now);
        drop(first);
        assert!(matches!(delivered.claim(A, BOTH, now), Claim::Known(places) if places == [0]));
        let mut second = fresh(delivered.claim(A, &BOTH[1..], now));
        second.settle(false, now);
        fresh(delivered.claim(A, &BOTH[1..], now));
    }

    #[test]
    fn a_name_used_again_for_another_message_is_another_message() {
        let (delivered, now) = (Arc::new(Delivered::default()), Instant::now());
        fresh(delivered.claim(A, BOTH, now)).settle(true, now);
        fresh(delivered.claim(Message { digest: 2, ..A }, BOTH, now));
        fresh(delivered.claim(Message { sender: b"", ..A }, BOTH, now));
        let name = Names::default().name(1, 2);
        let ours = Message { ident: &name, ..A };
        fresh(delivered.claim(ours, BOTH, now)).settle(true, now);
        // Its copies went through two servers, each of which wrote its own Received.
        assert!(matches!(delivered.claim(Message { digest: 2, ..ours }, BOTH, now), Claim::Known(_)));
    }

    #[test]
    fn after_an_hour_it_is_forgotten() {
        let (delivered, now) = (Arc::new(Delivered::default()), Instant::now());
        fresh(delivered.claim(A, BOTH, now)).settle(true, now);
        assert!(matches!(delivered.claim(A, BOTH, now + REMEMBERED / 2), Claim::Known(_)));
        fresh(delivered.claim(A, BOTH, now + REMEMBERED));
        assert!(delivered.lock().known.is_empty() && delivered.lock().done.is_empty());
    }

    #[test]
    fn cuts_do_not_change_a_digest() {
        let (mut whole, mut cut) = (Digest::default(), Digest::default());
        whole.push(b"a message of some length, cut anywhere");
        for piece in b"a message of some length, cut anywhere".chunks(5) {
            cut.push(piece);
        }
        assert_eq!(whole.value(), cut.value());
    }
}
