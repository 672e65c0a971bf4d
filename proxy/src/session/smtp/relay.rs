//! The session itself: what it owns, what it waits for, and the loop that does whatever has become possible.
//!
//! Rule: one thing waits at a time; while it waits the client is not read, so that order needs no queue.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bascule_protocols::smtp::{
    auth::{Credentials, Exchange},
    data::Bare,
    keywords::{Keywords, Pinned},
    relay::{Command, Own, Relay, Role},
    reply::Replies,
};
use tokio::io::AsyncBufRead;

use super::{
    super::door::Door,
    content::Content,
    delivered::Claimed,
    open::{Greeted, OpenError, Opened},
    orders::Orders,
};
use crate::{
    config::{BareNewline, ListenerTls, Protocol},
    gate::Standing,
    net::{outgoing::Outgoing, stream::Leg},
    session::{World, registry::Entry},
    topology::{Epoch, PoolId},
};

/// Bytes that may wait for one side before nothing more is read from the other: lines and small messages leave together.
pub(super) const ROOM: usize = 16 * 1024;

/// The backend that serves a session now.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) leg: Leg,
    pub(super) out: Outgoing,
    pub(super) replies: Replies,
    pub(super) pool: PoolId,
    pub(super) epoch: Epoch,
    pub(super) keywords: Keywords,
    /// Bytes of the kept content that it was sent; `None`: it has not asked for content.
    pub(super) streamed: Option<u64>,
    /// It knows no PIPELINING: what it is told when it has answered.
    pub(super) later: VecDeque<Box<[u8]>>,
    pub(super) waits: bool,
}

impl Backend {
    /// Says these lines with the next flush, one by one where it must be.
    pub(super) fn tell(&mut self, lines: &[u8]) {
        if self.keywords.has("PIPELINING") {
            self.out.keep(lines);
            return;
        }
        self.later.extend(lines.split_inclusive(|b| *b == b'\n').map(Into::into));
        self.tell_next();
    }

    /// It has answered.
    pub(super) fn has_answered(&mut self) {
        self.waits = false;
        self.tell_next();
    }

    fn tell_next(&mut self) {
        if !self.waits
            && let Some(line) = self.later.pop_front()
        {
            self.waits = true;
            self.out.keep(&line);
        }
    }
}

/// What the client said and what cannot be carried out yet.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A command for the backend.
    Command(Command),
    /// A message that is whole.
    Commit,
    /// A login.
    Login(Credentials),
}

/// A [`Waiting`] with its clocks.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) what: Waiting,
    pub(super) arrived: Instant,
    /// When it met a shut gate or a lost backend.
    pub(super) held: Option<Instant>,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client went, or said QUIT.
    Client,
    /// TLS begins.
    Starttls,
    /// 421, by its label.
    Farewell(&'static str),
}

pub(super) type Opening = Pin<Box<dyn Future<Output = (PoolId, Epoch, Result<Opened, OpenError>)> + Send>>;
pub(super) type Greeting = Pin<Box<dyn Future<Output = (PoolId, Epoch, Result<Greeted, OpenError>)> + Send>>;
pub(super) type Leaving = Pin<Box<dyn Future<Output = bool> + Send>>;

/// One SMTP, submission or LMTP session.
pub(super) struct Session {
    pub(super) door: Arc<Door>,
    pub(super) entry: Entry,
    pub(super) client: Leg,
    pub(super) to_client: Outgoing,
    pub(super) backend: Option<Backend>,
    pub(super) relay: Relay,
    /// What this connection was shown, whatever others are shown meanwhile.
    pub(super) pinned: Arc<Pinned>,
    /// A server that has greeted and knows nothing of the client yet (`dial = "before-greeting"`).
    pub(super) greeted: Option<(PoolId, Epoch, Greeted)>,
    /// That server's greeting, which the client's own waits for.
    pub(super) greeting: Option<Greeting>,
    pub(super) opening: Option<Opening>,
    /// The pool that [`Self::opening`] goes to.
    pub(super) towards: Option<PoolId>,
    pub(super) leaving: Option<(PoolId, Leaving)>,
    /// A pool that was left without its connection having been seen to end.
    pub(super) stays: Option<PoolId>,
    pub(super) waiting: Option<Wait>,
    pub(super) parked: Option<Own>,
    pub(super) exchange: Option<Exchange>,
    pub(super) credentials: Option<Credentials>,
    pub(super) failed_logins: u32,
    /// Of the message under way.
    pub(super) content: Content,
    /// The recipients to whom the message under way is being delivered.
    pub(super) claimed: Option<Claimed>,
    /// Messages begun.
    pub(super) messages: u32,
    /// When the next try to reach a backend may begin, and how long the pause after it is.
    pub(super) retry: Option<(Instant, Duration)>,
    pub(super) orders: Orders,
    pub(super) standing: Standing,
    /// When this turn began: the clock is read once for all that is done in it.
    pub(super) now: Instant,
    pub(super) last_input: Instant,
    /// The message of which nobody knew what became of it.
    pub(super) ambiguous: Option<u32>,
    /// When a backend was last asked something, or said something that the client heard.
    pub(super) asked: Instant,
}

