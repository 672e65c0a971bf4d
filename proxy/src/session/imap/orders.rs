//! What a cutover asks of a session: prepare, leave, verify, attach.
//!
//! Rule: an order is a level. Each [`Session::obey`] looks at where the session stands and takes the one next
//! step; what takes time runs as the session's errand, and its result is the next thing to look at.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_protocols::imap::{
    capability::Capabilities,
    reconcile,
    relay::Relay,
    restore::{Failure, Outcome, Plan},
    state::Unmovable,
};

use super::{
    converse::{converse, cut, leave, words},
    login::id_arguments,
    open::open,
    relay::{End, Session},
};
use crate::{
    config::{StandbyLogin, Storage},
    gate::Standing,
    net::stream::Leg,
    session::{
        World,
        registry::{Handle, Order, Progress},
    },
    topology::{Epoch, PoolId, Topology},
};

/// Searches for one view before the session counts as unmovable.
const PROBES: u8 = 3;
/// Pauses before an attach is tried again at a server that cannot now (semantics §1.g, rule 7).
const RETRIES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];

/// A connection to the pool that a cutover goes to.
#[derive(Debug)]
pub(super) enum Spare {
    /// Greeted, nobody logged in.
    Dialled(PoolId, Leg),
    /// Logged in, and the mailbox looked at.
    Verified(PoolId, Leg, Option<Capabilities>),
}

impl Spare {
    /// The pool on which the user is logged in through it.
    pub(super) fn user_on(&self) -> Option<PoolId> {
        match self {
            Self::Dialled(..) => None,
            Self::Verified(pool, ..) => Some(*pool),
        }
    }

    fn pool(&self) -> PoolId {
        match self {
            Self::Dialled(pool, _) | Self::Verified(pool, ..) => *pool,
        }
    }

    /// Ends it in good order.
    pub(super) async fn leave(self) -> bool {
        match self {
            Self::Dialled(_, leg) | Self::Verified(_, leg, _) => leave(leg, false).await,
        }
    }
}

/// What an errand came to.
pub(super) enum ErrandResult {
    /// The backend connection has ended, or did not when it was told to.
    Left(bool),
    /// The spare connection has ended, or did not.
    SpareLeft(bool),
    /// The standby was dialled, or not.
    Dialled(PoolId, Option<Leg>),
    Verified(PoolId, Result<(Leg, Outcome), Failure>),
    Attached(PoolId, Epoch, Box<Result<(Leg, Outcome), Failure>>),
}

pub(super) type ErrandFuture = Pin<Box<dyn Future<Output = ErrandResult> + Send>>;

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
    looking: bool,
    dialling: bool,
    dialled: bool,
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

    /// Whether the errand that runs leaves the client's commands alone.
    pub(super) fn beside(&self) -> bool {
        self.dialling
    }

    /// Whether another mailbox was selected since this was last asked.
    pub(super) fn describes(&mut self, relay: &Relay) -> bool {
        std::mem::replace(&mut self.selections, relay.selections()) != relay.selections()
    }
}

