//! What a cutover asks of a session: prepare, prewarm, leave, verify, attach.
//!
//! Rule: an order is a level. Each [`Session::obey`] looks at where the session stands and takes the one next
//! step; what takes time runs as the session's errand, and its result is the next thing to look at.

mod leave;
mod prepare;
mod restore;
mod spare;

use std::{future::Future, pin::Pin, time::Instant};

use bascule_protocols::imap::{
    reconcile::Found,
    relay::Relay,
    restore::{Failure, Outcome},
};

pub(super) use self::spare::Spare;
use tokio::time::timeout;

use super::{
    converse::{LEAVE, leave},
    relay::{End, Session},
};
use crate::{
    config::Storage,
    net::stream::Leg,
    session::registry::{Handle, Order, Progress},
    topology::{Epoch, PoolId, Topology},
};

/// What an errand came to.
pub(super) enum ErrandResult {
    /// The backend connection has ended, or did not when it was told to.
    Left(bool),
    /// The spare connection has ended, or did not.
    SpareLeft(bool),
    /// The standby was dialled, or not.
    Dialled(PoolId, Option<Leg>),
    Prewarmed(Look),
    Verified(Look),
    Attached(PoolId, Epoch, Box<Result<(Leg, Outcome), Failure>>),
}

/// A look at the standby: the connection, and the mailbox as it is there.
type Look = Result<(Spare, Option<Found>), Failure>;

pub(super) type ErrandFuture = Pin<Box<dyn Future<Output = ErrandResult> + Send>>;

/// What an errand on the standby is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looking {
    /// Traffic flows meanwhile.
    Ahead,
    /// The decision waits for it.
    Verify,
}

/// Where a session stands with its orders.
#[derive(Debug, Default)]
pub(super) struct Orders {
    seen: Option<(u64, Order)>,
    reported: Option<(u64, Progress)>,
    /// Whether commands flowed when last looked at.
    pub(super) flowed: bool,
    /// A pool that an errand is leaving or attaching to.
    pub(super) touching: Option<PoolId>,
    /// A pool that an errand is logging in to for a look.
    pub(super) verifying: Option<PoolId>,
    /// The errand is a look at the standby.
    looking: Option<Looking>,
    dialling: bool,
    dialled: bool,
    /// What the prewarm under this order came to.
    prewarmed: Option<Progress>,
    /// Verified under this order.
    verified: bool,
    refused: Option<String>,
    /// Searches for a view, and the selection that it is of.
    probes: (u32, u8),
    lingers_since: Option<Instant>,
    selections: u32,
}

impl Orders {
    /// Whether the handle has an order that was not looked at.
    pub(super) fn is_new(&self, handle: &Handle) -> bool {
        self.seen.is_none_or(|seen| seen.0 != handle.order().0)
    }

    /// Whether nothing is asked, and commands flow.
    pub(super) fn calm(&self) -> bool {
        self.flowed
            && matches!((self.seen, self.reported),
                (Some((seen, Order::Flow)), Some((reported, Progress::Done))) if seen == reported)
    }

    /// Whether the errand that runs leaves the client's commands alone.
    pub(super) fn beside(&self) -> bool {
        self.dialling || self.looking == Some(Looking::Ahead)
    }

    /// Whether there is, or may be, a connection that is an errand's.
    pub(super) fn on_a_pool(&self) -> bool {
        self.touching.is_some() || self.verifying.is_some()
    }

    /// Whether another mailbox was selected since this was last asked.
    pub(super) fn describes(&mut self, relay: &Relay) -> bool {
        std::mem::replace(&mut self.selections, relay.selections()) != relay.selections()
    }

    fn begin(&mut self, number: u64, order: Order, relay: &Relay) {
        self.seen = Some((number, order));
        self.refused = None;
        self.prewarmed = None;
        self.verified = false;
        self.probes = (relay.selections(), 0);
        self.dialled = false;
    }
}

impl Session {
    /// Takes the next step of the current order.
    pub(super) fn obey(&mut self) -> Result<(), End> {
        let (number, order) = self.entry.handle.order();
        if self.orders.seen.is_none_or(|seen| seen.0 != number) {
            self.orders.begin(number, order, &self.relay);
        }
        let topology = self.world().topology.load();
        let open = self.world().gate.admits(topology.epoch);
        match order {
            // An order of a hold that is over, until the next one comes: who was attached meanwhile stays.
            Order::Leave | Order::Verify if open => {}
            Order::Flow => self.flow(&topology),
            Order::Prepare => self.prepare(&topology),
            Order::Prewarm => self.prewarm(&topology),
            Order::Leave => self.leave()?,
            Order::Verify => self.verify(&topology),
            Order::Attach => return self.attach(&topology),
            // Whoever is told BYE instead of what the server says does a write again that was done. Only the end of the
            // process has time for that.
            Order::End if self.relay.in_flight().0 > 0 && self.world().registry.is_ending() => {}
            Order::End => return Err(End::Farewell("kicked")),
        }
        if self.needs_attach(&topology, order) {
            return self.attach(&topology);
        }
        Ok(())
    }

