//! The first words to a client.
//!
//! Rule: who may not be served hears so before anything was promised: early, and never inside a message.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bascule_protocols::smtp::relay::Role;
use tokio::{io::AsyncBufRead, time::timeout};

use super::{
    open::{Greeted, OpenError, greeting},
    relay::{End, Session},
};
use crate::{
    gate::Standing,
    net::stream::Leg,
    session::{door::Door, registry::Entry},
    topology::{Epoch, PoolId},
};

/// Of a thousand places so many may be taken, and a server that brings mail still comes in.
const RELAY: usize = 900;
/// The same for a user's program.
const SUBMISSION: usize = 950;
/// How long a server's greeting is awaited: postscreen lets a client wait six seconds before it says the last line.
const GREETING: Duration = Duration::from_secs(15);
/// Whoever speaks first takes us for something else, or does not listen (RFC 5321 §3.1).
const EARLY: &[u8] = b"554 5.5.1 Protocol error: a client listens before it speaks\r\n";

impl Session {
    /// Greets. `None`: the client may not come in, and has heard so.
    pub(super) async fn greet(door: Arc<Door>, client: Leg, entry: Entry) -> Option<Box<Self>> {
        let Some(pinned) = door.world.keywords.of(door.listener.protocol) else {
            door.world.metrics.connections_refused.count("not_ready");
            return None;
        };
        let mut session = Box::new(Self::new(door, client, entry, pinned));
        if let Err(why) = session.may_enter() {
            let hostname = &session.door.world.config.server.hostname;
            let words = format!("421 4.3.2 {hostname} is busy, please try again later\r\n");
            if let Err(end) = session.turn_out(why, words.as_bytes()) {
                session.end(end).await;
            }
            return None;
        }
        if !session.dial_first()
            && let Err(end) = session.welcome()
        {
            session.end(end).await;
            return None;
        }
        Some(session)
    }

    /// Says the greeting, but not to who has spoken before it.
    fn welcome(&mut self) -> Result<(), End> {
        if self.spoke_early() {
            return self.turn_out("early_talker", EARLY);
        }
        let word = if self.relay.role() == Role::Lmtp { "LMTP" } else { "ESMTP" };
        let greeting = format!("220 {} {word}\r\n", self.world().config.server.hostname);
        self.say(greeting.as_bytes());
        Ok(())
    }

    /// Where places are scarce servers go first, since they come back by themselves, and then people; a printer never
    /// does, and a server that delivers stands for the mail of many.
    fn may_enter(&self) -> Result<(), &'static str> {
        let allowed = match self.relay.role() {
            Role::Relay => RELAY,
            Role::Submission => SUBMISSION,
            Role::Lmtp => 1000,
        };
        if self.device() {
            return Ok(());
        }
        if self.world().fullness() > allowed {
            return Err("busy");
        }
        self.door.rates.connection(self.entry.handle.peer.ip()).map_err(|limit| {
            self.world().metrics.limits_hit.count(limit);
            "rate"
        })
    }

    fn turn_out(&mut self, why: &'static str, words: &[u8]) -> Result<(), End> {
        self.world().metrics.connections_refused.count(why);
        self.say(words);
        Err(End::Client)
    }

    /// Whether a server that speaks to servers was spoken to before it said anything.
    fn spoke_early(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.relay.role() == Role::Relay
            && matches!(Pin::new(&mut self.client).poll_fill_buf(&mut cx), Poll::Ready(Ok(bytes)) if !bytes.is_empty())
    }

    /// Lets the server greet first, so that what it thinks of the client's address is what the client hears. False: the
    /// client is not to wait for that.
    fn dial_first(&mut self) -> bool {
        if !self.door.listener.smtp.dial_first {
            return false;
        }
        let topology = self.door.world.topology.load();
        let (pool, epoch) = (topology.active, topology.epoch);
        let standing = Standing { backend: Some(pool), waits: true, ..Standing::default() };
        if !self.entry.handle.word.announce(standing, &self.door.world.gate, epoch) {
            self.entry.handle.word.set(self.standing);
            return false;
        }
        (self.towards, self.standing) = (Some(pool), standing);
        let (world, whom) = (self.door.world.clone(), self.whom());
        self.greeting = Some(Box::pin(async move {
            let heard = timeout(GREETING, greeting(&world, pool, &whom)).await;
            let late = |_| Err(OpenError::Unavailable(format!("no greeting within {GREETING:?}")));
            (pool, epoch, heard.unwrap_or_else(late))
        }));
        true
    }

    /// A server that cannot be had is no reason to turn somebody away: it is dialled again when a command needs it.
    pub(super) fn on_greeting(
        &mut self,
        pool: PoolId,
        epoch: Epoch,
        result: Result<Greeted, OpenError>,
    ) -> Result<(), End> {
        self.towards = None;
        match result {
            Ok(greeted) => self.greeted = Some((pool, epoch, greeted)),
            Err(OpenError::Refused(reply)) => return self.turn_out("backend_greeting", &reply.bytes),
            Err(error) => {
                tracing::debug!(session = self.entry.handle.id.0, %error, "no greeting");
                self.tried(pool, Some(&error));
            }
        }
        self.welcome()
    }

    /// At a shut gate nobody waits for a server's greeting, and the server is left alone.
    pub(super) fn stop_greeting(&mut self) -> Result<(), End> {
        if self.greeting.is_none() || self.admitted() {
            return Ok(());
        }
        (self.greeting, self.towards) = (None, None);
        self.welcome()
    }
}
