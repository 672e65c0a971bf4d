//! The session on another pool: verify before the decision, attach after it.
//!
//! Rule: verify never selects; what attach finds is told to the client or ends the session, never hidden.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_protocols::imap::{
    reconcile,
    restore::{Failure, Outcome, Plan},
};

use super::{
    super::{
        converse::{converse, cut, leave, words},
        login::id_arguments,
        open::reach,
        relay::{End, Session},
    },
    ErrandResult, Look, Looking, Spare,
    spare::User,
    two_stores,
};
use crate::{
    gate::Standing,
    net::stream::Leg,
    session::{World, registry::Order},
    topology::{Epoch, PoolId, Topology},
};

/// Pauses before an attach is tried again at a server that cannot now (semantics §1.g, rule 7).
const RETRIES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];

impl Session {
    pub(super) fn verify(&mut self, topology: &Arc<Topology>) {
        if self.errand.is_some() || self.orders.refused.is_some() {
            return;
        }
        if self.orders.verified {
            return self.accept();
        }
        if self.learns_late() {
            return;
        }
        if let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
        {
            return self.refuse(why.label());
        }
        let Some(pool) = self.world().topology.target() else { return self.refuse("no_target") };
        self.orders.verifying = Some(pool);
        self.orders.looking = Some(Looking::Verify);
        let work = self.restore(topology, pool, true);
        self.start(Box::pin(async move { ErrandResult::Verified(work.look().await) }));
    }

    pub(super) fn on_verified(&mut self, look: Look) {
        self.orders.verifying = None;
        self.orders.looking = None;
        let (spare, found) = match look {
            Ok(done) => done,
            Err(failure) => {
                tracing::warn!(session = self.entry.handle.id.0, %failure, "verify");
                return self.refuse(failure.label());
            }
        };
        self.spare = Some(spare);
        if let (Some(selected), Some(found)) = (&self.relay.state.selected, &found)
            && let Err(differs) = reconcile::compare(&selected.known(), found)
        {
            return self.refuse(differs.label());
        }
        self.orders.verified = true;
        self.accept();
    }

    pub(super) fn attach(&mut self, topology: &Arc<Topology>) -> Result<(), End> {
        self.drop_look(topology);
        if self.backend.as_ref().is_some_and(|b| b.epoch == topology.epoch) {
            self.orders.lingers_since = None;
            if matches!(self.orders.seen, Some((_, Order::Attach))) {
                self.accept();
            }
            return Ok(());
        }
        self.drop_dial();
        if self.errand.is_some() {
            return Ok(());
        }
        if self.backend.is_some() {
            self.give_up_old(topology)?;
            if self.backend.is_some() || self.errand.is_some() {
                return Ok(());
            }
        }
        let pool = topology.active;
        let standing = Standing { backend: Some(pool), ..self.now_standing() };
        if !self.entry.handle.word.announce(standing, &self.world().gate, topology.epoch) {
            self.entry.handle.word.set(self.standing);
            self.entry.handle.word_changed();
            return Ok(());
        }
        self.orders.touching = Some(pool);
        if let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
        {
            return self.give_up(why.label(), "different");
        }
        let (work, epoch) = (self.restore(topology, pool, false), topology.epoch);
        self.start(Box::pin(async move {
            ErrandResult::Attached(pool, epoch, Box::new(work.run_with_retries().await))
        }));
        Ok(())
    }

    /// The session cannot be served by the pool that is active now.
    fn give_up(&self, why: &'static str, farewell: &'static str) -> Result<(), End> {
        self.world().metrics.unmovable.count(why);
        self.describe_unmovable(why);
        Err(End::Farewell(farewell))
    }

    /// The old backend, where it may linger until its reads are answered, and our search for the view.
    fn give_up_old(&mut self, topology: &Topology) -> Result<(), End> {
        let reading = self.relay.in_flight().1 > 0 || self.relay.mid_response() || self.learns_late();
        if reading {
            let since = *self.orders.lingers_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.world().config.limits.command_ceiling {
                return Err(End::Farewell("read_in_flight"));
            }
            return Ok(());
        }
        if !two_stores(topology) {
            return self.leave_backend();
        }
        let (clean, idling) = (self.relay.safepoint(), self.relay.own_outstanding());
        if let Some(backend) = self.backend.take() {
            self.drop_backend()?;
            // Its end need not be waited for where two stores are two.
            tokio::spawn(async move {
                if clean { leave(backend.leg, idling).await } else { cut(backend.leg).await }
            });
        }
        Ok(())
    }

