//! The driver: carries out the machine's effects, one after the other.
//!
//! Rule: an effect that returns `Ok` has happened and was seen to; anything else is an error with what was seen.
//! Nothing is decided here.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::{
    checks::{Answer, exec::Phase as Asking},
    config::{Check, Cutover, Storage, Unmovable},
    cutover::{
        board::Board,
        book::{self, Book},
        course::Course,
        journal::DecisionLog,
        machine::{Effect, Event, Mark, Side},
        muster::{Orders, attach_order, logged_in, one_at_a_time, until_none},
        outside::{Act, Outside},
        types::{Outcome, Report, Stage},
    },
    gate::Phase,
    session::{
        World,
        registry::{Handle, Order, Progress},
    },
    topology::PoolId,
};

/// The journal, for threads that may block.
pub(super) type Log = Arc<Mutex<Box<dyn DecisionLog>>>;

/// Pause between two askings of a barrier that did not pass yet: they are asked inside the hold.
const BARRIER_PAUSE: Duration = Duration::from_millis(50);
/// How often the old pool's fence is looked at while the new pool soaks.
const FENCE_WATCH: Duration = Duration::from_secs(30);

/// Something that happened while effects are carried out.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) event: Event,
    /// Told whether it had an effect; otherwise why not.
    pub(super) answer: Option<oneshot::Sender<Result<(), &'static str>>>,
}

/// One cutover as it runs.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) world: Arc<World>,
    pub(super) outside: Arc<dyn Outside>,
    pub(super) log: Log,
    pub(super) board: Arc<Board>,
    pub(super) course: Course,
    pub(super) words: mpsc::UnboundedSender<Word>,
    book: Mutex<Book>,
    clock: Mutex<Option<Clock>>,
}

/// The hold's deadlines; dropped when the gate opens.
#[derive(Debug)]
struct Clock(AbortHandle);

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Outcomes = Result<(), String>;

fn seen(answer: Answer) -> Outcomes {
    match answer {
        Answer::Pass => Ok(()),
        Answer::Fail(saw) => Err(saw),
        Answer::Unknown(why) => Err(format!("unknown: {why}")),
    }
}

