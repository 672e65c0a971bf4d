//! What the backend sends, and what becomes of a session that loses it.
//!
//! Rule: while the gate is shut the end of the old backend is expected; at any other time it is a loss, and a
//! session goes on only if nothing is unanswered that only the lost one knew.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bascule_protocols::imap::{capability::Capabilities, relay::Event, tag::Tag};
use tokio::io::AsyncBufRead;

use super::{
    hold::Body,
    relay::{Backend, End, Session},
    upload::Path,
};
use crate::{
    net::{outgoing::Outgoing, stream::Leg},
    session::stays,
    topology::{Epoch, PoolId},
};

/// A backend that is lost again within this time is not tried a third time.
const REBUILD_PAUSE: Duration = Duration::from_secs(10);

impl Session {
    pub(super) fn on_backend(&mut self) -> Result<(), End> {
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
                self.counts.to_client += bytes.len() as u64;
                if self.to_client.push(&mut self.client, bytes).is_err() {
                    return Err(End::Client);
                }
            }
            Pin::new(&mut backend.leg).consume(step.forward + step.swallow);
            if !self.relay.mid_response() && !self.unsaid.is_empty() {
                let words = std::mem::take(&mut self.unsaid);
                self.say(&words);
            }
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

    pub(super) fn on_event(&mut self, event: Event) -> Result<(), End> {
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
                self.on_answered(&tag);
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
            Event::Bye => self.on_bye(),
            Event::Lost(why) => self.on_lost(why),
        }
    }

    /// The upload or collected command of this tag has its answer. Where its end has not been sent, what is left
    /// of it only keeps the backend in step, and it goes nowhere else.
    fn on_answered(&mut self, tag: &Tag) {
        if let Some(refused) = self.sending.take_if(|s| s.sent.tag == *tag && s.waits()) {
            self.no_longer_held(refused.since);
        } else if let Some(sending) = self.sending.as_mut().filter(|s| s.sent.tag == *tag) {
            sending.answered = true;
        }
        if let Some(held) = self.queue.take_answered(tag) {
            if let Body::Streamed { last, .. } = &held.body {
                self.tell_backend(&[&last[..], b"\r\n"].concat());
            }
            self.no_longer_held(held.since);
        }
        if let Some(upload) = self.upload.as_mut().filter(|u| u.tag == *tag) {
            if self.relay.undecided() {
                self.relay.cancel_literal();
                self.upload = None;
            } else if let Path::Streaming { answered, .. } = &mut upload.path {
                *answered = true;
            }
        }
    }

    pub(super) fn no_longer_held(&self, since: Option<Instant>) {
        self.world().metrics.held_commands.sub(i64::from(since.is_some()));
        self.describe_queue();
    }

    /// The stream cannot be followed (design §4.7).
    pub(super) fn on_lost(&mut self, why: &'static str) -> Result<(), End> {
        tracing::warn!(session = self.entry.handle.id.0, why, "lost step with the backend");
        let rebuilds = self.relay.state.selected.is_none() && self.relay.in_flight() == (0, 0);
        if rebuilds && !self.relay.mid_response() && self.upload.is_none() {
            // Nothing that only this backend knew: drop it, log in again (scenario 86).
            return self.drop_backend();
        }
        let whole_state = self.upload.is_none() && self.sending.is_none() && self.queue.is_empty();
        let in_step = !self.relay.own_outstanding() && !self.relay.untold();
        if !in_step || !whole_state || !self.flows() {
            return Err(End::Farewell("desync"));
        }
        self.world().metrics.pipes_begun.count("desync");
        Err(End::Pipe)
    }

    /// The end of file follows; until then nothing more is asked of it, and in a hold on shared storage the other pool is
    /// not touched before.
    fn on_bye(&mut self) -> Result<(), End> {
        let reads = self.relay.mid_response() || self.relay.in_flight().1 > 0;
        if reads || !stays::matters(self.world()) {
            return self.on_backend_end();
        }
        self.drop_dial();
        if self.errand.is_some() { self.on_backend_end() } else { self.see_off(false) }
    }

    /// End of file, an error, or BYE from the backend.
    pub(super) fn on_backend_end(&mut self) -> Result<(), End> {
        let (writes, reads) = self.relay.in_flight();
        let expected = !self.backend.as_ref().is_some_and(|b| self.world().gate.admits(b.epoch));
        if self.relay.mid_response() || reads > 0 {
            // Its answer will not come, and cannot be begun again in the middle.
            return Err(End::Farewell("read_in_flight"));
        }
        let returns = expected || self.relay.state.selected.as_ref().is_none_or(|s| s.movable().is_ok());
        let again = self.rebuilt.is_some_and(|at| at.elapsed() < REBUILD_PAUSE);
        if !returns || (!expected && (writes > 0 || again)) {
            return Err(End::Farewell("backend_lost"));
        }
        self.rebuilt = (!expected).then(Instant::now);
        self.drop_backend()
    }

    /// Gives the backend up; the session waits for another. Behind a write that it took with it nothing that waits is
    /// executed: it may rest on that write (semantics §1.d.2).
    pub(super) fn drop_backend(&mut self) -> Result<(), End> {
        let lost_writes = self.relay.in_flight().0 > 0;
        let told = self.relay.lose_backend();
        self.say(&told);
        if lost_writes {
            self.refuse_queue();
            self.refuse_upload();
            self.refuse_waiting_literal("backend_lost")?;
        }
        let uploads = self.detach_uploads();
        self.backend = None;
        self.mark_held();
        self.sync_word();
        uploads
    }

    /// A new backend serves from now on.
    pub(super) fn install(&mut self, leg: Leg, pool: PoolId, epoch: Epoch, capabilities: Capabilities) {
        self.generation += 1;
        let generation = self.generation;
        let capabilities = self.world().said.share(pool, capabilities);
        self.backend = Some(Backend { leg, out: Outgoing::default(), pool, epoch, capabilities, generation });
        self.sync_word();
    }
}
