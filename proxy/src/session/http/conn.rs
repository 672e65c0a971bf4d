//! One client connection: its requests in flight, what it was told to do, its deadlines.
//!
//! Rule: every request that may reach a pool stands in the connection's word from before it is sent until it is
//! answered. A write counts from its last byte on; a body that is still coming is a read that can be begun again.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bascule_protocols::http::framing::Refused;
use smallvec::SmallVec;
use tokio::sync::{Notify, watch};

use super::{dial::Wire, two};
use crate::{
    config::{HttpLimits, Storage},
    gate::Standing,
    net::stream::Leg,
    session::{
        World,
        door::Door,
        registry::{Entry, Order, Progress},
    },
    topology::{Epoch, PoolId},
};

/// How long a client of HTTP/2 may take to go that was told to.
const FAREWELL: Duration = Duration::from_secs(5);

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
    /// True: no more requests on this connection.
    pub(super) closing: watch::Sender<bool>,
    state: Mutex<State>,
    /// Whether the gate admitted what the topology has, when last looked at.
    flowed: AtomicBool,
    /// The last order that was looked at, and the last that was reported.
    seen: AtomicU64,
    reported: AtomicU64,
}

#[derive(Debug)]
struct State {
    flights: SmallVec<[Flying; 1]>,
    next: u64,
    /// Requests that wait for the gate or for a server.
    waiting: u16,
    /// Streams that were open and have no server now: nobody waits for them.
    adrift: u16,
    /// Requests whose head is whole.
    open: u32,
    /// When the last one ended, or the connection began.
    last: Instant,
    /// When the first byte of the next one came.
    begun: Option<Instant>,
    /// Bodies that are still coming.
    bodies: SmallVec<[Coming; 1]>,
    /// Told with GOAWAY that it has been idle for too long.
    idle: bool,
    /// When the gate was seen shut.
    shut: Option<Instant>,
}

/// A body that is still coming.
#[derive(Debug)]
struct Coming {
    id: u64,
    due: Instant,
    /// Ends its request; `None`: its connection ends with it.
    end: Option<Arc<Notify>>,
}

/// One request as the word counts it.
#[derive(Debug)]
struct Flying {
    id: u64,
    pool: PoolId,
    writes: bool,
    /// Its body outgrew what is kept, and is still coming.
    unkept: bool,
    /// Its final response has begun.
    answered: bool,
    wire: Option<Arc<Wire>>,
}

