//! Credentials that a pool took before a cutover, and that its successor does not know (yet).
//!
//! Rule: in the first minute of a pool nobody is asked for a password that was right a minute ago (semantics §3.6);
//! afterwards the pool's word counts.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::header;
use pingora_http::RequestHeader;

use super::slots::Slots;
use crate::topology::Epoch;

/// Those that a client sends again as they are.
const SCHEMES: [&[u8]; 2] = [b"basic ", b"bearer "];
/// Those that a server remembers by the connection.
const BOUND: [&[u8]; 2] = [b"ntlm", b"negotiate"];
/// How long a pool is new.
const NEW: Duration = Duration::from_secs(60);
/// No pool was followed by another one.
const NEVER: u64 = u64::MAX;

/// What is known of credentials: hashes, with a key that nobody knows.
#[derive(Debug)]
pub(super) struct Credentials {
    taken: Slots,
    key: RandomState,
    /// The epoch that was seen last, plus one.
    epoch: AtomicU64,
    /// When it was first seen, milliseconds after `base`.
    since: AtomicU64,
    base: Instant,
}

impl Default for Credentials {
    fn default() -> Self {
        let (epoch, since) = (AtomicU64::new(0), AtomicU64::new(NEVER));
        Self { taken: Slots::default(), key: RandomState::new(), epoch, since, base: Instant::now() }
    }
}

impl Credentials {
    /// A number for credentials that a pool took. Whoever makes some up has a number of their own.
    pub(super) fn number(&self, service: &str, head: &RequestHeader) -> Option<u64> {
        let hash = self.hash(service, lasting(head)?);
        self.taken.get(hash).map(|_| hash)
    }

    fn hash(&self, service: &str, credentials: &[u8]) -> u64 {
        self.key.hash_one((service, credentials))
    }

    /// A pool answered. True: it wants credentials that were good before it came, and it is new.
    pub(super) fn doubtful(
        &self,
        service: &str,
        head: &RequestHeader,
        status: u16,
        epoch: Epoch,
        now: Instant,
    ) -> bool {
        let Some(credentials) = lasting(head) else { return false };
        let hash = self.hash(service, credentials);
        let new = self.is_new(epoch, now);
        match status {
            200..=399 => self.taken.put(hash, 0),
            401 | 407 if new => return self.taken.get(hash).is_some(),
            // They were right once.
            401 | 407 => self.taken.remove(hash),
            _ => {}
        }
        false
    }

    fn is_new(&self, epoch: Epoch, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(NEVER - 1);
        let (seen, this) = (self.epoch.load(Ordering::Relaxed), u64::from(epoch.0) + 1);
        // An answer of the old pool may come late.
        if this > seen {
            self.epoch.store(this, Ordering::Relaxed);
            self.since.store(if seen == 0 { NEVER } else { now }, Ordering::Relaxed);
        }
        let since = self.since.load(Ordering::Relaxed);
        since != NEVER && u128::from(now.saturating_sub(since)) < NEW.as_millis()
    }
}

/// Credentials that are good for more than one request, or one connection.
fn lasting(head: &RequestHeader) -> Option<&[u8]> {
    let given = head.headers.get(header::AUTHORIZATION)?.as_bytes();
    SCHEMES.iter().any(|scheme| begins_with(given, scheme)).then_some(given)
}

/// Whether a request's credentials are its connection's, so that what comes after it needs none.
pub(super) fn are_of_connection(head: &RequestHeader) -> bool {
    let given = head.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    given.is_some_and(|given| BOUND.iter().any(|scheme| begins_with(given, scheme)))
}

fn begins_with(given: &[u8], scheme: &[u8]) -> bool {
    given.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pool_is_not_believed_at_once_about_what_was_right() {
        let credentials = Credentials::default();
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        let start = Instant::now();
        let mut said = |who: &str, status, epoch, after| {
            head.insert_header("authorization", format!("Basic {who}")).unwrap();
            let now = start + Duration::from_secs(after);
            credentials.doubtful("dav", &head, status, Epoch(epoch), now)
        };
        assert!(!said("anna", 200, 3, 0) && !said("bert", 401, 3, 0));
        assert!(!said("carl", 200, 3, 0) && !said("carl", 401, 3, 1), "the same pool may change its mind");
        assert!(said("anna", 401, 4, 2));
        assert!(!said("carl", 401, 4, 2), "they were right once");
        assert!(!said("bert", 401, 4, 2), "nobody ever took them");
        assert!(said("anna", 401, 4, 60));
        assert!(!said("anna", 401, 4, 63), "a minute is over");
    }

    #[test]
    fn schemes_differ_in_what_their_words_are_good_for() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        let mut of = |given: &'static str| {
            head.insert_header("authorization", given).unwrap();
            (lasting(&head).is_some(), are_of_connection(&head))
        };
        assert_eq!([of("basic YTpi"), of("Bearer x")], [(true, false); 2]);
        assert_eq!([of("NTLM TlRM"), of("Negotiate YII=")], [(false, true); 2]);
        assert_eq!(of("Digest nc=1"), (false, false));
    }

    #[test]
    fn without_credentials_there_is_nothing_to_know() {
        let head = RequestHeader::build("GET", b"/", None).unwrap();
        let credentials = Credentials::default();
        for (status, epoch) in [(200, 1), (401, 2)] {
            assert!(!credentials.doubtful("dav", &head, status, Epoch(epoch), Instant::now()));
        }
    }
}