enum Ready {
    Client,
    Backend,
    Greeted(PoolId, Epoch, Result<Greeted, OpenError>),
    Opened(PoolId, Epoch, Result<Opened, OpenError>),
    Left(bool),
    Tried(Result<Opened, OpenError>),
    Again,
    ClientFailed,
    BackendFailed,
}

impl Session {
    pub(super) fn new(door: Arc<Door>, client: Leg, entry: Entry, pinned: Arc<Pinned>) -> Self {
        let role = match door.listener.protocol {
            Protocol::Submission => Role::Submission,
            Protocol::Lmtp => Role::Lmtp,
            Protocol::Smtp | Protocol::Imap | Protocol::Http => Role::Relay,
        };
        let bare = match door.listener.smtp.bare_newline {
            BareNewline::Normalize => Bare::Normalize,
            BareNewline::Reject => Bare::Reject,
        };
        let now = Instant::now();
        let secure = door.listener.tls == ListenerTls::Implicit;
        let starttls = door.listener.tls == ListenerTls::Starttls && !Self::is_device(&door, &entry);
        Self {
            relay: Relay::new(role, bare, secure, starttls),
            content: Content::new(&door),
            door,
            entry,
            client,
            to_client: Outgoing::default(),
            pinned,
            greeted: None,
            greeting: None,
            backend: None,
            opening: None,
            towards: None,
            leaving: None,
            stays: None,
            waiting: None,
            parked: None,
            exchange: None,
            credentials: None,
            failed_logins: 0,
            claimed: None,
            messages: 0,
            ambiguous: None,
            retry: None,
            orders: Orders::default(),
            standing: Standing::default(),
            now,
            last_input: now,
            asked: now,
        }
    }

    fn is_device(door: &Door, entry: &Entry) -> bool {
        door.listener.smtp.devices.iter().any(|network| network.contains(entry.handle.peer.ip()))
    }

    /// Whether it is a printer or the like: held long, never told 421.
    pub(super) fn device(&self) -> bool {
        Self::is_device(&self.door, &self.entry)
    }

    pub(super) fn world(&self) -> &World {
        &self.door.world
    }

