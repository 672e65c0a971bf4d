//! From the client to the backend: the gate is asked, and what it kept back is released in order.
//!
//! Rule: a command reaches a backend only after it stood in the session's word and the gate said yes.

use std::time::Instant;

use bascule_protocols::imap::relay::Sent;

use super::{
    hold::{Body, Held},
    orders::Spare,
    relay::{End, Session},
    upload::{Piece, Sending},
};
use crate::gate::Standing;

impl Session {
    /// Announces one more command and asks the gate.
    pub(super) fn admit(&mut self, write: bool) -> bool {
        let Some(backend) = self.backend.as_ref().filter(|_| self.errand_allows()) else { return false };
        let mut standing = self.now_standing();
        if write {
            standing.writes += 1;
        } else {
            standing.reads += 1;
            standing.costly = true;
        }
        if self.entry.handle.word.announce(standing, &self.world().gate, backend.epoch) {
            self.standing = standing;
            return true;
        }
        self.entry.handle.word.set(self.standing);
        self.entry.handle.word_changed();
        false
    }

    pub(super) fn now_standing(&self) -> Standing {
        let (writes, reads) = self.relay.in_flight();
        Standing {
            backend: self.backend.as_ref().map(|b| b.pool).or(self.orders.touching),
            spare: self.spare.as_ref().and_then(Spare::user_on).or(self.orders.verifying),
            writes,
            reads,
            costly: reads > 0,
            waits: self.waits(),
        }
    }

    /// Whether something of the session is for a gate that moves. Commands in flight stand for themselves.
    fn waits(&self) -> bool {
        !self.queue.is_empty()
            || self.sending.is_some()
            || self.upload.is_some()
            || self.waiting_literal.is_some()
            || self.parked.is_some()
            || self.relay.ends_idle()
    }

    /// Tells the word what has become of commands and connections.
    pub(super) fn sync_word(&mut self) {
        let now = self.now_standing();
        self.entry.handle.stand(&mut self.standing, now, self.orders.flowed);
    }

    /// Releases held commands in order until one has to wait.
    pub(super) fn release(&mut self) -> Result<(), End> {
        if !self.relay.idling()
            && let Some(done) = self.relay.rouse_backend()
        {
            self.tell_backend(done);
        }
        loop {
            let alone = self.relay.probing() || self.relay.idles_alone();
            if alone || self.backend.as_ref().is_some_and(|b| !b.out.is_empty()) {
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
            let next = self.queue.oldest().map(|held| held.sent.leaves_mailbox());
            if self.relay.untold() && !next.unwrap_or_else(|| self.waiting_literal.is_none()) {
                return Err(End::Farewell("different"));
            }
            let Some(held) = self.queue.pop() else { break };
            if !self.release_one(held)? {
                return Ok(());
            }
        }
        if let Some(waiting) = self.waiting_literal.take() {
            self.on_literal(waiting.begins, waiting.line, waiting.literal)?;
        }
        Ok(())
    }

    /// False: it could not be released yet and is back in the queue.
    pub(super) fn release_one(&mut self, held: Held) -> Result<bool, End> {
        match held.body {
            Body::Whole(whole) => {
                self.sending = Some(Box::new(Sending::new(held.sent, whole, held.since, held.arrived)));
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
    pub(super) fn send_piece(&mut self) -> Result<bool, End> {
        let (Some(sending), Some(backend)) = (&mut self.sending, &self.backend) else { return Ok(false) };
        match sending.next(&backend.capabilities) {
            // To a command that it has refused it will not say `+`.
            Ok(Piece::Bytes(_, true)) if sending.answered => Err(End::Farewell("upload")),
            Ok(Piece::Bytes(bytes, wait)) => {
                let tag = sending.sent.tag.clone();
                if wait {
                    self.relay.await_go(tag);
                } else if !sending.answered {
                    self.relay.stream_upload(tag);
                }
                self.tell_backend(&bytes);
                Ok(!wait)
            }
            Ok(Piece::Wait) => Ok(false),
            Ok(Piece::Commit(last)) if sending.answered => {
                let since = sending.since;
                self.sending = None;
                self.tell_backend(&[&last[..], b"\r\n"].concat());
                self.no_longer_held(since);
                Ok(true)
            }
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

    pub(super) fn commit(&mut self, sent: Sent, since: Option<Instant>) {
        self.relay.commit(sent);
        self.counts.commands += 1;
        self.counts.flush(&self.door.world.metrics, false);
        if let Some(since) = since {
            let world = self.world();
            world.metrics.held_commands.dec();
            world.metrics.held(world.holds.record(since, Instant::now()));
            self.describe_queue();
        }
    }

    pub(super) fn hold(&mut self, sent: Sent, body: Body) {
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

    pub(super) fn describe_mailbox(&self) {
        let mailbox =
            self.relay.state.selected.as_ref().map(|s| String::from_utf8_lossy(&s.name).into_owned());
        let idle = self.relay.idling();
        self.entry.handle.describe(|info| {
            info.mailbox = mailbox;
            info.idle = idle;
        });
    }
}
