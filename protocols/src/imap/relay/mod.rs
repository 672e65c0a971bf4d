//! The session after the login: both directions, stepped with slices, answered with verdicts.
//!
//! `[ALERT]` of a healthy backend passes, against semantics I6: RFC 3501 §7.1 wants it shown, and a quota warning
//! that a proxy eats is a loss. What I6 is about, a server's last words, comes as BYE and never passes.
//!
//! Rule: nothing is copied but an unfinished line; what the proxy answers itself never overtakes an answer of
//! the backend (the driver keeps an [`Own`] back until nothing is unanswered, D5).
//!
//! Client side: a line is a command, announces a literal, or belongs to IDLE. Server side: complete lines are
//! forwarded in one run; untagged data updates the [`State`], the tagged reply ends a command. The proxy's own
//! commands (its IDLE, its view search) use tags of its own and leave no line for the client.

mod client;
mod idle;
mod server;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::VecDeque};

use self::idle::idle_completed;
use super::{
    command::Verb,
    fragment::Literal,
    state::{Selected, State},
    tag::{Tag, TagMaker},
};
use crate::lines::Lines;

/// Longest line of a response before its first literal, bytes (semantics §1.0).
const RESPONSE_LINE: usize = 8 << 20;
/// A literal that nobody will read to its end.
const ABSURD: u64 = 1 << 30;

/// A command that was sent, or is about to be.
#[derive(Debug)]
pub struct Sent {
    /// The client's tag.
    pub tag: Tag,
    /// What it does to the session.
    pub what: What,
}

/// What a command in flight does to the session.
#[derive(Debug)]
pub enum What {
    /// Reads.
    Read,
    /// May change the store.
    Write,
    /// An upload whose commit byte was sent.
    Upload,
    /// SELECT or EXAMINE; its answers gather here.
    Select(Box<Selected>),
    /// CLOSE or UNSELECT.
    Deselect {
        /// CLOSE expunges.
        close: bool,
    },
    /// ENABLE; the server names what it granted.
    Enable,
    /// A search that leaves its result in `$`.
    SaveSearch,
}

impl Sent {
    /// Whether the client's message numbers mean nothing to it, nor behind it.
    pub fn leaves_mailbox(&self) -> bool {
        matches!(self.what, What::Select(_) | What::Deselect { .. })
    }

    /// Whether a cutover must wait for its answer.
    pub fn is_write(&self) -> bool {
        match self.what {
            What::Write | What::Upload => true,
            What::Deselect { close } => close,
            What::Read | What::Select(_) | What::Enable | What::SaveSearch => false,
        }
    }
}

/// What the proxy answers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// IDLE begins.
    Idle(Tag),
    /// DONE.
    Done,
    /// A line other than DONE in IDLE.
    NotDone,
    /// CAPABILITY.
    Capability(Tag),
    /// ID with its arguments.
    Id(Tag, Box<[u8]>),
    /// LOGOUT.
    Logout(Tag),
    /// A refusal.
    Refuse(Vec<u8>),
}

