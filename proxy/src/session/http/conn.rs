//! One client connection: its requests in flight, what it was told to do, its deadlines.
//!
//! Rule: every request that may reach a pool stands in the connection's word from before it is sent until it is
//! answered. A write counts from its last byte on; a body that is still coming is a read that can be begun again.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bascule_protocols::http::framing::Refused;
use pingora_proxy::Session;
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use super::{flight::Flying, guards::Coming};
use crate::{
    config::{HttpLimits, Storage},
    gate::Standing,
    net::stream::Leg,
    session::{
        World,
        door::Door,
        registry::{Entry, Order, Progress},
    },
    topology::Epoch,
};

/// A client connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) door: Arc<Door>,
    pub(super) entry: Entry,
    /// Whether the client came with TLS.
    pub(super) secure: bool,
    /// The address that it came to.
    pub(super) local: Option<SocketAddr>,
    /// It speaks HTTP/2: heads come in frames.
    pub(super) two: bool,
    /// Its client is known to servers by the connection: those to them are shared with nobody.
    pub(super) bound: AtomicBool,
    /// Told when something changed that a request may wait for.
    pub(super) moved: Notify,
    /// No more requests on this connection.
    closing: AtomicBool,
    /// How pingora hears of that where a connection has many requests at once.
    goaway: OnceLock<watch::Sender<bool>>,
    state: Mutex<State>,
    /// Whether the gate admitted what the topology has, when last looked at.
    flowed: AtomicBool,
    /// The last order that was looked at, and the last that was reported.
    pub(super) seen: AtomicU64,
    pub(super) reported: AtomicU64,
}

/// What changes on a connection.
#[derive(Debug)]
pub(super) struct State {
    pub(super) flights: SmallVec<[Flying; 1]>,
    /// The next number of a request or a body.
    pub(super) next: u64,
    /// Requests that wait for the gate or for a server.
    pub(super) waiting: u16,
    /// Streams that were open and have no server now: nobody waits for them.
    pub(super) adrift: u16,
    /// Requests whose head is whole.
    pub(super) open: u32,
    /// When the last one ended, or the connection began.
    pub(super) last: Instant,
    /// When the first byte of the next one came.
    pub(super) begun: Option<Instant>,
    /// Bodies that are still coming.
    pub(super) bodies: SmallVec<[Coming; 1]>,
    /// Told with GOAWAY that it has been idle for too long.
    pub(super) idle: bool,
    /// The last request is over, and nothing of it left to do.
    pub(super) rests: bool,
    /// Nobody has asked for anything for a while: it is to be parked.
    pub(super) away: bool,
    /// When the gate was seen shut.
    pub(super) shut: Option<Instant>,
}

impl Conn {
    pub(super) fn new(door: Arc<Door>, entry: Entry, client: &Leg) -> Arc<Self> {
        let secure = matches!(client, Leg::Tls(_));
        let two = matches!(client, Leg::Tls(tls) if tls.alpn() == Some(b"h2"));
        let local = client.tcp().local_addr().ok();
        let state = State {
            flights: SmallVec::new(),
            next: 0,
            waiting: 0,
            adrift: 0,
            open: 0,
            last: Instant::now(),
            begun: None,
            bodies: SmallVec::new(),
            idle: false,
            rests: true,
            away: false,
            shut: None,
        };
        let conn = Arc::new(Self {
            door,
            entry,
            secure,
            local,
            two,
            bound: AtomicBool::new(false),
            moved: Notify::new(),
            closing: AtomicBool::new(false),
            goaway: OnceLock::new(),
            state: Mutex::new(state),
            flowed: AtomicBool::new(true),
            seen: AtomicU64::new(u64::MAX),
            reported: AtomicU64::new(u64::MAX),
        });
        conn.schedule(&conn.state());
        conn
    }

    /// Whose connection a session of pingora's is on.
    pub(super) fn of(session: &Session) -> Option<Arc<Self>> {
        let digest = session.as_ref().digest()?.proxy_digest.as_ref()?;
        digest.user_data.as_ref()?.downcast_ref::<Arc<Self>>().cloned()
    }

    pub(super) fn world(&self) -> &Arc<World> {
        &self.door.world
    }

    pub(super) fn limits(&self) -> &HttpLimits {
        &self.world().config.limits.http
    }

