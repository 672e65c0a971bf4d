//! What loads have in common: how long, the times in which the gate was shut, and who waited then.
//!
//! Rule: it is printed and never asserted how long something took.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use bascule_tests::bascule::Bascule;
use serde_json::Value;
use tokio::time::Instant;

use super::rig::Rig;

/// How long the load goes on.
pub(super) fn duration() -> Duration {
    let seconds = std::env::var("BASCULE_LOAD").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// A time in which the gate was shut, and the report of its cutover.
pub(super) struct Window {
    begin: Instant,
    end: Instant,
    report: Value,
}

/// One cutover that goes through; from its fence to its promotion the gate was surely shut.
pub(super) async fn cutover(rig: &Rig, to: &'static str) -> Window {
    let from = if to == "new" { "old" } else { "new" };
    let fence = rig.hooks.stall(&format!("fence {from} readonly"));
    let promote = rig.hooks.stall(&format!("promote {to}"));
    let mut running = rig.begin(to);
    running.reaches(&fence).await;
    let begin = Instant::now();
    fence.release();
    running.reaches(&promote).await;
    let end = Instant::now();
    promote.release();
    let ran = running.end().await;
    // Who leaves in the hold is not counted as kept.
    assert_eq!((ran.code, &ran.json["unmovable"]), (0, &serde_json::json!({})), "{ran:?}");
    Window { begin, end, report: ran.json }
}

/// How long answers took, by what was asked.
#[derive(Default)]
pub(super) struct Waits(Mutex<Vec<(String, Instant, Instant)>>);

impl Waits {
    /// An answer has come to what was asked at `since`.
    pub(super) fn note(&self, what: &str, since: Instant) {
        self.0.lock().unwrap().push((what.to_owned(), since, Instant::now()));
    }

    /// A line for each of those that waited while the gate was shut.
    pub(super) fn held(&self, windows: &[Window]) -> String {
        let waits = self.0.lock().unwrap();
        let mut held: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (what, since, until) in waits.iter() {
            if windows.iter().any(|w| *since < w.end && *until > w.begin) {
                let waited = until.duration_since(*since).as_millis();
                held.entry(what).or_default().push(u64::try_from(waited).unwrap());
            }
        }
        let all: BTreeSet<&str> = waits.iter().map(|(what, ..)| &**what).collect();
        let mut line = |what: &str| {
            let mut held = held.remove(what).unwrap_or_default();
            held.sort_unstable();
            let of = waits.iter().filter(|(other, ..)| other == what).count();
            format!("load: {what:14} held {} of {of}, ms: {}\n", held.len(), spread(&held))
        };
        all.into_iter().map(&mut line).collect()
    }
}

/// How long the gate was shut, and how much was held.
pub(super) fn cutovers(windows: &[Window]) -> String {
    let mut pauses: Vec<u64> = windows.iter().filter_map(|w| w.report["pause_ms"].as_u64()).collect();
    pauses.sort_unstable();
    let held: u64 = windows.iter().filter_map(|w| w.report["hold"]["count"].as_u64()).sum();
    format!("load: gate shut, ms: {}; {held} held\n", spread(&pauses))
}

/// The middle, the last but few, and the most of sorted values.
fn spread(sorted: &[u64]) -> String {
    let Some(most) = sorted.last() else { return "none".into() };
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    format!("p50 {}, p99 {}, max {most}", at(50), at(99))
}

/// A line of `/proc/PID/status`, in bytes.
pub(super) fn memory(proxy: &Bascule, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
