//! A backend that is lost, and a message said again to another one (semantics §2.4-2.6, §2.9).
//!
//! Rule: whatever the lost one was asked is either asked again or answered by us, never neither.

use super::{Awaited, Command, GoOn, Mode, POISONED, Reading, Relay, Role, What, client::UNDER_WAY};
use crate::smtp::{data::Chunk, reply::Class};

const NO_MAIL: &[u8] = b"503 5.5.1 MAIL first\r\n";
const NO_RCPT: &[u8] = b"554 5.5.1 No recipient was accepted\r\n";

/// What a loss leaves behind.
#[derive(Debug, Default)]
pub struct Loss {
    /// A message was committed there, and nobody knows what became of it; the caller decides between
    /// [`Relay::forget_commit`] and telling [`super::AMBIGUOUS`].
    pub ambiguous: bool,
    /// For the client: answers to what nobody will be asked again.
    pub say: Vec<u8>,
}

impl Relay {
    /// The backend is gone.
    pub fn lose_backend(&mut self) -> Loss {
        self.again = false;
        let mut say = Vec::new();
        for awaited in std::mem::take(&mut self.flight) {
            let current = self.is_current(&awaited);
            match (&mut self.transaction, &awaited.what) {
                _ if awaited.given.is_some() => {}
                (Some(transaction), What::Rcpt(at)) if current && transaction.poisoned => {
                    transaction.rcpts.get_mut(*at).into_iter().for_each(|r| r.given = Some(Class::Later));
                    say.extend_from_slice(POISONED);
                }
                (_, what) if !current => say.extend_from_slice(self.answer_lost(what)),
                _ => {}
            }
        }
        // What was to be said behind an envelope that was refused or withdrawn meanwhile.
        if self.transaction.is_none() {
            say.extend(self.refuse(NO_MAIL).say);
        } else if self.is_poisoned() {
            say.extend(self.refuse(POISONED).say);
        }
        Loss { ambiguous: self.transaction.as_ref().is_some_and(|t| t.committed), say }
    }

