//! The session after the login: serves its client in every phase, its backend while it has one.
//!
//! Rule: a command reaches a backend only through [`Session::admit`], which announces it in the session's word
//! and then asks the gate. Everything is level-triggered: after each event [`Session::advance`] does whatever
//! the session's state now allows.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bascule_protocols::imap::{
    capability::{Capabilities, Stage},
    command::Verb,
    fragment::Literal,
    login::Credentials,
    relay::{Own, Relay},
    tag::{Tag, TagMaker},
};
use tokio::io::AsyncBufRead;

use super::{
    super::door::Door,
    hold::Queue,
    login::LoggedIn,
    orders::{ErrandFuture, ErrandResult, Orders, Spare},
    upload::{Sending, Upload},
};
use crate::{
    config,
    gate::Standing,
    net::{outgoing::Outgoing, stream::Leg},
    session::{World, registry::Entry},
    telemetry::Metrics,
    topology::{Epoch, PoolId},
};

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

/// A literal that was announced and cannot be taken yet.
#[derive(Debug)]
pub(super) struct WaitingLiteral {
    pub(super) begins: Option<(Tag, Verb)>,
    pub(super) line: Vec<u8>,
    pub(super) literal: Literal,
    pub(super) since: Instant,
}

/// Counted here and added to the metrics in batches, so that no command costs a shared write.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) commands: u64,
    pub(super) from_client: u64,
    pub(super) to_client: u64,
}

impl Counts {
    /// How many commands make a batch.
    const BATCH: u64 = 64;

    pub(super) fn flush(&mut self, metrics: &Metrics, all: bool) {
        if all || self.commands >= Self::BATCH {
            let Self { commands, from_client, to_client } = std::mem::take(self);
            metrics.commands.inc_by(commands);
            metrics.bytes_from_clients.inc_by(from_client);
            metrics.bytes_to_clients.inc_by(to_client);
        }
    }
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
    /// Words of ours that wait for the end of a response.
    pub(super) unsaid: Vec<u8>,
    pub(super) backend: Option<Backend>,
    pub(super) spare: Option<Spare>,
    pub(super) relay: Relay,
    pub(super) credentials: Credentials,
    pub(super) queue: Queue,
    pub(super) orders: Orders,
    pub(super) errand: Option<ErrandFuture>,
    pub(super) parked: Option<Own>,
    pub(super) sending: Option<Box<Sending>>,
    pub(super) upload: Option<Box<Upload>>,
    /// A literal that waits for the driver: too large to be kept, so it waits for an open gate.
    pub(super) waiting_literal: Option<Box<WaitingLiteral>>,
    pub(super) generation: u64,
    /// When a backend was lost that nobody expected to lose.
    pub(super) rebuilt: Option<Instant>,
    pub(super) standing: Standing,
    pub(super) counts: Counts,
    pub(super) last_input: Instant,
    pub(super) last_output: Instant,
}

enum Ready {
    Client,
    Backend,
    Errand(ErrandResult),
    SpareEnded,
    Again,
    ClientFailed,
    BackendFailed,
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
        let standing = Standing { backend: Some(backend.pool), ..Standing::default() };
        entry.handle.word.set(standing);
        Self {
            door,
            entry,
            client,
            to_client: Outgoing::default(),
            unsaid: Vec::new(),
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
            rebuilt: None,
            standing,
            counts: Counts::default(),
            last_input: now,
            last_output: now,
        }
    }

    pub(super) fn world(&self) -> &World {
        &self.door.world
    }

    /// Runs to the end of the session.
    pub(super) async fn run(mut self: Box<Self>) {
        let end = if self.door.listener.relay == config::Relay::Pipe {
            self.world().metrics.pipes_begun.count("configured");
            End::Pipe
        } else {
            std::future::poll_fn(|cx| self.poll_run(cx)).await
        };
        Box::pin(self.end(end)).await;
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if !self.calm()
                && let Err(end) = self.advance()
            {
                return Poll::Ready(end);
            }
            let step = match ready!(self.poll_ready(cx)) {
                Ready::Client => self.on_client(),
                Ready::Backend => self.on_backend(),
                Ready::Errand(result) => {
                    self.errand = None;
                    self.on_errand(result)
                }
                Ready::SpareEnded => {
                    self.on_spare_end();
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
        if self.spare.as_mut().is_some_and(|spare| spare.has_ended(cx)) {
            return Poll::Ready(Ready::SpareEnded);
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
            || self.entry.handle.is_late()
    }

    /// Whether commands and answers just flow: nothing waits, nothing is asked of this session, and
    /// [`Self::advance`] would find nothing to do. Deadlines only move away meanwhile, so the one that the sweeper
    /// knows is early at worst.
    fn calm(&self) -> bool {
        self.queue.is_empty()
            && self.orders.calm()
            && !self.changed()
            && !self.relay.idling()
            && !self.relay.own_outstanding()
            && self.parked.is_none()
            && self.errand.is_none()
            && self.spare.is_none()
            && self.sending.is_none()
            && self.upload.is_none()
            && self.waiting_literal.is_none()
    }

    /// Whether the client is read now.
    pub(super) fn wants_client(&self) -> bool {
        let limits = &self.world().config.limits;
        self.parked.is_none()
            && self.waiting_literal.is_none()
            && !self.relay.undecided()
            && (!self.relay.probing() || self.relay.idling())
            && self.queue.len() < limits.held_commands
            && self.queue.bytes() < limits.held_bytes
            && self.backend.as_ref().is_none_or(|b| b.out.is_empty())
            && self.to_client.len() + self.unsaid.len() < 64 * 1024
    }

    /// Whether this session's commands reach a backend now.
    pub(super) fn flows(&self) -> bool {
        self.errand_allows() && self.backend.as_ref().is_some_and(|b| self.world().gate.admits(b.epoch))
    }

    pub(super) fn errand_allows(&self) -> bool {
        self.errand.is_none() || self.orders.beside()
    }

    /// Does everything that has become possible.
    pub(super) fn advance(&mut self) -> Result<(), End> {
        self.obey()?;
        let flows = self.flows();
        let shut = self.orders.flowed && !flows;
        if shut {
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
        if shut {
            // What the word said before was news to nobody.
            self.entry.handle.word_changed();
        }
        if self.upload.is_some() {
            self.describe_queue();
        }
        self.entry.handle.due(self.due());
        Ok(())
    }

    /// What waits for its turn waits at the gate from now on.
    pub(super) fn mark_held(&mut self) {
        let newly = self.queue.mark_held(Instant::now());
        if newly > 0 {
            self.world().metrics.held_commands.add(newly);
            self.describe_queue();
        }
    }

    /// The gate shut, or the backend went: what waits, is held from now on; a DONE is answered at once.
    pub(super) fn gate_shut(&mut self) {
        self.mark_held();
        if let Some(bytes) = self.relay.answer_done() {
            self.say(&bytes);
        }
    }

    /// A failed client is found by the next read. Within a response of the backend the words wait for its end.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        if self.relay.mid_response() {
            return self.unsaid.extend_from_slice(bytes);
        }
        self.last_output = Instant::now();
        let _ = self.to_client.push(&mut self.client, bytes);
    }

    /// A failed backend is found by the next read.
    pub(super) fn tell_backend(&mut self, bytes: &[u8]) {
        if let Some(backend) = &mut self.backend {
            let _ = backend.out.push(&mut backend.leg, bytes);
        }
    }
}