/// A request's place among those in flight; dropping it is its end.
#[derive(Debug)]
pub(super) struct Flight {
    conn: Arc<Conn>,
    id: u64,
    pub(super) pool: PoolId,
    pub(super) epoch: Epoch,
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
            closing: watch::Sender::new(false),
            state: Mutex::new(state),
            flowed: AtomicBool::new(true),
            seen: AtomicU64::new(u64::MAX),
            reported: AtomicU64::new(u64::MAX),
        });
        conn.schedule(&conn.state());
        conn
    }

    pub(super) fn world(&self) -> &Arc<World> {
        &self.door.world
    }

    pub(super) fn limits(&self) -> &HttpLimits {
        &self.world().config.limits.http
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the gate admits what the topology has now.
    pub(super) fn admitted(&self) -> bool {
        self.world().gate.admits(self.world().topology.load().epoch)
    }

    // ---- requests ---------------------------------------------------------------------------------------

    /// One more request in flight to the active pool, if the gate lets it.
    pub(super) fn fly(self: &Arc<Self>) -> Option<Flight> {
        let topology = self.world().topology.load();
        let (pool, epoch) = (topology.active, topology.epoch);
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.flights.push(Flying { id, pool, writes: false, unkept: false, answered: false, wire: None });
        if self.entry.handle.word.announce(state.standing(), &self.world().gate, epoch) {
            return Some(Flight { conn: self.clone(), id, pool, epoch });
        }
        state.flights.pop();
        self.say(&state);
        None
    }

    /// Tells the word what is the case now.
    fn say(&self, state: &State) {
        // With the fence: a gate that shuts meanwhile is seen here, or sees this.
        self.entry.handle.word.wait(state.standing());
        if !self.admitted() {
            self.entry.handle.word_changed();
        }
    }

    /// A request waits from now on, until the guard is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_add(1);
        self.say(&state);
        let count = usize::from(state.waiting);
        drop(state);
        self.entry.handle.describe(|info| info.held = count);
        Waiting(self.clone())
    }

    /// A stream that was open has no server from now on, until the guard is dropped. It hears when the gate moves, and
    /// neither a drain nor an attach waits for it.
    pub(super) fn adrift(self: &Arc<Self>) -> Adrift {
        let mut state = self.state();
        state.adrift = state.adrift.saturating_add(1);
        self.say(&state);
        drop(state);
        Adrift(self.clone())
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
        if *self.closing.borrow() || self.admitted() {
            return *self.closing.borrow() || topology.epoch != epoch;
        }
        // Where nothing that is read may stay, to go at once keeps no drain waiting.
        let contract = &topology.active().contract;
        let ends_reads = contract.storage == Storage::Shared || !contract.fence_keeps_reads;
        self.entry.handle.order().1 == Order::Leave || (self.world().gate.armed() && ends_reads)
    }

    /// The head of a request is whole; its body may take so long.
    pub(super) fn opened(self: &Arc<Self>, body: bool) -> Open {
        let mut state = self.state();
        state.open += 1;
        state.begun = None;
        let id = state.next;
        state.next += 1;
        if body {
            let due = Instant::now() + self.limits().body;
            state.bodies.push(Coming { id, due, end: two::end() });
        }
        self.schedule(&state);
        Open(self.clone(), id)
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
    fn obey(&self) -> bool {
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
                self.closing.send_replace(true);
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

    /// When [`Self::on_late`] is to look at the clock.
    fn schedule(&self, state: &State) {
        let limits = self.limits();
        let head = state.begun.map(|begun| begun + limits.header);
        let body = state.bodies.iter().map(|body| body.due).min();
        let idle = (state.open == 0 && head.is_none()).then(|| state.last + state.patience(limits));
        let uploads = state.shut.filter(|_| state.flights.iter().any(|one| one.unkept));
        let drain = uploads.map(|shut| shut + self.patience());
        self.entry.handle.due([head, body, idle, drain].into_iter().flatten().min());
    }

    /// How much of the drain an upload that cannot move may use.
    fn patience(&self) -> Duration {
        self.world().config.cutover.drain / 2
    }

    /// Whether the drain of a hold still waits for uploads.
    pub(super) fn draining(&self) -> bool {
        self.state().shut.is_none_or(|shut| shut.elapsed() < self.patience())
    }

    /// True: the connection is to be closed at once.
    fn on_late(&self) -> bool {
        let (now, limits) = (Instant::now(), self.limits());
        let mut state = self.state();
        let hit = |name| self.world().metrics.limits_hit.count(name);
        if state.begun.is_some_and(|begun| now >= begun + limits.header) {
            hit("http_header");
            return true;
        }
        let late = |body: &Coming| now >= body.due;
        state.bodies.iter().filter(|body| late(body)).for_each(|_| hit("http_body"));
        if state.bodies.iter().any(|body| late(body) && body.end.is_none()) {
            return true;
        }
        state.bodies.retain(|body| {
            body.end.iter().filter(|_| late(body)).for_each(|end| end.notify_one());
            !late(body)
        });
        if state.open == 0 && state.begun.is_none() && now >= state.last + state.patience(limits) {
            if !self.two || state.idle {
                return true;
            }
            // GOAWAY first: a request that is just on its way is then known not to have been looked at.
            state.idle = true;
            self.closing.send_replace(true);
        }
        if state.shut.is_some_and(|shut| now >= shut + self.patience()) {
            for one in state.flights.iter().filter(|one| one.unkept) {
                one.cut();
            }
        }
        self.entry.handle.due(None);
        self.schedule(&state);
        false
    }
}

impl Flying {
    /// Ends the connection that it goes over. False: it has none.
    fn cut(&self) -> bool {
        self.wire.as_ref().map(|wire| wire.cut()).is_some()
    }
}

impl State {
    fn standing(&self) -> Standing {
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
            waits: self.waiting > 0 || self.adrift > 0,
        }
    }

    /// How long it may be idle.
    fn patience(&self, limits: &HttpLimits) -> Duration {
        if self.idle { limits.idle + FAREWELL } else { limits.idle }
    }

    fn find(&mut self, id: u64) -> Option<&mut Flying> {
        self.flights.iter_mut().find(|one| one.id == id)
    }
}

