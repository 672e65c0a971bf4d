//! The session after the login: serves its client in every phase, its backend while it has one.
//!
//! Rule: a command reaches a backend only through [`Session::admit`], which announces it in the session's word
//! and then asks the gate. Everything is level-triggered: after each event [`Session::advance`] does whatever
//! the session's state now allows.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bascule_protocols::imap::{
    capability::{Capabilities, Stage},
    command::Verb,
    farewell::{self, Farewell, answer, unavailable},
    fragment::Literal,
    login::{Credentials, id, logout},
    relay::{Event, Own, Relay, Sent, Verdict, What},
    tag::{Tag, TagMaker},
};
use tokio::io::{AsyncBufRead, AsyncWriteExt};

use super::{
    Door, converse, greet,
    hold::{Body, Held, Queue},
    login::LoggedIn,
    orders::{ErrandFuture, ErrandResult, Orders, Spare},
    pipe::Pipe,
    upload::{Path, Piece, Sending, Upload, Whole, marker, must_wait},
};
use crate::{
    gate::Standing,
    net::{outgoing::Outgoing, stream::Leg},
    session::{World, registry::Entry},
    topology::{Epoch, PoolId},
};

/// Pieces of client input handled before others get their turn.
const TURN: usize = 64;

/// The backend that serves a session now.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) leg: Leg,
    pub(super) out: Outgoing,
    pub(super) pool: PoolId,
    pub(super) epoch: Epoch,
    pub(super) capabilities: Capabilities,
    /// Tells apart the backends that this session has had.
    pub(super) generation: u64,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client went, or said LOGOUT: nothing is owed.
    Client,
    /// A farewell, by its label.
    Farewell(&'static str),
    /// The stream is handed over as bytes.
    Pipe,
}

/// One authenticated session.
pub(super) struct Session {
    pub(super) door: Arc<Door>,
    pub(super) entry: Entry,
    pub(super) client: Leg,
    pub(super) to_client: Outgoing,
    pub(super) backend: Option<Backend>,
    pub(super) spare: Option<Spare>,
    pub(super) relay: Relay,
    pub(super) credentials: Credentials,
    pub(super) queue: Queue,
    pub(super) orders: Orders,
    pub(super) errand: Option<ErrandFuture>,
    parked: Option<Own>,
    sending: Option<Sending>,
    upload: Option<Upload>,
    /// A literal that waits for the driver: too large to be kept, so it waits for an open gate.
    waiting_literal: Option<(Option<(Tag, Verb)>, Vec<u8>, Literal, Instant)>,
    generation: u64,
    standing: Standing,
    commands: u64,
    last_input: Instant,
    last_output: Instant,
}

enum Ready {
    Client,
    Backend,
    Errand(ErrandResult),
    Again,
    ClientFailed,
    BackendFailed,
}

/// What is to be done once the client's bytes are no longer borrowed.
enum Todo {
    Nothing,
    Sent(Sent),
    Hold(Sent, Vec<u8>),
    Literal(Option<(Tag, Verb)>, Vec<u8>, Literal),
    Last(Vec<u8>),
    Own(Own),
    Close(Vec<u8>),
    Fail(&'static str),
}

impl Session {
    pub(super) fn new(
        door: Arc<Door>,
        client: Leg,
        entry: Entry,
        backend: LoggedIn,
        credentials: Credentials,
        client_id: Option<Box<[u8]>>,
    ) -> Self {
        let mut relay = Relay::new(TagMaker::new(fastrand::u64(..)), door.world.config.limits.line);
        relay.state.client_id = client_id;
        if let Some(pinned) = &**door.world.pinned.load() {
            relay.show(pinned.bytes(Stage::Authenticated));
        }
        let now = Instant::now();
        Self {
            door,
            entry,
            client,
            to_client: Outgoing::default(),
            backend: Some(Backend {
                leg: backend.leg,
                out: Outgoing::default(),
                pool: backend.pool,
                epoch: backend.epoch,
                capabilities: backend.capabilities,
                generation: 0,
            }),
            spare: None,
            relay,
            credentials,
            queue: Queue::default(),
            orders: Orders::default(),
            errand: None,
            parked: None,
            sending: None,
            upload: None,
            waiting_literal: None,
            generation: 0,
            standing: Standing { backend: Some(backend.pool), ..Standing::default() },
            commands: 0,
            last_input: now,
            last_output: now,
        }
    }

    pub(super) fn world(&self) -> &World {
        &self.door.world
    }

