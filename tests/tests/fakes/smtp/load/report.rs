//! What came of the load: messages, holds by command, memory and spool.
//!
//! Rule: it is printed and never asserted how long something took.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bascule_tests::{
    bascule::Bascule,
    ledger::{Tally, Verdict},
};
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// How long replies took, by command, and what was sent.
#[derive(Default)]
pub(super) struct Book {
    waits: Mutex<Vec<(String, Instant, Instant)>>,
    messages: AtomicUsize,
    bytes: AtomicU64,
}

impl Book {
    /// A reply has come to what was sent at `since`.
    pub(super) fn note(&self, command: &str, since: Instant) {
        self.waits.lock().unwrap().push((command.to_owned(), since, Instant::now()));
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A time in which the gate was shut, and the report of its cutover.
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) end: Instant,
    pub(super) report: Value,
}

/// The most memory and spool that the proxy had.
pub(super) struct Peak {
    proxy: Arc<Bascule>,
    spool: Arc<AtomicU64>,
    watch: JoinHandle<()>,
}

impl Peak {
    pub(super) fn watch(proxy: Arc<Bascule>) -> Self {
        let spool = Arc::new(AtomicU64::new(0));
        let (most, asked) = (spool.clone(), proxy.clone());
        let watch = tokio::spawn(async move {
            loop {
                if let Ok(bytes) = spooled(&asked).await {
                    most.fetch_max(bytes, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self { proxy, spool, watch }
    }

    /// The most memory and spool so far, in bytes.
    pub(super) async fn end(self) -> [u64; 2] {
        self.watch.abort();
        // Its end is what was asked for.
        let _ = self.watch.await;
        [memory(&self.proxy, "VmHWM"), self.spool.load(Ordering::Relaxed)]
    }
}

/// Bytes in the spool.
pub(super) async fn spooled(proxy: &Bascule) -> anyhow::Result<u64> {
    Ok(proxy.metric("bascule_uploads_spooled_bytes").await? as u64)
}

/// A line of `/proc/PID/status`, in bytes.
pub(super) fn memory(proxy: &Bascule, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

pub(super) fn print(
    book: &Book,
    windows: &[Window],
    verdict: &Verdict,
    tally: &Tally,
    [memory, spool]: &[u64; 2],
) {
    let (messages, bytes) = (book.messages.load(Ordering::Relaxed), book.bytes.load(Ordering::Relaxed));
    let Verdict { acknowledged, refused, unknown, lost, doubled, phantom, changed } = verdict;
    let mut text = format!(
        "load: {messages} messages of {} MB in all, {} cutovers\n\
         load: acknowledged for {acknowledged} recipients, refused {refused}, unanswered {unknown}; found {}, lost {}, \
         doubled {}, refused and there {}, changed {}\n\
         load: peak memory of bascule {} MB, peak spool {} MB\n",
        bytes / 1_000_000,
        windows.len(),
        tally.found(),
        lost.len(),
        doubled.len(),
        phantom.len(),
        changed.len(),
        memory / 1_000_000,
        spool / 1_000_000,
    );
    text += &cutovers(windows);
    text += &holds(&book.waits.lock().unwrap(), windows);
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn cutovers(windows: &[Window]) -> String {
    let mut pauses: Vec<u64> = windows.iter().filter_map(|w| w.report["pause_ms"].as_u64()).collect();
    pauses.sort_unstable();
    let held: u64 = windows.iter().filter_map(|w| w.report["hold"]["count"].as_u64()).sum();
    format!("load: gate shut, ms: {}; {held} commands held\n", spread(&pauses))
}

/// Replies that were waited for while the gate was shut.
fn holds(waits: &[(String, Instant, Instant)], windows: &[Window]) -> String {
    let mut by_command: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (command, since, until) in waits {
        if windows.iter().any(|w| *since < w.end && *until > w.begin) {
            let waited = until.duration_since(*since).as_millis();
            by_command.entry(command).or_default().push(u64::try_from(waited).unwrap());
        }
    }
    let all: BTreeSet<&str> = waits.iter().map(|(command, ..)| &**command).collect();
    let mut line = |command: &str| {
        let mut held = by_command.remove(command).unwrap_or_default();
        held.sort_unstable();
        let of = waits.iter().filter(|(other, ..)| other == command).count();
        format!("load: {command:14} held {} of {of}, ms: {}\n", held.len(), spread(&held))
    };
    all.into_iter().map(&mut line).collect()
}

/// The middle, the last but few, and the most of sorted values.
fn spread(sorted: &[u64]) -> String {
    let Some(most) = sorted.last() else { return "none".into() };
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    format!("p50 {}, p99 {}, max {most}", at(50), at(99))
}
