//! The times of a client connection: of its heads, its bodies, its silence, and of uploads in a drain.
//!
//! Rule: one deadline is set, the nearest; whoever is woken by it looks at all of them.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    conn::{Conn, State},
    guards::Coming,
};
use crate::config::HttpLimits;

/// How long a client of HTTP/2 may take to go that was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// After so long without a request a connection may be parked: one that is used is not to pay for it.
const AWAY: Duration = Duration::from_secs(2);

impl Conn {
    /// Its client has asked for nothing for a while, and nothing of it has to be kept but the socket.
    pub(super) fn is_away(&self) -> bool {
        self.state().away
    }

    /// When it has been without a request for too long.
    pub(super) fn silent_until(&self) -> Instant {
        let state = self.state();
        state.last + state.patience(self.limits())
    }

    /// Whether a connection without a request is nothing but a socket: TLS is not, nor is one whose client logged in with
    /// it, or whose last request has left something to do.
    fn may_be_away(&self, state: &State) -> bool {
        state.rests && !self.secure && !self.two && !self.bound.load(Ordering::Relaxed)
    }

    /// When [`Self::on_late`] is to look at the clock.
    pub(super) fn schedule(&self, state: &State) {
        let limits = self.limits();
        let head = state.begun.map(|begun| begun + limits.header);
        let body = state.bodies.iter().map(|body| body.due).min();
        let idle = (state.open == 0 && head.is_none()).then(|| {
            let patience = state.patience(limits);
            state.last + if self.may_be_away(state) { patience.min(AWAY) } else { patience }
        });
        let uploads = state.shut.filter(|_| state.flights.iter().any(|one| one.unkept));
        let drain = uploads.map(|shut| shut + self.patience());
        self.entry.handle.due([head, body, idle, drain].into_iter().flatten().min());
    }

    /// How much of the drain an upload that cannot move may use.
    fn patience(&self) -> Duration {
        self.world().config.cutover.drain / 2
    }

    /// Whether the drain of a hold still waits for uploads.
    pub(super) fn draining(&self) -> bool {
        self.state().shut.is_none_or(|shut| shut.elapsed() < self.patience())
    }

    /// True: the connection is to be closed at once.
    pub(super) fn on_late(&self) -> bool {
        let (now, limits) = (Instant::now(), self.limits());
        let mut state = self.state();
        let hit = |name| self.world().metrics.limits_hit.count(name);
        if state.begun.is_some_and(|begun| now >= begun + limits.header) {
            hit("http_header");
            return true;
        }
        let late = |body: &Coming| now >= body.due;
        state.bodies.iter().filter(|body| late(body)).for_each(|_| hit("http_body"));
        if state.bodies.iter().any(|body| late(body) && body.end.is_none()) {
            return true;
        }
        state.bodies.retain(|body| {
            body.end.iter().filter(|_| late(body)).for_each(|end| end.notify_one());
            !late(body)
        });
        let silent = state.open == 0 && state.begun.is_none();
        if silent && self.may_be_away(&state) && now >= state.last + AWAY {
            state.away = now < state.last + state.patience(limits);
            return true;
        }
        if silent && now >= state.last + state.patience(limits) {
            if !self.two || state.idle {
                return true;
            }
            // GOAWAY first: a request that is just on its way is then known not to have been looked at.
            state.idle = true;
            self.close();
        }
        if state.shut.is_some_and(|shut| now >= shut + self.patience()) {
            for one in state.flights.iter().filter(|one| one.unkept) {
                one.cut();
            }
        }
        self.entry.handle.due(None);
        self.schedule(&state);
        false
    }
}

impl State {
    /// How long it may be idle.
    fn patience(&self, limits: &HttpLimits) -> Duration {
        if self.idle { limits.idle + FAREWELL } else { limits.idle }
    }
}
