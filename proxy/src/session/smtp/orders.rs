//! What a cutover asks of a session: there is little to do, since nothing of a session lives on a pool between messages.
//!
//! Rule: an order is a level; each [`Session::obey`] takes the one next step, and reports when there is none.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use bascule_protocols::smtp::relay::Role;

use super::{
    open::{OpenError, Opened, open},
    relay::{End, Session},
};
use crate::{
    config::Storage,
    net::stream::Leg,
    session::registry::{Handle, Order, Progress},
    topology::PoolId,
};

/// How long the end of a connection is awaited after QUIT.
const LEAVE: Duration = Duration::from_secs(5);

/// A login that is tried on the standby, and what came of it.
type Trial = Pin<Box<dyn Future<Output = Result<Opened, OpenError>> + Send>>;

/// Where a session stands with its orders.
#[derive(Default)]
pub(super) struct Orders {
    seen: Option<(u64, Order)>,
    reported: Option<(u64, Progress)>,
    trial: Option<(PoolId, Trial)>,
    /// The standby would not let this user in.
    refused: bool,
    /// Whether the gate was open when last looked at.
    pub(super) flowed: bool,
}

impl Orders {
    /// Whether the handle has an order that was not looked at.
    pub(super) fn is_new(&self, handle: &Handle) -> bool {
        self.seen.is_none_or(|seen| seen.0 != handle.order().0)
    }

    /// Whether nothing is asked that is not done.
    pub(super) fn calm(&self) -> bool {
        self.trial.is_none()
            && self.seen.is_some_and(|(number, order)| {
                matches!(order, Order::Flow) && self.reported == Some((number, Progress::Done))
            })
    }

    /// The pool on which a login is tried.
    pub(super) fn tries(&self) -> Option<PoolId> {
        self.trial.as_ref().map(|(pool, _)| *pool)
    }

    /// What came of the login that is tried.
    pub(super) fn poll_trial(&mut self, cx: &mut Context<'_>) -> Poll<Result<Opened, OpenError>> {
        let Some((_, trial)) = &mut self.trial else { return Poll::Pending };
        let result = trial.as_mut().poll(cx);
        if result.is_ready() {
            self.trial = None;
        }
        result
    }
}

impl Session {
    pub(super) fn obey(&mut self) -> Result<(), End> {
        let (number, order) = self.entry.handle.order();
        self.orders.seen = Some((number, order));
        self.stays = self.stays.filter(|_| !self.admitted());
        if order != Order::Verify && self.orders.trial.take().is_some() {
            self.sync_word();
        }
        match order {
            // An order of a hold that is over, until the next one comes: who was attached meanwhile stays.
            Order::Leave if self.admitted() => {}
            Order::Flow | Order::Prewarm => {
                self.forget_refusal();
                self.report(Progress::Done);
            }
            Order::Verify => self.try_login(number),
            // A message that is not kept is waited for, and counts as unmovable when it does not end.
            Order::Prepare if !self.content_is_kept() => {}
            Order::Prepare => self.report(Progress::Done),
            Order::Leave => self.leave_old(true),
            Order::Attach => self.leave_old(false),
            // Whoever is told 421 instead of what the server says sends a message again that was taken. Only the end of
            // the process has time for that.
            Order::End if self.relay.in_flight().0 > 0 && self.world().registry.is_ending() => {}
            Order::End => return Err(End::Farewell("kicked")),
        }
        // A message under way goes on at once where the gate is open again; the rest waits for the next command.
        if self.backend.is_none() && self.relay.in_transaction() && self.admitted() {
            self.ensure_backend();
        }
        self.leave_late();
        Ok(())
    }

    /// Whoever has logged in must be let in by the pool that is to serve. There is nothing else of a session to look for
    /// on it.
    fn try_login(&mut self, number: u64) {
        let begun = self.orders.trial.is_some() || self.orders.reported.is_some_and(|(n, _)| n == number);
        if begun {
            return;
        }
        let logged_in = self.relay.role() == Role::Submission && self.credentials.is_some();
        let (true, Some(pool)) = (logged_in, self.world().topology.target()) else {
            return self.report(Progress::Done);
        };
        let (world, whom) = (self.door.world.clone(), self.whom());
        let topology = world.topology.load();
        let Some(limit) = topology.pool(pool).service(whom.protocol).map(|service| service.dial_timeout)
        else {
            return self.report(Progress::Done);
        };
        let trial = async move { open(&world, pool, &whom, None, limit).await };
        self.orders.trial = Some((pool, Box::pin(trial)));
        self.sync_word();
    }

    pub(super) fn on_tried(&mut self, result: Result<Opened, OpenError>) {
        let why = match result {
            Ok(Opened { leg, .. }) => {
                tokio::spawn(leave(leg, true));
                self.forget_refusal();
                return self.report(Progress::Done);
            }
            Err(OpenError::Refused(_)) => "login_refused",
            Err(error) => {
                tracing::info!(session = self.entry.handle.id.0, %error, "verify");
                "unavailable"
            }
        };
        self.orders.refused = true;
        self.world().metrics.unmovable.count(why);
        self.entry.handle.describe(|info| info.unmovable = Some(why.to_owned()));
        self.report(Progress::Refused);
    }

    fn forget_refusal(&mut self) {
        if std::mem::take(&mut self.orders.refused) {
            self.entry.handle.describe(|info| info.unmovable = None);
        }
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
        if self.leaving.is_none() && self.stays.is_none() {
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

    pub(super) fn give_up(&mut self) {
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
            // The word goes on saying so, and the hold does not go on.
            tracing::warn!(session = self.entry.handle.id.0, ?left, "a connection that does not end");
            self.stays = left;
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
