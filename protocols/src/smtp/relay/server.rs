//! The backend's side: whose reply it is, and a transaction said again to another backend (semantics §2.4-2.6, §2.9).
//!
//! Rule: a reply that the client has heard is compared by its class and swallowed; a worse one withdraws the promise.

use super::{Awaited, GoOn, Mode, Outcome, POISONED, Reading, Relay, Role, Then, Told, Transaction, What};
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
            rcpt.given = Some(class);
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
            // After a failed BDAT the backend's state is undefined (RFC 3030 §2): the message is over.
            (None, _, _) => {
                self.transaction = None;
                if let Reading::Chunk { chunk, .. } = std::mem::replace(&mut self.reading, Reading::Command) {
                    self.reading = Reading::RefusingChunk(chunk);
                }
                self.flight.push_back(Awaited { what: What::Reset, given: Some(Class::Done) });
                Outcome { then: Then::Ended, ..tell(Told::Reply) }
            }
        }
    }

    fn on_end_reply(&mut self, left: usize) -> Outcome {
        let lmtp = self.role == Role::Lmtp;
        let before = self.transaction.as_mut().filter(|_| lmtp).map_or(0, Transaction::answer_next);
        if left > 1 {
            self.flight.push_front(Awaited { what: What::End { left: left - 1 }, given: None });
            return Outcome { before, ..tell(Told::Reply) };
        }
        let after = if lmtp { self.replies_owed() } else { 0 };
        self.over();
        Outcome { before, client: Told::Reply, then: Then::Ended, after }
    }

    /// Whether a failed chunk asks for a RSET to the backend: [`Self::reply`] has put it in flight.
    pub fn must_reset(&self) -> bool {
        self.flight.len() == 1
            && matches!(self.flight.front(), Some(Awaited { what: What::Reset, given: Some(_) }))
    }

    // ---- the commit -----------------------------------------------------------------------------------

    /// The gate let it: what to send so that the message takes effect.
    pub fn end(&mut self) -> &'static [u8] {
        let Some(transaction) = &mut self.transaction else { return b"" };
        transaction.committed = true;
        let left = if self.role == Role::Lmtp { transaction.undelivered().count().max(1) } else { 1 };
        let by_data = transaction.mode == Mode::Data;
        self.flight.push_back(Awaited { what: What::End { left }, given: None });
        if by_data { DOT } else { LAST }
    }

    // ---- another backend ------------------------------------------------------------------------------

    /// The backend is gone. True: a message was committed there, and nobody knows what became of it; the caller
    /// decides between [`Self::forget_commit`] and telling [`super::AMBIGUOUS`].
    pub fn lose_backend(&mut self) -> bool {
        self.again = false;
        if self.transaction.is_none() {
            self.orphan();
        }
        self.flight.clear();
        self.transaction.as_ref().is_some_and(|t| t.committed)
    }

    /// What was said behind a MAIL that was refused, or DATA behind refused recipients, has nobody left to refuse it.
    fn orphan(&mut self) {
        let (reading, waits) = match std::mem::replace(&mut self.reading, Reading::Command) {
            Reading::Asked | Reading::ChunkAsked | Reading::Over => (Reading::Command, 1),
            Reading::Chunk { chunk, .. } => (Reading::RefusingChunk(chunk), 1),
            other @ (Reading::Command
            | Reading::Answer
            | Reading::Content(_)
            | Reading::Refusing(..)
            | Reading::RefusingChunk(_)) => (other, 0),
        };
        self.reading = reading;
        let rcpts = self.flight.iter().filter(|a| matches!(a.what, What::Rcpt(_))).count();
        self.orphans += rcpts + waits;
    }

    /// What the client is told instead of the lost backend's replies: one line for each.
    pub fn orphaned(&mut self) -> Vec<u8> {
        b"503 5.5.1 Not after what was refused\r\n".repeat(std::mem::take(&mut self.orphans))
    }

    /// How many replies the client still waits for at the end of its message.
    pub fn replies_owed(&self) -> usize {
        let Some(transaction) = &self.transaction else { return 0 };
        if self.role == Role::Lmtp { transaction.unanswered().count() } else { 1 }
    }

    /// The same, and one at least.
    pub(super) fn owed_at_end(&self) -> usize {
        self.replies_owed().max(1)
    }

    /// Whether the content comes in chunks.
    pub(super) fn by_chunks(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| matches!(t.mode, Mode::Chunks(_)))
    }

    /// The message is committed again elsewhere (`ambiguous = "replay"`): recipients that were answered are final.
    pub fn forget_commit(&mut self) {
        let Some(transaction) = &mut self.transaction else { return };
        transaction.committed = false;
        let mut answered = std::mem::take(&mut transaction.answered);
        transaction.rcpts.retain(|rcpt| {
            let final_one = rcpt.is_accepted() && answered > 0;
            answered -= usize::from(final_one);
            !final_one
        });
    }

    /// A new backend was greeted. Returns the envelope to send to it, if a message is under way: what the client was
    /// promised, and what it has not been answered. Call [`Self::go_on`] when all of it has its reply.
    pub fn replay(&mut self) -> Vec<u8> {
        let Some(transaction) = self.transaction.as_ref().filter(|_| self.in_transaction()) else {
            return Vec::new();
        };
        let mut out = transaction.mail.bytes.to_vec();
        self.flight.push_back(Awaited { what: What::Mail, given: transaction.mail.given });
        for (at, rcpt) in transaction.rcpts.iter().enumerate() {
            if matches!(rcpt.given, None | Some(Class::Done)) && !rcpt.delivered {
                out.extend_from_slice(&rcpt.bytes);
                self.flight.push_back(Awaited { what: What::Rcpt(at), given: rcpt.given });
            }
        }
        self.again = true;
        out
    }

    /// Whether a message is being said again.
    pub fn replays(&self) -> bool {
        self.again
    }

    /// The next step of a replay, when everything has its reply. `None`: there is none.
    pub fn go_on(&mut self) -> Option<GoOn> {
        if !self.again || !self.flight.is_empty() {
            return None;
        }
        self.again = false;
        if self.is_poisoned() {
            return Some(self.withdraw());
        }
        let nobody =
            |t: &Transaction| matches!(self.reading, Reading::Asked) && t.unanswered().next().is_none();
        let Some(transaction) = self.transaction.as_ref().filter(|t| !nobody(t)) else {
            self.orphan();
            return None;
        };
        let chunk_unanswered = matches!(self.reading, Reading::Chunk { .. } | Reading::ChunkAsked);
        let last = matches!(self.reading, Reading::Over | Reading::Chunk { last: true, .. });
        let (what, given, send, stream) = match (transaction.mode, &self.reading) {
            (Mode::None, Reading::Asked) => (What::Data, None, b"DATA\r\n".to_vec(), false),
            // Nothing is left of an empty message but its commit.
            (Mode::Chunks(0), Reading::Over) => {
                return Some(GoOn { stream: true, ..GoOn::default() });
            }
            (Mode::None, _) => return None,
            (Mode::Chunks(0), _) if !chunk_unanswered => return None,
            (Mode::Data, _) => (What::Data, Some(Class::Go), b"DATA\r\n".to_vec(), false),
            (Mode::Chunks(size), _) => {
                let given = (!chunk_unanswered).then_some(Class::Done);
                (What::Chunk { last }, given, format!("BDAT {size}\r\n").into_bytes(), true)
            }
        };
        // A refused DATA or BDAT poisons as a refused recipient does.
        self.again = given.is_some();
        self.flight.push_back(Awaited { what, given });
        Some(GoOn { send, stream, withdrawn: 0 })
    }

    fn withdraw(&mut self) -> GoOn {
        self.flight.push_back(Awaited { what: What::Reset, given: Some(Class::Done) });
        let owed = self.owed_at_end();
        let mut withdrawn = 0;
        match std::mem::replace(&mut self.reading, Reading::Command) {
            // The client waits for this very answer.
            Reading::Asked => (self.transaction, withdrawn) = (None, 1),
            Reading::Over => (self.transaction, withdrawn) = (None, owed),
            Reading::ChunkAsked => withdrawn = 1,
            Reading::Chunk { chunk, last } => {
                self.reading = Reading::RefusingChunk(chunk);
                withdrawn = if last { owed } else { 1 };
            }
            Reading::Content(content) => self.reading = Reading::Refusing(content, POISONED.to_vec()),
            other @ (Reading::Command
            | Reading::Answer
            | Reading::Refusing(..)
            | Reading::RefusingChunk(_)) => {
                self.reading = other;
            }
        }
        GoOn { send: b"RSET\r\n".to_vec(), stream: false, withdrawn }
    }
}

fn tell(client: Told) -> Outcome {
    Outcome { before: 0, client, then: Then::Nothing, after: 0 }
}

fn lost(why: &'static str) -> Outcome {
    Outcome { then: Then::Lost(why), ..tell(Told::Nothing) }
}
