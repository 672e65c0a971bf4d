//! Leaving a pool: LOGOUT, and the end of the connection seen.
//!
//! Rule: on shared storage the word shows a connection until somebody has seen it end.

use super::{
    super::{
        converse::{cut, leave},
        relay::{Backend, End, Session},
    },
    ErrandResult, Spare, two_stores,
};
use crate::topology::Topology;

impl Session {
    pub(super) fn leave(&mut self) -> Result<(), End> {
        self.drop_dial();
        if self.errand.is_some() {
            return Ok(());
        }
        if self.backend.is_none() && self.orders.touching.is_some() {
            return Ok(());
        }
        if self.backend.is_some() {
            if self.learns_late() {
                return Ok(());
            }
            return self.leave_backend();
        }
        match self.spare.take() {
            Some(spare) if spare.user_on().is_some() => self.see_spare_off(spare),
            dialled => {
                self.spare = dialled;
                self.accept();
            }
        }
        Ok(())
    }

    /// A mailbox that was selected just before the gate shut: for as long as this session is on the old pool its view
    /// can still be learnt. True: whoever needs it waits.
    pub(super) fn learns_late(&mut self) -> bool {
        if !self.relay.probing()
            && self.quiet()
            && let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
            && self.can_learn(why)
        {
            self.learn_view();
        }
        self.relay.probing()
    }

    /// LOGOUT, or the end of the stream where a command stands half sent; and then the end is awaited.
    pub(super) fn leave_backend(&mut self) -> Result<(), End> {
        if self.relay.in_flight().1 > 0 || self.relay.mid_response() {
            return Err(End::Farewell("read_in_flight"));
        }
        let whole = self.relay.safepoint() && self.backend.as_ref().is_some_and(|b| b.out.is_empty());
        self.see_off(whole)
    }

    /// The backend is told LOGOUT, if what it was told is `whole`, and its end is awaited.
    pub(in crate::session::imap) fn see_off(&mut self, whole: bool) -> Result<(), End> {
        let idling = self.relay.own_outstanding();
        let Some(Backend { leg, pool, .. }) = self.backend.take() else { return Ok(()) };
        self.orders.touching = Some(pool);
        self.start(Box::pin(async move {
            ErrandResult::Left(if whole { leave(leg, idling).await } else { cut(leg).await })
        }));
        self.drop_backend()
    }

    fn see_spare_off(&mut self, spare: Spare) {
        self.orders.verifying = spare.user_on();
        self.start(Box::pin(async move { ErrandResult::SpareLeft(spare.leave().await) }));
    }

    /// Gives a spare connection back. Where two stores are two its end need not be seen, and no command waits
    /// for it.
    pub(super) fn leave_spare(&mut self, spare: Spare, topology: &Topology) {
        if spare.user_on().is_none() {
            // Nobody is logged in on it: dropping it is enough.
            return;
        }
        if two_stores(topology) {
            tokio::spawn(spare.leave());
        } else {
            self.see_spare_off(spare);
        }
    }

    /// A look at the standby that nobody waits for any more: where stores are two its end need not be seen.
    pub(super) fn drop_look(&mut self, topology: &Topology) {
        if two_stores(topology) && self.orders.looking.take().is_some() {
            self.orders.verifying = None;
            self.errand = None;
        }
    }

    pub(in crate::session::imap) fn drop_dial(&mut self) {
        if std::mem::take(&mut self.orders.dialling) {
            self.errand = None;
        }
    }
}
