//! The client's side: lines, content, and what the proxy refuses by itself.
//!
//! Rule: the proxy's idea of a transaction and the backend's are the same, because what would part them is refused
//! here: a command out of order, a parameter that was not offered, a line that two servers would read differently.

use super::{
    Awaited, Command, Hello, LINE, Line, Mode, Own, Reading, Relay, Role, Transaction, Verdict, What,
};
use crate::smtp::{
    command::{self, Path, Verb},
    data::{Chunk, Content, Piece},
    keywords::Pinned,
    reply::Class,
};

/// Lines that are no commands before somebody is taken for another protocol.
const NONSENSE: u32 = 10;
/// A line of a login may be longer than any command (RFC 4954 §4).
const SASL_LINE: usize = 12_288;
/// RFC 5321 §4.5.3.1.8 wants 100 at least.
const RECIPIENTS: usize = 10_000;

const FIRST_HELLO: &str = "503 5.5.1 Say hello first";
const NO_MAIL: &str = "503 5.5.1 MAIL first";
pub(super) const UNDER_WAY: &str = "503 5.5.1 A message is under way";
const SYNTAX: &str = "501 5.5.4 Syntax error in the arguments";

impl Relay {
    /// Takes bytes of the client. Returns how many, and what they are. `pinned` is what EHLO showed.
    pub fn client<'a>(&mut self, input: &'a [u8], pinned: &Pinned) -> (usize, Verdict<'a>) {
        match &mut self.reading {
            Reading::Command | Reading::Answer => self.line(input, pinned),
            Reading::Asked | Reading::ChunkAsked | Reading::Over => (0, Verdict::NeedMore),
            Reading::Content(_) | Reading::Refusing(..) => self.content(input),
            Reading::Chunk { chunk, .. } => {
                let bytes = chunk.next(input);
                self.chunk_ends();
                (bytes.len(), Verdict::Content(bytes))
            }
            Reading::RefusingChunk(chunk) => {
                let n = chunk.next(input).len();
                if chunk.is_over() {
                    self.reading = Reading::Command;
                }
                (n, Verdict::NeedMore)
            }
        }
    }

    fn content<'a>(&mut self, input: &'a [u8]) -> (usize, Verdict<'a>) {
        let refusing = matches!(self.reading, Reading::Refusing(..));
        let (Reading::Content(content) | Reading::Refusing(content, _)) = &mut self.reading else {
            return (0, Verdict::NeedMore);
        };
        match content.next(input) {
            (n, Piece::Content(_)) if refusing => (n, Verdict::NeedMore),
            (n, Piece::Content(bytes)) => (n, Verdict::Content(bytes)),
            (n, Piece::Refused) => {
                self.refuse_content(b"550 5.6.11 Bare CR or LF in the message\r\n");
                (n, Verdict::NeedMore)
            }
            (n, Piece::End) => {
                let read = std::mem::replace(&mut self.reading, Reading::Over);
                let Reading::Refusing(_, reply) = read else { return (n, Verdict::End) };
                let reply = reply.repeat(self.owed());
                self.over();
                (n, Verdict::Own(Own::Refuse(reply)))
            }
        }
    }

    /// The content that comes is read to its end and goes nowhere; the backend must be given up. DATA is answered so at
    /// its end; the returned bytes are for the client whose chunk is answered now.
    pub fn refuse_content(&mut self, reply: &[u8]) -> Vec<u8> {
        match (&self.reading, &mut self.transaction) {
            (Reading::Content(_), _) => self.refuse(reply).say,
            // The chunk is answered by this, and so is what was said before it: no backend will be asked again.
            (Reading::Chunk { .. } | Reading::ChunkAsked | Reading::Over, _) => self.abandon(reply),
            // Between two chunks nobody waits for an answer: the next one gets it.
            (Reading::Command, Some(transaction)) if matches!(transaction.mode, Mode::Chunks(_)) => {
                transaction.poisoned = true;
                Vec::new()
            }
            (
                Reading::Command
                | Reading::Answer
                | Reading::Asked
                | Reading::Refusing(..)
                | Reading::RefusingChunk(_),
                _,
            ) => Vec::new(),
        }
    }

    fn line<'a>(&mut self, input: &'a [u8], pinned: &Pinned) -> (usize, Verdict<'a>) {
        let login = matches!(self.reading, Reading::Answer) || self.may_authenticate();
        let limit = if login { SASL_LINE } else { LINE };
        let (n, line) = self.lines.next(input, limit);
        let line = match line {
            Ok(None) => return (n, Verdict::NeedMore),
            Ok(Some(line)) => line.to_vec(),
            Err(_) => return (n, close("500 5.5.6 Line too long")),
        };
        let Ok(text) = command::text(&line) else {
            return (n, close("500 5.5.2 Bare CR, LF or NUL in a command"));
        };
        if matches!(self.reading, Reading::Answer) {
            self.reading = Reading::Command;
            return (n, Verdict::Answer(text.to_vec()));
        }
        (n, self.command(text, &line, pinned))
    }

    fn command(&mut self, text: &[u8], line: &[u8], pinned: &Pinned) -> Verdict<'static> {
        let command = command::command(text);
        match command.verb {
            Verb::Helo | Verb::Ehlo | Verb::Lhlo => self.on_hello(command),
            Verb::Mail => self.on_mail(command.arguments, line, pinned),
            Verb::Rcpt => self.on_rcpt(command.arguments, line, pinned),
            Verb::Data => self.on_data(command.arguments),
            Verb::Bdat => self.on_chunk(command.arguments, pinned),
            Verb::Rset => Verdict::Own(Own::Reset),
            Verb::Noop => say("250 2.0.0 Ok"),
            Verb::Quit => Verdict::Own(Own::Quit),
            Verb::Starttls => self.on_starttls(command.arguments),
            Verb::Auth => self.on_auth(command.arguments),
            Verb::Xforward if self.role == Role::Lmtp => self.on_forward(command.arguments),
            Verb::Vrfy => say("252 2.5.1 Send some mail, and see"),
            Verb::Help => say("214 2.0.0 RFC 5321"),
            Verb::Expn => say("502 5.5.1 Not available"),
            Verb::Xforward | Verb::Other => self.unknown(),
        }
    }

    fn unknown(&mut self) -> Verdict<'static> {
        self.nonsense += 1;
        if self.nonsense >= NONSENSE {
            return close("421 4.7.0 Too many errors");
        }
        say("500 5.5.2 Unknown command")
    }

    fn on_hello(&self, command: command::Command<'_>) -> Verdict<'static> {
        let right = (self.role == Role::Lmtp) == (command.verb == Verb::Lhlo);
        match () {
            () if !right && self.role == Role::Lmtp => say("500 5.5.1 This is LMTP: say LHLO"),
            () if !right => say("500 5.5.1 This is SMTP: say EHLO"),
            () if command.arguments.is_empty() || command.arguments.contains(&b' ') => say(SYNTAX),
            () => Verdict::Own(Own::Hello(Hello {
                extended: command.verb != Verb::Helo,
                name: command.arguments.into(),
            })),
        }
    }

    fn on_starttls(&self, arguments: &[u8]) -> Verdict<'static> {
        match () {
            () if !self.offers_starttls() => say("502 5.5.1 Not available"),
            () if !arguments.is_empty() => say(SYNTAX),
            () => Verdict::Own(Own::Starttls),
        }
    }

    fn on_auth(&self, arguments: &[u8]) -> Verdict<'static> {
        match () {
            () if self.hello.is_none() => say(FIRST_HELLO),
            () if self.authenticated => say("503 5.5.1 Already logged in"),
            () if self.transaction.is_some() => say("503 5.5.1 Not in a transaction"),
            () if self.may_authenticate() => Verdict::Own(Own::Auth(arguments.into())),
            () if self.role == Role::Submission => say("530 5.7.0 Begin TLS first"),
            () => say("502 5.5.1 Not available"),
        }
    }

    /// A mail server names the message (Postfix XFORWARD_README); of what it may say only that is of use here.
    fn on_forward(&mut self, arguments: &[u8]) -> Verdict<'static> {
        let attributes = arguments.split(|b| *b == b' ').filter(|word| !word.is_empty());
        if self.transaction.is_some() {
            return say("503 5.5.1 Not in a transaction");
        }
        for attribute in attributes {
            let Some(at) = memchr::memchr(b'=', attribute) else { return say(SYNTAX) };
            if attribute[..at].eq_ignore_ascii_case(b"IDENT") {
                let ident = std::str::from_utf8(&attribute[at + 1..]).ok();
                self.ident = ident.filter(|ident| *ident != "[UNAVAILABLE]").map(Into::into);
            }
        }
        say("250 2.0.0 Ok")
    }

    fn on_mail(&mut self, arguments: &[u8], line: &[u8], pinned: &Pinned) -> Verdict<'static> {
        let Ok(path) = Path::read(arguments, b"FROM:") else { return say(SYNTAX) };
        // A poisoned transaction whose end was told is over for its client.
        if self.is_poisoned() {
            self.transaction = None;
        }
        let too_large = path.size().zip(pinned.size()).is_some_and(|(size, limit)| size > limit);
        match () {
            () if self.hello.is_none() => say(FIRST_HELLO),
            () if self.role == Role::Submission && !self.secure => say("530 5.7.0 Begin TLS first"),
            () if self.role == Role::Submission && !self.authenticated => say("530 5.7.1 Log in first"),
            // Behind a MAIL without an answer it waits: [`Self::refuses`].
            () if self.transaction.as_ref().is_some_and(|t| t.mail.given.is_some()) => say(UNDER_WAY),
            () if !allowed(&path, pinned) => say("555 5.5.4 A parameter that was not offered"),
            () if too_large => say("552 5.3.4 Larger than the largest message"),
            () => Verdict::Command(Command::Mail(line.into())),
        }
    }

    fn on_rcpt(&self, arguments: &[u8], line: &[u8], pinned: &Pinned) -> Verdict<'static> {
        let Ok(path) = Path::read(arguments, b"TO:") else { return say(SYNTAX) };
        let Some(transaction) = &self.transaction else { return say(NO_MAIL) };
        match () {
            () if transaction.poisoned => Verdict::Own(Own::Say(super::POISONED.to_vec())),
            () if path.address.is_empty() => say("501 5.1.3 A recipient without an address"),
            () if transaction.mode != Mode::None => say("503 5.5.1 The content has begun"),
            () if transaction.rcpts.len() >= RECIPIENTS => say("452 4.5.3 Too many recipients"),
            () if !allowed(&path, pinned) => say("555 5.5.4 A parameter that was not offered"),
            () => Verdict::Command(Command::Rcpt(line.into())),
        }
    }

    fn on_data(&mut self, arguments: &[u8]) -> Verdict<'static> {
        match &self.transaction {
            None => say(NO_MAIL),
            Some(_) if !arguments.is_empty() => say(SYNTAX),
            Some(transaction) if transaction.mode != Mode::None => say("503 5.5.1 BDAT was said before"),
            Some(transaction) if transaction.poisoned => {
                self.transaction = None;
                Verdict::Own(Own::Say(super::POISONED.to_vec()))
            }
            Some(transaction) if transaction.rcpts.is_empty() => say("503 5.5.1 RCPT first"),
            Some(_) => Verdict::Command(Command::Data),
        }
    }

    fn on_chunk(&mut self, arguments: &[u8], pinned: &Pinned) -> Verdict<'static> {
        // Without its size nobody knows where the next command begins.
        let Ok((size, last)) = command::chunk(arguments) else {
            return close("501 5.5.4 BDAT needs a size");
        };
        let mut times = 1;
        let refusal = match &self.transaction {
            _ if !pinned.has("CHUNKING") => Some(&b"502 5.5.1 Not available\r\n"[..]),
            None => Some(&b"503 5.5.1 MAIL first\r\n"[..]),
            Some(transaction) if transaction.poisoned => {
                times = if last { self.owed() } else { 1 };
                // A chunk that is refused ends its message (RFC 3030 §2).
                self.transaction = None;
                Some(super::POISONED)
            }
            Some(transaction) if transaction.rcpts.is_empty() => Some(&b"503 5.5.1 RCPT first\r\n"[..]),
            Some(_) => None,
        };
        match refusal {
            Some(reply) => {
                if size > 0 {
                    self.reading = Reading::RefusingChunk(Chunk::new(size));
                }
                Verdict::Own(Own::Say(reply.repeat(times)))
            }
            None => Verdict::Command(Command::Chunk { size, last }),
        }
    }

    /// What a command is on the wire; empty for a last chunk without bytes, of which only the commit is left.
    pub fn wire(command: &Command) -> Vec<u8> {
        match command {
            Command::Mail(line) | Command::Rcpt(line) => line.to_vec(),
            Command::Data => b"DATA\r\n".to_vec(),
            Command::Chunk { size: 0, last: true } => Vec::new(),
            Command::Chunk { size, .. } => format!("BDAT {size}\r\n").into_bytes(),
        }
    }

    /// `command` goes to the backend from now on.
    pub fn commit(&mut self, command: Command) {
        let line = |bytes| Line { bytes, given: None, delivered: false };
        let what = match command {
            Command::Mail(bytes) => {
                self.serial = self.serial.wrapping_add(1);
                self.transaction = Some(Transaction {
                    mail: line(bytes),
                    rcpts: Vec::new(),
                    mode: Mode::None,
                    poisoned: false,
                    committed: false,
                    answered: 0,
                    ident: self.ident.take(),
                });
                What::Mail
            }
            Command::Rcpt(bytes) => {
                let Some(transaction) = &mut self.transaction else { return };
                transaction.rcpts.push(line(bytes));
                What::Rcpt(transaction.rcpts.len() - 1)
            }
            Command::Data => {
                self.reading = Reading::Asked;
                What::Data
            }
            Command::Chunk { size, last } => {
                let Some(transaction) = &mut self.transaction else { return };
                let before = if let Mode::Chunks(before) = transaction.mode { before } else { 0 };
                transaction.mode = Mode::Chunks(before.saturating_add(size));
                self.reading = Reading::Chunk { chunk: Chunk::new(size), last };
                self.chunk_ends();
                if size == 0 && last {
                    return;
                }
                What::Chunk { last }
            }
        };
        self.await_reply(what, None);
    }

    /// What was just said is answered after everything before it.
    pub(super) fn await_reply(&mut self, what: What, given: Option<Class>) {
        self.flight.push_back(Awaited { what, given, of: self.serial });
    }

    fn chunk_ends(&mut self) {
        if let Reading::Chunk { chunk, last } = &self.reading
            && chunk.is_over()
        {
            self.reading = if *last { Reading::Over } else { Reading::ChunkAsked };
        }
    }

    /// The client said hello: whatever message was under way is forgotten. True: the backend, if there is one
    /// (`connected`), must be told RSET.
    pub fn greet(&mut self, hello: Hello, connected: bool) -> bool {
        self.hello = Some(hello);
        self.reset(connected)
    }

    /// The same for a client that said RSET.
    pub fn reset(&mut self, connected: bool) -> bool {
        let told = self.transaction.take().is_some() && connected;
        if told {
            self.await_reply(What::Reset, Some(Class::Done));
        }
        told
    }

    /// The end of a message was answered by the proxy: the next command is read.
    pub fn over(&mut self) {
        self.transaction = None;
        self.reading = Reading::Command;
    }

    /// 354 was told: content is read.
    pub(super) fn begin_content(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.mode = Mode::Data;
        }
        self.reading = Reading::Content(Content::new(self.bare));
    }
}

fn allowed(path: &Path<'_>, pinned: &Pinned) -> bool {
    let binary = |key: &[u8], value: Option<&[u8]>| {
        key.eq_ignore_ascii_case(b"BODY") && value.is_some_and(|v| v.eq_ignore_ascii_case(b"BINARYMIME"))
    };
    path.parameters()
        .all(|(key, value)| pinned.allows(key) && (pinned.has("BINARYMIME") || !binary(key, value)))
}

fn say(text: &str) -> Verdict<'static> {
    Verdict::Own(Own::Say(format!("{text}\r\n").into_bytes()))
}

fn close(text: &str) -> Verdict<'static> {
    Verdict::Own(Own::Close(format!("{text}\r\n").into_bytes()))
}
