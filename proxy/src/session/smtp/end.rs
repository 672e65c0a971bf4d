//! Deadlines, and the end of a session.
//!
//! Rule: what waits is answered, with 451 at the ceiling; 421 is said where no answer is owed.

use std::time::{Duration, Instant};

use bascule_protocols::smtp::relay::{Command, Role};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    orders::leave,
    relay::{End, Session, Waiting},
};
use crate::session::stays::until_open;

/// How long a connection that ends may take to read what it was told.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A client that says nothing (RFC 5321 §4.5.3.2.7: five minutes at least).
const SILENCE: Duration = Duration::from_secs(300);
/// The same where places are scarce, between messages (Postfix's stress-adaptive `smtpd_timeout`).
const SHORT_SILENCE: Duration = Duration::from_secs(10);
/// Of a thousand places so many are taken, and places are scarce.
const SCARCE: usize = 800;
/// Printers and the like keep a connection for longer, but not one that nobody is at the end of.
const DEVICE_SILENCE: Duration = Duration::from_secs(3600);
/// The answer to the end of a message (RFC 5321 §4.5.3.2.6).
const OUTCOME: Duration = Duration::from_secs(600);
/// Whoever is told so may say it again.
const AGAIN: &[u8] = b"451 4.3.2 Please try again\r\n";
/// A printer or the like is held longer than a program that shows its user an error.
const DEVICE_CEILING: Duration = Duration::from_secs(120);

impl Session {
    fn ceiling(&self) -> Duration {
        let limits = &self.world().config.limits;
        match () {
            () if self.device() => DEVICE_CEILING.max(limits.command_ceiling),
            () if self.relay.role() == Role::Submission => limits.login_ceiling.min(limits.command_ceiling),
            () => limits.command_ceiling,
        }
    }

    /// When [`Session::deadlines`] must look at the clock again.
    pub(super) fn due(&self) -> Option<Instant> {
        let ceiling = self.waiting.as_ref().map(|wait| wait.arrived + self.ceiling());
        let needs_one = self.waiting.is_some() || self.relay.in_transaction();
        let retry = self.retry.filter(|_| needs_one).map(|(at, _)| at);
        let silence = Some(self.silent_until());
        [ceiling, self.answered_by(), retry, silence].into_iter().flatten().min()
    }

    /// Until when a backend must answer what it was asked, be it that another takes its place.
    fn answered_by(&self) -> Option<Instant> {
        let limit = if self.relay.in_flight().0 > 0 { OUTCOME } else { self.ceiling() };
        self.relay.awaits_backend().then(|| self.asked.max(self.last_input) + limit)
    }

    /// When somebody who says nothing is looked at again.
    fn silent_until(&self) -> Instant {
        let long = self.last_input + if self.device() { DEVICE_SILENCE } else { SILENCE };
        if self.device() || self.relay.role() != Role::Relay || self.relay.in_transaction() {
            return long;
        }
        // The answer is another one when places become scarce, so it is asked for again.
        long.min((self.last_input + SHORT_SILENCE).max(self.now + SHORT_SILENCE / 2))
    }

