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
    open::{OpenError, greeting},
    relay::{End, Session},
};
use crate::{
    gate::Standing,
    net::stream::Leg,
    session::{door::Door, registry::Entry},
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
            return session.refuse(why, words.as_bytes()).await;
        }
        if session.door.listener.smtp.dial_first
            && let Err(words) = session.dial_first().await
        {
            return session.refuse("backend_greeting", &words).await;
        }
        if session.spoke_early() {
            return session.refuse("early_talker", EARLY).await;
        }
        let word = if session.relay.role() == Role::Lmtp { "LMTP" } else { "ESMTP" };
        let greeting = format!("220 {} {word}\r\n", session.door.world.config.server.hostname);
        session.say(greeting.as_bytes());
        Some(session)
    }

    /// Where places are scarce servers go first, since they come back by themselves, and then people; a printer never
    /// does, and a server that delivers stands for the mail of many.
    fn may_enter(&self) -> Result<(), &'static str> {
        let allowed = match self.relay.role() {
            _ if self.device() => 1000,
            Role::Relay => RELAY,
            Role::Submission => SUBMISSION,
            Role::Lmtp => 1000,
        };
        if self.world().fullness() > allowed {
            return Err("busy");
        }
        self.door.rates.connection(self.entry.handle.peer.ip()).map_err(|limit| {
            self.world().metrics.limits_hit.count(limit);
            "rate"
        })
    }

    async fn refuse(mut self: Box<Self>, why: &'static str, words: &[u8]) -> Option<Box<Self>> {
        self.world().metrics.connections_refused.count(why);
        self.say(words);
        self.end(End::Client).await;
        None
    }

    /// Whether a server that speaks to servers was spoken to before it said anything.
    fn spoke_early(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.relay.role() == Role::Relay
            && matches!(Pin::new(&mut self.client).poll_fill_buf(&mut cx), Poll::Ready(Ok(bytes)) if !bytes.is_empty())
    }

    /// Lets the server greet first, so that what it thinks of the client's address is what the client hears. A server
    /// that cannot be had is no reason to turn somebody away: it is dialled again when a command needs it.
    async fn dial_first(&mut self) -> Result<(), Vec<u8>> {
        let topology = self.door.world.topology.load();
        let (pool, epoch) = (topology.active, topology.epoch);
        let standing = Standing { backend: Some(pool), ..Standing::default() };
        if !self.entry.handle.word.announce(standing, &self.door.world.gate, epoch) {
            self.entry.handle.word.set(Standing::default());
            return Ok(());
        }
        let whom = self.whom();
        match timeout(GREETING, greeting(self.world(), pool, &whom)).await {
            Ok(Ok(greeted)) if self.admitted() => self.greeted = Some((pool, epoch, greeted)),
            Ok(Err(OpenError::Refused(reply))) => return Err(reply.bytes),
            Ok(Ok(_) | Err(_)) | Err(_) => {}
        }
        self.sync_word();
        Ok(())
    }
}
