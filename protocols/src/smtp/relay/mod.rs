//! One session between a client and whatever backend it has: commands forwarded or answered, a transaction that can be
//! said again to another backend (semantics §2.1-2.7).
//!
//! Rule: what the client was promised is kept or openly withdrawn: a recipient that was accepted and that the next
//! backend refuses poisons the transaction, which is then answered 451 at the first command that can carry it.
//!
//! The commit byte is the driver's: the final dot, or `BDAT 0 LAST` (chunks go on as chunks that are not the last, which
//! changes nothing but who says the last word). Commands that are forwarded wait in `flight` for their replies;
//! whatever the proxy answers itself waits until `flight` is empty.

mod client;
mod loss;
mod recipients;
mod server;
#[cfg(test)]
mod tests;

pub use self::loss::Loss;
use std::collections::VecDeque;

use super::{
    data::{Bare, Chunk, Content},
    reply::Class,
};
use crate::lines::Lines;

/// Longest command line: 512 of RFC 5321 §4.5.3.1.4, and room for what extensions add (AUTH has 12,288 of its own,
/// RFC 4954 §4).
const LINE: usize = 4096;

/// Who speaks to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Another server, on port 25.
    Relay,
    /// A user's program, which logs in.
    Submission,
    /// A mail server that delivers (RFC 2033): one reply per recipient.
    Lmtp,
}

/// How the client said hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// EHLO or LHLO, not HELO.
    pub extended: bool,
    /// Its name as it wrote it.
    pub name: Box<[u8]>,
}

/// What the proxy answers itself, once everything before it has its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// EHLO, LHLO or HELO; the driver calls [`Relay::greet`].
    Hello(Hello),
    /// STARTTLS. What was read ahead must be thrown away.
    Starttls,
    /// AUTH with its arguments.
    Auth(Box<[u8]>),
    /// QUIT.
    Quit,
    /// RSET; the driver calls [`Relay::reset`].
    Reset,
    /// Anything that has a fixed reply.
    Say(Vec<u8>),
    /// The content of a poisoned transaction, or one that was refused, has been read.
    Refuse(Vec<u8>),
    /// Say this and end the connection: what follows cannot be trusted.
    Close(Vec<u8>),
}

/// A command for the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `MAIL …`
    Mail(Box<[u8]>),
    /// `RCPT …`
    Rcpt(Box<[u8]>),
    /// `DATA`
    Data,
    /// `BDAT size`: that many bytes follow as [`Verdict::Content`].
    Chunk {
        /// Bytes of it.
        size: u64,
        /// The client said LAST.
        last: bool,
    },
}

/// What the client's bytes are.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// All taken; nothing to do yet.
    NeedMore,
    /// For the backend, once [`Relay::commit`] was told.
    Command(Command),
    /// Content: kept, and sent on to the backend if it is there.
    Content(&'a [u8]),
    /// The content is whole: the commit point. The driver calls [`Relay::end`] when the gate lets it.
    End,
    /// A line of the client's login, without its line end; see [`Relay::ask`].
    Answer(Vec<u8>),
    /// The proxy's to answer.
    Own(Own),
}

/// What becomes of a reply of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// So many recipients before this one have the message already: each is told [`DELIVERED`] first.
    pub before: usize,
    /// What the client is told.
    pub client: Told,
    /// How often: once per recipient where one reply stands for all of them.
    pub times: usize,
    /// So many after it, which end the message.
    pub after: usize,
    /// What follows.
    pub then: Then,
}

/// What the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The reply as it came.
    Reply,
    /// Nothing: it has heard it already, or never asked.
    Nothing,
    /// [`POISONED`]
    Withdrawn,
}

/// What follows a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The backend waits for the content: what was kept of it, then what comes.
    Stream,
    /// The last chunk has arrived: the commit point, as [`Verdict::End`].
    Whole,
    /// The client has all replies of its message: what was kept of it may go.
    Ended,
    /// Nobody asked for this reply, or it ends the connection (421): the backend is lost.
    Lost(&'static str),
}

/// What a replay does next, when the backend has answered everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GoOn {
    /// For the backend.
    pub send: Vec<u8>,
    /// What was kept of the content follows it at once (BDAT does not wait).
    pub stream: bool,
    /// A promise was withdrawn, or the message refused.
    pub withdrawn: bool,
    /// For the client that waits for an answer of this message.
    pub say: Vec<u8>,
}

/// How a withdrawn promise is told.
pub const POISONED: &[u8] =
    b"451 4.3.2 The servers have changed meanwhile, please send this message again\r\n";
/// How a message is answered whose outcome nobody knows (RFC 5321 §3.8: the client takes it as not accepted).
pub const AMBIGUOUS: &[u8] = b"451 4.3.0 The outcome is not known, please send this message again\r\n";
/// LMTP: how a recipient is answered who has this very message already.
pub const DELIVERED: &[u8] = b"250 2.1.5 Delivered before; this copy was dropped\r\n";

