//! What the backend says, how one is come by, and what becomes of a session that loses it.
//!
//! Rule: a backend is dialled when a command needs one, and after every loss; what the client was promised is said to
//! the next one before anything new. Only a message that was committed and not answered is ambiguous, and the
//! listener's policy decides about it.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bascule_protocols::smtp::{
    relay::{AMBIGUOUS, DELIVERED, Hello, Own, POISONED, Then, Told},
    reply::{Class, Replies, Reply},
};
use tokio::io::AsyncBufRead;

use super::{
    open::{OpenError, Opened, Whom, open},
    relay::{Backend, End, ROOM, Session, Wait, Waiting},
};
use crate::{
    config::Ambiguous,
    gate::Standing,
    net::outgoing::Outgoing,
    topology::{Epoch, PoolId},
};

/// First pause between two tries to reach a backend.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Session {
    /// Carries out what waits, as far as it can be now.
    pub(super) fn carry_on(&mut self) -> Result<(), End> {
        if matches!(&self.waiting, Some(Wait { what: Waiting::Commit, .. })) && !self.relay.waits_to_commit()
        {
            // It was refused or withdrawn meanwhile, and its client told, if a server was asked.
            if self.relay.is_orphaned() {
                let Some(words) = self.relay.refuse_orphan() else { return Ok(()) };
                self.say(&words);
            }
            self.forget_waiting();
            self.drop_content();
        }
        if let Some(Wait { what: Waiting::Command(command), .. }) = &self.waiting
            && self.relay.refuses(command)
        {
            if !self.relay.answered() {
                return Ok(());
            }
            self.parked = Some(Own::Say(self.relay.refusal(command)));
            self.forget_waiting();
            return self.answer_parked();
        }
        let Some(wait) = &self.waiting else { return Ok(()) };
        let login = matches!(wait.what, Waiting::Login(_));
        if login || !self.flows() {
            if !self.admitted() {
                self.mark_held();
            }
            self.ensure_backend();
            return Ok(());
        }
        let commit = matches!(wait.what, Waiting::Commit);
        let Some(backend) = &self.backend else { return Ok(()) };
        let pipelines = backend.keywords.has("PIPELINING");
        let ready = backend.out.len() < ROOM && (pipelines || self.relay.answered());
        if !ready || (commit && !(self.streamed() && self.relay.answered() && self.relay.waits_to_commit())) {
            return Ok(());
        }
        // All was answered: it has come to its end, or says that it will.
        if commit && self.backend_speaks() {
            return self.on_backend();
        }
        if commit && !self.claim() {
            return Ok(());
        }
        if !self.admit(commit) {
            self.mark_held();
            return Ok(());
        }
        let Some(wait) = self.waiting.take() else { return Ok(()) };
        self.release_clock(&wait);
        match wait.what {
            Waiting::Command(command) => {
                self.forward(command);
                // An empty last chunk leaves its commit, for which nothing else would come back here.
                if self.waiting.is_some() {
                    return self.carry_on();
                }
            }
            Waiting::Commit => {
                let end = self.relay.end();
                self.asked = self.now;
                self.tell_backend(end);
            }
            Waiting::Login(_) => {}
        }
        Ok(())
    }

    /// Announces one more command and asks the gate.
    fn admit(&mut self, commit: bool) -> bool {
        let Some(backend) = &self.backend else { return false };
        let mut standing = self.now_standing();
        if commit {
            standing.writes += 1
        } else {
            standing.reads += 1
        }
        if self.entry.handle.word.announce(standing, &self.door.world.gate, backend.epoch) {
            self.standing = standing;
            return true;
        }
        self.entry.handle.word.set(self.standing);
        self.entry.handle.word_changed();
        false
    }

    // ---- coming by one --------------------------------------------------------------------------------

    /// Begins to open a connection to the active pool, if there is none and the gate lets it.
    pub(super) fn ensure_backend(&mut self) {
        let paused = self.retry.is_some_and(|(at, _)| self.now < at);
        if self.backend.is_some() || self.opening.is_some() || self.leaving.is_some() || paused {
            return;
        }
        let topology = self.door.world.topology.load();
        let (pool, epoch) = (topology.active, topology.epoch);
        let standing = Standing { backend: Some(pool), ..Standing::default() };
        if !self.entry.handle.word.announce(standing, &self.door.world.gate, epoch) {
            self.entry.handle.word.set(self.standing);
            return;
        }
        (self.towards, self.standing) = (Some(pool), standing);
        let (world, whom) = (self.door.world.clone(), self.whom());
        let limit = topology.pool(pool).service(whom.protocol).map_or(PAUSE, |service| service.dial_timeout);
        let greeted = self.greeted.take().filter(|(.., of, _)| *of == epoch).map(|(.., greeted)| greeted);
        self.opening =
            Some(Box::pin(async move { (pool, epoch, open(&world, pool, &whom, greeted, limit).await) }));
    }

    pub(super) fn whom(&self) -> Whom {
        let hello = self.relay.hello().cloned();
        let waiting = self.waiting.as_ref().and_then(|wait| match &wait.what {
            Waiting::Login(credentials) => Some(credentials.clone()),
            Waiting::Command(_) | Waiting::Commit => None,
        });
        Whom {
            protocol: self.door.listener.protocol,
            role: self.relay.role(),
            hello: hello.unwrap_or_else(|| Hello {
                extended: true,
                name: self.door.world.config.server.hostname.as_bytes().into(),
            }),
            client: self.entry.handle.peer,
            local: self.client.tcp().local_addr().ok(),
            credentials: waiting.or_else(|| self.credentials.clone()),
        }
    }

    pub(super) fn on_opened(
        &mut self,
        pool: PoolId,
        epoch: Epoch,
        result: Result<Opened, OpenError>,
    ) -> Result<(), End> {
        self.towards = None;
        let admitted = self.world().gate.admits(epoch);
        match result {
            // Whoever wins is asked (design §5.2, Holding).
            Ok(opened) if !admitted => {
                drop(opened);
                Ok(())
            }
            Ok(Opened { leg, keywords }) => {
                self.tried(pool, None);
                self.backend = Some(Backend {
                    leg,
                    out: Outgoing::default(),
                    replies: Replies::default(),
                    pool,
                    epoch,
                    keywords,
                    streamed: None,
                    later: VecDeque::new(),
                    waits: false,
                });
                self.logged_in();
                if self.relay.in_transaction() {
                    self.introduce();
                }
                let envelope = self.relay.replay();
                self.tell_backend(&envelope);
                self.go_on()
            }
            Err(OpenError::Refused(reply)) if admitted => self.login_refused(&reply.bytes),
            Err(error) => {
                tracing::debug!(session = self.entry.handle.id.0, %error, "no backend");
                if admitted {
                    self.tried(pool, Some(&error));
                }
                self.back_off(PAUSE);
                self.mark_held();
                Ok(())
            }
        }
    }

    /// What came of trying a server of a pool. One that said no was reached.
    pub(super) fn tried(&self, pool: PoolId, failed: Option<&OpenError>) {
        let protocol = self.door.listener.protocol;
        let topology = self.world().topology.load();
        let Some(service) = topology.pool(pool).service(protocol) else { return };
        let failed =
            failed.filter(|error| matches!(error, OpenError::Dial { .. } | OpenError::Unavailable(_)));
        let failed = failed.map(|error| error as &dyn std::fmt::Display);
        self.world().tried(pool, protocol, &service.server, failed);
    }

    // ---- its replies ----------------------------------------------------------------------------------

    pub(super) fn on_backend(&mut self) -> Result<(), End> {
        let mut cx = Context::from_waker(Waker::noop());
        while self.to_client.len() < ROOM {
            let Some(backend) = &mut self.backend else { return Ok(()) };
            let input = match Pin::new(&mut backend.leg).poll_fill_buf(&mut cx) {
                Poll::Ready(Ok(input)) if !input.is_empty() => input,
                Poll::Ready(_) => return self.on_backend_end(),
                Poll::Pending => break,
            };
            let (n, reply) = backend.replies.next(input);
            Pin::new(&mut backend.leg).consume(n);
            match reply {
                Ok(Some(reply)) => {
                    backend.has_answered();
                    self.on_reply(&reply)?;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(session = self.entry.handle.id.0, %error, "backend");
                    return self.on_backend_end();
                }
            }
        }
        self.sync_word();
        Ok(())
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<(), End> {
        if let Some(claimed) = &mut self.claimed
            && self.relay.next_recipient().is_some()
        {
            claimed.settle(reply.class() == Class::Done, self.now);
        }
        let outcome = self.relay.reply(reply);
        if outcome.client != Told::Nothing || outcome.then == Then::Ended {
            // It is of use: what the client had heard before shows nothing, and its wait goes on.
            (self.asked, self.retry) = (self.now, None);
        }
        self.say(&DELIVERED.repeat(outcome.before));
        match outcome.client {
            Told::Reply if outcome.times == 1 => self.say(&reply.bytes),
            Told::Reply => self.say(&reply.bytes.repeat(outcome.times)),
            Told::Withdrawn => self.say(POISONED),
            Told::Nothing => {}
        }
        self.say(&DELIVERED.repeat(outcome.after));
        match outcome.then {
            Then::Nothing => {}
            Then::Stream => {
                if let Some(backend) = &mut self.backend {
                    backend.streamed = Some(0);
                }
            }
            // Said again, it waits already.
            Then::Whole if self.waiting.is_some() => {}
            Then::Whole => self.wait_for(Waiting::Commit),
            Then::Ended => {
                if self.relay.must_reset() {
                    self.tell_backend(b"RSET\r\n");
                } else {
                    let taken = reply.class() == Class::Done;
                    self.world().metrics.messages.count(if taken { "relayed" } else { "refused" });
                }
                self.drop_content();
            }
            Then::Lost(why) => {
                tracing::debug!(session = self.entry.handle.id.0, why, "backend");
                return self.on_backend_end();
            }
        }
        self.go_on()
    }

    /// The next step of a message that is said again.
    fn go_on(&mut self) -> Result<(), End> {
        let Some(next) = self.relay.go_on() else { return Ok(()) };
        self.tell_backend(&next.send);
        if next.stream
            && let Some(backend) = &mut self.backend
        {
            backend.streamed = Some(0);
        }
        self.say(&next.say);
        if next.withdrawn {
            self.world().metrics.messages.count("poisoned");
            if !next.say.is_empty() {
                self.drop_content();
            }
        }
        Ok(())
    }

    fn backend_speaks(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.backend.as_mut().is_some_and(|b| Pin::new(&mut b.leg).poll_fill_buf(&mut cx).is_ready())
    }

    // ---- losing it ------------------------------------------------------------------------------------

    /// End of file, an error, 421, or a reply that nobody asked for.
    pub(super) fn on_backend_end(&mut self) -> Result<(), End> {
        self.backend = None;
        // The first time the next one is dialled at once.
        self.back_off(Duration::ZERO);
        let loss = self.relay.lose_backend();
        self.say(&loss.say);
        if loss.ambiguous {
            self.on_ambiguous();
        }
        if self.relay.in_transaction() && !self.content_is_kept() {
            self.lose_content();
        }
        if self.relay.waits_to_commit() && self.waiting.is_none() {
            self.wait_for(Waiting::Commit);
        }
        self.mark_held();
        self.sync_word();
        Ok(())
    }

    /// No backend for `first`, or for twice as long as the last time.
    fn back_off(&mut self, first: Duration) {
        let pause = self.retry.map_or(first, |(_, pause)| (pause * 2).clamp(PAUSE, LONGEST_PAUSE));
        self.retry = Some((self.now + pause, pause));
    }

    /// Nobody knows whether the message was taken (semantics §2.6).
    fn on_ambiguous(&mut self) {
        // Once: a server that dies of this message may have it in its queue each time.
        let first = self.ambiguous.replace(self.messages) != Some(self.messages);
        let policy = self.door.listener.smtp.ambiguous;
        let replay = policy == Ambiguous::Replay && first && self.content_is_kept();
        tracing::warn!(message = self.name(), replay, "the server is gone that was to answer a message");
        self.world().metrics.messages.count(if replay { "ambiguous_replay" } else { "ambiguous_tempfail" });
        if replay {
            self.relay.forget_commit();
            self.wait_for(Waiting::Commit);
            return;
        }
        for _ in 0..self.relay.replies_owed() {
            self.say(AMBIGUOUS);
        }
        self.relay.over();
        self.drop_content();
    }

    /// Ends a connection that stands in the middle of a message.
    pub(super) fn cut_backend(&mut self) {
        self.backend = None;
        let loss = self.relay.lose_backend();
        self.say(&loss.say);
        self.sync_word();
    }

    /// What waited is answered already.
    pub(super) fn forget_waiting(&mut self) {
        if let Some(wait) = self.waiting.take() {
            self.release_clock(&wait);
        }
    }

    /// What waited goes on: its time counts as held if it met a shut gate.
    pub(super) fn release_clock(&mut self, wait: &Wait) {
        if let Some(since) = wait.held {
            let world = self.world();
            world.metrics.held_commands.dec();
            world.metrics.held(world.holds.record(since, self.now));
            self.entry.handle.describe(|info| info.held = 0);
            self.entry.handle.word_changed();
        }
    }

    /// What waits is held from now on.
    pub(super) fn mark_held(&mut self) {
        if let Some(wait) = self.waiting.as_mut().filter(|wait| wait.held.is_none()) {
            wait.held = Some(self.now);
            if matches!(wait.what, Waiting::Commit) {
                self.door.world.metrics.messages.count("held");
            }
            self.door.world.metrics.held_commands.inc();
            self.entry.handle.describe(|info| info.held = 1);
        }
    }
}
