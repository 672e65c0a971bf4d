//! The backend's side: whose reply it is, and the commit.
//!
//! Rule: a reply that the client has heard is compared by its class and swallowed; a worse one withdraws the promise.

use super::{Awaited, Mode, Outcome, Reading, Relay, Role, Then, Told, Transaction, What};
use crate::smtp::reply::{Class, Reply};

/// The commit byte of a message that went by DATA.
const DOT: &[u8] = b".\r\n";
/// That of one that went in chunks.
const LAST: &[u8] = b"BDAT 0 LAST\r\n";

impl Relay {
    /// Takes a reply of the backend.
    pub fn reply(&mut self, reply: &Reply) -> Outcome {
        if reply.code == 421 {
            return lost("closing");
        }
        let Some(awaited) = self.flight.pop_front() else { return lost("a reply that nobody asked for") };
        let class = reply.class();
        // Said behind something that ended its message: nobody's but the client's.
        if awaited.given.is_none() && !self.is_current(&awaited) && !matches!(awaited.what, What::Forward) {
            return self.on_late_reply(&awaited.what, class);
        }
        match awaited.what {
            What::Forward if class == Class::Done => tell(Told::Nothing),
            What::Forward => lost("XFORWARD was refused"),
            What::Mail => self.on_mail_reply(awaited.given, class),
            What::Rcpt(at) => self.on_rcpt_reply(at, awaited.given, class),
            What::Data => self.on_data_reply(awaited.given, class),
            What::Chunk { last } => self.on_chunk_reply(last, awaited.given, class),
            What::End { left } => self.on_end_reply(left),
            What::Reset => tell(Told::Nothing),
        }
    }

    fn on_late_reply(&mut self, what: &What, class: Class) -> Outcome {
        match what {
            // Its message was withdrawn meanwhile, and the replies of its end were counted without this one.
            What::Rcpt(_) if class == Class::Done => return tell(Told::Withdrawn),
            What::Data => self.reading = Reading::Command,
            What::Chunk { .. } => {
                self.end_chunk();
                return self.after_failed_chunk(1);
            }
            What::Forward | What::Mail | What::Rcpt(_) | What::End { .. } | What::Reset => {}
        }
        tell(Told::Reply)
    }

    /// The chunk that is being read, or has been, is of no message any more.
    pub(super) fn end_chunk(&mut self) {
        match std::mem::replace(&mut self.reading, Reading::Command) {
            Reading::Chunk { chunk, .. } => self.reading = Reading::RefusingChunk(chunk),
            Reading::ChunkAsked | Reading::Over | Reading::Command => {}
            other @ (Reading::Answer
            | Reading::Asked
            | Reading::Content(_)
            | Reading::Refusing(..)
            | Reading::RefusingChunk(_)) => self.reading = other,
        }
    }

    fn on_mail_reply(&mut self, given: Option<Class>, class: Class) -> Outcome {
        if given.is_some() {
            return self.compare(class == Class::Done);
        }
        match &mut self.transaction {
            Some(transaction) if class == Class::Done => transaction.mail.given = Some(class),
            transaction => *transaction = None,
        }
        tell(Told::Reply)
    }

    fn on_rcpt_reply(&mut self, at: usize, given: Option<Class>, class: Class) -> Outcome {
        if given.is_some() {
            return self.compare(class == Class::Done);
        }
        let Some(transaction) = &mut self.transaction else { return tell(Told::Reply) };
        if let Some(rcpt) = transaction.rcpts.get_mut(at) {
            // What the client is told, whatever the backend thinks.
            rcpt.given = Some(if transaction.poisoned { Class::Later } else { class });
        }
        tell(if transaction.poisoned { Told::Withdrawn } else { Told::Reply })
    }

    /// A promise that was given stands, or the transaction is poisoned; the driver hears of it by [`Self::go_on`].
    fn compare(&mut self, stands: bool) -> Outcome {
        if let Some(transaction) = &mut self.transaction {
            transaction.poisoned |= !stands;
        }
        tell(Told::Nothing)
    }

    fn on_data_reply(&mut self, given: Option<Class>, class: Class) -> Outcome {
        match (given, class) {
            (None, Class::Go) => {
                self.begin_content();
                Outcome { then: Then::Stream, ..tell(Told::Reply) }
            }
            (Some(_), Class::Go) => {
                self.again = false;
                Outcome { then: Then::Stream, ..tell(Told::Nothing) }
            }
            (Some(_), _) => self.compare(false),
            (None, _) => {
                self.reading = Reading::Command;
                tell(Told::Reply)
            }
        }
    }

    fn on_chunk_reply(&mut self, last: bool, given: Option<Class>, class: Class) -> Outcome {
        self.again &= class != Class::Done;
        match (given, class, last) {
            (Some(_), Class::Done, true) | (None, Class::Done, true) => {
                Outcome { then: Then::Whole, ..tell(Told::Nothing) }
            }
            (Some(_), Class::Done, false) => tell(Told::Nothing),
            (Some(_), _, _) => self.compare(false),
            (None, Class::Done, false) => {
                if matches!(self.reading, Reading::ChunkAsked) {
                    self.reading = Reading::Command;
                }
                tell(Told::Reply)
            }
            (None, _, last) => {
                let times = if last { self.owed() } else { 1 };
                self.transaction = None;
                self.end_chunk();
                self.after_failed_chunk(times)
            }
        }
    }

    /// After a failed BDAT the backend's state is undefined (RFC 3030 §2): the message is over, and it must be told so.
    fn after_failed_chunk(&mut self, times: usize) -> Outcome {
        self.await_reply(What::Reset, Some(Class::Done));
        Outcome { times, then: Then::Ended, ..tell(Told::Reply) }
    }

    fn on_end_reply(&mut self, left: usize) -> Outcome {
        let lmtp = self.role == Role::Lmtp;
        let before = self.transaction.as_mut().filter(|_| lmtp).map_or(0, Transaction::answer_next);
        if left > 1 {
            let of = self.serial;
            self.flight.push_front(Awaited { what: What::End { left: left - 1 }, given: None, of });
            return Outcome { before, ..tell(Told::Reply) };
        }
        let after = if lmtp { self.replies_owed() } else { 0 };
        self.over();
        Outcome { before, then: Then::Ended, after, ..tell(Told::Reply) }
    }

    /// Whether a failed chunk asks for a RSET to the backend: [`Self::reply`] has put it in flight.
    pub fn must_reset(&self) -> bool {
        self.flight.len() == 1
            && matches!(self.flight.front(), Some(Awaited { what: What::Reset, given: Some(_), .. }))
    }

    // ---- the commit -----------------------------------------------------------------------------------

    /// The gate let it: what to send so that the message takes effect.
    pub fn end(&mut self) -> &'static [u8] {
        let Some(transaction) = &mut self.transaction else { return b"" };
        transaction.committed = true;
        let left = if self.role == Role::Lmtp { transaction.undelivered().count().max(1) } else { 1 };
        let by_data = transaction.mode == Mode::Data;
        self.await_reply(What::End { left }, None);
        if by_data { DOT } else { LAST }
    }
}

fn tell(client: Told) -> Outcome {
    Outcome { before: 0, client, times: 1, then: Then::Nothing, after: 0 }
}

fn lost(why: &'static str) -> Outcome {
    Outcome { then: Then::Lost(why), ..tell(Told::Nothing) }
}
