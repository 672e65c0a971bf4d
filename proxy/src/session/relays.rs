//! Which pools' servers send strangers' mail to strangers, by the relay self-test.
//!
//! Rule: nobody is served by an open relay, nor before the first test is over; a server that could not be asked may serve,
//! since unreachable it relays for nobody.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::{config::Protocol, topology::PoolId};

/// What the last test saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// There was none yet.
    Untested,
    /// It could not be asked, or its answer says nothing.
    Unknown,
    /// It refuses them.
    Refuses,
    /// It is an open relay.
    Relays,
}

const VERDICTS: [Verdict; 4] = [Verdict::Untested, Verdict::Unknown, Verdict::Refuses, Verdict::Relays];

/// The verdicts, by pool and protocol.
#[derive(Debug, Default)]
pub struct Relays(Vec<[AtomicU8; 2]>);

impl Relays {
    /// For so many pools.
    pub fn new(pools: usize) -> Self {
        Self((0..pools).map(|_| Default::default()).collect())
    }

    fn cell(&self, pool: PoolId, protocol: Protocol) -> Option<&AtomicU8> {
        let [smtp, submission] = self.0.get(usize::from(pool.0))?;
        match protocol {
            Protocol::Smtp => Some(smtp),
            Protocol::Submission => Some(submission),
            Protocol::Imap | Protocol::Lmtp | Protocol::Http => None,
        }
    }

    /// The last verdict; `None` where nothing could be relayed.
    pub fn of(&self, pool: PoolId, protocol: Protocol) -> Option<Verdict> {
        let word = self.cell(pool, protocol)?.load(Ordering::Acquire);
        VERDICTS.get(usize::from(word)).copied()
    }

    /// Keeps a verdict; the one before. An open relay that cannot be reached now is none the less one.
    pub fn keep(&self, pool: PoolId, protocol: Protocol, verdict: Verdict) -> Option<Verdict> {
        let before = self.of(pool, protocol)?;
        if (before, verdict) != (Verdict::Relays, Verdict::Unknown) {
            self.cell(pool, protocol)?.store(verdict as u8, Ordering::Release);
        }
        Some(before)
    }

    /// Why clients of `protocol` are not served by this pool, as a label; `None`: they are.
    pub fn bars(&self, pool: PoolId, protocol: Protocol) -> Option<&'static str> {
        match self.of(pool, protocol)? {
            Verdict::Untested => Some("not_ready"),
            Verdict::Relays => Some("open_relay"),
            Verdict::Unknown | Verdict::Refuses => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_saw_something_opens_or_closes() {
        let (relays, pool) = (Relays::new(2), PoolId(1));
        let bars = || relays.bars(pool, Protocol::Smtp);
        assert_eq!(bars(), Some("not_ready"));
        for (verdict, barred) in [
            (Verdict::Unknown, None),
            (Verdict::Relays, Some("open_relay")),
            (Verdict::Unknown, Some("open_relay")),
            (Verdict::Refuses, None),
            (Verdict::Unknown, None),
        ] {
            relays.keep(pool, Protocol::Smtp, verdict);
            assert_eq!(bars(), barred, "{verdict:?}");
        }
        assert_eq!(relays.bars(PoolId(0), Protocol::Smtp), Some("not_ready"), "another pool");
        assert_eq!(relays.bars(pool, Protocol::Submission), Some("not_ready"), "another protocol");
        assert_eq!((relays.bars(pool, Protocol::Lmtp), relays.bars(pool, Protocol::Imap)), (None, None));
    }
}