/// A command in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Awaited {
    what: What,
    /// What the client was told when it was said before.
    given: Option<Class>,
    /// The number of its message.
    of: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// XFORWARD, which the client knows nothing of.
    Forward,
    Mail,
    Rcpt(usize),
    Data,
    Chunk {
        last: bool,
    },
    /// The message's replies; LMTP has one per accepted recipient.
    End {
        left: usize,
    },
    Reset,
}

/// A line of the envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// As the client wrote it, CRLF included.
    bytes: Box<[u8]>,
    /// What it was answered.
    given: Option<Class>,
    /// LMTP: the recipient has this message already, and is not named to a backend.
    delivered: bool,
}

/// How the content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    None,
    /// The client was told 354.
    Data,
    /// Bytes announced in chunks so far.
    Chunks(u64),
}

/// What the client has said of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Transaction {
    mail: Line,
    rcpts: Vec<Line>,
    mode: Mode,
    poisoned: bool,
    /// The commit byte was sent.
    committed: bool,
    /// LMTP: how many of the message's replies the client has.
    answered: usize,
    /// Its name where it came from (XFORWARD IDENT).
    ident: Option<Box<str>>,
}

#[derive(Debug)]
enum Reading {
    Command,
    /// The client was asked for a line of its login.
    Answer,
    /// DATA was sent and is not answered.
    Asked,
    Content(Content),
    /// Content of a message that is refused at its end.
    Refusing(Content, Vec<u8>),
    Chunk {
        chunk: Chunk,
        last: bool,
    },
    /// A chunk is whole and not answered.
    ChunkAsked,
    /// A chunk of a message that is refused.
    RefusingChunk(Chunk),
    /// The content is whole and not answered.
    Over,
}

/// The machine of one session after its greeting.
#[derive(Debug)]
pub struct Relay {
    role: Role,
    bare: Bare,
    lines: Lines,
    reading: Reading,
    hello: Option<Hello>,
    transaction: Option<Transaction>,
    flight: VecDeque<Awaited>,
    /// The envelope is being said again.
    again: bool,
    /// The number of the message under way, or of the last one.
    serial: u32,
    secure: bool,
    starttls: bool,
    authenticated: bool,
    nonsense: u32,
    /// For the next message.
    ident: Option<Box<str>>,
}

impl Relay {
    /// A connection that was greeted. `secure`: under TLS; `starttls`: it may begin TLS.
    pub fn new(role: Role, bare: Bare, secure: bool, starttls: bool) -> Self {
        Self {
            role,
            bare,
            lines: Lines::default(),
            reading: Reading::Command,
            hello: None,
            transaction: None,
            flight: VecDeque::new(),
            again: false,
            serial: 0,
            secure,
            starttls,
            authenticated: false,
            nonsense: 0,
            ident: None,
        }
    }

    /// Whose session it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How the client said hello.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// TLS stands: what was said before is forgotten (RFC 3207 §4.2).
    pub fn now_secure(&mut self) {
        *self = Self::new(self.role, self.bare, true, false);
    }

    /// The client was told 334: the next line is its answer.
    pub fn ask(&mut self) {
        self.reading = Reading::Answer;
    }

    /// The login was accepted.
    pub fn now_authenticated(&mut self) {
        self.authenticated = true;
    }

    /// Whether the client may log in here and now.
    pub fn may_authenticate(&self) -> bool {
        self.role == Role::Submission && self.secure && !self.authenticated
    }

    /// Whether STARTTLS is offered now.
    pub fn offers_starttls(&self) -> bool {
        self.starttls && !self.secure
    }

    /// Whether the client's bytes can be read now: not while it waits for an answer that decides what they are.
    pub fn reads(&self) -> bool {
        match self.reading {
            Reading::Asked | Reading::ChunkAsked | Reading::Over => false,
            Reading::Command
            | Reading::Answer
            | Reading::Content(_)
            | Reading::Refusing(..)
            | Reading::Chunk { .. }
            | Reading::RefusingChunk(_) => true,
        }
    }

    /// Whether every command that was forwarded has its reply, or will be asked of nobody. Those of a backend that is
    /// lost are asked again.
    pub fn answered(&self) -> bool {
        let asks = matches!(self.reading, Reading::Asked | Reading::ChunkAsked);
        let line = |line: &Line| line.given.is_none();
        let owes = |t: &Transaction| asks || line(&t.mail) || t.rcpts.iter().any(line);
        self.flight.is_empty() && !self.transaction.as_ref().is_some_and(owes)
    }

    /// `(commits, others)` sent and not answered.
    pub fn in_flight(&self) -> (u16, u16) {
        let commits = self.flight.iter().filter(|a| matches!(a.what, What::End { .. })).count();
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        (count(commits), count(self.flight.len() - commits))
    }

    /// Whether a message is being said: its backend cannot be exchanged without saying it again.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some() && !matches!(self.reading, Reading::Refusing(..))
    }

    /// Whether the content is whole and its commit byte not sent.
    pub fn waits_to_commit(&self) -> bool {
        matches!(self.reading, Reading::Over)
            && self.transaction.as_ref().is_some_and(|t| !t.committed && !t.poisoned)
    }

    /// Whether a promise was withdrawn.
    pub fn is_poisoned(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| t.poisoned)
    }
}
