//! Every session by its id: what it holds, what it was told to do, how far it is.
//!
//! Rule: the cutover writes `order`, the session writes everything else; both are levels, never messages, so
//! nothing is lost when one comes twice or too early.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

use atomic_waker::AtomicWaker;
use tokio::sync::Notify;

use crate::{
    config::Protocol,
    gate::{Standing, Word},
};

/// Sessions that changed, for the one who waits for them.
#[derive(Debug, Default)]
struct News {
    /// Since it was last asked; `None`: nobody watches. Behind a lock, so that a change is either in it or was
    /// there before the watch began.
    changed: Mutex<Option<Vec<SessionId>>>,
    told: Notify,
}

impl News {
    fn tell(&self, id: SessionId) {
        if let Some(changed) = &mut *self.lock() {
            changed.push(id);
            self.told.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<SessionId>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names a session for its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct SessionId(pub u64);

/// What a session has been told to do; it works on it until its [`Progress`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Nothing beyond its client's commands. Spare connections are given back.
    Flow,
    /// Learn the view of the selected mailbox and keep it; dial the standby where the contract allows.
    Prepare,
    /// The same, and log in to the standby and look at the mailbox there; keep the connection.
    Prewarm,
    /// End every backend connection with LOGOUT and see the end. Reads that run are cut: the client's
    /// connection is closed without BYE.
    Leave,
    /// Log in to the standby, EXAMINE there, compare; keep the connection.
    Verify,
    /// Connect to the active pool, SELECT, reconcile, release what is held.
    Attach,
    /// Say farewell and end.
    End,
}

/// How far a session is with its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[repr(u8)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not there yet.
    Working,
    /// The order is carried out.
    Done,
    /// It cannot be; [`Handle::info`] says why. The session is alive.
    Refused,
    /// It could not be now, and may be asked again: a server that is not able to.
    Later,
    /// It could not be; the session got its farewell.
    Farewell,
}

/// What a session is, for lists and reports.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Info {
    /// Canonical login name; empty before the login.
    pub identity: String,
    /// The selected mailbox as the client named it.
    pub mailbox: Option<String>,
    /// Whether the client is in IDLE.
    pub idle: bool,
    /// Commands held at the gate.
    pub held: usize,
    /// Upload in progress: bytes received and announced.
    pub upload: Option<(u64, u64)>,
    /// Only bytes pass: cannot move.
    pub pipe: bool,
    /// Why the session cannot move, or why its order was refused.
    pub unmovable: Option<String>,
}

/// One session as others see it.
#[derive(Debug)]
pub struct Handle {
    /// Its id.
    pub id: SessionId,
    /// The client's address.
    pub peer: SocketAddr,
    /// The listener's name.
    pub listener: Arc<str>,
    /// What it speaks.
    pub protocol: Protocol,
    /// When it was accepted.
    pub since: Instant,
    /// Asked at the gate.
    pub word: Word,
    order: AtomicU64,
    progress: AtomicU64,
    waker: AtomicWaker,
    /// Milliseconds after `since` at which the session wants to be woken; `u64::MAX`: never.
    due: AtomicU64,
    late: AtomicBool,
    info: Mutex<Info>,
    news: Arc<News>,
}

const ORDERS: [Order; 7] =
    [Order::Flow, Order::Prepare, Order::Prewarm, Order::Leave, Order::Verify, Order::Attach, Order::End];
const PROGRESS: [Progress; 5] =
    [Progress::Working, Progress::Done, Progress::Refused, Progress::Later, Progress::Farewell];

impl Handle {
    /// What the session should be doing, with the order's number: each order given has a new one.
    pub fn order(&self) -> (u64, Order) {
        let word = self.order.load(Ordering::Acquire);
        (word >> 8, ORDERS[(word & 0xff) as usize % ORDERS.len()])
    }