    pub(super) fn on_attached(
        &mut self,
        pool: PoolId,
        epoch: Epoch,
        result: Result<(Leg, Outcome), Failure>,
    ) -> Result<(), End> {
        self.orders.touching = None;
        let (leg, outcome) = match result {
            Ok(done) => done,
            Err(failure) => {
                tracing::warn!(session = self.entry.handle.id.0, %failure, "attach");
                return self.give_up(failure.label(), "refused");
            }
        };
        let mut news = Vec::new();
        if let Some(selected) = &mut self.relay.state.selected {
            let Some(found) = outcome.found else { return Err(End::Farewell("different")) };
            if selected.writable && outcome.read_only {
                return self.give_up("read_only", "different");
            }
            match reconcile::compare(&selected.known(), &found) {
                Ok(change) => reconcile::emit(&change, &mut news),
                Err(differs) => {
                    tracing::warn!(session = self.entry.handle.id.0, ?differs, "attach");
                    return self.give_up(differs.label(), "different");
                }
            }
            selected.now(found);
            if let Some(exists) = outcome.arrived {
                selected.on_exists(exists);
                news.extend_from_slice(format!("* {exists} EXISTS\r\n").as_bytes());
            }
        }
        self.install(leg, pool, epoch, outcome.capabilities.unwrap_or_default());
        if !news.is_empty() {
            self.say(&news);
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, topology: &Topology, pool: PoolId, verify: bool) -> Restoring {
        let service = &topology.pool(pool).imap;
        let local = self.client.tcp().local_addr().ok();
        let state = &self.relay.state;
        let mut fresh = Plan::of(state, Some(words(service, &self.credentials)), verify);
        fresh.id = id_arguments(service, &self.entry.handle, local, state.client_id.as_deref());
        let spare = self.spare.take().filter(|spare| spare.serves(pool, state));
        let on_spare = Plan::of(state, None, verify);
        let enabled = state.enabled.clone();
        Restoring { world: self.door.world.clone(), pool, spare, on_spare, fresh, enabled }
    }
}

/// One attempt to bring a session up on a pool.
pub(super) struct Restoring {
    world: Arc<World>,
    pool: PoolId,
    spare: Option<Spare>,
    on_spare: Plan,
    fresh: Plan,
    /// What the server is told to enable, whatever the client enables meanwhile.
    enabled: Vec<Box<[u8]>>,
}

impl Restoring {
    /// A connection that waits there, logged in.
    pub(super) async fn look(mut self) -> Look {
        let (leg, Outcome { capabilities, found, .. }) = self.attempt().await?;
        Ok((Spare::logged_in(self.pool, leg, User { capabilities, enabled: self.enabled }), found))
    }

    async fn run_with_retries(mut self) -> Result<(Leg, Outcome), Failure> {
        let mut pauses = RETRIES.iter();
        loop {
            let result = self.attempt().await;
            let Err(Failure::Unavailable(why)) = &result else { return result };
            let Some(pause) = pauses.next() else { return result };
            tracing::debug!(why, "attach is tried again");
            tokio::time::sleep(*pause).await;
        }
    }

    /// Through the spare connection if it is still good, else through a new one.
    async fn attempt(&mut self) -> Result<(Leg, Outcome), Failure> {
        let limit = self.world.config.limits.command_ceiling;
        if let Some(Spare { mut leg, user, .. }) = self.spare.take() {
            let Some(user) = user else {
                match converse(&mut leg, self.fresh.clone(), limit).await {
                    // It has waited since Armed, and may have been closed meanwhile.
                    Err(Failure::Unavailable(_)) => return self.afresh(limit).await,
                    other => return other.map(|outcome| (leg, outcome)),
                }
            };
            if let Ok(mut outcome) = converse(&mut leg, self.on_spare.clone(), limit).await {
                outcome.capabilities = outcome.capabilities.or(user.capabilities);
                return Ok((leg, outcome));
            }
            leave(leg, false).await;
        }
        self.afresh(limit).await
    }

    async fn afresh(&self, limit: Duration) -> Result<(Leg, Outcome), Failure> {
        let mut leg = reach(&self.world, self.pool).await.map_err(|e| Failure::Unavailable(e.to_string()))?;
        let outcome = converse(&mut leg, self.fresh.clone(), limit).await?;
        Ok((leg, outcome))
    }
}
