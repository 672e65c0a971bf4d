//! What a cutover asks of a session: there is little to do, since nothing of a session lives on a pool between messages.
//!
//! Rule: an order is a level; each [`Session::obey`] takes the one next step, and reports when there is none.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use super::relay::{End, Session};
use crate::{
    config::Storage,
    net::stream::Leg,
    session::registry::{Handle, Order, Progress},
    topology::PoolId,
};

/// How long the end of a connection is awaited after QUIT.
const LEAVE: Duration = Duration::from_secs(5);

/// Where a session stands with its orders.
#[derive(Debug, Default)]
pub(super) struct Orders {
    seen: Option<(u64, Order)>,
    reported: Option<(u64, Progress)>,
    /// Whether the gate was open when last looked at.
    pub(super) flowed: bool,
}

impl Orders {
    /// Whether the handle has an order that was not looked at.
    pub(super) fn is_new(&self, handle: &Handle) -> bool {
        self.seen.is_none_or(|seen| seen.0 != handle.order().0)
    }
}

impl Session {
    pub(super) fn obey(&mut self) -> Result<(), End> {
        let (number, order) = self.entry.handle.order();
        self.orders.seen = Some((number, order));
        match order {
            // An order of a hold that is over, until the next one comes: who was attached meanwhile stays.
            Order::Leave if self.admitted() => {}
            // There is nothing of this session to look for on the standby.
            Order::Flow | Order::Verify | Order::Prewarm => self.report(Progress::Done),
            // A message that is not kept is waited for, and counts as unmovable when it does not end.
            Order::Prepare if !self.content_is_kept() => {}
            Order::Prepare => self.report(Progress::Done),
            Order::Leave => self.leave_old(true),
            Order::Attach => self.leave_old(false),
            Order::End => return Err(End::Farewell("kicked")),
        }
        // A message under way goes on at once where the gate is open again; the rest waits for the next command.
        if self.backend.is_none() && self.relay.in_transaction() && self.admitted() {
            self.ensure_backend();
        }
        self.leave_late();
        Ok(())
    }

    fn report(&mut self, progress: Progress) {
        let Some((number, _)) = self.orders.seen else { return };
        if self.orders.reported != Some((number, progress)) {
            self.orders.reported = Some((number, progress));
            self.sync_word();
            self.entry.handle.report(number, progress);
        }
    }

    /// Gives up a connection that is not of this epoch; `always`: also one that is.
    fn leave_old(&mut self, always: bool) {
        let topology = self.world().topology.load();
        self.greeted = self.greeted.take().filter(|(_, epoch, _)| !always && *epoch == topology.epoch);
        self.opening = self.opening.take().filter(|_| !always);
        if self.opening.is_none() {
            self.towards = None;
        }
        let old = self.backend.as_ref().is_some_and(|b| always || b.epoch != topology.epoch);
        // A commit in flight is what the drain waits for.
        if old && self.relay.in_flight().0 > 0 {
            return;
        }
        if old {
            self.give_up();
        }
        if self.leaving.is_none() {
            self.report(Progress::Done);
        }
    }

    /// A connection of an epoch that is over serves nobody.
    fn leave_late(&mut self) {
        let topology = self.world().topology.load();
        self.greeted = self.greeted.take().filter(|(_, epoch, _)| *epoch == topology.epoch);
        let late = self.backend.as_ref().is_some_and(|b| b.epoch != topology.epoch);
        if late && self.relay.in_flight().0 == 0 && self.leaving.is_none() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let shared = self.world().topology.load().active().contract.storage == Storage::Shared;
        let whole = self.relay.answered() && !self.relay.in_transaction();
        let Some(backend) = self.backend.take() else { return };
        let loss = self.relay.lose_backend();
        self.say(&loss.say);
        if self.relay.in_transaction() && !self.content_is_kept() {
            self.lose_content();
        }
        self.mark_held();
        let leaving = leave(backend.leg, whole && backend.out.is_empty());
        if shared {
            self.leaving = Some((backend.pool, Box::pin(leaving)));
        } else {
            tokio::spawn(leaving);
        }
        self.sync_word();
    }

    pub(super) fn on_left(&mut self, ended: bool) -> Result<(), End> {
        let left: Option<PoolId> = self.leaving.take().map(|(pool, _)| pool);
        if !ended {
            tracing::warn!(session = self.entry.handle.id.0, ?left, "a connection that does not end");
            self.report(Progress::Refused);
        }
        self.sync_word();
        self.entry.handle.word_changed();
        Ok(())
    }
}

/// QUIT, or the end of the stream where a message stands half said; and then the end is awaited.
pub(super) async fn leave(mut leg: Leg, whole: bool) -> bool {
    let end = async {
        if whole {
            leg.write_all(b"QUIT\r\n").await?;
            leg.flush().await?;
        } else {
            leg.shutdown().await?;
        }
        loop {
            let n = leg.fill_buf().await?.len();
            if n == 0 {
                return std::io::Result::Ok(());
            }
            leg.consume(n);
        }
    };
    timeout(LEAVE, end).await.is_ok()
}