    /// Gives an order and wakes the session. Returns the order's number.
    pub fn give(&self, order: Order) -> u64 {
        let mut number = 0;
        let _ = self.order.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            number = (word >> 8) + 1;
            Some(number << 8 | order as u64)
        });
        self.waker.wake();
        number
    }

    /// Says how far order `number` is; news for whoever watches.
    pub fn report(&self, number: u64, progress: Progress) {
        self.progress.store(number << 8 | progress as u64, Ordering::Release);
        self.news.tell(self.id);
    }

    /// How far order `number` is.
    pub fn progress(&self, number: u64) -> Progress {
        let word = self.progress.load(Ordering::Acquire);
        if word >> 8 == number {
            PROGRESS[(word & 0xff) as usize % PROGRESS.len()]
        } else {
            Progress::Working
        }
    }

    /// Wakes the session so that it looks at the gate again.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Resolves when the session was woken; the caller then looks at the gate and at [`Self::order`].
    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// When the session wants to be woken at the latest. A number instead of a timer: one sweeper looks at all
    /// of them ([`Registry::sweep`]).
    pub fn due(&self, at: Option<Instant>) {
        let millis = at.map_or(u64::MAX, |at| {
            u64::try_from(at.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
        });
        self.due.store(millis, Ordering::Relaxed);
        self.late.store(false, Ordering::Relaxed);
    }

    /// Whether the time given to [`Self::due`] has come, as the sweeper saw it: no session reads the clock for it.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// What has become of commands and connections: `now`, after `before`. `flows`: nobody watches.
    pub fn stand(&self, before: &mut Standing, now: Standing, flows: bool) {
        if now == *before {
            return;
        }
        let begins = now.waits && !before.waits;
        *before = now;
        if begins {
            self.word.wait(now);
        } else {
            self.word.set(now);
        }
        if !flows {
            self.word_changed();
        }
    }

    /// Tells whoever watches that the word changed.
    pub fn word_changed(&self) {
        self.news.tell(self.id);
    }

    /// A copy of what the session says about itself.
    pub fn info(&self) -> Info {
        self.inspect(Info::clone)
    }

    /// Looks at what the session says about itself.
    pub fn inspect<T>(&self, look: impl FnOnce(&Info) -> T) -> T {
        look(&self.info.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what the session says about itself.
    pub fn describe(&self, change: impl FnOnce(&mut Info)) {
        change(&mut self.info.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

const SHARDS: usize = 16;

type Shard = Mutex<HashMap<SessionId, Arc<Handle>>>;

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<SessionId, Arc<Handle>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All sessions of the process.
#[derive(Debug, Default)]
pub struct Registry {
    shards: [Shard; SHARDS],
    next: AtomicU64,
    /// The order that sessions which begin now are born with.
    birth: AtomicU8,
    news: Arc<News>,
    ended: Notify,
}

impl Registry {
    /// Enters a new session.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr, listener: Arc<str>, protocol: Protocol) -> Entry {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        // Whoever changes the order of birth and then looks at every session finds this one, or it is born with it.
        let mut shard = lock(self.shard(id));
        let handle = Arc::new(Handle {
            id,
            peer,
            listener,
            protocol,
            since: Instant::now(),
            word: Word::default(),
            order: AtomicU64::new(u64::from(self.birth.load(Ordering::Acquire))),
            progress: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            due: AtomicU64::new(u64::MAX),
            late: AtomicBool::new(false),
            info: Mutex::default(),
            news: self.news.clone(),
        });
        shard.insert(id, handle.clone());
        drop(shard);
        Entry { handle, registry: self.clone() }
    }

    /// Every session that is alive now.
    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.select(|_| true)
    }

    /// Every session that is alive now and as wished.
    pub fn select(&self, wished: impl Fn(&Handle) -> bool) -> Vec<Arc<Handle>> {
        let mut chosen = Vec::new();
        self.each(|handle| {
            if wished(handle) {
                chosen.push(handle.clone());
            }
        });
        chosen
    }

    /// Looks at every session that is alive now. Others that come or go wait meanwhile.
    pub fn each(&self, mut look: impl FnMut(&Arc<Handle>)) {
        for shard in &self.shards {
            lock(shard).values().for_each(&mut look);
        }
    }

    /// Wakes every session whose time has come.
    pub fn sweep(&self, now: Instant) {
        self.each(|handle| {
            let age = u128::from(handle.due.load(Ordering::Relaxed));
            if now.saturating_duration_since(handle.since).as_millis() >= age {
                handle.late.store(true, Ordering::Relaxed);
                handle.wake();
            }
        });
    }

    /// One session.
    pub fn get(&self, id: SessionId) -> Option<Arc<Handle>> {
        lock(self.shard(id)).get(&id).cloned()
    }

    /// How many sessions are alive.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The order that sessions which begin from now on are born with.
    pub fn birth(&self, order: Order) {
        self.birth.store(order as u8, Ordering::Release);
    }

    /// Whether sessions are told to end as soon as they begin: the process does.
    pub fn is_ending(&self) -> bool {
        self.birth.load(Ordering::Acquire) == Order::End as u8
    }

    /// From now on every change is kept for whoever asks. One watch at a time: a second one ends the first.
    pub fn watch(&self) -> Watch<'_> {
        *self.news.lock() = Some(Vec::new());
        Watch(self)
    }

    /// Resolves after a session has ended. One waiter.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    fn shard(&self, id: SessionId) -> &Shard {
        &self.shards[(id.0 as usize) % SHARDS]
    }
}

/// A look at the sessions that change, as long as it lives.
#[derive(Debug)]
pub struct Watch<'a>(&'a Registry);

impl Watch<'_> {
    /// Sessions that reported progress, changed their word while the gate kept them, or ended, since this was
    /// last asked; waits for the first. One may be named twice.
    pub async fn next(&mut self) -> Vec<SessionId> {
        loop {
            let changed = self.0.news.lock().as_mut().map(std::mem::take).unwrap_or_default();
            if !changed.is_empty() {
                return changed;
            }
            self.0.news.told.notified().await;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.news.lock() = None;
    }
}

/// A session's place in the registry; leaving it is dropping it.
#[derive(Debug)]
pub struct Entry {
    /// The session's own handle.
    pub handle: Arc<Handle>,
    registry: Arc<Registry>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let id = self.handle.id;
        lock(self.registry.shard(id)).remove(&id);
        self.registry.news.tell(id);
        self.registry.ended.notify_one();
    }
}