    /// Runs to the end of the session.
    pub(super) async fn run(mut self) {
        let end = loop {
            if let Err(end) = self.advance() {
                break end;
            }
            let ready = std::future::poll_fn(|cx| self.poll_ready(cx)).await;
            let step = match ready {
                Ready::Client => self.on_client(),
                Ready::Backend => self.on_backend(),
                Ready::Errand(result) => {
                    self.errand = None;
                    self.on_errand(result)
                }
                Ready::Again => Ok(()),
                Ready::ClientFailed => Err(End::Client),
                Ready::BackendFailed => self.on_backend_end(),
            };
            if let Err(end) = step {
                break end;
            }
        };
        self.end(end).await;
    }

    // ---- waiting --------------------------------------------------------------------------------------

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        self.entry.handle.register(cx.waker());
        if self.changed() {
            return Poll::Ready(Ready::Again);
        }
        if let Some(errand) = &mut self.errand
            && let Poll::Ready(result) = errand.as_mut().poll(cx)
        {
            return Poll::Ready(Ready::Errand(result));
        }
        let client_open = match self.to_client.poll_flush(cx, &mut self.client) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => return Poll::Ready(Ready::ClientFailed),
            Poll::Pending => self.to_client.is_empty(),
        };
        let had = self.backend.as_ref().is_some_and(|b| !b.out.is_empty());
        if let Some(backend) = &mut self.backend {
            if let Poll::Ready(Err(_)) = backend.out.poll_flush(cx, &mut backend.leg) {
                return Poll::Ready(Ready::BackendFailed);
            }
            if had && backend.out.is_empty() {
                return Poll::Ready(Ready::Again);
            }
        }
        if self.wants_client() && Pin::new(&mut self.client).poll_fill_buf(cx).is_ready() {
            return Poll::Ready(Ready::Client);
        }
        if client_open
            && let Some(backend) = &mut self.backend
            && Pin::new(&mut backend.leg).poll_fill_buf(cx).is_ready()
        {
            return Poll::Ready(Ready::Backend);
        }
        Poll::Pending
    }

    /// Whether an order, the gate or a deadline asks for another [`Self::advance`].
    fn changed(&self) -> bool {
        self.orders.is_new(&self.entry.handle)
            || (self.flows() != self.orders.flowed)
            || self.due().is_some_and(|due| Instant::now() >= due)
    }

    /// Whether the client is read now.
    fn wants_client(&self) -> bool {
        let limits = &self.world().config.limits;
        self.parked.is_none()
            && self.waiting_literal.is_none()
            && !self.relay.undecided()
            && (!self.relay.probing() || self.relay.idling())
            && self.queue.len() < limits.held_commands
            && self.queue.bytes() < limits.held_bytes
            && self.backend.as_ref().is_none_or(|b| b.out.is_empty())
            && self.to_client.len() < 64 * 1024
    }

    // ---- what may happen now --------------------------------------------------------------------------

    /// Whether this session's commands reach a backend now.
    pub(super) fn flows(&self) -> bool {
        self.errand_allows() && self.backend.as_ref().is_some_and(|b| self.world().gate.admits(b.epoch))
    }

    fn errand_allows(&self) -> bool {
        self.errand.is_none() || self.orders.beside()
    }

    /// Does everything that has become possible.
    pub(super) fn advance(&mut self) -> Result<(), End> {
        self.obey()?;
        let flows = self.flows();
        if self.orders.flowed && !flows {
            self.gate_shut();
        }
        self.orders.flowed = flows;
        self.deadlines()?;
        if flows {
            self.release()?;
        }
        self.parked()?;
        self.idle_backend()?;
        self.sync_word();
        self.entry.handle.due(self.due());
        Ok(())
    }

    /// The gate shut, or the backend went: what waits, is held from now on; a DONE is answered at once.
    fn gate_shut(&mut self) {
        self.queue.mark_held(Instant::now());
        if let Some(bytes) = self.relay.answer_done() {
            self.say(&bytes);
        }
    }

    /// Announces one more command and asks the gate.
    fn admit(&mut self, write: bool) -> bool {
        let Some(backend) = self.backend.as_ref().filter(|_| self.errand_allows()) else { return false };
        let mut standing = self.now_standing();
        if write {
            standing.writes += 1
        } else {
            standing.reads += 1
        }
        if self.entry.handle.word.announce(standing, &self.world().gate, backend.epoch) {
            self.standing = standing;
            return true;
        }
        self.entry.handle.word.set(self.standing);
        self.entry.handle.word_changed();
        false
    }

    fn now_standing(&self) -> Standing {
        let (writes, reads) = self.relay.in_flight();
        Standing {
            backend: self.backend.as_ref().map(|b| b.pool).or(self.orders.touching),
            spare: self.spare.as_ref().and_then(Spare::user_on).or(self.orders.verifying),
            writes,
            reads,
        }
    }

    /// Tells the word what has become of commands and connections.
    pub(super) fn sync_word(&mut self) {
        let now = self.now_standing();
        if now != self.standing {
            self.standing = now;
            self.entry.handle.word.set(now);
            if !self.orders.flowed {
                self.entry.handle.word_changed();
            }
        }
    }

    /// Releases held commands in order until one has to wait.
    fn release(&mut self) -> Result<(), End> {
        if !self.relay.idling()
            && let Some(done) = self.relay.rouse_backend()
        {
            self.tell_backend(done);
        }
        loop {
            if self.relay.probing() || self.backend.as_ref().is_some_and(|b| !b.out.is_empty()) {
                return Ok(());
            }
            if self.sending.is_some() {
                if !self.send_piece()? {
                    return Ok(());
                }
                continue;
            }
            if self.streams_upload() {
                return Ok(());
            }
            let Some(held) = self.queue.pop() else { break };
            if !self.release_one(held)? {
                return Ok(());
            }
        }
        if let Some((begins, line, literal, _)) = self.waiting_literal.take() {
            self.on_literal(begins, line, literal)?;
        }
        Ok(())
    }

    /// False: it could not be released yet and is back in the queue.
    fn release_one(&mut self, held: Held) -> Result<bool, End> {
        match held.body {
            Body::Whole(whole) => {
                self.sending = Some(Sending::new(held.sent, whole, held.since, held.arrived));
                Ok(true)
            }
            Body::Line(line) => {
                if !self.admit(held.sent.is_write()) {
                    self.queue.put_back(Held { body: Body::Line(line), ..held });
                    return Ok(false);
                }
                self.tell_backend(&line);
                self.commit(held.sent, held.since);
                Ok(true)
            }
            Body::Streamed { generation, last, kept } => {
                let here = self.backend.as_ref().is_some_and(|b| b.generation == generation);
                if !here {
                    let Some(mut whole) = kept else { return Err(End::Farewell("upload")) };
                    whole.finish(&last);
                    self.queue.put_back(Held { body: Body::Whole(whole), ..held });
                    return Ok(true);
                }
                if !self.admit(true) {
                    self.queue.put_back(Held { body: Body::Streamed { generation, last, kept }, ..held });
                    return Ok(false);
                }
                self.tell_backend(&[&last[..], b"\r\n"].concat());
                self.commit(held.sent, held.since);
                Ok(true)
            }
        }
    }

    /// One piece of the command that is being sent whole. False: it waits.
    fn send_piece(&mut self) -> Result<bool, End> {
        let (Some(sending), Some(backend)) = (&mut self.sending, &self.backend) else { return Ok(false) };
        match sending.next(&backend.capabilities) {
            Ok(Piece::Bytes(bytes, wait)) => {
                if wait {
                    let tag = sending.sent.tag.clone();
                    self.relay.await_go(tag);
                } else {
                    self.relay.stream_upload(sending.sent.tag.clone());
                }
                self.tell_backend(&bytes);
                Ok(!wait)
            }
            Ok(Piece::Wait) => Ok(false),
            Ok(Piece::Commit(last)) => {
                let write = sending.sent.is_write();
                if !self.admit(write) {
                    return Ok(false);
                }
                self.tell_backend(&[&last[..], b"\r\n"].concat());
                if let Some(sending) = self.sending.take() {
                    self.commit(sending.sent, sending.since);
                }
                Ok(true)
            }
            Err(error) => {
                tracing::error!(%error, "a kept upload cannot be read");
                Err(End::Farewell("limit"))
            }
        }
    }

    fn commit(&mut self, sent: Sent, since: Option<Instant>) {
        self.relay.commit(sent);
        self.commands += 1;
        if let Some(since) = since {
            let world = self.world();
            world.metrics.held_commands.dec();
            world.metrics.held(world.holds.record(since, Instant::now()));
            self.describe_queue();
        }
    }

    fn hold(&mut self, sent: Sent, body: Body) {
        let now = Instant::now();
        let shut = !self.flows();
        self.queue.push(Held { sent, body, since: shut.then_some(now), arrived: now });
        if shut {
            self.world().metrics.held_commands.inc();
            self.describe_queue();
        }
    }

    pub(super) fn describe_queue(&self) {
        let held = self.queue.len() + usize::from(self.sending.is_some());
        let upload = self.upload.as_ref().map(|u| u.progress);
        self.entry.handle.describe(|info| {
            info.held = held;
            info.upload = upload;
        });
    }

    fn describe_mailbox(&self) {
        let mailbox =
            self.relay.state.selected.as_ref().map(|s| String::from_utf8_lossy(&s.name).into_owned());
        let idle = self.relay.idling();
        self.entry.handle.describe(|info| {
            info.mailbox = mailbox;
            info.idle = idle;
        });
    }

    // ---- the client -----------------------------------------------------------------------------------

    fn on_client(&mut self) -> Result<(), End> {
        for _ in 0..TURN {
            if !self.wants_client() {
                return Ok(());
            }
            let free = self.free_way();
            let standing = self.now_standing();
            let mut cx = Context::from_waker(Waker::noop());
            let input = match Pin::new(&mut self.client).poll_fill_buf(&mut cx) {
                Poll::Ready(Ok(input)) if !input.is_empty() => input,
                Poll::Ready(_) => return Err(End::Client),
                Poll::Pending => return Ok(()),
            };
            self.last_input = Instant::now();
            let (n, verdict) = self.relay.client(input);
            let todo = match verdict {
                Verdict::NeedMore => Todo::Nothing,
                Verdict::Command(sent, bytes) => {
                    // As in `admit`, while the bytes are still borrowed.
                    let mut announced = standing;
                    if sent.is_write() {
                        announced.writes += 1
                    } else {
                        announced.reads += 1
                    }
                    let world = &self.door.world;
                    match self.backend.as_mut().filter(|_| free) {
                        Some(b) if self.entry.handle.word.announce(announced, &world.gate, b.epoch) => {
                            self.standing = announced;
                            match b.out.push(&mut b.leg, &bytes) {
                                Ok(()) => Todo::Sent(sent),
                                Err(_) => Todo::Sent(sent),
                            }
                        }
                        _ => {
                            self.entry.handle.word.set(self.standing);
                            Todo::Hold(sent, bytes.into_owned())
                        }
                    }
                }
                Verdict::Literal { begins, line, literal } => Todo::Literal(begins, line.to_vec(), literal),
                Verdict::Data(bytes) => match receive(&mut self.upload, &mut self.backend, &self.door, bytes)
                {
                    Ok(()) => Todo::Nothing,
                    Err(why) => Todo::Fail(why),
                },
                Verdict::Last(line) => Todo::Last(line.to_vec()),
                Verdict::Own(own) => Todo::Own(own),
                Verdict::Close(bytes) => Todo::Close(bytes),
            };
            Pin::new(&mut self.client).consume(n);
            self.apply(todo)?;
        }
        Ok(())
    }

    /// Whether a command may go to the backend past everything that waits.
    fn free_way(&self) -> bool {
        self.queue.is_empty() && self.sending.is_none() && !self.relay.probing() && self.flows()
    }

    fn apply(&mut self, todo: Todo) -> Result<(), End> {
        match todo {
            Todo::Nothing => Ok(()),
            Todo::Sent(sent) => {
                self.commit(sent, None);
                Ok(())
            }
            Todo::Hold(sent, bytes) => {
                self.hold(sent, Body::Line(bytes));
                Ok(())
            }
            Todo::Literal(begins, line, literal) => self.on_literal(begins, line, literal),
            Todo::Last(line) => self.on_last(line),
            Todo::Own(own) => {
                self.parked = Some(own);
                self.parked()
            }
            Todo::Close(bytes) => {
                self.world().metrics.limits_hit.count("line");
                self.say(&bytes);
                Err(End::Client)
            }
            Todo::Fail(why) => Err(End::Farewell(why)),
        }
    }

    /// Answers what the proxy answers itself, once nothing before it is unanswered (D5).
    fn parked(&mut self) -> Result<(), End> {
        let Some(own) = &self.parked else { return Ok(()) };
        let in_idle = matches!(own, Own::Done | Own::NotDone);
        if !in_idle
            && !(self.queue.is_empty()
                && self.sending.is_none()
                && self.relay.answered()
                && self.upload.is_none())
        {
            return Ok(());
        }
        match self.parked.take() {
            Some(Own::Idle(tag)) => {
                let go = self.relay.begin_idle(tag);
                self.say(go);
                self.describe_mailbox();
            }
            Some(Own::Done) => {
                let live = self.flows();
                let (client, backend) = self.relay.end_idle(live);
                if let Some(bytes) = backend {
                    self.tell_backend(bytes);
                }
                if let Some(bytes) = client {
                    self.say(&bytes);
                }
                self.describe_mailbox();
            }
            Some(Own::NotDone) => {
                if let Some(tag) = self.relay.abandon_idle() {
                    self.say(&answer(&tag, "BAD Expected DONE."));
                }
                self.describe_mailbox();
            }
            Some(Own::Capability(tag)) => {
                let pinned = self.door.world.pinned.load_full();
                let words =
                    pinned.as_ref().as_ref().map_or(&b"IMAP4rev1"[..], |p| p.bytes(Stage::Authenticated));
                let ok = answer(&tag, "OK Capability completed.");
                self.say(&[b"* CAPABILITY ", words, b"\r\n", &ok[..]].concat());
            }
            Some(Own::Id(tag, arguments)) => {
                self.relay.state.client_id = Some(arguments);
                self.say(&id(&tag));
            }
            Some(Own::Refuse(bytes)) => self.say(&bytes),
            Some(Own::Logout(tag)) => {
                self.say(&logout(&tag));
                return Err(End::Client);
            }
            None => {}
        }
        Ok(())
    }

    fn idle_backend(&mut self) -> Result<(), End> {
        if self.orders.flowed
            && self.free_way()
            && let Some(line) = self.relay.idle_backend()
        {
            self.tell_backend(&line);
        }
        Ok(())
    }

    // ---- literals -------------------------------------------------------------------------------------

    fn streams_upload(&self) -> bool {
        self.upload.as_ref().is_some_and(|u| matches!(u.path, Path::Streaming { .. }))
    }

    fn on_literal(
        &mut self,
        begins: Option<(Tag, Verb)>,
        line: Vec<u8>,
        literal: Literal,
    ) -> Result<(), End> {
        if let Some((tag, verb)) = &begins {
            let streams = verb.uploads()
                && self.free_way()
                && self
                    .backend
                    .as_ref()
                    .is_some_and(|b| literal.sync || !must_wait(&b.capabilities, literal.size));
            let path = if streams {
                Path::Streaming { generation: self.generation, answered: false }
            } else {
                Path::Kept
            };
            let kept = Some(Whole::new(&self.world().spool));
            self.upload = Some(Upload { tag: tag.clone(), verb: *verb, kept, path, progress: (0, 0) });
        }
        let Some(upload) = &mut self.upload else { return Err(End::Farewell("protocol")) };
        upload.progress.1 = upload.progress.1.saturating_add(literal.size);
        match upload.path {
            Path::Streaming { .. } => self.stream_literal(&line, literal),
            Path::Kept => self.keep_literal(begins, line, literal),
        }
    }

    fn stream_literal(&mut self, line: &[u8], literal: Literal) -> Result<(), End> {
        let (Some(upload), Some(backend)) = (&mut self.upload, &mut self.backend) else {
            return Err(End::Farewell("protocol"));
        };
        if let Some(kept) = &mut upload.kept {
            kept.segment(line, literal.size, literal.binary);
        }
        let bytes = [line, marker(literal.size, literal.sync, literal.binary).as_bytes()].concat();
        let pushed = backend.out.push(&mut backend.leg, &bytes);
        if let Path::Streaming { answered: false, .. } = upload.path {
            self.relay.stream_upload(upload.tag.clone());
        }
        if literal.sync {
            self.relay.await_go(upload.tag.clone());
        } else {
            self.relay.accept();
        }
        if pushed.is_err() { self.on_backend_end() } else { Ok(()) }
    }

    fn keep_literal(
        &mut self,
        begins: Option<(Tag, Verb)>,
        line: Vec<u8>,
        literal: Literal,
    ) -> Result<(), End> {
        let flows = self.flows();
        let limits = &self.door.world.config.limits;
        let Some(upload) = &mut self.upload else { return Err(End::Farewell("protocol")) };
        let Some(kept) = &mut upload.kept else { return Err(End::Farewell("upload")) };
        let limit = if upload.verb.uploads() { limits.upload } else { limits.command as u64 };
        if kept.announced().saturating_add(literal.size) > limit {
            self.door.world.metrics.limits_hit.count(if upload.verb.uploads() {
                "upload"
            } else {
                "command"
            });
            let tag = upload.tag.clone();
            // While the gate is shut a large upload waits for a backend that can take it (scenario 45).
            if !flows && begins.is_some() && upload.verb.uploads() && literal.size <= (1 << 40) {
                self.upload = None;
                self.waiting_literal = Some((begins, line, literal, Instant::now()));
                return Ok(());
            }
            self.upload = None;
            return self.refuse_literal(&tag, literal);
        }
        kept.segment(&line, literal.size, literal.binary);
        if literal.sync {
            self.say(b"+ OK\r\n");
        }
        self.relay.accept();
        self.describe_queue();
        Ok(())
    }

    fn refuse_literal(&mut self, tag: &Tag, literal: Literal) -> Result<(), End> {
        match self.relay.refuse(tag, literal) {
            Ok(true) => {
                self.say(&answer(tag, "NO [TOOBIG] Literal too large."));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(_) => {
                self.say(&answer(tag, "BAD Literal too large."));
                Err(End::Farewell("limit"))
            }
        }
    }

    /// The line after the last literal: the commit point of a command with literals.
    fn on_last(&mut self, line: Vec<u8>) -> Result<(), End> {
        let Some(upload) = self.upload.take() else { return Err(End::Farewell("protocol")) };
        match upload.path {
            Path::Streaming { answered: true, .. } => {
                // Refused before its end; the line end only keeps the backend in step.
                self.tell_backend(&[&line[..], b"\r\n"].concat());
            }
            Path::Streaming { generation, .. } => {
                let sent = Sent { tag: upload.tag, what: What::Upload };
                if self.queue.is_empty() && self.admit(true) {
                    self.tell_backend(&[&line[..], b"\r\n"].concat());
                    self.commit(sent, None);
                } else {
                    self.hold(sent, Body::Streamed { generation, last: line, kept: upload.kept });
                }
            }
            Path::Kept => {
                let Some(mut whole) = upload.kept else { return Err(End::Farewell("upload")) };
                whole.finish(&line);
                let sent = match whole.flat() {
                    _ if upload.verb.uploads() => Ok(Sent { tag: upload.tag, what: What::Upload }),
                    Ok(flat) => self.relay.sent(&flat),
                    Err(_) => return Err(End::Farewell("limit")),
                };
                let sent = match sent {
                    Ok(sent) => sent,
                    Err(own) => {
                        self.parked = Some(own);
                        return self.parked();
                    }
                };
                self.hold(sent, Body::Whole(whole));
                if self.flows() {
                    self.release()?;
                }
            }
        }
        self.describe_queue();
        Ok(())
    }

    /// Before the backend is given up: what streams to it is only kept from now on.
    pub(super) fn detach_uploads(&mut self) -> Result<(), End> {
        if let Some(sending) = self.sending.take() {
            self.queue.put_back(Held {
                sent: sending.sent,
                body: Body::Whole(sending.whole),
                since: sending.since,
                arrived: sending.arrived,
            });
        }
        let undecided = self.relay.undecided();
        if let Some(upload) = &mut self.upload
            && let Path::Streaming { answered, .. } = upload.path
        {
            let Some(kept) = upload.kept.as_ref().filter(|_| !answered) else {
                return Err(End::Farewell("upload"));
            };
            if kept.announced() > self.door.world.config.limits.upload {
                return Err(End::Farewell("upload"));
            }
            upload.path = Path::Kept;
            if undecided {
                // The client waits for a `+` that the backend will not give any more.
                self.relay.accept();
                self.say(b"+ OK\r\n");
            }
        }
        self.queue.backend_lost().map_err(|()| End::Farewell("upload"))
    }

    // ---- the backend ----------------------------------------------------------------------------------

    fn on_backend(&mut self) -> Result<(), End> {
        let mut cx = Context::from_waker(Waker::noop());
        while self.to_client.is_empty() {
            let Some(backend) = &mut self.backend else { return Ok(()) };
            let input = match Pin::new(&mut backend.leg).poll_fill_buf(&mut cx) {
                Poll::Ready(Ok(input)) if !input.is_empty() => input,
                Poll::Ready(_) => return self.on_backend_end(),
                Poll::Pending => break,
            };
            let step = self.relay.server(input);
            let run = [&step.owned[..], &input[..step.forward]];
            for bytes in run.into_iter().filter(|b| !b.is_empty()) {
                self.last_output = Instant::now();
                if self.to_client.push(&mut self.client, bytes).is_err() {
                    return Err(End::Client);
                }
            }
            Pin::new(&mut backend.leg).consume(step.forward + step.swallow);
            if let Some(event) = step.event {
                self.on_event(event)?;
            }
        }
        if self.orders.describes(&self.relay) {
            self.describe_mailbox();
        }
        self.sync_word();
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Go => {
                if let Some(sending) = &mut self.sending {
                    sending.go();
                } else {
                    self.relay.accept();
                    self.say(b"+ OK\r\n");
                }
                Ok(())
            }
            Event::Answered(tag) => {
                if self.sending.as_ref().is_some_and(|s| s.sent.tag == tag) {
                    self.sending = None;
                    self.world().metrics.held_commands.dec();
                }
                if let Some(upload) = self.upload.as_mut().filter(|u| u.tag == tag) {
                    if self.relay.undecided() {
                        self.relay.cancel_literal();
                        self.upload = None;
                    } else if let Path::Streaming { answered, .. } = &mut upload.path {
                        *answered = true;
                    }
                }
                Ok(())
            }
            Event::Send(bytes) => {
                self.tell_backend(&bytes);
                Ok(())
            }
            Event::IdleEnded(answer) => {
                if let Some(bytes) = answer {
                    self.say(&bytes);
                }
                Ok(())
            }
            Event::Probed => Ok(()),
            // The end of file follows; until then nothing more is asked of it.
            Event::Bye => self.on_backend_end(),
            Event::Lost(why) => self.on_lost(why),
        }
    }

    /// The stream cannot be followed (design §4.7).
    fn on_lost(&mut self, why: &'static str) -> Result<(), End> {
        tracing::warn!(session = self.entry.handle.id.0, why, "lost step with the backend");
        let rebuilds = self.relay.state.selected.is_none() && self.relay.in_flight() == (0, 0);
        if rebuilds && !self.relay.mid_response() && self.upload.is_none() {
            // Nothing that only this backend knew: drop it, log in again (scenario 86).
            return self.drop_backend();
        }
        let whole_state = self.upload.is_none() && self.sending.is_none() && self.queue.is_empty();
        if self.relay.own_outstanding() || !whole_state || !self.flows() {
            return Err(End::Farewell("desync"));
        }
        self.world().metrics.pipes_begun.count("desync");
        Err(End::Pipe)
    }

    /// End of file, an error, or BYE from the backend.
    fn on_backend_end(&mut self) -> Result<(), End> {
        let (writes, reads) = self.relay.in_flight();
        let expected = !self.backend.as_ref().is_some_and(|b| self.world().gate.admits(b.epoch));
        if self.relay.mid_response() || reads > 0 {
            // Its answer will not come, and cannot be begun again in the middle.
            self.backend = None;
            return Err(End::Farewell("read_in_flight"));
        }
        let returns = expected || self.relay.state.selected.as_ref().is_none_or(|s| s.movable().is_ok());
        if !returns || (writes > 0 && !expected) {
            self.backend = None;
            return Err(End::Farewell("backend_lost"));
        }
        self.drop_backend()
    }

    /// Gives the backend up; the session waits for another.
    pub(super) fn drop_backend(&mut self) -> Result<(), End> {
        let told = self.relay.lose_backend();
        self.say(&told);
        let uploads = self.detach_uploads();
        self.backend = None;
        self.queue.mark_held(Instant::now());
        self.sync_word();
        uploads
    }

    /// A new backend serves from now on.
    pub(super) fn install(&mut self, leg: Leg, pool: PoolId, epoch: Epoch, capabilities: Capabilities) {
        self.generation += 1;
        let generation = self.generation;
        self.backend = Some(Backend { leg, out: Outgoing::default(), pool, epoch, capabilities, generation });
        self.sync_word();
    }

    // ---- words ----------------------------------------------------------------------------------------

    /// A failed client is found by the next read.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.last_output = Instant::now();
        let _ = self.to_client.push(&mut self.client, bytes);
    }

    /// A failed backend is found by the next read.
    pub(super) fn tell_backend(&mut self, bytes: &[u8]) {
        if let Some(backend) = &mut self.backend {
            let _ = backend.out.push(&mut backend.leg, bytes);
        }
    }

    // ---- time -----------------------------------------------------------------------------------------

    /// When [`Self::advance`] must look at the clock again.
    fn due(&self) -> Option<Instant> {
        let limits = &self.world().config.limits;
        let held = self.queue.oldest().map(|h| h.arrived).or(self.waiting_literal.as_ref().map(|w| w.3));
        let ceiling = held.map(|since| since + limits.command_ceiling);
        let keepalive = held.map(|since| since.max(self.last_output) + limits.keepalive);
        let idle = self.relay.idling().then(|| self.last_output + limits.idle_keepalive);
        let logout =
            (!self.relay.idling()).then(|| self.last_input.max(self.last_output) + limits.autologout);
        [ceiling, keepalive, idle, logout].into_iter().flatten().min()
    }

    fn deadlines(&mut self) -> Result<(), End> {
        let (now, limits) = (Instant::now(), self.door.world.config.limits.clone());
        let late = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let held = self.queue.oldest().map(|h| h.arrived).or(self.waiting_literal.as_ref().map(|w| w.3));
        if let Some(since) = held {
            if late(since, limits.command_ceiling) {
                self.world().metrics.limits_hit.count("command_ceiling");
                return self.refuse_held();
            }
            if late(since.max(self.last_output), limits.keepalive)
                && !self.relay.mid_response()
                && self.upload.is_none()
            {
                self.say(b"* OK Still working\r\n");
            }
        }
        if self.relay.idling() && late(self.last_output, limits.idle_keepalive) && !self.relay.mid_response()
        {
            self.say(b"* OK Still here\r\n");
        }
        if !self.relay.idling() && late(self.last_input.max(self.last_output), limits.autologout) {
            self.world().metrics.limits_hit.count("autologout");
            return Err(End::Farewell("autologout"));
        }
        Ok(())
    }

    /// Every held command is answered; none of them, nor those behind them, is executed (semantics §1.d.2).
    fn refuse_held(&mut self) -> Result<(), End> {
        while let Some(held) = self.queue.pop() {
            if held.since.is_some() {
                self.world().metrics.held_commands.dec();
            }
            self.say(&unavailable(&held.sent.tag));
        }
        if let Some((begins, _, literal, _)) = self.waiting_literal.take() {
            let tag = begins.map(|b| b.0).unwrap_or_default();
            if !literal.sync {
                return Err(End::Farewell("ceiling"));
            }
            self.relay.cancel_literal();
            self.say(&unavailable(&tag));
        }
        self.describe_queue();
        Ok(())
    }

    // ---- the end --------------------------------------------------------------------------------------

    async fn end(mut self, end: End) {
        self.world().metrics.commands.inc_by(self.commands);
        let gauge = self.world().metrics.held_commands.clone();
        let mut waiting = i64::from(self.sending.as_ref().is_some_and(|s| s.since.is_some()));
        while let Some(held) = self.queue.pop() {
            waiting += i64::from(held.since.is_some());
        }
        gauge.sub(waiting);
        match end {
            End::Pipe => return self.into_pipe().await,
            End::Client => {
                let _ = tokio::time::timeout(Duration::from_secs(5), async {
                    std::future::poll_fn(|cx| self.to_client.poll_flush(cx, &mut self.client)).await?;
                    self.client.shutdown().await
                })
                .await;
            }
            End::Farewell(reason) => {
                self.world().metrics.farewells.count(reason);
                tracing::info!(session = self.entry.handle.id.0, reason, "farewell");
                self.farewell(waiting > 0).await;
            }
        }
        self.leave_all().await;
    }

    async fn farewell(&mut self, held: bool) {
        let (writes, reads) = self.relay.in_flight();
        let standing = match () {
            () if self.relay.mid_response() || self.relay.mid_command() || reads > 0 => {
                farewell::Standing::Reading
            }
            () if writes > 0 => farewell::Standing::Ambiguous,
            // Nothing of what is held was executed: a client that finds the connection gone asks again.
            () if held => farewell::Standing::Reading,
            () => farewell::Standing::Quiet,
        };
        let words = match farewell::farewell(standing, &self.relay.ambiguous()) {
            Farewell::Say(bytes) => bytes,
            Farewell::Close => Vec::new(),
        };
        let pending = std::future::poll_fn(|cx| self.to_client.poll_flush(cx, &mut self.client));
        let _ = tokio::time::timeout(Duration::from_secs(5), pending).await;
        greet::close(&mut self.client, &words).await;
    }

    /// Backend connections end in good order, and the word shows them until they have.
    async fn leave_all(&mut self) {
        if let Some(backend) = self.backend.take() {
            let clean = self.relay.safepoint() && backend.out.is_empty();
            if clean {
                converse::leave(backend.leg, self.relay.own_outstanding()).await;
            } else {
                converse::cut(backend.leg).await;
            }
        }
        if let Some(spare) = self.spare.take() {
            spare.leave().await;
        }
        self.entry.handle.word.set(Standing::default());
        self.entry.handle.word_changed();
    }

    async fn into_pipe(self) {
        let Some(mut backend) = self.backend else { return };
        let mut to_backend = std::mem::take(&mut backend.out);
        to_backend.keep(self.relay.unfinished());
        let pipe = Pipe { client: self.client, to_client: self.to_client, backend: backend.leg, to_backend };
        pipe.run(&self.door.world, &self.entry.handle, backend.epoch).await;
    }
}

/// Bytes of a literal: kept, and streamed where the upload streams.
fn receive(
    upload: &mut Option<Upload>,
    backend: &mut Option<Backend>,
    door: &Door,
    bytes: &[u8],
) -> Result<(), &'static str> {
    let Some(upload) = upload else { return Err("protocol") };
    let limits = &door.world.config.limits;
    upload.progress.0 += bytes.len() as u64;
    let keeps_all = upload.path == Path::Kept || door.world.gate.armed();
    if let Some(kept) = &mut upload.kept {
        let outgrown = kept.received() + bytes.len() as u64 > limits.upload_memory as u64;
        if outgrown && !keeps_all {
            upload.kept = None;
        } else if kept.push(bytes, limits.upload_memory).is_err() {
            door.world.metrics.limits_hit.count("spool");
            upload.kept = None;
        }
    }
    match (upload.path, backend) {
        (Path::Streaming { .. }, Some(backend)) => {
            backend.out.push(&mut backend.leg, bytes).map_err(|_| "backend_lost")
        }
        (Path::Streaming { .. }, None) | (Path::Kept, _) if upload.kept.is_none() => Err("limit"),
        (Path::Streaming { .. }, None) | (Path::Kept, _) => Ok(()),
    }
}
