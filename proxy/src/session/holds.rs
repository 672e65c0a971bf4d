//! How long commands were held, and how much of it was our own share.
//!
//! Rule: only held commands are recorded; time inside hooks, fences, barriers and their proofs is counted out
//! of `hold_own` by overlap of spans, never by guess.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// The record of the cutover that runs, or ran last.
#[derive(Debug)]
pub struct Holds(Mutex<Record>);

#[derive(Debug)]
struct Record {
    hold: Histogram<u64>,
    own: Histogram<u64>,
    /// The last [`SPANS`], in the order of their beginning.
    external: VecDeque<(Instant, Option<Instant>)>,
    /// So many were before them.
    forgotten: usize,
}

/// Spans that are kept. A Limbo adds three with every try of the way home; nobody waits long enough to reach back farther.
const SPANS: usize = 1024;

/// Percentiles of held commands, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// How many commands were held.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Default for Holds {
    fn default() -> Self {
        Self(Mutex::new(Record::new()))
    }
}

impl Record {
    fn new() -> Self {
        // One microsecond to an hour at three digits: always valid, so the fallback is never built.
        let histogram = || {
            Histogram::new_with_bounds(1, 3_600_000_000, 3)
                .unwrap_or_else(|_| Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are legal")))
        };
        Self { hold: histogram(), own: histogram(), external: VecDeque::new(), forgotten: 0 }
    }
}

/// While it lives, time counts as external.
#[derive(Debug)]
pub struct External<'a>(&'a Holds, usize);

impl Drop for External<'_> {
    fn drop(&mut self) {
        let mut record = self.0.lock();
        let at = self.1.checked_sub(record.forgotten);
        if let Some(span) = at.and_then(|at| record.external.get_mut(at)) {
            span.1 = Some(Instant::now());
        }
    }
}

impl Holds {
    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new cutover's record.
    pub fn reset(&self) {
        *self.lock() = Record::new();
    }

    /// From now until the guard is dropped, time belongs to hooks, fences or barriers.
    pub fn external(&self) -> External<'_> {
        let mut record = self.lock();
        record.external.push_back((Instant::now(), None));
        if record.external.len() > SPANS {
            record.external.pop_front();
            record.forgotten += 1;
        }
        External(self, record.forgotten + record.external.len() - 1)
    }

    /// A command held from `from` is released `now`. Returns its whole time and our own share.
    pub fn record(&self, from: Instant, now: Instant) -> (Duration, Duration) {
        let mut record = self.lock();
        let hold = now.saturating_duration_since(from);
        let overlap = |&(start, end): &(Instant, Option<Instant>)| {
            end.unwrap_or(now).min(now).saturating_duration_since(start.max(from))
        };
        let own = hold.saturating_sub(record.external.iter().map(overlap).sum());
        record.hold.saturating_record(micros(hold));
        record.own.saturating_record(micros(own));
        (hold, own)
    }

    /// `(hold, hold_own)` so far.
    pub fn summary(&self) -> (Summary, Summary) {
        let record = self.lock();
        (summarise(&record.hold), summarise(&record.own))
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn summarise(h: &Histogram<u64>) -> Summary {
    Summary {
        count: h.len(),
        p50_us: h.value_at_quantile(0.5),
        p99_us: h.value_at_quantile(0.99),
        max_us: h.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limbo_of_any_length_keeps_a_bounded_number_of_spans() {
        let holds = Holds::default();
        for _ in 0..3 * SPANS {
            drop(holds.external());
        }
        assert_eq!(holds.lock().external.len(), SPANS);
        // One that is open still ends as itself, and not as another that took its place.
        let (open, during) = (holds.external(), Instant::now());
        for _ in 0..SPANS / 2 {
            drop(holds.external());
        }
        drop(open);
        let after = Instant::now();
        assert!(holds.lock().external.iter().all(|(_, end)| end.is_some_and(|end| end <= after)));
        let (hold, own) = holds.record(during, after);
        assert_eq!((hold, own), (after - during, Duration::ZERO));
    }
}