    /// Whether no more requests are taken.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Tells of the end of an HTTP/2 connection.
    pub(super) fn goaway(&self) -> watch::Receiver<bool> {
        let sender = self.goaway.get_or_init(|| watch::Sender::new(false));
        if self.is_closing() {
            sender.send_replace(true);
        }
        sender.subscribe()
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        if let Some(sender) = self.goaway.get() {
            sender.send_replace(true);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the gate admits what the topology has now.
    pub(super) fn admitted(&self) -> bool {
        self.world().gate.admits(self.world().topology.load().epoch)
    }

    // ---- requests ---------------------------------------------------------------------------------------

    /// Tells the word what is the case now.
    pub(super) fn say(&self, state: &State) {
        // With the fence: a gate that shuts meanwhile is seen here, or sees this.
        self.entry.handle.word.wait(state.standing());
        if !self.admitted() {
            self.entry.handle.word_changed();
        }
    }

    /// Resolves when what came to a pool in this epoch is to leave it: it was told to, another pool serves, or the process
    /// ends.
    pub(super) async fn leaves(&self, epoch: Epoch) {
        loop {
            let moved = self.moved.notified();
            let mut moved = std::pin::pin!(moved);
            moved.as_mut().enable();
            if self.is_leaving(epoch) {
                return;
            }
            moved.await;
        }
    }

    fn is_leaving(&self, epoch: Epoch) -> bool {
        let topology = self.world().topology.load();
        if self.is_closing() || self.admitted() {
            return self.is_closing() || topology.epoch != epoch;
        }
        // Where nothing that is read may stay, to go at once keeps no drain waiting.
        let contract = &topology.active().contract;
        let ends_reads = contract.storage == Storage::Shared || !contract.fence_keeps_reads;
        self.entry.handle.order().1 == Order::Leave || (self.world().gate.armed() && ends_reads)
    }

    /// A byte has come; where no request is open it is the first one of the next.
    pub(super) fn begun(&self) {
        let mut state = self.state();
        if state.open == 0 && !self.two {
            state.begun = Some(Instant::now());
            self.schedule(&state);
        }
    }

    /// A request was answered and its connection kept. `begun`: of the next one something is there.
    pub(super) fn rest(&self, begun: bool) {
        let mut state = self.state();
        state.last = Instant::now();
        state.begun = begun.then_some(state.last);
        state.rests = true;
        self.schedule(&state);
    }

    /// Whether a request has not been answered yet.
    pub(super) fn is_busy(&self) -> bool {
        self.state().open > 0
    }

    /// A request is refused for how it came.
    pub(super) fn refuse(&self, why: Refused) {
        let metrics = &self.world().metrics;
        metrics.http_refused.count(why.name());
        if why == Refused::TooLong {
            metrics.limits_hit.count("http_header_size");
        }
    }

    // ---- orders and deadlines ---------------------------------------------------------------------------

    /// Looks after the connection while it is served. Resolves when it is to be closed at once.
    pub(super) fn poll_watch(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let handle = &self.entry.handle;
        handle.register(cx.waker());
        let (admitted, number) = (self.admitted(), handle.order().0);
        let flowed = self.flowed.swap(admitted, Ordering::Relaxed);
        let new = self.seen.swap(number, Ordering::Relaxed) != number;
        let late = handle.is_late();
        if !new && !late && flowed == admitted {
            return Poll::Pending;
        }
        if flowed != admitted {
            let mut state = self.state();
            state.shut = (!admitted).then(Instant::now);
            self.schedule(&state);
        }
        if late && self.on_late() {
            return Poll::Ready(());
        }
        self.moved.notify_waiters();
        if self.obey() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the next step of the order; true: the connection is to be closed at once.
    pub(super) fn obey(&self) -> bool {
        let (number, order) = self.entry.handle.order();
        match order {
            // An order of a hold that is over: whoever was admitted since stays.
            Order::Leave if self.admitted() => {}
            Order::Flow | Order::Prepare | Order::Prewarm | Order::Verify => {
                self.report(number, Progress::Done)
            }
            Order::Leave => {
                let mut state = self.state();
                // What is cut is at no pool any more, though its client may take long to be told.
                let (mut lost, before) = (false, state.flights.len());
                state.flights.retain(|one| {
                    let stays = one.writes || !one.cut();
                    lost |= !stays && one.answered;
                    stays
                });
                if state.flights.len() < before {
                    self.say(&state);
                }
                let left = state.flights.is_empty();
                drop(state);
                if lost {
                    self.lost_a_read();
                }
                if left {
                    self.report(number, Progress::Done);
                }
            }
            Order::Attach => {
                if self.state().waiting == 0 || !self.admitted() {
                    self.report(number, Progress::Done);
                }
            }
            Order::End => {
                self.close();
                self.moved.notify_waiters();
                return self.state().open == 0;
            }
        }
        false
    }

    fn report(&self, number: u64, progress: Progress) {
        if self.reported.swap(number, Ordering::Relaxed) != number {
            self.entry.handle.report(number, progress);
        }
    }

    /// A response was cut because its session had to leave: the order that asked for it has cost something.
    pub(super) fn lost_a_read(&self) {
        let (number, order) = self.entry.handle.order();
        if order == Order::Leave {
            self.entry.handle.describe(|info| info.unmovable = Some("read_in_flight".into()));
            self.report(number, Progress::Farewell);
        }
    }
}

impl State {
    pub(super) fn standing(&self) -> Standing {
        let count = |writes: bool| {
            u16::try_from(self.flights.iter().filter(|one| one.writes == writes).count()).unwrap_or(u16::MAX)
        };
        let backend = self.flights.first().map(|one| one.pool);
        let spare = self.flights.iter().map(|one| one.pool).find(|pool| Some(*pool) != backend);
        Standing {
            backend,
            spare,
            writes: count(true),
            reads: count(false),
            costly: self.flights.iter().any(|one| one.answered && !one.writes),
            waits: self.waiting > 0 || self.adrift > 0,
        }
    }

    pub(super) fn flight(&mut self, id: u64) -> Option<&mut Flying> {
        self.flights.iter_mut().find(|one| one.id == id)
    }
}
