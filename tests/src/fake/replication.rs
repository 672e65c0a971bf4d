//! Replication from one store to another: in order, late by as much as is set, stoppable.
//!
//! Rule: ops that arrived by replication are not logged again, so that two stores may replicate to each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use super::store::{Logged, Store};

/// One direction between two stores; ends when dropped.
#[derive(Debug)]
pub struct Replication {
    pace: watch::Sender<Pace>,
    logged: Arc<AtomicU64>,
    applied: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    lag: Duration,
    paused: bool,
}

impl Replication {
    /// Everything that `from` changes from now on reaches `to`.
    pub fn start(from: &Store, to: &Arc<Store>, lag: Duration) -> Self {
        let (ops, logged) = from.subscribe();
        let (pace, paces) = watch::channel(Pace { lag, paused: false });
        let (count, applied) = watch::channel(0);
        let task = tokio::spawn(run(ops, paces, count, to.clone()));
        Self { pace, logged, applied, task }
    }

    /// How late a change arrives.
    pub fn set_lag(&self, lag: Duration) {
        self.pace.send_modify(|p| p.lag = lag);
    }

    /// Nothing arrives until [`Self::resume`].
    pub fn pause(&self) {
        self.pace.send_modify(|p| p.paused = true);
    }

    /// The end of [`Self::pause`].
    pub fn resume(&self) {
        self.pace.send_modify(|p| p.paused = false);
    }

    /// Whether all that was logged is applied.
    pub fn caught_up(&self) -> bool {
        self.behind() == 0
    }

    /// How many changes are on their way.
    pub fn behind(&self) -> u64 {
        // The applied count is read first: it can only be too small then, never too large.
        let applied = *self.applied.borrow();
        self.logged.load(Ordering::Acquire).saturating_sub(applied)
    }

    /// Resolves when all that is logged by now is applied.
    pub async fn drained(&self) {
        let goal = self.logged.load(Ordering::Acquire);
        // An error means that the task ended with the runtime: nobody waits any more.
        let _ = self.applied.clone().wait_for(|applied| *applied >= goal).await;
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut ops: mpsc::UnboundedReceiver<Logged>,
    mut paces: watch::Receiver<Pace>,
    applied: watch::Sender<u64>,
    to: Arc<Store>,
) {
    while let Some(op) = ops.recv().await {
        due(&mut paces, op.at.into()).await;
        to.apply(op);
        applied.send_modify(|n| *n += 1);
    }
}

/// Waits until a change of `at` may arrive; looks again whenever the pace changes.
async fn due(paces: &mut watch::Receiver<Pace>, at: Instant) {
    loop {
        let pace = *paces.borrow_and_update();
        let waits = pace.paused || at + pace.lag > Instant::now();
        if !waits {
            return;
        }
        tokio::select! {
            changed = paces.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(at + pace.lag), if !pace.paused => {}
        }
    }
}