    /// What came behind a MAIL that was refused is not said again, and still answered.
    fn answer_lost(&mut self, what: &What) -> &'static [u8] {
        match what {
            What::Forward | What::Reset => return b"",
            What::Data => self.reading = Reading::Command,
            What::Chunk { .. } => self.end_chunk(),
            What::Mail | What::Rcpt(_) | What::End { .. } => {}
        }
        NO_MAIL
    }

    /// Whether it belongs to the message under way.
    pub(super) fn is_current(&self, awaited: &Awaited) -> bool {
        self.transaction.is_some() && awaited.of == self.serial && awaited.what != What::Reset
    }

    /// Whether a command that waited cannot be carried out as things stand: its message was refused or withdrawn meanwhile,
    /// or the message before it was not.
    pub fn refuses(&self, command: &Command) -> bool {
        let stands = self.transaction.as_ref().is_some_and(|t| !t.poisoned);
        stands == matches!(command, Command::Mail(_))
    }

    /// The answer to a command that [`Self::refuses`] says cannot be carried out, once everything before it has its own.
    pub fn refusal(&mut self, command: &Command) -> Vec<u8> {
        if matches!(command, Command::Mail(_)) {
            return format!("{UNDER_WAY}\r\n").into_bytes();
        }
        let reply = if self.transaction.is_some() { POISONED } else { NO_MAIL };
        let say = self.refuse_command(command, reply);
        if *command == Command::Data {
            self.transaction = None;
        }
        say
    }

    /// Whether a last chunk without bytes waits whose message was refused before it: it is asked of nobody, and so nobody
    /// answers it but us.
    pub fn is_orphaned(&self) -> bool {
        self.transaction.is_none() && matches!(self.reading, Reading::Over)
    }

    /// The answer to such a chunk; `None`: not yet, something before it has none.
    pub fn refuse_orphan(&mut self) -> Option<Vec<u8>> {
        (self.is_orphaned() && self.answered()).then(|| self.refuse(NO_MAIL).say)
    }

    /// A command that waited is answered and not carried out. A chunk ends its message with that, and its bytes, which
    /// follow in any case, are read and go nowhere: the backend that knows of the message must be given up.
    pub fn refuse_command(&mut self, command: &Command, reply: &[u8]) -> Vec<u8> {
        let Command::Chunk { size, last } = command else { return reply.to_vec() };
        let times = if *last { self.owed() } else { 1 };
        self.transaction = None;
        if *size > 0 {
            self.reading = Reading::RefusingChunk(Chunk::new(*size));
        }
        reply.repeat(times)
    }

    /// Whether the client waits for a reply that only a backend can give.
    pub fn awaits_backend(&self) -> bool {
        !self.answered() && !matches!(self.reading, Reading::Chunk { .. })
    }

    /// No backend answers, and the client has waited long enough: `reply` for everything that was passed on. Nothing was
    /// committed.
    pub fn abandon(&mut self, reply: &[u8]) -> Vec<u8> {
        let mut say = self.lose_backend().say;
        let Some(transaction) = &mut self.transaction else { return say };
        let begun = transaction.mail.given.is_some();
        transaction.poisoned = true;
        for line in std::iter::once(&mut transaction.mail).chain(&mut transaction.rcpts) {
            if line.given.is_none() {
                line.given = Some(Class::Later);
                say.extend_from_slice(reply);
            }
        }
        say.extend(self.refuse(reply).say);
        if !begun {
            self.transaction = None;
        }
        say
    }

    /// How many replies the end of the message has, whatever they say.
    pub(super) fn owed(&self) -> usize {
        if self.role == Role::Lmtp { self.replies_owed().max(1) } else { 1 }
    }

    /// How many replies the client still waits for at the end of its message.
    pub fn replies_owed(&self) -> usize {
        let Some(transaction) = &self.transaction else { return 0 };
        if self.role == Role::Lmtp { transaction.unanswered().count() } else { 1 }
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
        let Some(transaction) = self.transaction.as_ref().filter(|t| !t.poisoned && self.in_transaction())
        else {
            return Vec::new();
        };
        let mut out = transaction.mail.bytes.to_vec();
        let of = self.serial;
        self.flight.push_back(Awaited { what: What::Mail, given: transaction.mail.given, of });
        for (at, rcpt) in transaction.rcpts.iter().enumerate() {
            if matches!(rcpt.given, None | Some(Class::Done)) && !rcpt.delivered {
                out.extend_from_slice(&rcpt.bytes);
                self.flight.push_back(Awaited { what: What::Rcpt(at), given: rcpt.given, of });
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
        let Some(transaction) = self.transaction.as_ref().filter(|t| !t.poisoned) else {
            // Either MAIL had no answer, and now it has one, and what came behind it has not; or a promise was withdrawn,
            // which its client may know already. Of what was said again the backend must know nothing any more.
            let reply = if self.transaction.is_none() { NO_MAIL } else { POISONED };
            self.await_reply(What::Reset, Some(Class::Done));
            return Some(GoOn { send: b"RSET\r\n".to_vec(), ..self.refuse(reply) });
        };
        if matches!(self.reading, Reading::Asked) && transaction.unanswered().next().is_none() {
            // The next backend would ask for content that goes to nobody.
            self.reading = Reading::Command;
            return Some(GoOn { say: NO_RCPT.to_vec(), ..GoOn::default() });
        }
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
        self.await_reply(what, given);
        Some(GoOn { send, stream, ..GoOn::default() })
    }

    /// The message will not be taken; `reply` is for the answer that its client waits for now, or will.
    pub(super) fn refuse(&mut self, reply: &[u8]) -> GoOn {
        let times = match std::mem::replace(&mut self.reading, Reading::Command) {
            Reading::Asked => {
                self.transaction = None;
                1
            }
            Reading::Over => {
                let owed = self.owed();
                self.transaction = None;
                owed
            }
            Reading::ChunkAsked => {
                self.transaction = None;
                1
            }
            Reading::Command | Reading::Answer => 0,
            Reading::Content(content) => {
                self.reading = Reading::Refusing(content, reply.to_vec());
                0
            }
            Reading::Chunk { chunk, last } => {
                self.reading = Reading::RefusingChunk(chunk);
                let owed = if last { self.owed() } else { 1 };
                self.transaction = None;
                owed
            }
            other @ (Reading::Refusing(..) | Reading::RefusingChunk(_)) => {
                self.reading = other;
                0
            }
        };
        GoOn { withdrawn: true, say: reply.repeat(times), ..GoOn::default() }
    }
}
