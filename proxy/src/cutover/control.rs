//! The cutover as its operator has it in hand: status, plan, start, abort, adopt, report.
//!
//! Rule: one cutover at a time, run by one task; whoever asks for something is told at once whether it has an
//! effect.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    cutover::{
        board::Board,
        book,
        course::{Course, terms},
        driver::{Asked, Log, Run, Word},
        journal::{DecisionLog, Recovered},
        machine::{Effect, Event, Reaction, Side, State, Stuck},
        outside::{Live, Outside},
        plan,
        types::{Outcome, Plan, Refusal, Report, Stage, Status},
    },
    gate::Phase,
    session::World,
    topology::PoolId,
};

/// Of an operator's reason, so that it fits into a record.
const LONGEST_REASON: usize = 500;
/// Between two tries of the last record of a cutover.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// The control of cutovers.
#[derive(Debug)]
pub struct Control {
    world: Arc<World>,
    outside: Arc<dyn Outside>,
    log: Log,
    board: Arc<Board>,
    /// Whoever starts a cutover, so that there is one.
    turn: tokio::sync::Mutex<()>,
    /// The process is to end.
    closed: Mutex<bool>,
    last_id: AtomicU64,
    recovered: Mutex<Option<Recovered>>,
    running: Mutex<Option<Arc<Run>>>,
    last: Mutex<Option<Report>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a future came to, or what it said when it panicked.
async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        polled.map_or_else(|panic| Poll::Ready(Err(words_of(&*panic))), |polled| polled.map(Ok))
    })
    .await
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let fixed = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    fixed
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".into())
}

/// A state that is entered, and why it turned back.
fn log(cutover: u64, state: &State) {
    let name = state.stage().name();
    let Some(reason) = state.turned_back() else {
        tracing::info!(cutover, state = name, "cutover");
        return;
    };
    if let State::Limbo(_, _, needs) = state {
        tracing::error!(cutover, state = name, %reason, needs, "cutover");
    } else {
        tracing::warn!(cutover, state = name, %reason, "cutover");
    }
}

/// Writes the last record of a cutover that is over, once that is possible. Nothing else is written meanwhile: there is no
/// GO while the journal fails.
async fn write_again(run: &Run, unwritten: Option<Effect>) {
    let Some(record) = unwritten else { return };
    loop {
        tokio::time::sleep(WRITE_AGAIN).await;
        if run.carry_out(Stage::Idle, vec![record]).await == Event::Done {
            return;
        }
    }
}

impl Control {
    /// The control of a world, with the journal that says what it is to begin with.
    pub fn new(world: Arc<World>, journal: impl DecisionLog + 'static, recovered: Recovered) -> Arc<Self> {
        let outside = Arc::new(Live::new(world.clone()));
        Self::with(world, outside, Box::new(journal), recovered)
    }

    pub(super) fn with(
        world: Arc<World>,
        outside: Arc<dyn Outside>,
        log: Box<dyn DecisionLog>,
        recovered: Recovered,
    ) -> Arc<Self> {
        let (last, number) = book::latest(&world.config.server.state_dir);
        Arc::new(Self {
            outside,
            log: Arc::new(Mutex::new(log)),
            board: Arc::new(Board::new(world.clone(), recovered.active_since_ms)),
            world,
            turn: tokio::sync::Mutex::default(),
            closed: Mutex::default(),
            // A journal that was begun anew does not write over what was.
            last_id: AtomicU64::new(recovered.last_id.max(number)),
            recovered: Mutex::new(Some(recovered)),
            running: Mutex::default(),
            last: Mutex::new(last),
        })
    }