impl Flight {
    /// The last byte of a write goes now, if the gate lets it.
    pub(super) fn commit(&self) -> bool {
        let mut state = self.conn.state();
        // One that was cut commits to nothing any more.
        let Some(one) = state.find(self.id) else { return false };
        (one.writes, one.unkept) = (true, false);
        if self.conn.entry.handle.word.announce(state.standing(), &self.conn.world().gate, self.epoch) {
            return true;
        }
        if let Some(one) = state.find(self.id) {
            one.writes = false;
        }
        self.conn.say(&state);
        false
    }

    /// Its body is too long to be kept: it can only end where it began, and the drain waits for it.
    pub(super) fn unkept(&self) -> bool {
        let committed = self.commit();
        if let Some(one) = self.conn.state().find(self.id) {
            one.unkept = true;
        }
        committed
    }

    /// An upload that is not kept has come to its end: it is a write like any other from here on.
    pub(super) fn whole(&self) {
        let mut state = self.conn.state();
        if let Some(one) = state.find(self.id) {
            one.unkept = false;
        }
        self.conn.schedule(&state);
    }

    /// The final response has begun: what it did is done.
    pub(super) fn answered(&self) {
        let mut state = self.conn.state();
        if let Some(one) = state.find(self.id) {
            (one.writes, one.unkept, one.answered) = (false, false, true);
        }
        self.conn.say(&state);
    }

    /// The backend connection that it goes over.
    pub(super) fn over(&self, wire: Arc<Wire>) {
        if let Some(one) = self.conn.state().find(self.id) {
            one.wire = Some(wire);
        }
    }

    /// Whose request it is, among all of the process.
    pub(super) fn number(&self) -> (u64, u64) {
        (self.conn.entry.handle.id.0, self.id)
    }

    /// Whether the gate still admits it.
    pub(super) fn admitted(&self) -> bool {
        self.conn.world().gate.admits(self.epoch)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.conn.state();
        state.flights.retain(|one| one.id != self.id);
        self.conn.say(&state);
        drop(state);
        if self.conn.seen.load(Ordering::Relaxed) != self.conn.reported.load(Ordering::Relaxed) {
            self.conn.entry.handle.wake();
            self.conn.obey();
        }
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Conn>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(1);
        self.0.say(&state);
        let count = usize::from(state.waiting);
        drop(state);
        self.0.entry.handle.describe(|info| info.held = count);
        if count == 0 {
            self.0.obey();
        }
    }
}

/// A stream without a server.
#[derive(Debug)]
pub(super) struct Adrift(Arc<Conn>);

impl Drop for Adrift {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.adrift = state.adrift.saturating_sub(1);
        self.0.say(&state);
    }
}

/// A request from its head to its end.
#[derive(Debug)]
pub(super) struct Open(Arc<Conn>, u64);

impl Open {
    /// Whether its body takes longer than it may.
    pub(super) fn is_late(&self) -> bool {
        self.0.state().bodies.iter().any(|body| body.id == self.1 && Instant::now() >= body.due)
    }

    /// Its body is there as a whole, or of no interest any more.
    pub(super) fn whole(&self) {
        let mut state = self.0.state();
        state.bodies.retain(|body| body.id != self.1);
        self.0.schedule(&state);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open = state.open.saturating_sub(1);
        state.bodies.retain(|body| body.id != self.1);
        state.last = Instant::now();
        self.0.schedule(&state);
    }
}
