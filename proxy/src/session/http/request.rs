//! One request: what it is, where it leads, how far it has come.
//!
//! Rule: what it is is settled once, from its head; how far it has come begins anew with every try.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_protocols::http::{
    known,
    method::Kind,
    queue::Priority,
    replay::{Body, Check, Next, Received, Request as Policy, Sent},
};
use http::header;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use smallvec::SmallVec;

use super::{
    conn::Conn, dial::Wire, flight::Flight, guards::Open, lane::Stream, places::Place, servers::Chosen,
};
use crate::{
    config::{HttpAddress, HttpService, Route},
    topology::Epoch,
};

/// What pingora carries through a request for us.
#[derive(Debug, Default)]
pub(super) struct Ctx {
    pub(super) request: Option<Request>,
}

/// One request that has a route.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) conn: Arc<Conn>,
    pub(super) service: String,
    pub(super) policy: Policy,
    /// Since when it waits for a pool that serves it; `None`: there was no trouble yet.
    pub(super) trouble: Option<Instant>,
    /// When it was sent on its way last.
    pub(super) left: Instant,
    /// How often its server was lost with all of it.
    pub(super) losses: u8,
    pub(super) has_body: bool,
    pub(super) priority: Priority,
    /// It stays open for as long as there is nothing to say: it takes no place at its service.
    pub(super) lasting: bool,
    pub(super) place: Option<Place>,
    pub(super) open: Open,
    /// Its place in the word, while it is with a pool.
    pub(super) flight: Option<Flight>,
    /// Bytes of its body so far.
    pub(super) body: u64,
    pub(super) sent: Sent,
    /// Its body outgrew what is kept; it ends where it began or not at all.
    pub(super) unkept: bool,
    /// The server of the present try, and the places of those that could not be reached.
    pub(super) chosen: Option<Chosen>,
    pub(super) avoided: SmallVec<[usize; 2]>,
    /// The connection of the present try.
    pub(super) wire: Option<Arc<Wire>>,
    /// What the answer is looked at for, since an earlier try may have done it.
    pub(super) check: Check,
    /// The next try is not to begin before.
    pub(super) not_before: Option<Instant>,
    pub(super) pause: Duration,
    /// What it is to be told in the end, if no answer comes.
    pub(super) verdict: Option<Next>,
    /// It was told to come back, and counted for that.
    pub(super) busy: bool,
    /// Only the end of its server's connection ends its answer.
    pub(super) open_ended: bool,
    /// Its answer is replaced: the body of the server's is not passed on.
    pub(super) replaced: bool,
    /// It had a server before.
    pub(super) moved: bool,
    /// Its place among the streams, if it is one.
    pub(super) stream: Option<Stream>,
}

