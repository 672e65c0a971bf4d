//! What the client sends, and what the proxy answers itself.
//!
//! Rule: an answer of the proxy's own waits until everything forwarded before it has its reply.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bascule_protocols::smtp::{
    auth::MECHANISMS,
    keywords::Shown,
    relay::{Command, Own, Relay, Role, Verdict},
};
use tokio::{io::AsyncBufRead, time::timeout};

use super::relay::{End, Session, Wait, Waiting};

/// Pieces of client input handled before others get their turn.
const TURN: usize = 64;

/// What is to be done once the client's bytes are no longer borrowed.
enum Todo {
    Nothing,
    /// Content that is kept with its room.
    Adopt,
    Command(Command),
    Commit,
    Answer(Vec<u8>),
    Own(Own),
    Fail(&'static [u8]),
}

impl Session {
    pub(super) fn on_client(&mut self) -> Result<(), End> {
        let pinned = self.pinned.clone();
        for _ in 0..TURN {
            if !self.wants_client() {
                return Ok(());
            }
            let mut cx = Context::from_waker(Waker::noop());
            let input = match Pin::new(&mut self.client).poll_fill_buf(&mut cx) {
                Poll::Ready(Ok(input)) if !input.is_empty() => input,
                Poll::Ready(_) => return Err(End::Client),
                Poll::Pending => return Ok(()),
            };
            self.last_input = self.now;
            let (n, verdict) = self.relay.client(input, &pinned);
            let todo = match verdict {
                Verdict::NeedMore => Todo::Nothing,
                Verdict::Command(command) => Todo::Command(command),
                Verdict::Content(bytes) => {
                    let alone = std::ptr::eq(bytes, &raw const input[..n]);
                    let (backend, door) = (&mut self.backend, &self.door);
                    match self.content.receive(bytes, alone, pinned.size(), backend, door) {
                        Ok(true) => Todo::Adopt,
                        Ok(false) => Todo::Nothing,
                        Err(reply) => Todo::Fail(reply),
                    }
                }
                Verdict::End => Todo::Commit,
                Verdict::Answer(line) => Todo::Answer(line),
                Verdict::Own(own) => Todo::Own(own),
            };
            let todo = if matches!(todo, Todo::Adopt) {
                self.adopt(n)
            } else {
                Pin::new(&mut self.client).consume(n);
                todo
            };
            self.apply(todo)?;
        }
        Ok(())
    }

    /// Keeps content with the room that it came in.
    fn adopt(&mut self, n: usize) -> Todo {
        let room = self.client.take(n);
        let kept = self.content.adopt(room, self.backend.as_ref(), &self.door);
        kept.map_or_else(Todo::Fail, |()| Todo::Nothing)
    }

    fn apply(&mut self, todo: Todo) -> Result<(), End> {
        match todo {
            Todo::Nothing | Todo::Adopt => Ok(()),
            Todo::Command(Command::Mail(_)) if self.over_rate() => self.turn_away(),
            Todo::Command(command) => {
                self.wait_for(Waiting::Command(command));
                self.carry_on()
            }
            Todo::Commit => {
                self.wait_for(Waiting::Commit);
                self.carry_on()
            }
            Todo::Answer(line) => self.on_answer(&line),
            Todo::Own(own) => {
                self.parked = Some(own);
                self.answer_parked()
            }
            Todo::Fail(reply) => {
                let now = self.relay.refuse_content(reply);
                self.say(&now);
                self.drop_content();
                // The backend stands in the middle of a message that will not end.
                self.cut_backend();
                Ok(())
            }
        }
    }

    fn over_rate(&self) -> bool {
        let handle = &self.entry.handle;
        let reached = handle.inspect(|info| self.door.rates.message(handle.peer.ip(), &info.identity));
        reached.map_err(|limit| self.world().metrics.limits_hit.count(limit)).is_err()
    }

    /// One message too many. A server comes back later; a person would be shown a connection that was closed.
    fn turn_away(&mut self) -> Result<(), End> {
        if self.relay.role() == Role::Relay && !self.device() {
            return Err(End::Farewell("limit"));
        }
        self.parked =
            Some(Own::Say(b"451 4.3.2 Too many messages, please try again in a minute\r\n".to_vec()));
        self.answer_parked()
    }