    /// Beyond the order: a session without a backend that nobody keeps from having one, or one whose client
    /// waits while the gate is open for an epoch that it has not reached.
    fn needs_attach(&self, topology: &Topology, order: Order) -> bool {
        let lost = self.backend.is_none() && matches!(order, Order::Flow | Order::Prepare | Order::Prewarm);
        let late = self.backend.as_ref().is_none_or(|b| b.epoch != topology.epoch) && !self.queue.is_empty();
        (lost || late) && self.world().gate.admits(topology.epoch)
    }

    fn report(&mut self, progress: Progress) {
        let Some((number, _)) = self.orders.seen else { return };
        if self.orders.reported != Some((number, progress)) {
            self.orders.reported = Some((number, progress));
            self.sync_word();
            self.entry.handle.report(number, progress);
        }
    }

    fn refuse(&mut self, why: &str) {
        if self.orders.refused.as_deref() != Some(why) {
            self.orders.refused = Some(why.to_owned());
            self.describe_unmovable(why);
        }
        self.report(Progress::Refused);
    }

    fn describe_unmovable(&self, why: &str) {
        let why = why.to_owned();
        self.entry.handle.describe(|info| info.unmovable = Some(why));
    }

    fn accept(&mut self) {
        if self.orders.refused.take().is_some()
            || self.orders.reported.is_none_or(|r| r.1 == Progress::Refused)
        {
            self.entry.handle.describe(|info| info.unmovable = None);
        }
        self.report(Progress::Done);
    }

    fn start(&mut self, errand: ErrandFuture) {
        self.errand = Some(errand);
    }

    fn flow(&mut self, topology: &Topology) {
        self.drop_look(topology);
        if self.errand.is_some() {
            return;
        }
        if let Some(spare) = self.spare.take() {
            return self.leave_spare(spare, topology);
        }
        if let Some(selected) = &mut self.relay.state.selected {
            selected.view = None;
        }
        self.accept();
    }

    pub(super) fn on_errand(&mut self, result: ErrandResult) -> Result<(), End> {
        match result {
            // A connection that nobody has seen end may still have a user on it: the word goes on saying so,
            // and the cutover does not.
            ErrandResult::Left(false) | ErrandResult::SpareLeft(false) => self.refuse("connection_stays"),
            ErrandResult::Left(true) => {
                self.orders.touching = None;
                self.sync_word();
                self.entry.handle.word_changed();
            }
            ErrandResult::SpareLeft(true) => {
                self.orders.verifying = None;
                self.sync_word();
                self.entry.handle.word_changed();
            }
            ErrandResult::Dialled(pool, leg) => {
                self.orders.dialling = false;
                self.spare = leg.map(|leg| Spare::dialled(pool, leg));
            }
            ErrandResult::Prewarmed(look) => self.on_prewarmed(look),
            ErrandResult::Verified(look) => self.on_verified(look),
            ErrandResult::Attached(pool, epoch, result) => return self.on_attached(pool, epoch, *result),
        }
        Ok(())
    }
}

/// The end of an errand whose session ends, and of the connection that it was for. True: that has ended.
pub(super) async fn see_out(errand: ErrandFuture) -> bool {
    let leg = match timeout(LEAVE, errand).await {
        Ok(ErrandResult::Left(ended) | ErrandResult::SpareLeft(ended)) => return ended,
        Ok(ErrandResult::Dialled(..)) => return true,
        Ok(ErrandResult::Prewarmed(look) | ErrandResult::Verified(look)) => {
            return match look {
                Ok((spare, _)) => spare.leave().await,
                Err(_) => true,
            };
        }
        Ok(ErrandResult::Attached(.., result)) => *result,
        Err(_) => return false,
    };
    match leg {
        Ok((leg, _)) => leave(leg, false).await,
        Err(_) => true,
    }
}

/// Whether the pools are two stores: a connection to one may stand while the user is on the other.
fn two_stores(topology: &Topology) -> bool {
    topology.active().contract.storage == Storage::Replicated
}