impl Session {
    /// Takes the next step of the current order.
    pub(super) fn obey(&mut self) -> Result<(), End> {
        let (number, order) = self.entry.handle.order();
        if self.orders.seen.is_none_or(|seen| seen.0 != number) {
            self.orders.seen = Some((number, order));
            self.orders.refused = None;
            self.orders.probes = (self.relay.selections(), 0);
            self.orders.dialled = false;
        }
        let topology = self.world().topology.load();
        let open = self.world().gate.admits(topology.epoch);
        match order {
            // An order of a hold that is over, until the next one comes: who was attached meanwhile stays.
            Order::Leave | Order::Verify if open => {}
            Order::Flow => self.flow(&topology),
            Order::Prepare => self.prepare(&topology),
            Order::Leave => self.leave()?,
            Order::Verify => self.verify(&topology),
            Order::Attach => return self.attach(&topology),
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
        let lost = self.backend.is_none() && matches!(order, Order::Flow | Order::Prepare);
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
            let why = why.to_owned();
            self.entry.handle.describe(|info| info.unmovable = Some(why));
        }
        self.report(Progress::Refused);
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

    // ---- Flow -----------------------------------------------------------------------------------------

    fn flow(&mut self, topology: &Topology) {
        self.drop_look(topology);
        if self.errand.is_some() {
            return;
        }
        match self.spare.take() {
            Some(spare @ Spare::Verified(..)) => self.leave_spare(spare),
            // Nobody is logged in on it: dropping it is enough.
            Some(Spare::Dialled(..)) | None => {
                if let Some(selected) = &mut self.relay.state.selected {
                    selected.view = None;
                }
                self.accept();
            }
        }
    }

    fn leave_spare(&mut self, spare: Spare) {
        self.orders.verifying = spare.user_on();
        self.start(Box::pin(async move { ErrandResult::SpareLeft(spare.leave().await) }));
    }

    // ---- Prepare --------------------------------------------------------------------------------------

    fn prepare(&mut self, topology: &Topology) {
        if self.backend.is_none() || self.errand.is_some() || self.uploads_unkept() {
            return;
        }
        if let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
        {
            if self.can_learn(why) {
                if self.flows() && self.queue.is_empty() && self.learn_view() {
                    self.accept();
                }
                return;
            }
            let esearch = self.backend.as_ref().is_some_and(|b| b.capabilities.has(b"ESEARCH"));
            return self.refuse(if esearch { why.label() } else { "no_esearch" });
        }
        let standby = self.world().topology.target();
        let dials = !self.orders.dialled
            && self.spare.is_none()
            && standby.is_some_and(|pool| topology.pool(pool).contract.standby_login == StandbyLogin::Yes);
        if let Some(pool) = standby.filter(|_| dials) {
            let world = self.door.world.clone();
            self.orders.dialled = true;
            self.orders.dialling = true;
            return self
                .start(Box::pin(async move { ErrandResult::Dialled(pool, open(&world, pool).await.ok()) }));
        }
        self.accept();
    }

    /// Whether a search is all that this session lacks.
    fn can_learn(&mut self, lacks: Unmovable) -> bool {
        // Another mailbox, another search.
        if self.orders.probes.0 != self.relay.selections() {
            self.orders.probes = (self.relay.selections(), 0);
        }
        lacks == Unmovable::NoView
            && self.orders.probes.1 < PROBES
            && self.backend.as_ref().is_some_and(|b| b.capabilities.has(b"ESEARCH"))
    }

    /// Asks for the view at a quiet moment. True: it is known without asking.
    fn learn_view(&mut self) -> bool {
        if !self.quiet() {
            return false;
        }
        let search = self.relay.probe();
        if let Some(bytes) = &search {
            self.orders.probes.1 += 1;
            self.tell_backend(bytes);
        }
        search.is_none()
    }

    /// Whether the backend has answered everything and would read a question now.
    fn quiet(&self) -> bool {
        self.relay.safepoint() && self.backend.as_ref().is_some_and(|b| b.out.is_empty())
    }

    // ---- Leave ----------------------------------------------------------------------------------------

    fn leave(&mut self) -> Result<(), End> {
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
            Some(spare @ Spare::Verified(..)) => self.leave_spare(spare),
            dialled => {
                self.spare = dialled;
                self.accept();
            }
        }
        Ok(())
    }