    fn is_silent(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.last_input);
        if self.device() {
            return since >= DEVICE_SILENCE;
        }
        let hurried = self.relay.role() == Role::Relay && !self.relay.in_transaction();
        since >= SILENCE || (hurried && since >= SHORT_SILENCE && self.world().fullness() > SCARCE)
    }

    pub(super) fn deadlines(&mut self) -> Result<(), End> {
        let now = self.now;
        if let Some(wait) = &self.waiting {
            if now >= wait.arrived + self.ceiling() {
                self.world().metrics.limits_hit.count("command_ceiling");
                return self.refuse_waiting();
            }
        } else if self.answered_by().is_some_and(|by| now >= by) {
            self.world().metrics.limits_hit.count("command_ceiling");
            return self.stop_asking();
        } else if !self.relay.awaits_backend() && self.is_silent(now) {
            self.world().metrics.limits_hit.count("autologout");
            return Err(End::Farewell("autologout"));
        }
        Ok(())
    }

    /// No backend has answered. Of a message that was committed nobody knows what became of it.
    fn stop_asking(&mut self) -> Result<(), End> {
        if self.relay.in_flight().0 > 0 {
            return self.on_backend_end();
        }
        (self.backend, self.opening, self.towards) = (None, None, None);
        let say = self.relay.abandon(AGAIN);
        self.say(&say);
        self.drop_content();
        self.sync_word();
        Ok(())
    }

    /// What waits is answered and not carried out; the client may say it again.
    fn refuse_waiting(&mut self) -> Result<(), End> {
        if self.relay.awaits_backend() {
            // In their order; and with the message goes what waits to be added to it.
            return self.stop_asking();
        }
        let Some(wait) = self.waiting.take() else { return Ok(()) };
        self.release_clock(&wait);
        match wait.what {
            Waiting::Login(_) => {
                self.world().metrics.logins.count("unavailable");
                // What comes of it says nothing of whoever logs in next.
                (self.opening, self.towards) = (None, None);
                self.sync_word();
                self.entry.handle.describe(|info| info.identity.clear());
                self.say(b"454 4.7.0 The login cannot be checked now, please try again\r\n");
            }
            Waiting::Command(command) => {
                let say = self.relay.refuse_command(&command, AGAIN);
                self.say(&say);
                if matches!(command, Command::Chunk { .. }) {
                    self.drop_content();
                    self.cut_backend();
                }
            }
            Waiting::Commit => self.answer_instead(AGAIN),
        }
        Ok(())
    }

    pub(super) async fn end(mut self, end: End) {
        if let Some(wait) = self.waiting.take() {
            self.release_clock(&wait);
        }
        if let End::Farewell(reason) = end {
            self.world().metrics.farewells.count(reason);
            tracing::info!(session = self.entry.handle.id.0, reason, "farewell");
            if !self.device() {
                let hostname = &self.door.world.config.server.hostname;
                let words = format!("421 4.3.2 {hostname} closes the connection, please try again\r\n");
                self.say(words.as_bytes());
            }
        }
        let whole = self.relay.answered() && !self.relay.in_transaction();
        let Self { mut client, mut to_client, entry, door, backend, leaving, stays, .. } = self;
        let said = timeout(LAST_WORDS, async {
            std::future::poll_fn(|cx| to_client.poll_flush(cx, &mut client)).await?;
            client.shutdown().await
        });
        // A pool is left whether or not the client takes what it is told.
        let left = async {
            let mut ended = stays.is_none();
            if let Some((_, leaving)) = leaving {
                ended &= leaving.await;
            }
            if let Some(backend) = backend {
                ended &= leave(backend.leg, whole && backend.out.is_empty()).await;
            }
            if !ended {
                until_open(&door.world, &entry.handle).await;
            }
            entry.handle.word.set(Default::default());
            entry.handle.word_changed();
        };
        let _ = tokio::join!(said, left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bascule_protocols::smtp::keywords::{Keywords, Pinned};

    use super::*;
    use crate::{
        config::{Protocol, Storage},
        cutover::testing::{Rig, V4, config},
        gate::Standing,
        net::stream::Leg,
        session::{
            door::Door,
            imap::end::tests::{MUCH, listener, pair},
            rates::Rates,
            smtp::relay::Backend,
        },
        topology::Epoch,
    };

    #[tokio::test]
    async fn who_does_not_read_its_421_leaves_the_pool_all_the_same() {
        let world = Rig::new(config(Storage::Shared)).await.world;
        let ((_client, ours), (theirs, server)) = (pair().await, pair().await);
        let mut listener = listener();
        listener.protocol = Protocol::Smtp;
        let rates = Rates::new(&listener.smtp.rates);
        let door = Arc::new(Door { name: "smtp".into(), listener, world: world.clone(), rates, tls: None });
        let entry = world.registry.enter("127.0.0.1:1".parse().unwrap(), "smtp".into(), Protocol::Smtp);
        let handle = entry.handle.clone();
        handle.word.set(Standing { backend: Some(V4), ..Standing::default() });
        let pinned = Arc::new(Pinned::of(&[], 1 << 20, false));
        let mut session = Session::new(door, Leg::plain(ours), entry, pinned);
        session.to_client.keep(&vec![b'x'; MUCH]);
        session.backend = Some(Backend {
            leg: Leg::plain(theirs),
            out: Default::default(),
            replies: Default::default(),
            pool: V4,
            epoch: Epoch(0),
            keywords: Keywords::default(),
            streamed: None,
            later: Default::default(),
            waits: false,
        });
        let mut watch = world.registry.watch();
        drop(server);
        tokio::spawn(session.end(End::Farewell("kicked")));
        while handle.word.read().touches(V4) {
            watch.next().await;
        }
        assert!(world.registry.get(handle.id).is_some(), "the pool was left after the last words");
    }
}