    pub(super) fn wait_for(&mut self, what: Waiting) {
        let now = self.now;
        self.waiting = Some(Wait { what, arrived: now, held: None });
    }

    /// Answers what the proxy answers itself, once everything before it has its reply.
    pub(super) fn answer_parked(&mut self) -> Result<(), End> {
        if self.parked.is_none() || !self.relay.answered() || self.waiting.is_some() {
            return Ok(());
        }
        match self.parked.take() {
            None => {}
            Some(Own::Hello(hello)) => {
                let extended = hello.extended;
                // A server that was told another name is told no more: the next one hears this one.
                let renamed = self.relay.hello().is_some_and(|before| *before != hello);
                if self.relay.greet(hello, self.backend.is_some() && !renamed) {
                    self.tell_backend(b"RSET\r\n");
                }
                if renamed {
                    self.give_up();
                }
                self.drop_content();
                self.say_hello(extended);
            }
            Some(Own::Starttls) => return self.starttls(),
            Some(Own::Auth(arguments)) => return self.on_auth(&arguments),
            Some(Own::Quit) => {
                let bye = format!("221 2.0.0 {} says goodbye\r\n", self.world().config.server.hostname);
                self.say(bye.as_bytes());
                return Err(End::Client);
            }
            Some(Own::Reset) => {
                if self.relay.reset(self.backend.is_some()) {
                    self.tell_backend(b"RSET\r\n");
                }
                self.drop_content();
                self.say(b"250 2.0.0 Ok\r\n");
            }
            Some(Own::Say(reply)) => self.say(&reply),
            Some(Own::Refuse(reply)) => self.answer_instead(&reply),
            Some(Own::Close(reply)) => {
                self.world().metrics.limits_hit.count("line");
                self.say(&reply);
                return Err(End::Client);
            }
        }
        Ok(())
    }

    fn say_hello(&mut self, extended: bool) {
        let hostname = &self.door.world.config.server.hostname;
        let mechanisms: &[&str] = if self.relay.may_authenticate() { &MECHANISMS } else { &[] };
        let ident = self.relay.role() == Role::Lmtp;
        let reply = if extended {
            self.pinned.reply(hostname, Shown { starttls: self.relay.offers_starttls(), mechanisms, ident })
        } else {
            format!("250 {hostname}\r\n").into_bytes()
        };
        self.say(&reply);
    }

    fn starttls(&mut self) -> Result<(), End> {
        self.give_up();
        self.say(b"220 2.0.0 Begin TLS\r\n");
        Err(End::Starttls)
    }

    /// The handshake after STARTTLS; what was read ahead of it is gone with the plain leg.
    pub(super) async fn secure(mut self: Box<Self>) -> Option<Box<Self>> {
        let flushed = std::future::poll_fn(|cx| self.to_client.poll_flush(cx, &mut self.client));
        timeout(self.door.world.config.limits.handshake, flushed).await.ok()?.ok()?;
        if let Some((_, leaving)) = &mut self.leaving {
            let ended = leaving.await;
            self.on_left(ended).ok()?;
        }
        let Self { door, client, mut relay, entry, pinned, greeted, stays, standing, .. } = *self;
        let client = door.handshake(client.into_tcp()?).await?;
        relay.now_secure();
        let mut session = Box::new(Self::new(door, client, entry, pinned));
        (session.relay, session.greeted) = (relay, greeted);
        // What the word says is what it said before.
        (session.stays, session.standing) = (stays, standing);
        session.sync_word();
        Some(session)
    }

    /// What a command is on the wire, once it is committed.
    pub(super) fn forward(&mut self, command: Command) {
        let wire = Relay::wire(&command);
        let (mail, chunk) = (matches!(command, Command::Mail(_)), matches!(command, Command::Chunk { .. }));
        if mail {
            self.drop_content();
            self.messages += 1;
            self.introduce();
        }
        self.relay.commit(command);
        self.asked = self.now;
        if mail {
            self.content.digest = self.relay.ident().map(|_| Box::default());
        }
        self.tell_backend(&wire);
        if chunk && let Some(backend) = &mut self.backend {
            // BDAT is not answered before its content: what follows goes straight on.
            backend.streamed = Some(self.content.bytes);
        }
        // A last chunk without bytes has nothing to be answered but the message.
        if self.relay.waits_to_commit() {
            self.wait_for(Waiting::Commit);
        }
    }
}