/// Asks a check and counts the answer.
pub(super) async fn asked(world: &World, outside: &dyn Outside, check: &Check, phase: Asking) -> Answer {
    let answer = outside.check(check, phase).await;
    let label = match answer {
        Answer::Pass => "pass",
        Answer::Fail(_) => "fail",
        Answer::Unknown(_) => "unknown",
    };
    world.metrics.check_answered(&check.name, label);
    answer
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Run {
    pub(super) fn new(
        world: Arc<World>,
        outside: Arc<dyn Outside>,
        log: Log,
        board: Arc<Board>,
        course: Course,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Word>) {
        let (words, received) = mpsc::unbounded_channel();
        let (book, clock) = (Mutex::new(Book::new()), Mutex::new(None));
        (Arc::new(Self { world, outside, log, board, course, words, book, clock }), received)
    }

    /// Carries out effects of a state in order, up to the first that fails.
    pub(super) async fn carry_out(&self, stage: Stage, effects: Vec<Effect>) -> Event {
        for effect in effects {
            let begun = Instant::now();
            let done = self.perform(effect).await;
            if let Some(phase) = book::share(stage, effect) {
                lock(&self.book).spent(phase, begun.elapsed());
            }
            if let Err(why) = done {
                tracing::warn!(cutover = self.course.id, state = stage.name(), ?effect, "{why}");
                return Event::Failed(why);
            }
            self.board.refresh();
        }
        Event::Done
    }

    async fn perform(&self, effect: Effect) -> Outcomes {
        let (old, new) = (self.course.from, self.course.to);
        match effect {
            Effect::Journal(mark) => self.journal(mark).await,
            Effect::Arm => self.arm().await,
            Effect::Shut => self.shut(),
            Effect::Drain => self.drain().await,
            Effect::Leave(Side::Old) => self.leave_old().await,
            Effect::Leave(Side::New) => self.leave_new().await,
            Effect::Engage(side) => self.act(Act::Engage, side).await,
            Effect::Release(side) => self.act(Act::Release, side).await,
            Effect::Promote => self.act(Act::Promote, Side::New).await,
            Effect::ProveFenced => self.external(self.outside.fenced(old)).await,
            Effect::ProveRefuses(side) => self.external(self.outside.refuses(self.course.pool(side))).await,
            Effect::ProveWrites(side) => {
                let within = self.cutover().barrier;
                self.external(self.outside.writes(self.course.pool(side), within)).await
            }
            Effect::Barriers => self.barriers().await,
            Effect::Verify => self.verify().await,
            Effect::Decide => self.world.gate.decide(now()).map_err(|gate| format!("too late: {gate}")),
            Effect::Settle => self.settle(),
            Effect::FailStop => self.fail_stop(),
            Effect::Swap => self.swap(new),
            Effect::Open(side) => self.open(side),
            Effect::Attach => self.attach().await,
            Effect::Rest => self.rest().await,
            Effect::Soak => self.soak().await,
            Effect::Pause => {
                sleep(self.cutover().guard_interval).await;
                Ok(())
            }
        }
    }

    fn cutover(&self) -> &Cutover {
        &self.world.config.cutover
    }

    fn name(&self, pool: PoolId) -> String {
        self.world.topology.load().pool(pool).name.clone()
    }

    fn storage(&self) -> Storage {
        self.world.topology.load().pool(self.course.from).contract.storage
    }

    async fn journal(&self, mark: Mark) -> Outcomes {
        let record = self.course.record(mark, |pool| self.name(pool));
        self.with_log(move |log| match mark {
            Mark::Adopted(_) => log.settle(&record),
            Mark::Entered(_) | Mark::Decided | Mark::Undone | Mark::Done => log.append(&record),
        })
        .await
    }

    /// The disk may block; the control plane may not.
    async fn with_log<E: std::fmt::Display + Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn DecisionLog) -> Result<(), E> + Send + 'static,
    ) -> Outcomes {
        let log = self.log.clone();
        let written = tokio::task::spawn_blocking(move || work(&mut **lock(&log)));
        match written.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!("journal: {error}")),
        }
    }

    /// A hook or a proof: its time is not our own.
    async fn external(&self, asked: impl Future<Output = Answer>) -> Outcomes {
        let _span = self.world.holds.external();
        seen(asked.await)
    }

    async fn act(&self, act: Act, side: Side) -> Outcomes {
        self.external(self.outside.act(act, self.course.pool(side))).await
    }

    // ---- Armed ----------------------------------------------------------------------------------------

    async fn arm(&self) -> Outcomes {
        self.with_log(|log| log.prepare()).await?;
        self.world.topology.set_target(Some(self.course.to));
        self.world.gate.arm(true);
        seen(self.outside.open_canaries(self.course.from).await)?;
        let until = Instant::now() + self.cutover().arm_timeout;
        self.world.registry.birth(Order::Prepare);
        let (guards, ()) = tokio::join!(self.guards(until), self.prepare(until));
        guards?;
        self.within_unmovable()
    }

    /// Asks the guards until all have passed so often in a row.
    async fn guards(&self, until: Instant) -> Outcomes {
        let mut saw = String::from("none");
        let passed = timeout_at(until, self.pass_guards(&mut saw)).await;
        self.board.waits("guards", vec![]);
        passed.map_err(|_| format!("the guards did not pass often enough in a row: {saw}"))
    }

    async fn pass_guards(&self, saw: &mut String) {
        let guards = self.checks(|check| check.guard);
        let wanted = if guards.is_empty() { 0 } else { self.cutover().guard_passes };
        let mut passes = 0;
        while passes < wanted {
            passes += 1;
            for check in &guards {
                if let Err(why) = seen(asked(&self.world, &*self.outside, check, Asking::Guard).await) {
                    (passes, *saw) = (0, why);
                }
            }
            let line = format!("guards: {passes} of {wanted} passes in a row (last refusal: {saw})");
            self.board.waits("guards", vec![line]);
            if passes < wanted {
                sleep(self.cutover().guard_interval).await;
            }
        }
    }

    /// Every session learns its view. Who has not by then cannot be moved.
    async fn prepare(&self, until: Instant) {
        let all = self.world.registry.all();
        // A connection without a login has nothing to learn; its order stands for when it has.
        let (known, unknown): (Vec<_>, Vec<_>) = all.into_iter().partition(|h| !h.info().identity.is_empty());
        for handle in unknown {
            handle.give(Order::Prepare);
        }
        let mut orders = Orders::new(Order::Prepare, self.cutover().restore_concurrency, known);
        let tell = |lines| self.board.waits("views", lines);
        let _ = timeout_at(until, orders.carry_out(&self.world.registry, tell)).await;
        let late = |h: &Arc<Handle>| (h.id, h.info().unmovable.unwrap_or_else(|| "view_unknown".into()));
        let mut book = lock(&self.book);
        book.unmovable(orders.unfinished().map(late).collect::<Vec<_>>());
        book.unmovable(orders.tally.lost);
        drop(book);
        self.board.waits("views", vec![]);
    }

    fn within_unmovable(&self) -> Outcomes {
        let allowed = match self.cutover().unmovable {
            Unmovable::Abort => 0,
            Unmovable::Upto(allowed) => allowed,
        };
        let mut book = lock(&self.book);
        let count = book.unmovable([]);
        if count <= allowed {
            return Ok(());
        }
        let reasons: Vec<String> = book.reasons().iter().map(|(why, n)| format!("{n} {why}")).collect();
        Err(format!("{count} sessions cannot be moved ({}), {allowed} are allowed", reasons.join(", ")))
    }

    // ---- Holding --------------------------------------------------------------------------------------

    fn shut(&self) -> Outcomes {
        let cutover = self.cutover();
        let share = cutover.max_hold.saturating_sub(cutover.abort_reserve);
        self.world.holds.reset();
        self.world.gate.shut(now(), share).map_err(|gate| gate.to_string())?;
        self.start_clock(share);
        let all = self.world.registry.all();
        lock(&self.book).shut(all.iter().map(|handle| handle.id).collect());
        // Whoever comes now waits at the gate; there is nothing to prepare.
        self.world.registry.birth(Order::Flow);
        self.wake_all();
        Ok(())
    }

    /// Expires the gate at its deadline, and says when `max_hold` has passed.
    pub(super) fn start_clock(&self, share: Duration) {
        let (world, words) = (self.world.clone(), self.words.clone());
        let overdue = Instant::now() + self.cutover().max_hold;
        let task = tokio::spawn(async move {
            let tell = |event| drop(words.send(Word { event, answer: None }));
            sleep(share).await;
            while let Some(left) = world.gate.left(now()) {
                if world.gate.expire(now()) {
                    world.registry.all().iter().for_each(|handle| handle.wake());
                    tell(Event::Expired);
                    break;
                }
                sleep(left.max(Duration::from_millis(1))).await;
            }
            sleep_until(overdue).await;
            if world.gate.phase() != Phase::Open {
                tell(Event::Overdue);
            }
        });
        *lock(&self.clock) = Some(Clock(task.abort_handle()));
    }

    fn wake_all(&self) {
        self.world.registry.all().iter().for_each(|handle| handle.wake());
    }

    async fn drain(&self) -> Outcomes {
        let pipes: Vec<_> =
            self.world.registry.all().into_iter().filter(|handle| handle.info().pipe).collect();
        lock(&self.book).unmovable(pipes.iter().map(|handle| (handle.id, "pipe".into())));
        for pipe in pipes {
            pipe.give(Order::End);
        }
        let until = Instant::now() + self.cutover().drain;
        let writing = |handle: &Handle| handle.word.read().writes > 0;
        self.wait_within(self.cutover().drain, writing, "sessions with unanswered writes").await?;
        // Reads that cannot linger are given the rest of the drain; they never abort.
        let reading = |handle: &Handle| self.must_leave(handle) && handle.word.read().reads > 0;
        let rest = until.saturating_duration_since(Instant::now());
        let _ = self.wait_within(rest, reading, "sessions with unanswered reads").await;
        Ok(())
    }

    /// On shared storage nobody lingers; elsewhere only reads go, where the fence would cut them.
    fn must_leave(&self, handle: &Handle) -> bool {
        let old = self.course.from;
        let cuts_reads = !self.world.topology.load().pool(old).contract.fence_keeps_reads;
        let standing = handle.word.read();
        standing.touches(old) && (one_at_a_time(self.storage()) || (cuts_reads && standing.reads > 0))
    }

    /// Waits until no session is so; fails with the names of those that still are.
    async fn wait_within(&self, limit: Duration, is: impl Fn(&Handle) -> bool, what: &str) -> Outcomes {
        let mut last = String::new();
        let tell = |lines: Vec<String>| {
            last = lines.join("; ");
            self.board.waits("sessions", lines);
        };
        let waited = timeout(limit, until_none(&self.world.registry, is, what, tell)).await;
        self.board.waits("sessions", vec![]);
        waited.map_err(|_| format!("after {limit:?} still {last}"))
    }

    /// Whoever cannot stay on the old pool goes, and its end is awaited.
    async fn leave_old(&self) -> Outcomes {
        let must_go = |handle: &Handle| self.must_leave(handle);
        let leaving: Vec<_> =
            self.world.registry.all().into_iter().filter(|handle| must_go(handle)).collect();
        let given: Vec<_> = leaving.into_iter().map(|handle| (handle.give(Order::Leave), handle)).collect();
        // The hold's deadline bounds this wait.
        let limit = self.cutover().max_hold;
        self.wait_within(limit, must_go, "sessions leaving the old pool").await?;
        // A session with a read in flight could only be closed. That is counted, and aborts nothing.
        let cut = given.iter().filter(|(number, handle)| handle.progress(*number) == Progress::Farewell);
        lock(&self.book)
            .unmovable(cut.map(|(_, handle)| (handle.id, "read_in_flight".into())).collect::<Vec<_>>());
        Ok(())
    }

    /// On the way home: on shared storage nobody may be left on the new pool.
    async fn leave_new(&self) -> Outcomes {
        if !one_at_a_time(self.storage()) {
            return Ok(());
        }
        let touches = |handle: &Handle| handle.word.read().touches(self.course.to);
        let reserve = self.cutover().abort_reserve;
        for order in [Order::Leave, Order::End] {
            for handle in self.world.registry.all().iter().filter(|handle| touches(handle)) {
                handle.give(order);
            }
            if self.wait_within(reserve, touches, "sessions leaving the new pool").await.is_ok() {
                return Ok(());
            }
        }
        Err("sessions are still on the new pool".into())
    }

    // ---- CaughtUp, Verified ---------------------------------------------------------------------------

    fn checks(&self, wanted: impl Fn(&Check) -> bool) -> Vec<Check> {
        let (from, to) = (self.name(self.course.from), self.name(self.course.to));
        let all = self.cutover().checks.iter();
        all.filter(|check| check.from == from && check.to == to && wanted(check)).cloned().collect()
    }

    fn ask_later(&self, asking: &mut JoinSet<(Answer, Check)>, check: Check, pause: Duration) {
        let (world, outside) = (self.world.clone(), self.outside.clone());
        asking.spawn(async move {
            sleep(pause).await;
            (asked(&world, &*outside, &check, Asking::Barrier).await, check)
        });
    }

    /// Each barrier has to pass once, and is asked again until it does.
    async fn barriers(&self) -> Outcomes {
        let _span = self.world.holds.external();
        let mut open: BTreeMap<String, String> = BTreeMap::new();
        let mut asking = JoinSet::new();
        for check in self.checks(|check| check.barrier) {
            open.insert(check.name.clone(), "not answered yet".into());
            self.ask_later(&mut asking, check, Duration::ZERO);
        }
        let until = Instant::now() + self.cutover().barrier;
        while !open.is_empty() {
            self.board
                .waits("barriers", open.iter().map(|(name, saw)| format!("barrier {name}: {saw}")).collect());
            let Ok(Some(Ok((answer, check)))) = timeout_at(until, asking.join_next()).await else {
                let left: Vec<String> =
                    open.into_iter().map(|(name, saw)| format!("{name}: {saw}")).collect();
                return Err(format!("barriers did not pass: {}", left.join("; ")));
            };
            match seen(answer) {
                Ok(()) => drop(open.remove(&check.name)),
                Err(saw) => {
                    open.insert(check.name.clone(), saw);
                    self.ask_later(&mut asking, check, BARRIER_PAUSE);
                }
            }
        }
        self.board.waits("barriers", vec![]);
        Ok(())
    }

    /// Sessions with held commands, and a sample of the others.
    async fn verify(&self) -> Outcomes {
        let sessions = logged_in(&self.world.registry).into_iter().filter(|(_, info)| !info.pipe);
        let (held, others): (Vec<_>, Vec<_>) = sessions.partition(|(_, info)| info.held > 0);
        let sample = others.into_iter().take(self.cutover().verify_sample);
        let chosen = held.into_iter().chain(sample).map(|(handle, _)| handle).collect();
        let mut orders = Orders::new(Order::Verify, self.cutover().restore_concurrency, chosen);
        orders.carry_out(&self.world.registry, |lines| self.board.waits("verify", lines)).await;
        self.board.waits("verify", vec![]);
        lock(&self.book).unmovable(orders.tally.lost);
        self.within_unmovable()
    }

    // ---- after the decision, and home ------------------------------------------------------------------

    fn settle(&self) -> Outcomes {
        // After the operator's word the gate may stand elsewhere, and opens from there as well.
        if let Err(gate) = self.world.gate.decided() {
            tracing::info!("decided while {gate}");
        }
        Ok(())
    }

    fn fail_stop(&self) -> Outcomes {
        // Only a decision that was being written moves; a gate that expired serves nobody either.
        if self.world.gate.fail_stop().is_ok() {
            self.wake_all();
        }
        Ok(())
    }

    fn swap(&self, new: PoolId) -> Outcomes {
        self.world.topology.swap(new);
        self.board.swapped(super::unix_ms());
        Ok(())
    }

    fn open(&self, side: Side) -> Outcomes {
        let topology = self.world.topology.load();
        debug_assert_eq!(topology.active, self.course.pool(side), "the gate opens on the active pool");
        self.world.gate.open(topology.epoch).map_err(|gate| gate.to_string())?;
        *lock(&self.clock) = None;
        lock(&self.book).opened();
        self.wake_all();
        Ok(())
    }

    /// Every session gets its backend on the active pool, in the order of who feels the wait.
    async fn attach(&self) -> Outcomes {
        let sessions = attach_order(logged_in(&self.world.registry));
        let count = sessions.len();
        let mut orders = Orders::new(Order::Attach, self.cutover().restore_concurrency, sessions);
        let limit = self.cutover().resume_within.max(self.world.config.limits.command_ceiling);
        let attached =
            timeout(limit, orders.carry_out(&self.world.registry, |lines| self.board.waits("attach", lines)))
                .await;
        self.board.waits("attach", vec![]);
        if attached.is_err() {
            self.board.alarm(format!(
                "{} sessions were not attached within {limit:?}",
                orders.unfinished().count()
            ));
        }
        let lost = orders.tally.lost;
        if lost.len() > (count / 200).max(10) {
            self.board.alarm(format!("{} of {count} sessions were refused by the active pool", lost.len()));
        }
        lock(&self.book).unmovable(lost);
        Ok(())
    }

    async fn rest(&self) -> Outcomes {
        self.world.topology.set_target(None);
        self.world.gate.arm(false);
        self.world.registry.birth(Order::Flow);
        for handle in self.world.registry.all() {
            let (number, order) = handle.order();
            // Who is late with its attach goes on with it.
            if order != Order::Attach || handle.progress(number) != Progress::Working {
                handle.give(Order::Flow);
            }
        }
        self.outside.close_canaries().await;
        Ok(())
    }

    /// Watches the old pool's fence until the time is over.
    async fn soak(&self) -> Outcomes {
        let until = Instant::now() + self.cutover().soak;
        let watch = async {
            loop {
                sleep(FENCE_WATCH).await;
                if let Answer::Fail(saw) = self.outside.refuses(self.course.from).await {
                    self.board.alarm(format!("the old pool's fence does not hold: {saw}"));
                }
            }
        };
        let _: Result<(), _> = timeout_at(until, watch).await;
        Ok(())
    }

    /// The account of how it ended, or stands.
    pub(super) fn report(&self, outcome: Outcome, reason: String) -> Report {
        let between = [self.course.from, self.course.to];
        let report = lock(&self.book).report(&self.world, self.course.id, between, outcome, reason);
        let kept = book::keep(&self.world.config.server.state_dir, &report);
        if let Err(error) = kept {
            tracing::warn!(%error, "the report was not kept");
        }
        report
    }
}
