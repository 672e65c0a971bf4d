//! What a connection has open: requests whose head is whole, and those that wait.
//!
//! Rule: each is a guard that undoes itself, so that a request that is dropped anywhere leaves nothing behind.

use std::{sync::Arc, time::Instant};

use tokio::sync::Notify;

use super::{conn::Conn, two};

/// A body that is still coming.
#[derive(Debug)]
pub(super) struct Coming {
    id: u64,
    pub(super) due: Instant,
    /// Ends its request; `None`: its connection ends with it.
    pub(super) end: Option<Arc<Notify>>,
}

impl Conn {
    /// A request waits from now on, until the guard is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_add(1);
        self.say(&state);
        let count = usize::from(state.waiting);
        drop(state);
        self.entry.handle.describe(|info| info.held = count);
        Waiting(self.clone())
    }

    /// A stream that was open has no server from now on, until the guard is dropped. It hears when the gate moves, and
    /// neither a drain nor an attach waits for it.
    pub(super) fn adrift(self: &Arc<Self>) -> Adrift {
        let mut state = self.state();
        state.adrift = state.adrift.saturating_add(1);
        self.say(&state);
        drop(state);
        Adrift(self.clone())
    }

    /// The head of a request is whole; its body may take so long.
    pub(super) fn opened(self: &Arc<Self>, body: bool) -> Open {
        let mut state = self.state();
        state.open += 1;
        (state.begun, state.rests) = (None, false);
        let id = state.next;
        state.next += 1;
        if body {
            let due = Instant::now() + self.limits().body;
            state.bodies.push(Coming { id, due, end: two::end() });
        }
        self.schedule(&state);
        Open(self.clone(), id)
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Conn>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(1);
        self.0.say(&state);
        let count = usize::from(state.waiting);
        drop(state);
        self.0.entry.handle.describe(|info| info.held = count);
        if count == 0 {
            self.0.obey();
        }
    }
}

/// A stream without a server.
#[derive(Debug)]
pub(super) struct Adrift(Arc<Conn>);

impl Drop for Adrift {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.adrift = state.adrift.saturating_sub(1);
        self.0.say(&state);
    }
}

/// A request from its head to its end.
#[derive(Debug)]
pub(super) struct Open(Arc<Conn>, u64);

impl Open {
    /// Whether its body takes longer than it may.
    pub(super) fn is_late(&self) -> bool {
        self.0.state().bodies.iter().any(|body| body.id == self.1 && Instant::now() >= body.due)
    }

    /// Its body is there as a whole, or of no interest any more.
    pub(super) fn whole(&self) {
        let mut state = self.0.state();
        state.bodies.retain(|body| body.id != self.1);
        self.0.schedule(&state);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open = state.open.saturating_sub(1);
        state.bodies.retain(|body| body.id != self.1);
        state.last = Instant::now();
        self.0.schedule(&state);
    }
}