    /// A mailbox that was selected just before the gate shut: nothing happens to the old pool before this
    /// session has left it, so its view can still be learnt.
    fn learns_late(&mut self) -> bool {
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

    /// A look at the standby that nobody waits for any more: where stores are two its end need not be seen.
    fn drop_look(&mut self, topology: &Topology) {
        let two_stores = topology.active().contract.storage == Storage::Replicated;
        if two_stores && std::mem::take(&mut self.orders.looking) {
            self.orders.verifying = None;
            self.errand = None;
        }
    }

    fn drop_dial(&mut self) {
        if std::mem::take(&mut self.orders.dialling) {
            self.errand = None;
        }
    }

    /// LOGOUT, or the end of the stream where a command stands half sent; and then the end is awaited.
    fn leave_backend(&mut self) -> Result<(), End> {
        if self.relay.in_flight().1 > 0 || self.relay.mid_response() {
            return Err(End::Farewell("read_in_flight"));
        }
        let whole = self.relay.safepoint();
        let idling = self.relay.own_outstanding();
        let Some(backend) = self.backend.take() else { return Ok(()) };
        self.orders.touching = Some(backend.pool);
        let clean = whole && backend.out.is_empty();
        self.drop_backend()?;
        self.start(Box::pin(async move {
            let ended = if clean { leave(backend.leg, idling).await } else { cut(backend.leg).await };
            ErrandResult::Left(ended)
        }));
        Ok(())
    }

    // ---- Verify ---------------------------------------------------------------------------------------

    fn verify(&mut self, topology: &Topology) {
        if self.errand.is_some() || self.orders.refused.is_some() {
            return;
        }
        if let Some(Spare::Verified(..)) = self.spare {
            return self.accept();
        }
        if let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
        {
            return self.refuse(why.label());
        }
        let Some(pool) = self.world().topology.target() else { return self.refuse("no_target") };
        self.orders.verifying = Some(pool);
        self.orders.looking = true;
        let work = self.restore(topology, pool, true);
        self.start(Box::pin(async move { ErrandResult::Verified(pool, work.run().await) }));
    }

    fn on_verified(&mut self, pool: PoolId, result: Result<(Leg, Outcome), Failure>) {
        self.orders.verifying = None;
        self.orders.looking = false;
        let (leg, outcome) = match result {
            Ok(done) => done,
            Err(failure) => {
                tracing::warn!(session = self.entry.handle.id.0, %failure, "verify");
                return self.refuse(failure.label());
            }
        };
        self.spare = Some(Spare::Verified(pool, leg, outcome.capabilities));
        if let (Some(selected), Some(found)) = (&self.relay.state.selected, &outcome.found)
            && let Err(differs) = reconcile::compare(&selected.known(), found)
        {
            return self.refuse(differs.label());
        }
        self.accept();
    }

    // ---- Attach ---------------------------------------------------------------------------------------

    fn attach(&mut self, topology: &Arc<Topology>) -> Result<(), End> {
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
        let standing = Standing { backend: Some(pool), ..Standing::default() };
        if !self.entry.handle.word.announce(standing, &self.world().gate, topology.epoch) {
            self.entry.handle.word.set(Standing::default());
            return Ok(());
        }
        self.orders.touching = Some(pool);
        if let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
        {
            self.world().metrics.unmovable.count(why.label());
            return Err(End::Farewell("different"));
        }
        let (work, epoch) = (self.restore(topology, pool, false), topology.epoch);
        self.start(Box::pin(async move {
            ErrandResult::Attached(pool, epoch, Box::new(work.run_with_retries().await))
        }));
        Ok(())
    }

    /// The old backend, where it may linger until its reads are answered.
    fn give_up_old(&mut self, topology: &Topology) -> Result<(), End> {
        let reading = self.relay.in_flight().1 > 0 || self.relay.mid_response();
        if reading {
            let since = *self.orders.lingers_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.world().config.limits.command_ceiling {
                return Err(End::Farewell("read_in_flight"));
            }
            return Ok(());
        }
        if topology.active().contract.storage == Storage::Shared {
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

    fn on_attached(
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
                self.world().metrics.unmovable.count(failure.label());
                return Err(End::Farewell("refused"));
            }
        };
        let mut news = Vec::new();
        if let Some(selected) = &mut self.relay.state.selected {
            let Some(found) = outcome.found else { return Err(End::Farewell("different")) };
            match reconcile::compare(&selected.known(), &found) {
                Ok(change) => reconcile::emit(&change, &mut news),
                Err(differs) => {
                    self.door.world.metrics.unmovable.count(differs.label());
                    tracing::warn!(session = self.entry.handle.id.0, ?differs, "attach");
                    return Err(End::Farewell("different"));
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

    // ---- errands --------------------------------------------------------------------------------------

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
                self.spare = leg.map(|leg| Spare::Dialled(pool, leg));
            }
            ErrandResult::Verified(pool, result) => self.on_verified(pool, result),
            ErrandResult::Attached(pool, epoch, result) => return self.on_attached(pool, epoch, *result),
        }
        Ok(())
    }

    fn restore(&mut self, topology: &Topology, pool: PoolId, verify: bool) -> Restoring {
        let service = &topology.pool(pool).imap;
        let local = self.client.tcp().local_addr().ok();
        let state = &self.relay.state;
        let mut fresh = Plan::of(state, Some(words(service, &self.credentials)), verify);
        fresh.id = id_arguments(service, &self.entry.handle, local, state.client_id.as_deref());
        let spare = self.spare.take().filter(|spare| spare.pool() == pool);
        let on_spare = Plan::of(state, None, verify);
        Restoring { world: self.door.world.clone(), pool, spare, on_spare, fresh }
    }
}

/// One attempt to bring a session up on a pool.
struct Restoring {
    world: Arc<World>,
    pool: PoolId,
    spare: Option<Spare>,
    on_spare: Plan,
    fresh: Plan,
}

impl Restoring {
    /// Through the spare connection if it is still good, else through a new one.
    async fn run(mut self) -> Result<(Leg, Outcome), Failure> {
        self.attempt().await
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

    async fn attempt(&mut self) -> Result<(Leg, Outcome), Failure> {
        let limit = self.world.config.limits.command_ceiling;
        match self.spare.take() {
            Some(Spare::Verified(_, mut leg, capabilities)) => {
                if let Ok(mut outcome) = converse(&mut leg, self.on_spare.clone(), limit).await {
                    outcome.capabilities = outcome.capabilities.or(capabilities);
                    return Ok((leg, outcome));
                }
                leave(leg, false).await;
            }
            Some(Spare::Dialled(_, mut leg)) => match converse(&mut leg, self.fresh.clone(), limit).await {
                // It has waited since Armed, and may have been closed meanwhile.
                Err(Failure::Unavailable(_)) => {}
                other => return other.map(|outcome| (leg, outcome)),
            },
            None => {}
        }
        let mut leg = open(&self.world, self.pool).await.map_err(|e| Failure::Unavailable(e.to_string()))?;
        let outcome = converse(&mut leg, self.fresh.clone(), limit).await?;
        Ok((leg, outcome))
    }
}