    /// Runs to the end of the session.
    pub(super) async fn run(mut self: Box<Self>) {
        loop {
            match std::future::poll_fn(|cx| self.poll_run(cx)).await {
                End::Starttls => match Box::pin(self.secure()).await {
                    Some(session) => self = session,
                    None => return,
                },
                end @ (End::Client | End::Farewell(_)) => return Box::pin(self.end(end)).await,
            }
        }
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.now = Instant::now();
        loop {
            if let Err(end) = self.advance() {
                return Poll::Ready(end);
            }
            let Poll::Ready(ready) = self.poll_ready(cx) else {
                self.entry.handle.due(self.due());
                return Poll::Pending;
            };
            let step = match ready {
                Ready::Client => self.on_client(),
                Ready::Backend => self.on_backend(),
                Ready::Greeted(pool, epoch, result) => self.on_greeting(pool, epoch, result),
                Ready::Opened(pool, epoch, result) => self.on_opened(pool, epoch, result),
                Ready::Left(ended) => self.on_left(ended),
                Ready::Tried(result) => {
                    self.on_tried(result);
                    Ok(())
                }
                Ready::Again => Ok(()),
                Ready::ClientFailed => Err(End::Client),
                Ready::BackendFailed => self.on_backend_end(),
            };
            if let Err(end) = step {
                return Poll::Ready(end);
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        self.entry.handle.register(cx.waker());
        if self.changed() {
            return Poll::Ready(Ready::Again);
        }
        if let Some(greeting) = &mut self.greeting
            && let Poll::Ready((pool, epoch, result)) = greeting.as_mut().poll(cx)
        {
            self.greeting = None;
            return Poll::Ready(Ready::Greeted(pool, epoch, result));
        }
        if let Some(opening) = &mut self.opening
            && let Poll::Ready((pool, epoch, result)) = opening.as_mut().poll(cx)
        {
            self.opening = None;
            return Poll::Ready(Ready::Opened(pool, epoch, result));
        }
        if let Some((_, leaving)) = &mut self.leaving
            && let Poll::Ready(ended) = leaving.as_mut().poll(cx)
        {
            return Poll::Ready(Ready::Left(ended));
        }
        if let Poll::Ready(result) = self.orders.poll_trial(cx) {
            return Poll::Ready(Ready::Tried(result));
        }
        if let Poll::Ready(Err(_)) = self.to_client.poll_flush(cx, &mut self.client) {
            return Poll::Ready(Ready::ClientFailed);
        }
        if let Some(backend) = &mut self.backend {
            let had = !backend.out.is_empty();
            if let Poll::Ready(Err(_)) = backend.out.poll_flush(cx, &mut backend.leg) {
                // What it said before counts.
                let said = Pin::new(&mut backend.leg).poll_fill_buf(cx);
                let said = matches!(said, Poll::Ready(Ok(bytes)) if !bytes.is_empty());
                return Poll::Ready(if said { Ready::Backend } else { Ready::BackendFailed });
            }
            if had && backend.out.is_empty() {
                return Poll::Ready(Ready::Again);
            }
        }
        if self.wants_client() {
            if Pin::new(&mut self.client).poll_fill_buf(cx).is_ready() {
                return Poll::Ready(Ready::Client);
            }
        } else if self.may_lose_client()
            && let Poll::Ready(read) = Pin::new(&mut self.client).poll_fill_buf(cx)
            && read.map_or(true, <[u8]>::is_empty)
        {
            return Poll::Ready(Ready::ClientFailed);
        }
        if self.to_client.len() < ROOM
            && let Some(backend) = &mut self.backend
            && Pin::new(&mut backend.leg).poll_fill_buf(cx).is_ready()
        {
            return Poll::Ready(Ready::Backend);
        }
        Poll::Pending
    }

    /// Whether an order, the gate or the sweeper asks for another [`Self::advance`].
    fn changed(&self) -> bool {
        self.orders.is_new(&self.entry.handle)
            || self.admitted() != self.orders.flowed
            || self.entry.handle.is_late()
    }

    /// Whether the gate admits what the topology has now.
    pub(super) fn admitted(&self) -> bool {
        self.world().gate.admits(self.world().topology.epoch())
    }

    /// Whether a backend is there and commands of this session reach it.
    pub(super) fn flows(&self) -> bool {
        self.leaving.is_none()
            && !self.relay.replays()
            && self.backend.as_ref().is_some_and(|b| self.world().gate.admits(b.epoch))
    }

    /// Whether the client's bytes are used now.
    pub(super) fn wants_client(&self) -> bool {
        self.waiting.is_none()
            && self.parked.is_none()
            && self.greeting.is_none()
            && self.relay.reads()
            && self.backend.as_ref().is_none_or(|b| b.out.len() < ROOM)
            && self.to_client.len() < ROOM
    }

    /// Whether a client that goes takes what it said with it: it will say it again elsewhere (RFC 5321 §3.8). What was
    /// committed stays, and its answer is awaited.
    fn may_lose_client(&self) -> bool {
        self.relay.in_flight().0 == 0
    }

    /// Whether nothing waits, nothing is asked of this session, and [`Self::advance`] would find nothing to do.
    fn calm(&self) -> bool {
        self.flows()
            && self.waiting.is_none()
            && self.parked.is_none()
            && self.greeting.is_none()
            && self.greeted.is_none()
            && self.orders.calm()
            && !self.changed()
            && !self.has_to_stream()
    }

    /// Does everything that has become possible.
    fn advance(&mut self) -> Result<(), End> {
        if self.calm() {
            self.sync_word();
            return Ok(());
        }
        self.stop_greeting()?;
        self.obey()?;
        let admitted = self.admitted();
        if self.orders.flowed && !admitted {
            self.mark_held();
        }
        self.orders.flowed = admitted;
        self.deadlines()?;
        self.stream()?;
        self.carry_on()?;
        self.answer_parked()?;
        self.sync_word();
        if self.entry.handle.is_late() {
            self.entry.handle.due(self.due());
        }
        Ok(())
    }

    /// With the next flush: what is said in one turn leaves together.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.to_client.keep(bytes);
    }

    pub(super) fn tell_backend(&mut self, lines: &[u8]) {
        if let Some(backend) = &mut self.backend {
            backend.tell(lines);
        }
    }

    pub(super) fn now_standing(&self) -> Standing {
        let (writes, reads) = self.relay.in_flight();
        let left = self.leaving.as_ref().map(|(pool, _)| *pool).or(self.stays);
        let greeted = self.greeted.as_ref().map(|(pool, ..)| *pool);
        Standing {
            backend: self.backend.as_ref().map(|b| b.pool).or(left).or(self.towards).or(greeted),
            spare: self.orders.tries(),
            writes,
            reads,
            // What is not a write is said again.
            costly: false,
            waits: self.waits(),
        }
    }

    /// Whether something of the session is for a gate that moves. Commands in flight stand for themselves.
    fn waits(&self) -> bool {
        self.waiting.is_some()
            || self.parked.is_some()
            || self.greeting.is_some()
            || self.relay.in_transaction()
    }

    /// Tells the word what has become of commands and connections.
    pub(super) fn sync_word(&mut self) {
        let now = self.now_standing();
        self.entry.handle.stand(&mut self.standing, now, self.orders.flowed);
    }
}
