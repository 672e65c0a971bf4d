//! One request on its way to a pool, as its connection's word counts it.
//!
//! Rule: it stands in the word from before it is sent until it is answered, cut or over; a write counts from its last byte
//! on.

use std::sync::{Arc, atomic::Ordering};

use super::{conn::Conn, dial::Wire};
use crate::topology::{Epoch, PoolId};

/// One request as the word counts it.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) id: u64,
    pub(super) pool: PoolId,
    pub(super) writes: bool,
    /// Its body outgrew what is kept, and is still coming.
    pub(super) unkept: bool,
    /// Its final response has begun.
    pub(super) answered: bool,
    wire: Option<Arc<Wire>>,
}

/// A request's place among those in flight; dropping it is its end.
#[derive(Debug)]
pub(super) struct Flight {
    conn: Arc<Conn>,
    id: u64,
    pub(super) pool: PoolId,
    pub(super) epoch: Epoch,
}

impl Conn {
    /// One more request in flight to the active pool, if the gate lets it.
    pub(super) fn fly(self: &Arc<Self>) -> Option<Flight> {
        let topology = self.world().topology.load();
        let (pool, epoch) = (topology.active, topology.epoch);
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.flights.push(Flying { id, pool, writes: false, unkept: false, answered: false, wire: None });
        if self.entry.handle.word.announce(state.standing(), &self.world().gate, epoch) {
            return Some(Flight { conn: self.clone(), id, pool, epoch });
        }
        state.flights.pop();
        self.say(&state);
        None
    }
}

impl Flying {
    /// Ends the connection that it goes over. False: it has none.
    pub(super) fn cut(&self) -> bool {
        self.wire.as_ref().map(|wire| wire.cut()).is_some()
    }
}

impl Flight {
    /// The last byte of a write goes now, if the gate lets it.
    pub(super) fn commit(&self) -> bool {
        let mut state = self.conn.state();
        // One that was cut commits to nothing any more.
        let Some(one) = state.flight(self.id) else { return false };
        (one.writes, one.unkept) = (true, false);
        if self.conn.entry.handle.word.announce(state.standing(), &self.conn.world().gate, self.epoch) {
            return true;
        }
        if let Some(one) = state.flight(self.id) {
            one.writes = false;
        }
        self.conn.say(&state);
        false
    }

    /// Its body is too long to be kept: it can only end where it began, and the drain waits for it.
    pub(super) fn unkept(&self) -> bool {
        let committed = self.commit();
        if let Some(one) = self.conn.state().flight(self.id) {
            one.unkept = true;
        }
        committed
    }

    /// An upload that is not kept has come to its end: it is a write like any other from here on.
    pub(super) fn whole(&self) {
        let mut state = self.conn.state();
        if let Some(one) = state.flight(self.id) {
            one.unkept = false;
        }
        self.conn.schedule(&state);
    }

    /// The final response has begun. `whole`: to all of the request, so that what it did is done.
    pub(super) fn answered(&self, whole: bool) {
        let mut state = self.conn.state();
        if let Some(one) = state.flight(self.id) {
            one.answered = true;
            if whole {
                (one.writes, one.unkept) = (false, false);
            }
        }
        self.conn.say(&state);
    }

    /// The backend connection that it goes over.
    pub(super) fn over(&self, wire: Arc<Wire>) {
        if let Some(one) = self.conn.state().flight(self.id) {
            one.wire = Some(wire);
        }
    }

    /// It leaves its pool by itself when it is to: nothing is cut for that.
    pub(super) fn by_itself(&self) {
        if let Some(one) = self.conn.state().flight(self.id) {
            one.wire = None;
        }
    }

    /// Whose request it is, among all of the process.
    pub(super) fn number(&self) -> (u64, u64) {
        (self.conn.entry.handle.id.0, self.id)
    }

    /// Whether the gate still admits it.
    pub(super) fn admitted(&self) -> bool {
        self.conn.world().gate.admits(self.epoch)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.conn.state();
        state.flights.retain(|one| one.id != self.id);
        self.conn.say(&state);
        drop(state);
        if self.conn.seen.load(Ordering::Relaxed) != self.conn.reported.load(Ordering::Relaxed) {
            self.conn.entry.handle.wake();
            self.conn.obey();
        }
    }
}
