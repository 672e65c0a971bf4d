//! Deadlines, and the end of a session.
//!
//! Rule: every held command is answered, and backend connections end in good order (D1).

use std::time::{Duration, Instant};

use bascule_protocols::imap::farewell::{self, Farewell, unavailable};
use tokio::io::AsyncWriteExt;

use super::{
    converse, greet,
    hold::Body,
    pipe::Pipe,
    relay::{End, Session},
};
use crate::gate::Standing;

impl Session {
    /// Since when the client waits for what is held.
    fn waits_since(&self) -> Option<Instant> {
        let literal = self.waiting_literal.as_ref().map(|w| w.since);
        let sending = self.sending.as_ref().filter(|_| !self.orders.flowed).map(|s| s.arrived);
        sending.or_else(|| self.queue.oldest().map(|held| held.arrived)).or(literal)
    }

    /// When [`Self::advance`] must look at the clock again.
    pub(super) fn due(&self) -> Option<Instant> {
        let limits = &self.world().config.limits;
        let held = self.waits_since();
        let ceiling = held.map(|since| since + limits.command_ceiling);
        let keepalive = held.map(|since| since.max(self.last_output) + limits.keepalive);
        let idle = self.relay.idling().then(|| self.last_output + limits.idle_keepalive);
        let logout =
            (!self.relay.idling()).then(|| self.last_input.max(self.last_output) + limits.autologout);
        [ceiling, keepalive, idle, logout].into_iter().flatten().min()
    }

    pub(super) fn deadlines(&mut self) -> Result<(), End> {
        let (now, limits) = (Instant::now(), self.door.world.config.limits.clone());
        let late = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let held = self.waits_since();
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
    pub(super) fn refuse_held(&mut self) -> Result<(), End> {
        let mut half_sent = false;
        if let Some(sending) = self.sending.take() {
            half_sent = true;
            self.world().metrics.held_commands.sub(i64::from(sending.since.is_some()));
            if !sending.answered {
                self.say(&unavailable(&sending.sent.tag));
            }
        }
        while let Some(held) = self.queue.pop() {
            half_sent |= matches!(held.body, Body::Streamed { .. });
            self.world().metrics.held_commands.sub(i64::from(held.since.is_some()));
            self.say(&unavailable(&held.sent.tag));
        }
        if half_sent {
            // It waits for the rest of a command that will not come.
            self.drop_backend()?;
        }
        if let Some(waiting) = self.waiting_literal.take() {
            let tag = waiting.begins.map(|b| b.0).unwrap_or_default();
            if !waiting.literal.sync {
                return Err(End::Farewell("ceiling"));
            }
            self.relay.cancel_literal();
            self.say(&unavailable(&tag));
        }
        self.describe_queue();
        Ok(())
    }

    pub(super) async fn end(mut self, end: End) {
        self.counts.flush(&self.door.world.metrics, true);
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

    pub(super) async fn farewell(&mut self, held: bool) {
        let reads = self.relay.in_flight().1;
        let standing = match () {
            () if self.relay.mid_response() => farewell::Standing::Cut,
            // Nothing of what is held was executed: a client that finds the connection gone asks again.
            () if self.relay.mid_command() || reads > 0 || held => farewell::Standing::Reading,
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
    pub(super) async fn leave_all(&mut self) {
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

    pub(super) async fn into_pipe(self) {
        let Some(mut backend) = self.backend else { return };
        let mut to_backend = std::mem::take(&mut backend.out);
        to_backend.keep(self.relay.unfinished());
        let mut to_client = self.to_client;
        to_client.keep(self.relay.unsent());
        let pipe = Pipe { client: self.client, to_client, backend: backend.leg, to_backend };
        pipe.run(&self.door.world, &self.entry.handle, backend.epoch).await;
    }
}