/// What the client's bytes are.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// All taken; nothing to do yet.
    NeedMore,
    /// A whole command without literals; `bytes` end with CRLF, its commit point.
    Command(Sent, Cow<'a, [u8]>),
    /// A line that announces a literal. The driver answers with [`Relay::accept`] or [`Relay::refuse`].
    Literal {
        /// The tag of the command, on its first line.
        begins: Option<(Tag, Verb)>,
        /// The line without marker and line end.
        line: &'a [u8],
        /// What it announces.
        literal: Literal,
    },
    /// Bytes of a literal.
    Data(&'a [u8]),
    /// The line after a command's last literal, without its line end: its commit point.
    Last(&'a [u8]),
    /// The proxy's to answer, once nothing is unanswered.
    Own(Own),
    /// Say this and end: what follows cannot be framed.
    Close(Vec<u8>),
}

/// What happened on the server's side beside bytes to forward.
#[derive(Debug)]
pub enum Event {
    /// `+`: the backend waits for a literal.
    Go,
    /// The upload or collected command of this tag was answered (the answer is among the bytes to forward).
    Answered(Tag),
    /// Send this to the backend.
    Send(Vec<u8>),
    /// The backend ended our IDLE; this is the answer to the client's DONE, if it waits for one.
    IdleEnded(Option<Vec<u8>>),
    /// The view search ended; the view is in the state if it succeeded.
    Probed,
    /// The backend says BYE.
    Bye,
    /// The stream cannot be followed any more.
    Lost(&'static str),
}

/// What to do with the server's bytes: first `owned`, then `input[..forward]` to the client; the next `swallow`
/// bytes are dropped; then `event`.
#[derive(Debug, Default)]
pub struct Step {
    /// A line that came in pieces.
    pub owned: Vec<u8>,
    /// Bytes of the input for the client.
    pub forward: usize,
    /// Bytes of the input after those that the client does not see.
    pub swallow: usize,
    /// What happened after them.
    pub event: Option<Event>,
}

#[derive(Debug)]
enum Reading {
    Command,
    /// A literal was announced and the driver has not decided.
    Announced(u64),
    /// Literal bytes, then a line.
    Data(u64),
    /// The line after a literal.
    AfterData,
    Idle,
    /// A refused command that comes all the same: what it is told at its end, and the bytes before its next line.
    Discard(Vec<u8>, u64),
}

/// The backend's IDLE, under a tag of the proxy's own.
#[derive(Debug)]
enum ServerIdle {
    No,
    Asked(Tag),
    Running(Tag),
    /// DONE was sent; `answer` is the client's tag if its DONE waits for this.
    /// `plus`: the `+` of the IDLE has come.
    Ending {
        ours: Tag,
        plus: bool,
        answer: Option<Tag>,
    },
}

/// The search for the view.
#[derive(Debug)]
enum Probe {
    No,
    /// The backend's IDLE is being ended first.
    Wanted,
    Searching {
        ours: Tag,
    },
}

/// What becomes of one response line.
enum Fate {
    Forward(Option<Event>),
    Swallow(Option<Event>),
    Lost(&'static str),
}

/// The machine of one authenticated session.
#[derive(Debug)]
pub struct Relay {
    /// What the session has become.
    pub state: State,
    client: Lines,
    reading: Reading,
    flight: VecDeque<Sent>,
    /// A command whose literal waits for `+`.
    awaits_go: Option<Tag>,
    /// An upload that streams to the backend and is not committed.
    uploading: Option<Tag>,
    client_idle: Option<Tag>,
    server: Vec<u8>,
    /// Bytes of a response literal to come, and whether they are for the client.
    literal: u64,
    /// A response goes on after a literal: what it began with decides.
    continues: Option<bool>,
    server_idle: ServerIdle,
    idle_refused: bool,
    probe: Probe,
    tags: TagMaker,
    line_limit: usize,
    selections: u32,
    /// What ENABLE may grant: what clients are shown of it.
    enableable: Vec<&'static str>,
}

/// Extensions that ENABLE switches on and a restore can replay.
const ENABLEABLE: [&str; 3] = ["CONDSTORE", "QRESYNC", "UTF8=ACCEPT"];

impl Relay {
    /// A session whose login was accepted. `seed` makes its tags, `line_limit` bounds a command line.
    pub fn new(tags: TagMaker, line_limit: usize) -> Self {
        Self {
            state: State::default(),
            client: Lines::default(),
            reading: Reading::Command,
            flight: VecDeque::new(),
            awaits_go: None,
            uploading: None,
            client_idle: None,
            server: Vec::new(),
            literal: 0,
            continues: None,
            server_idle: ServerIdle::No,
            idle_refused: false,
            probe: Probe::No,
            tags,
            line_limit,
            selections: 0,
            enableable: Vec::new(),
        }
    }

    /// Only what stands in `shown`, the capabilities that clients see, may be enabled.
    pub fn show(&mut self, shown: &[u8]) {
        let stands =
            |word: &&str| shown.split(|b| *b == b' ').any(|w| w.eq_ignore_ascii_case(word.as_bytes()));
        self.enableable = ENABLEABLE.into_iter().filter(stands).collect();
    }

    /// `sent` goes to the backend now.
    pub fn commit(&mut self, sent: Sent) {
        self.uploading = None;
        self.flight.push_back(sent);
    }

    /// An upload begins to stream: the backend may answer it before its end.
    pub fn stream_upload(&mut self, tag: Tag) {
        self.uploading = Some(tag);
    }

    /// The backend must say `+` before `tag`'s literal is sent.
    pub fn await_go(&mut self, tag: Tag) {
        self.awaits_go = Some(tag);
    }

    /// `(writes, reads)` sent and not answered.
    pub fn in_flight(&self) -> (u16, u16) {
        let writes = self.flight.iter().filter(|s| s.is_write()).count();
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        (count(writes), count(self.flight.len() - writes))
    }

    /// Whether every command has its answer, the client's DONE too.
    pub fn answered(&self) -> bool {
        self.flight.is_empty() && !self.ends_idle()
    }

    /// Writes whose outcome nobody knows once the backend is gone.
    pub fn ambiguous(&self) -> Vec<&Tag> {
        self.flight.iter().filter(|s| s.is_write()).map(|s| &s.tag).collect()
    }

    /// Whether a response to the client is cut in the middle: nothing but its rest may follow.
    pub fn mid_response(&self) -> bool {
        self.literal > 0 || self.continues == Some(true)
    }

    /// Whether the backend can be exchanged, or asked something, now: nothing unanswered, no response half
    /// read, nothing of our own outstanding.
    pub fn safepoint(&self) -> bool {
        self.flight.is_empty()
            && self.awaits_go.is_none()
            && self.uploading.is_none()
            && self.literal == 0
            && self.continues.is_none()
            && self.server.is_empty()
            && matches!(self.probe, Probe::No)
            && matches!(self.server_idle, ServerIdle::No | ServerIdle::Running(_))
    }

    /// Whether a command of the proxy's own is outstanding: the stream cannot be handed over as bytes.
    pub fn own_outstanding(&self) -> bool {
        !matches!(self.probe, Probe::No) || !matches!(self.server_idle, ServerIdle::No)
    }

    /// Whether the client was not told of a message that went: in the mailbox that it has open nothing more may be
    /// done for it, by numbers that are not the server's.
    pub fn untold(&self) -> bool {
        self.state.selected.as_ref().is_some_and(|selected| selected.untold)
            && !self.flight.iter().any(Sent::leaves_mailbox)
    }

    /// Whether the proxy's view search is under way: no command may be sent behind it.
    pub fn probing(&self) -> bool {
        !matches!(self.probe, Probe::No)
    }

    /// The backend is gone: forget what only it knew. Returns what the client must be told at once: the
    /// answer to its DONE, and to every write that may have been executed.
    pub fn lose_backend(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let ServerIdle::Ending { answer: Some(tag), .. } = &self.server_idle {
            out.extend(idle_completed(tag));
        }
        for sent in self.flight.drain(..) {
            if sent.is_write() {
                out.extend(super::farewell::unknown_result(&sent.tag));
            }
        }
        self.server_idle = ServerIdle::No;
        self.idle_refused = false;
        self.probe = Probe::No;
        self.awaits_go = None;
        self.uploading = None;
        self.server = Vec::new();
        (self.literal, self.continues) = (0, None);
        out
    }
}

fn bounded(have: usize, left: u64) -> usize {
    usize::try_from(left).map_or(have, |left| have.min(left))
}
