//! The driver: carries out the machine's effects, one after the other.
//!
//! Rule: an effect that returns `Ok` has happened and was seen to; anything else is an error with what was seen.
//! Nothing is decided here.

use std::{
    collections::HashSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, sleep_until, timeout},
};

mod asking;
mod doing;
mod prewarm;
mod sessions;
#[cfg(test)]
mod tests;

pub(super) use asking::asked;

use crate::{
    checks::Answer,
    config::{Cutover, Storage},
    cutover::{
        board::Board,
        book::{self, Book},
        course::Course,
        journal::DecisionLog,
        machine::{Effect, Event, Mark, Side},
        muster::Orders,
        outside::{Act, Outside},
        types::{Outcome, Report, Stage},
    },
    gate::Phase,
    session::{
        World,
        registry::{Order, SessionId},
    },
    topology::PoolId,
};

/// The journal, for threads that may block.
pub(super) type Log = Arc<Mutex<Box<dyn DecisionLog>>>;

/// How old the proof of the fence may be when the decision is taken (design §5.2).
const FRESH: Duration = Duration::from_secs(1);

/// Something that happened while effects are carried out.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) event: Event,
    /// Who waits for what comes of it.
    pub(super) asked: Option<Asked>,
}

/// An operator who said a word.
#[derive(Debug)]
pub(super) struct Asked {
    /// His reason.
    pub(super) said: String,
    /// Told whether it had an effect; otherwise why not.
    pub(super) answer: oneshot::Sender<Result<(), &'static str>>,
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
    /// The operator's reason for the last word on which pool serves that was taken, for the journal.
    pub(super) said: Mutex<String>,
    /// Sessions for which the standby had a refusal while traffic flowed: looked at first once it counts.
    doubtful: Mutex<HashSet<SessionId>>,
    /// Sessions whom the brake keeps from the new pool.
    late: tokio::sync::Mutex<Option<Orders>>,
    /// When the old pool's fence was last proved.
    fenced_at: Mutex<Option<std::time::Instant>>,
    book: Mutex<Book>,
    clock: Mutex<Option<Clock>>,
    /// The last report on its way to the disk.
    keeping: Mutex<Option<JoinHandle<()>>>,
}

/// How long the end of a cutover waits for its report to be on the disk.
const KEPT: Duration = Duration::from_secs(2);

/// The hold's deadlines; dropped when the gate opens.
#[derive(Debug)]
struct Clock(AbortHandle);

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Carried = Result<(), String>;

