//! Every session by its id: what it holds, what it was told to do, how far it is.
//!
//! Rule: the cutover writes `order`, the session writes everything else; both are levels, never messages, so
//! nothing is lost when one comes twice or too early.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

use atomic_waker::AtomicWaker;
use tokio::sync::Notify;

use crate::gate::Word;

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
    registry_progress: Arc<Notify>,
}

const ORDERS: [Order; 6] =
    [Order::Flow, Order::Prepare, Order::Leave, Order::Verify, Order::Attach, Order::End];
const PROGRESS: [Progress; 4] = [Progress::Working, Progress::Done, Progress::Refused, Progress::Farewell];

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

    /// Says how far order `number` is; wakes whoever waits on [`Registry::progressed`].
    pub fn report(&self, number: u64, progress: Progress) {
        self.progress.store(number << 8 | progress as u64, Ordering::Release);
        self.registry_progress.notify_one();
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

    /// Tells whoever waits on [`Registry::progressed`] that a word changed.
    pub fn word_changed(&self) {
        self.registry_progress.notify_one();
    }

    /// A copy of what the session says about itself.
    pub fn info(&self) -> Info {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what the session says about itself.
    pub fn describe(&self, change: impl FnOnce(&mut Info)) {
        change(&mut self.info.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

const SHARDS: usize = 16;

/// All sessions of the process.
#[derive(Debug, Default)]
pub struct Registry {
    shards: [Mutex<HashMap<SessionId, Arc<Handle>>>; SHARDS],
    next: AtomicU64,
    /// The order that sessions which begin now are born with.
    birth: AtomicU8,
    progress: Arc<Notify>,
}

impl Registry {
    /// Enters a new session.
    pub fn enter(self: &Arc<Self>, peer: SocketAddr, listener: Arc<str>) -> Entry {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let handle = Arc::new(Handle {
            id,
            peer,
            listener,
            since: Instant::now(),
            word: Word::default(),
            order: AtomicU64::new(u64::from(self.birth.load(Ordering::Acquire))),
            progress: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            due: AtomicU64::new(u64::MAX),
            late: AtomicBool::new(false),
            info: Mutex::default(),
            registry_progress: self.progress.clone(),
        });
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).insert(id, handle.clone());
        Entry { handle, registry: self.clone() }
    }

    /// Every session that is alive now.
    pub fn all(&self) -> Vec<Arc<Handle>> {
        let lock = |s: &Mutex<HashMap<_, Arc<Handle>>>| -> Vec<Arc<Handle>> {
            s.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
        };
        self.shards.iter().flat_map(lock).collect()
    }

    /// Wakes every session whose time has come.
    pub fn sweep(&self, now: Instant) {
        for handle in self.all() {
            let age = u128::from(handle.due.load(Ordering::Relaxed));
            if now.saturating_duration_since(handle.since).as_millis() >= age {
                handle.late.store(true, Ordering::Relaxed);
                handle.wake();
            }
        }
    }

    /// One session.
    pub fn get(&self, id: SessionId) -> Option<Arc<Handle>> {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// How many sessions are alive.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The order that sessions which begin from now on are born with.
    pub fn birth(&self, order: Order) {
        self.birth.store(order as u8, Ordering::Release);
    }

    /// Resolves after any session reported progress, changed its word while asked to, or ended. One waiter.
    pub async fn progressed(&self) {
        self.progress.notified().await;
    }

    fn shard(&self, id: SessionId) -> &Mutex<HashMap<SessionId, Arc<Handle>>> {
        &self.shards[(id.0 as usize) % SHARDS]
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
        self.registry.shard(id).lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.registry.progress.notify_one();
    }
}
