//! How long commands were held, and how much of it was our own share.
//!
//! Rule: only held commands are recorded; time inside hooks, fences, barriers and their proofs is counted out
//! of `hold_own` by overlap of spans, never by guess.

use std::{
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
    external: Vec<(Instant, Option<Instant>)>,
}

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
        Self { hold: histogram(), own: histogram(), external: Vec::new() }
    }
}

/// While it lives, time counts as external.
#[derive(Debug)]
pub struct External<'a>(&'a Holds, usize);

impl Drop for External<'_> {
    fn drop(&mut self) {
        if let Some(span) = self.0.lock().external.get_mut(self.1) {
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
        record.external.push((Instant::now(), None));
        External(self, record.external.len() - 1)
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