fn seen(answer: Answer) -> Carried {
    match answer {
        Answer::Pass => Ok(()),
        Answer::Fail(saw) => Err(saw),
        Answer::Unknown(why) => Err(format!("unknown: {why}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// A proof is a look at the past: a process that was frozen since does not know that the fence still holds.
fn fresh(fenced_at: Option<std::time::Instant>, now: std::time::Instant) -> Carried {
    match fenced_at {
        Some(at) if now.saturating_duration_since(at) <= FRESH => Ok(()),
        Some(_) | None => Err(format!("the fence was not proved within the last {FRESH:?}")),
    }
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
        let run = Self {
            said: Mutex::default(),
            doubtful: Mutex::default(),
            late: tokio::sync::Mutex::default(),
            fenced_at: Mutex::default(),
            book: Mutex::new(Book::new(&world)),
            clock: Mutex::default(),
            keeping: Mutex::default(),
            world,
            outside,
            log,
            board,
            course,
            words,
        };
        (Arc::new(run), received)
    }

    /// Carries out effects of a state in order, up to the first that fails.
    pub(super) async fn carry_out(&self, stage: Stage, effects: Vec<Effect>) -> Event {
        for effect in effects {
            let doing = doing::Doing::begin(self, stage, effect);
            let done = self.perform(effect).await;
            drop(doing);
            if let Err(why) = done {
                tracing::warn!(cutover = self.course.id, state = stage.name(), ?effect, "{why}");
                return Event::Failed(why);
            }
            self.board.refresh();
        }
        Event::Done
    }

    async fn perform(&self, effect: Effect) -> Carried {
        let (old, new) = (self.course.from, self.course.to);
        match effect {
            Effect::Journal(mark) => self.journal(mark).await,
            Effect::Arm => self.arm().await,
            Effect::Shut => self.shut(),
            Effect::Drain => self.drain().await,
            Effect::Leave(Side::Old) => {
                self.leave_old().await?;
                // The last thing before the fence.
                self.external(self.outside.keep_canaries(old)).await
            }
            Effect::Leave(Side::New) => self.leave_new().await,
            Effect::Engage(side) => self.act(Act::Engage, side).await,
            Effect::Release(side) => self.act(Act::Release, side).await,
            Effect::Promote => self.act(Act::Promote, Side::New).await,
            Effect::ProveFenced => {
                self.external(self.outside.fenced(old, &self.unanswered())).await?;
                *lock(&self.fenced_at) = Some(now());
                Ok(())
            }
            Effect::ProveRefuses(side) => {
                let pool = self.course.pool(side);
                self.external(self.outside.refuses(pool, &self.unanswered())).await
            }
            Effect::ProveWrites(side) => self.prove_writes(side).await,
            Effect::Barriers => self.barriers().await,
            Effect::Verify => self.verify().await,
            Effect::Decide => self.decide(),
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

    async fn journal(&self, mark: Mark) -> Carried {
        let record = self.course.record(mark, &lock(&self.said), |pool| self.name(pool));
        let written = self.with_log(move |log| match mark {
            Mark::Adopted(_) => log.settle(&record),
            Mark::Entered(_) | Mark::Decided => log.append(&record),
            // After a failed write too: without it a start days later would undo what was undone long ago.
            Mark::Undone | Mark::Done => log.append(&record).or_else(|_| log.settle(&record)),
        });
        let written = written.await;
        self.board.journal(written.as_ref().err().cloned());
        written
    }

    /// The disk may block; the control plane may not.
    async fn with_log<E: std::fmt::Display + Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn DecisionLog) -> Result<(), E> + Send + 'static,
    ) -> Carried {
        let log = self.log.clone();
        let written = tokio::task::spawn_blocking(move || work(&mut **lock(&log)));
        match written.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!("journal: {error}")),
        }
    }

    /// A hook or a proof: its time is not our own.
    async fn external(&self, asked: impl Future<Output = Answer>) -> Carried {
        let _span = self.world.holds.external();
        seen(asked.await)
    }

    async fn act(&self, act: Act, side: Side) -> Carried {
        self.external(self.outside.act(act, self.course.pool(side))).await
    }

    fn shut(&self) -> Carried {
        let cutover = self.cutover();
        let share = cutover.max_hold.saturating_sub(cutover.abort_reserve);
        self.world.holds.reset();
        self.world.gate.shut(now(), share).map_err(|gate| gate.to_string())?;
        self.start_clock(share);
        // Whoever comes now waits at the gate; there is nothing to prepare.
        self.world.registry.birth(Order::Flow);
        let (mut alive, mut warm) = (Vec::new(), 0);
        self.world.registry.each(|handle| {
            let standing = handle.word.read();
            // All others look at the gate with their next command.
            if standing.listens() {
                handle.wake();
            }
            warm += usize::from(standing.spare == Some(self.course.to));
            alive.push(handle.id);
        });
        lock(&self.book).shut(alive, warm);
        Ok(())
    }

    /// Expires the gate at its deadline, and says when `max_hold` has passed.
    pub(super) fn start_clock(&self, share: Duration) {
        let (world, board, words) = (self.world.clone(), self.board.clone(), self.words.clone());
        let overdue = Instant::now() + self.cutover().max_hold;
        let task = tokio::spawn(async move {
            let tell = |event| drop(words.send(Word { event, asked: None }));
            sleep(share).await;
            while let Some(left) = world.gate.left(now()) {
                if world.gate.expire(now()) {
                    tell(Event::Expired(board.unfinished()));
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

    fn decide(&self) -> Carried {
        let now = now();
        fresh(*lock(&self.fenced_at), now)?;
        self.world.gate.decide(now).map_err(|gate| format!("too late: {gate}"))
    }

    fn settle(&self) -> Carried {
        // After the operator's word the gate may stand elsewhere, and opens from there as well.
        if let Err(gate) = self.world.gate.decided() {
            tracing::info!("decided while {gate}");
        }
        Ok(())
    }

    fn fail_stop(&self) -> Carried {
        // Only a decision that was being written moves; a gate that expired serves nobody either.
        let _: Result<_, _> = self.world.gate.fail_stop();
        Ok(())
    }

    fn swap(&self, new: PoolId) -> Carried {
        self.world.topology.swap(new);
        self.board.swapped(super::unix_ms());
        Ok(())
    }

    fn open(&self, side: Side) -> Carried {
        let topology = self.world.topology.load();
        debug_assert_eq!(topology.active, self.course.pool(side), "the gate opens on the active pool");
        self.world.gate.open(topology.epoch).map_err(|gate| gate.to_string())?;
        *lock(&self.clock) = None;
        lock(&self.book).opened();
        // Nobody is woken: whoever waits has its turn in the attach that follows.
        Ok(())
    }

    /// The account of how it ended, or stands. A disk that hangs keeps nobody from it: the file follows.
    pub(super) fn report(&self, outcome: Outcome, reason: String) -> Report {
        let between = [self.course.from, self.course.to];
        let report = lock(&self.book).report(&self.world, self.course.id, between, outcome, reason);
        let (dir, kept) = (self.world.config.server.state_dir.clone(), report.clone());
        let mut keeping = lock(&self.keeping);
        let before = keeping.take();
        *keeping = Some(tokio::spawn(async move {
            // They have one name, and the last one stays.
            if let Some(before) = before {
                let _ = before.await;
            }
            match tokio::task::spawn_blocking(move || book::keep(&dir, &kept)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the report was not kept"),
                Err(error) => tracing::warn!(%error, "the report was not kept"),
            }
        }));
        report
    }

    /// Returns when the reports are kept, or that takes too long.
    pub(super) async fn kept(&self) {
        let keeping = lock(&self.keeping).take();
        if let Some(keeping) = keeping {
            let _ = timeout(KEPT, keeping).await;
        }
    }
}