/// What pingora keeps of a body: its own constant, which cannot be set.
pub(super) const KEPT: u64 = 64 * 1024;
/// A request that so many servers did not survive is said to no further one.
const LOSSES: u8 = 3;
/// First pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// A stream that stood for so long did not break at once.
const STOOD: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Request {
    pub(super) fn new(conn: Arc<Conn>, head: &RequestHeader, route: &Route, has_body: bool) -> Self {
        let conditional =
            head.headers.contains_key(header::IF_MATCH) || head.headers.contains_key(header::IF_NONE_MATCH);
        let target = target(head);
        let policy = Policy {
            kind: Kind::of(head.method.as_str()),
            read_only: known::is_ping(target),
            conditional,
            keyed: known::is_keyed(target),
        };
        let open = conn.opened(has_body);
        let sync = known::is_sync(head.method.as_str(), target);
        let usual = if sync { Priority::Sync } else { Priority::Interactive };
        Self {
            conn,
            service: route.service.clone(),
            policy,
            trouble: None,
            left: Instant::now(),
            losses: 0,
            has_body,
            priority: route.priority.unwrap_or(usual),
            lasting: policy.read_only,
            place: None,
            open,
            flight: None,
            body: 0,
            sent: Sent::Nothing,
            unkept: false,
            chosen: None,
            avoided: SmallVec::new(),
            wire: None,
            check: Check::None,
            not_before: None,
            pause: Duration::ZERO,
            verdict: None,
            busy: false,
            open_ended: false,
            replaced: false,
            moved: false,
            stream: None,
        }
    }

    /// It is told to come back.
    pub(super) fn refuse(&mut self) {
        self.busy = true;
        self.conn.world().metrics.http_requests.count("busy");
    }

    /// It goes on its way, if the gate lets it.
    pub(super) fn take_off(&mut self) -> bool {
        self.flight = self.conn.fly();
        self.left = Instant::now();
        self.flight.is_some()
    }

    /// Until when it may wait. A request that was served for a while waits anew.
    pub(super) fn deadline(&mut self) -> Instant {
        *self.trouble.get_or_insert_with(Instant::now) + self.conn.limits().hold
    }

    /// The client and the address that it came to, where its server is told of it in a PROXY header.
    pub(super) fn from(&self, service: &HttpService) -> Option<(SocketAddr, SocketAddr)> {
        let client = self.conn.entry.handle.peer;
        (service.client_address == HttpAddress::ProxyV2).then(|| (client, self.conn.local.unwrap_or(client)))
    }

    /// The last byte goes: asks the gate, where it takes effect.
    pub(super) fn commit(&mut self) -> bool {
        let Some(flight) = &self.flight else { return false };
        let may = if self.policy.writes() { flight.commit() } else { flight.admitted() };
        if may {
            self.sent = Sent::All;
        }
        may
    }

    /// Its head goes, and a body of so many bytes after it. What is known to be longer than pingora keeps counts as a
    /// write from here on, so that a drain gives it time to end.
    pub(super) fn begin_body(&mut self, length: Option<u64>) -> bool {
        self.sent = Sent::Part;
        let Some(flight) = &self.flight else { return false };
        if length.is_none_or(|length| length <= KEPT) || !self.policy.writes() {
            return flight.admitted();
        }
        self.unkept = true;
        flight.unkept()
    }

    /// The present try has failed: what next? `gate`: it was to leave the pool.
    pub(super) fn lost(&mut self, session: &Session, gate: bool) -> Next {
        self.waits_anew(gate);
        let body = if session.as_ref().retry_buffer_truncated() { Body::Lost } else { Body::Kept };
        let doubtful = self.policy.kind == Kind::Unsafe && !self.policy.read_only;
        if body == Body::Kept && self.sent == Sent::All && doubtful {
            let head = session.req_header();
            let kind = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let whole = session.as_ref().get_retry_buffer().unwrap_or_default();
            self.policy.read_only = known::reads_only(target(head), kind.unwrap_or_default(), &whole);
        }
        let next = self.policy.after_loss(self.sent, received(session), body);
        if !gate && self.sent == Sent::All && matches!(next, Next::Again(_)) && self.outlived_enough() {
            return Next::Busy;
        }
        if let Next::Again(check) = next {
            // What an earlier try may have done stays done.
            if check != Check::None {
                self.check = check;
            }
        }
        next
    }

    /// What it waited for before it was served for a while is over. `gate`: it was to leave the pool.
    pub(super) fn waits_anew(&mut self, gate: bool) {
        if gate || self.left.elapsed() >= self.conn.limits().hold {
            self.trouble = None;
        }
    }

    /// The epoch in which it is served.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.flight.as_ref().map(|flight| flight.epoch)
    }

    /// It found a server, and an attach waits for it no longer.
    pub(super) fn stream_moved(&mut self) {
        if let (Some(epoch), Some(stream)) = (self.epoch(), &mut self.stream) {
            stream.moved(epoch);
        }
    }

    /// This try is over.
    pub(super) fn over(&mut self) {
        (self.flight, self.wire, self.sent, self.unkept) = (None, None, Sent::Nothing, false);
        self.place = None;
    }

    /// One more server was lost with all of it. True: it is said to no further one.
    pub(super) fn outlived_enough(&mut self) -> bool {
        self.losses += 1;
        if self.losses >= LOSSES {
            self.conn.world().metrics.http_again.count("poisoned");
        }
        self.losses >= LOSSES
    }

    /// It goes to another server, and may take its time anew.
    pub(super) fn begin_again(&mut self) {
        self.over();
        (self.trouble, self.not_before, self.pause, self.losses) = (None, None, Duration::ZERO, 0);
        self.avoided.clear();
        self.moved = true;
    }

    /// Its stream broke, and is asked for again: at once, if it has stood for a while.
    pub(super) fn broke(&mut self) {
        let (pause, stood) = (self.pause, self.left.elapsed() >= STOOD);
        self.begin_again();
        if !stood {
            self.pause = pause;
            self.back_off(false);
        }
    }

    /// The first try after a loss comes at once; those after it take their time.
    pub(super) fn back_off(&mut self, at_once: bool) {
        if !(at_once && self.pause.is_zero()) {
            self.not_before = Some(Instant::now() + self.pause.max(PAUSE));
        }
        self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
    }
}

/// What the client has of the answer.
pub(super) fn received(session: &Session) -> Received {
    match session.as_ref().response_written() {
        Some(head) if !head.status.is_informational() || head.status == 101 => Received::Begun,
        Some(_) | None => Received::Nothing,
    }
}

/// The request target as far as it is shown: the path with the query.
pub(super) fn target(head: &RequestHeader) -> &str {
    head.uri.path_and_query().map_or("*", |target| target.as_str())
}