    /// Undoes or completes what the journal shows unfinished. Returns when that is done, or stuck in Limbo and
    /// going on; to be called before anybody is listened to.
    pub async fn recover(self: &Arc<Self>) {
        let Some(recovered) = lock(&self.recovered).take() else { return };
        let Some(unfinished) = &recovered.unfinished else { return };
        let course = Course::resumed(unfinished, recovered.epoch, &self.world.config);
        tracing::warn!(
            cutover = course.id,
            state = unfinished.stage.name(),
            "taking up an unfinished cutover"
        );
        let begin = match unfinished.decided {
            Some(Side::New) => State::decided(unfinished.terms),
            None if recovered.undecided => State::in_doubt(unfinished.terms),
            None | Some(Side::Old) => State::restarted(unfinished.terms, unfinished.stage),
        };
        let mut changes = self.watch();
        if begin.0.stage() == Stage::Soaking {
            self.run(course, begin);
        } else {
            // Nobody is served before the pool that shall serve is proved to write.
            let now = tokio::time::Instant::now().into_std();
            if let Err(gate) = self.world.gate.shut(now, Duration::ZERO) {
                tracing::error!("the gate of a new process should be open: {gate}");
            }
            self.run(course, begin).start_clock(Duration::ZERO);
        }
        let settled = |status: &Status| {
            status.cutover.is_none() || matches!(status.state, Stage::Soaking | Stage::Limbo)
        };
        let _ = changes.wait_for(settled).await;
    }

    /// Where things stand.
    pub fn status(&self) -> Status {
        self.board.status()
    }

