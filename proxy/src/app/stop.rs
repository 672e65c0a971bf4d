//! The signals: what asks for a reload, and how the process ends.
//!
//! Rule: the second request to end is obeyed at once.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use crate::{
    admin::appliance::Appliance,
    app::farewells,
    cutover::types::{Stage, Status},
    session::registry::Registry,
};

/// What the process listens to. From its creation on none of them kills.
#[derive(Debug)]
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Habits from other servers: they mean nothing here, and must not end it.
    _others: [Signal; 2],
}

impl Signals {
    /// Begins to listen.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _others: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }

    /// Resolves when the process is asked to end: SIGTERM, or Ctrl-C where it runs in a terminal.
    pub(super) async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The same; SIGHUP meanwhile calls `reload`.
    pub(super) async fn end_or_reload(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

/// Ends what runs: a cutover first, then the sessions, each within `within`.
pub(crate) async fn wind_down<A: Appliance>(appliance: &A, registry: &Registry, within: Duration) {
    appliance.close();
    settle(appliance, within).await;
    let sessions = registry.len();
    tracing::info!(sessions, "saying farewell");
    let left = farewells::say(registry, within).await;
    if left > 0 {
        tracing::warn!(left, "sessions did not end in time and are cut");
    }
}

/// A cutover is sent back if it still can be, else waited for. What is not over in time is undone or completed
/// from the journal at the next start.
async fn settle<A: Appliance>(appliance: &A, within: Duration) {
    let mut changes = appliance.watch();
    if settled(&appliance.status()) {
        return;
    }
    match appliance.abort("bascule is stopping").await {
        Ok(()) => tracing::warn!("the cutover is aborted: bascule is stopping"),
        Err(refusal) => tracing::warn!(%refusal, "bascule stops during a cutover and waits for it"),
    }
    if timeout(within, changes.wait_for(settled)).await.is_err() {
        tracing::warn!("the cutover is not over; the next start goes on from the journal");
    }
}

fn settled(status: &Status) -> bool {
    match status.state {
        Stage::Idle | Stage::Soaking | Stage::Limbo => true,
        Stage::Armed
        | Stage::Holding
        | Stage::Fenced
        | Stage::CaughtUp
        | Stage::Promoted
        | Stage::Verified
        | Stage::Deciding
        | Stage::Decided
        | Stage::Switching
        | Stage::Resuming
        | Stage::Aborting => false,
    }
}
