//! What came of the load: messages, holds by command, memory and spool.
//!
//! Rule: it is printed and never asserted how long something took.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bascule_tests::{
    bascule::Bascule,
    ledger::{Tally, Verdict},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::fakes::windows::{Waits, Window, cutovers, memory};

/// How long replies took, by command, and what was sent.
#[derive(Default)]
pub(super) struct Book {
    waits: Waits,
    messages: AtomicUsize,
    bytes: AtomicU64,
}

impl Book {
    /// A reply has come to what was sent at `since`.
    pub(super) fn note(&self, command: &str, since: Instant) {
        self.waits.note(command, since);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
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
    text += &book.waits.held(windows);
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