    /// The same at every change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.board.watch()
    }

    /// The account of the last cutover that ended or is stuck.
    pub fn report(&self) -> Option<Report> {
        lock(&self.last).clone()
    }

    /// What speaks for and against a cutover to this pool.
    pub async fn plan(&self, to: &str) -> Result<Plan, Refusal> {
        let between = plan::pools(&self.world.topology.load(), to)?;
        Ok(plan::plan(&self.world, &*self.outside, &self.course(between), &self.status()).await)
    }

    /// Starts a cutover if its plan says GO. Its number.
    pub async fn start(self: &Arc<Self>, to: &str) -> Result<u64, Refusal> {
        let Ok(_turn) = self.turn.try_lock() else {
            return Err(Refusal::new("another start is being looked at", "wait for it"));
        };
        let plan = self.plan(to).await?;
        if !plan.go {
            return Err(plan.refusal());
        }
        self.end_soak().await?;
        let mut course = self.course(plan::pools(&self.world.topology.load(), to)?);
        // Held until the cutover has begun: whoever closes sees it, or it does not begin.
        let closed = lock(&self.closed);
        if *closed {
            return Err(Refusal::new("bascule is stopping", ""));
        }
        course.id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (id, terms) = (course.id, course.terms);
        self.run(course, State::Idle.step(Event::Start(terms)));
        Ok(id)
    }

    /// From here on no cutover begins, also none that is being planned.
    pub fn close(&self) {
        *lock(&self.closed) = true;
    }

    /// Goes back to the old pool, if the decision has not been taken.
    pub async fn abort(&self, reason: &str) -> Result<(), Refusal> {
        let event = Event::Abort(reason.into());
        let refused = |why| Refusal::new(why, "`bascule status` says where things stand");
        // What ends just now hears no word any more.
        if let (_, Reaction::Refuse(why)) = self.board.state().step(event.clone()) {
            return Err(refused(why));
        }
        self.tell(event, "").await?.map_err(refused)
    }

    /// The operator's word on which pool serves, while a cutover is stuck. Returns when it is carried out as far
    /// as it can be.
    pub async fn adopt(&self, pool: &str, reason: &str) -> Result<(), Refusal> {
        let side = self.side(pool)?;
        tracing::warn!(pool, reason, "adopt");
        let mut changes = self.watch();
        let refused = |why| Refusal::new(why, "`bascule status` says what it needs");
        self.tell(Event::Adopt(side), reason).await?.map_err(refused)?;
        loop {
            changes.borrow_and_update();
            let State::Limbo(_, stuck, needs) = self.board.state() else { return Ok(()) };
            match (stuck, side) {
                (Stuck::Recording(_) | Stuck::Adopting(_), _) => {}
                (Stuck::Home(_), Side::Old) => {}
                // Tried, and still stuck.
                (Stuck::Pausing(_), Side::Old) => {
                    let instead = format!(
                        "it is tried again by itself; where that cannot succeed: stop bascule, see to it that one pool \
                         cannot write, then `bascule cutover adopt {pool} --reason TEXT --unproved`, and start it"
                    );
                    return Err(Refusal::new(needs, instead));
                }
                (Stuck::Home(_) | Stuck::Pausing(_), Side::New) | (Stuck::Asks(_), _) => {
                    return Err(Refusal::new(needs, "repair that and say it again"));
                }
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    fn side(&self, pool: &str) -> Result<Side, Refusal> {
        let topology = self.world.topology.load();
        let running = lock(&self.running).clone();
        let Some(run) = running else {
            let instead = "to change the active pool, start a cutover; to repair the journal by hand, stop bascule first";
            return Err(Refusal::new("no cutover is stuck", instead));
        };
        match topology.find(pool) {
            Some(id) if id == run.course.from => Ok(Side::Old),
            Some(id) if id == run.course.to => Ok(Side::New),
            Some(_) | None => Err(Refusal::new(format!("{pool:?} is no pool of this cutover"), "")),
        }
    }

    /// Hands the operator's word to the cutover that runs; what it says to it.
    async fn tell(&self, event: Event, said: &str) -> Result<Result<(), &'static str>, Refusal> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { said: said.chars().take(LONGEST_REASON).collect(), answer };
        let word = Word { event, asked: Some(asked) };
        let sent = lock(&self.running).as_ref().is_some_and(|run| run.words.send(word).is_ok());
        if !sent {
            return Err(Refusal::new("no cutover runs", ""));
        }
        answered.await.map_err(|_| Refusal::new("the cutover was over before it heard that", ""))
    }

    async fn end_soak(&self) -> Result<(), Refusal> {
        let mut changes = self.watch();
        if self.board.state().stage() == Stage::Soaking {
            let _ = self.tell(Event::Finish, "").await;
            let _ = changes.wait_for(|status| status.state == Stage::Idle).await;
        }
        // The last run has its records to write.
        while lock(&self.running).is_some() {
            if self.board.state().stage() != Stage::Idle || changes.changed().await.is_err() {
                return Err(Refusal::new("another cutover is not over yet", "wait for it"));
            }
        }
        Ok(())
    }

    fn course(&self, [from, to]: [PoolId; 2]) -> Course {
        let topology = self.world.topology.load();
        let (old, new) = (topology.pool(from), topology.pool(to));
        let (id, epoch) = (self.last_id.load(Ordering::Relaxed), topology.epoch);
        let (reverse, storage) = (new.contract.reverse, new.contract.storage);
        Course { id, from, to, epoch, terms: terms(old, new), reverse, storage, since_ms: super::unix_ms() }
    }

    /// Runs a cutover from a state on, in a task of its own.
    fn run(self: &Arc<Self>, course: Course, begin: (State, Reaction)) -> Arc<Run> {
        let (world, outside, log) = (self.world.clone(), self.outside.clone(), self.log.clone());
        let (run, words) = Run::new(world, outside, log, self.board.clone(), course);
        *lock(&self.running) = Some(run.clone());
        self.board.begin(&run.course);
        // Before the task runs: whoever waits for the end must not take the state before the beginning for it.
        self.enter(&run, &begin.0);
        let (control, task) = (self.clone(), run.clone());
        let (mut begin, mut words) = (begin, words);
        tokio::spawn(async move {
            let unwritten = loop {
                match unless_it_panics(control.conduct(&task, begin, &mut words)).await {
                    Ok(unwritten) => break unwritten,
                    Err(what) => begin = control.after_panic(&task, what).await,
                }
            };
            task.kept().await;
            *lock(&control.running) = None;
            control.board.enter(&State::Idle);
            write_again(&task, unwritten).await;
        });
        run
    }

    /// A mistake of ours must not leave a gate shut that nobody moves any more. What to go on with.
    async fn after_panic(&self, run: &Run, what: String) -> (State, Reaction) {
        tracing::error!(cutover = run.course.id, what, "a cutover panicked");
        let mut before = self.board.state();
        if let (State::Verified(terms), Phase::Deciding) = (&before, self.world.gate.phase()) {
            // The gate's word is the first step of the decision.
            before = State::Deciding(*terms);
        }
        let next = before.clone().step(Event::Panicked(format!("a mistake in bascule: {what}")));
        self.enter(run, &next.0);
        tokio::time::sleep(self.world.config.cutover.guard_interval).await;
        next
    }

    /// Up to the end of the cutover. Its last record, where that could not be written.
    async fn conduct(
        &self,
        run: &Run,
        (mut state, mut reaction): (State, Reaction),
        words: &mut mpsc::UnboundedReceiver<Word>,
    ) -> Option<Effect> {
        loop {
            let effects = match reaction {
                Reaction::Go(effects) => effects,
                Reaction::Stay | Reaction::Refuse(_) => vec![],
            };
            if state == State::Idle {
                // Nothing can call these off, and the cutover is over whatever becomes of them.
                let last = effects.last().copied();
                let ended = run.carry_out(Stage::Idle, effects).await;
                self.account(run, &state);
                let topology = self.world.topology.load();
                tracing::info!(
                    cutover = run.course.id,
                    state = "idle",
                    active = topology.active().name,
                    "cutover"
                );
                return last.filter(|_| ended != Event::Done);
            }
            self.enter(run, &state);
            (state, reaction) = self.next(run, state, effects, words).await;
        }
    }

    /// Carries out a state's effects until something leads away from them.
    async fn next(
        &self,
        run: &Run,
        mut state: State,
        effects: Vec<Effect>,
        words: &mut mpsc::UnboundedReceiver<Word>,
    ) -> (State, Reaction) {
        let work = run.carry_out(state.stage(), effects);
        tokio::pin!(work);
        let mut working = true;
        loop {
            let (event, asked) = tokio::select! {
                biased;
                Some(word) = words.recv() => (word.event, word.asked),
                event = &mut work, if working => {
                    working = false;
                    (event, None)
                }
                else => return (State::Idle, Reaction::Stay),
            };
            let adopts = matches!(event, Event::Adopt(_));
            let (next, reaction) = state.clone().step(event);
            if let Some(asked) = asked {
                let taken = if let Reaction::Refuse(why) = reaction { Err(why) } else { Ok(()) };
                if adopts && taken.is_ok() {
                    *lock(&run.said) = asked.said;
                    // Whoever asked looks at what it led to, not at what was before.
                    self.enter(run, &next);
                }
                let _ = asked.answer.send(taken);
            }
            match reaction {
                Reaction::Go(_) => return (next, reaction),
                Reaction::Stay | Reaction::Refuse(_) if next != state => {
                    self.enter(run, &next);
                    state = next;
                }
                Reaction::Stay | Reaction::Refuse(_) => {}
            }
        }
    }

    fn enter(&self, run: &Run, state: &State) {
        if self.board.state().stage() != state.stage() {
            log(run.course.id, state);
        }
        self.account(run, state);
        self.board.enter(state);
    }

    /// Keeps the report where a cutover comes to an end of some kind with this state, which the board does not show yet.
    fn account(&self, run: &Run, state: &State) {
        let before = &self.board.state();
        let returned = |state: &State| state.turned_back().map(|reason| reason.to_string());
        let (was, is) = (before.stage(), state.stage());
        let (outcome, reason) = if is == Stage::Soaking && was == Stage::Resuming {
            (Outcome::Done, String::new())
        } else if let Some(reason) = returned(state).filter(|_| is == Stage::Limbo && was != Stage::Limbo) {
            (Outcome::Limbo, reason)
        } else if let Some(reason) = returned(before).filter(|_| is == Stage::Idle) {
            (Outcome::Aborted, reason)
        } else {
            return;
        };
        let ended = match outcome {
            Outcome::Done => "switched",
            Outcome::Aborted => "aborted",
            Outcome::Limbo => "limbo",
        };
        run.world.metrics.cutovers.count(ended);
        let report = run.report(outcome, reason);
        let Report { id, reason, pause_ms, .. } = &report;
        tracing::info!(cutover = id, outcome = ended, reason, gate_shut_ms = pause_ms, "cutover");
        *lock(&self.last) = Some(report);
    }
}
