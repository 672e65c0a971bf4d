//! What the client sends, and what the proxy answers itself.
//!
//! Rule: an answer of the proxy's own waits until nothing before it is unanswered (D5).

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bascule_protocols::imap::{
    capability::Stage,
    command::Verb,
    farewell::answer,
    fragment::Literal,
    login::{id, logout},
    relay::{Own, Sent, Verdict},
    tag::Tag,
};
use tokio::io::AsyncBufRead;

use super::{
    hold::Body,
    relay::{End, Session},
};

/// Pieces of client input handled before others get their turn.
const TURN: usize = 64;

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
    pub(super) fn on_client(&mut self) -> Result<(), End> {
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
                            // A failed backend is found by the next read.
                            let _ = b.out.push(&mut b.leg, &bytes);
                            Todo::Sent(sent)
                        }
                        _ => {
                            if free {
                                self.entry.handle.word.set(self.standing);
                                self.entry.handle.word_changed();
                            }
                            Todo::Hold(sent, bytes.into_owned())
                        }
                    }
                }
                Verdict::Literal { begins, line, literal } => Todo::Literal(begins, line.to_vec(), literal),
                Verdict::Data(bytes) => {
                    match super::literals::receive(&mut self.upload, &mut self.backend, &self.door, bytes) {
                        Ok(()) => Todo::Nothing,
                        Err(why) => Todo::Fail(why),
                    }
                }
                Verdict::Last(line) => Todo::Last(line.to_vec()),
                Verdict::Own(own) => Todo::Own(own),
                Verdict::Close(bytes) => Todo::Close(bytes),
            };
            self.counts.from_client += n as u64;
            Pin::new(&mut self.client).consume(n);
            self.apply(todo)?;
        }
        Ok(())
    }

    /// Whether a command may go to the backend past everything that waits.
    pub(super) fn free_way(&self) -> bool {
        let in_step = !self.relay.probing() && !self.relay.idles_alone() && !self.relay.untold();
        self.queue.is_empty() && self.sending.is_none() && in_step && self.flows()
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
    pub(super) fn parked(&mut self) -> Result<(), End> {
        let Some(own) = &self.parked else { return Ok(()) };
        let in_idle = matches!(own, Own::Done | Own::NotDone);
        let quiet = self.queue.is_empty() && self.sending.is_none() && self.upload.is_none();
        let answered = quiet && self.relay.answered();
        if !in_idle && !answered {
            return Ok(());
        }
        match self.parked.take() {
            Some(Own::Idle(_)) if self.relay.untold() => return Err(End::Farewell("different")),
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

    pub(super) fn idle_backend(&mut self) -> Result<(), End> {
        if self.orders.flowed
            && self.free_way()
            && let Some(line) = self.relay.idle_backend()
        {
            self.tell_backend(&line);
        }
        Ok(())
    }
}
