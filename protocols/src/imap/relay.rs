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

use std::{borrow::Cow, collections::VecDeque};

use super::{
    command::{self, Class, Head, Verb},
    farewell::answer,
    fragment::{self, LineError, Lines, Literal},
    response::{self, Response, Status},
    state::{Selected, State},
    tag::{Tag, TagMaker},
    view::{UidSet, View},
};

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
    /// A refused literal that comes all the same: bytes, then the rest of the command.
    Discard(Tag, u64),
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

    // ---- the client's side ----------------------------------------------------------------------------

    /// Takes bytes of the client. Returns how many, and what they are.
    pub fn client<'a>(&'a mut self, input: &'a [u8]) -> (usize, Verdict<'a>) {
        match &mut self.reading {
            Reading::Data(left) => {
                let n = bounded(input.len(), *left);
                *left -= n as u64;
                if *left == 0 {
                    self.reading = Reading::AfterData;
                }
                return (n, Verdict::Data(&input[..n]));
            }
            Reading::Discard(_, left) if *left > 0 => {
                let n = bounded(input.len(), *left);
                *left -= n as u64;
                return (n, Verdict::NeedMore);
            }
            Reading::Announced(_) => return (0, Verdict::NeedMore),
            Reading::Command | Reading::AfterData | Reading::Idle | Reading::Discard(..) => {}
        }
        let (n, line) = self.client.next(input, self.line_limit);
        let line = match line {
            Ok(None) => return (n, Verdict::NeedMore),
            Ok(Some(line)) => line,
            Err(error) => return (n, close(input, error)),
        };
        let text = fragment::text(line);
        if let Err(error) = fragment::check(text) {
            if error.is_framed()
                && fragment::literal(text).is_none()
                && matches!(self.reading, Reading::Command)
            {
                let refusal = refusal(command::tag_of(text), &format!("BAD {error}."));
                return (n, Verdict::Own(Own::Refuse(refusal)));
            }
            return (n, close(text, error));
        }
        let reading = std::mem::replace(&mut self.reading, Reading::Command);
        let verdict = match reading {
            Reading::Idle if text.eq_ignore_ascii_case(b"DONE") => Verdict::Own(Own::Done),
            Reading::Idle => Verdict::Own(Own::NotDone),
            Reading::Discard(tag, _) => {
                if let Some(literal) = fragment::literal(text) {
                    // A chain of refused literals: the synchronising ones will not come.
                    if !literal.sync {
                        self.reading = Reading::Discard(tag, literal.size);
                        return (n, Verdict::NeedMore);
                    }
                }
                Verdict::Own(Own::Refuse(answer(&tag, "NO [TOOBIG] Literal too large.")))
            }
            Reading::Command | Reading::AfterData | Reading::Announced(_) | Reading::Data(_) => {
                if let Some(literal) = fragment::literal(text) {
                    self.reading = Reading::Announced(literal.size);
                    let begins = match reading {
                        Reading::AfterData => None,
                        _ => match command::head(text) {
                            Ok(head) => {
                                self.tags.avoid(head.tag);
                                Some((Tag::new(head.tag), head.verb))
                            }
                            Err(_) => return (n, close(text, LineError::OpenQuote)),
                        },
                    };
                    Verdict::Literal { begins, line: &text[..literal.marker], literal }
                } else if matches!(reading, Reading::AfterData) {
                    Verdict::Last(text)
                } else {
                    whole(line, text, &mut self.tags, &mut self.reading, &self.enableable)
                }
            }
        };
        (n, verdict)
    }

    /// The announced literal is read: [`Verdict::Data`] follows.
    pub fn accept(&mut self) {
        if let Reading::Announced(size) = self.reading {
            self.reading = if size == 0 { Reading::AfterData } else { Reading::Data(size) };
        }
    }

    /// The announced literal is not wanted. A client that waits for `+` sends nothing more of it; one that does
    /// not is read to the command's end and refused then. True: the refusal is the caller's to say now.
    pub fn refuse(&mut self, tag: &Tag, literal: Literal) -> Result<bool, LineError> {
        if literal.sync {
            self.reading = Reading::Command;
            return Ok(true);
        }
        if literal.size > ABSURD {
            return Err(LineError::TooLong);
        }
        self.reading = Reading::Discard(tag.clone(), literal.size);
        Ok(false)
    }

    /// The backend refused an upload before its literal was sent: the next line is a command.
    pub fn cancel_literal(&mut self) {
        self.reading = Reading::Command;
        self.awaits_go = None;
        self.uploading = None;
    }

    /// The command in `whole` (its literals in place, without the last line end), or what the proxy says to it.
    pub fn sent(&self, whole: &[u8]) -> Result<Sent, Own> {
        let refuse = |text| Own::Refuse(refusal(command::tag_of(whole), text));
        let head = command::head(whole).map_err(|_| refuse("BAD Not a command."))?;
        let tag = Tag::new(head.tag);
        match (head.verb.class(), head.verb) {
            (_, Verb::Id) => Err(Own::Id(tag, head.arguments.into())),
            (Class::Own | Class::Denied, _) => Err(refuse("BAD Not available here.")),
            (_, Verb::Enable) => Err(refuse("BAD ENABLE takes atoms.")),
            _ if updates(&head) => Err(refuse("BAD CONTEXT is not available here.")),
            (Class::Read | Class::Write, _) => Ok(sent(&head)),
        }
    }

    /// Whether the client is inside a literal or between two.
    pub fn mid_command(&self) -> bool {
        !matches!(self.reading, Reading::Command | Reading::Idle) || !self.client.unfinished().is_empty()
    }

    /// Whether the client waits for the driver's word on a literal.
    pub fn undecided(&self) -> bool {
        matches!(self.reading, Reading::Announced(_))
    }

    /// What the client sent of an unfinished line; for the byte pipe.
    pub fn unfinished(&self) -> &[u8] {
        self.client.unfinished()
    }

    // ---- commands in flight ---------------------------------------------------------------------------

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
        self.flight.is_empty() && !matches!(self.server_idle, ServerIdle::Ending { answer: Some(_), .. })
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

    // ---- IDLE -----------------------------------------------------------------------------------------

    /// The client is in IDLE.
    pub fn idling(&self) -> bool {
        self.client_idle.is_some()
    }

    /// The client's IDLE begins. Returns what it is told.
    pub fn begin_idle(&mut self, tag: Tag) -> &'static [u8] {
        self.client_idle = Some(tag);
        b"+ idling\r\n"
    }

    /// What to send so that the backend idles too, if it should and does not.
    pub fn idle_backend(&mut self) -> Option<Vec<u8>> {
        let idle =
            self.client_idle.is_some() && self.safepoint() && matches!(self.server_idle, ServerIdle::No);
        if !idle || self.idle_refused {
            return None;
        }
        let ours = self.tags.make();
        let line = [ours.as_bytes(), b" IDLE\r\n"].concat();
        self.server_idle = ServerIdle::Asked(ours);
        Some(line)
    }

    /// The client said DONE. Returns `(for the client, for the backend)`: where `live` the backend's own end
    /// of IDLE is awaited (so that what it still has to say comes before the answer), else the answer is given
    /// at once.
    pub fn end_idle(&mut self, live: bool) -> (Option<Vec<u8>>, Option<&'static [u8]>) {
        let Some(tag) = self.client_idle.take() else { return (None, None) };
        if live && let Some(done) = self.leave_server_idle(Some(tag.clone())) {
            return (None, Some(done));
        }
        (Some(idle_completed(&tag)), None)
    }

    /// Ends the backend's IDLE, if it runs, without a word to the client.
    pub fn rouse_backend(&mut self) -> Option<&'static [u8]> {
        self.leave_server_idle(None)
    }

    /// The tag of the client's IDLE, which ends without DONE.
    pub fn abandon_idle(&mut self) -> Option<Tag> {
        self.client_idle.take()
    }

    /// The client's DONE waits for the backend no longer (the gate shut): returns the answer.
    pub fn answer_done(&mut self) -> Option<Vec<u8>> {
        match &mut self.server_idle {
            ServerIdle::Ending { answer, .. } => answer.take().map(|tag| idle_completed(&tag)),
            ServerIdle::No | ServerIdle::Asked(_) | ServerIdle::Running(_) => None,
        }
    }

    fn leave_server_idle(&mut self, answer: Option<Tag>) -> Option<&'static [u8]> {
        match std::mem::replace(&mut self.server_idle, ServerIdle::No) {
            // DONE may follow IDLE before `+` has come (RFC 2177 lets the client send it; servers read it).
            idle @ (ServerIdle::Asked(_) | ServerIdle::Running(_)) => {
                let plus = matches!(idle, ServerIdle::Running(_));
                if let ServerIdle::Asked(ours) | ServerIdle::Running(ours) = idle {
                    self.server_idle = ServerIdle::Ending { ours, plus, answer };
                }
                Some(b"DONE\r\n")
            }
            other @ (ServerIdle::No | ServerIdle::Ending { .. }) => {
                self.server_idle = other;
                None
            }
        }
    }

    // ---- the view -------------------------------------------------------------------------------------

    /// Learns the view of the selected mailbox (semantics §1.c.2). Returns what to send to the backend.
    pub fn probe(&mut self) -> Option<Vec<u8>> {
        let selected = self.state.selected.as_mut()?;
        if selected.exists == 0 {
            selected.view = View::new(UidSet::default(), 0);
            return None;
        }
        if let ServerIdle::Running(_) = self.server_idle {
            self.probe = Probe::Wanted;
            return self.leave_server_idle(None).map(<[u8]>::to_vec);
        }
        Some(self.search())
    }

    fn search(&mut self) -> Vec<u8> {
        let ours = self.tags.make();
        // The message numbers are deliberate: no expunge may be reported during it (semantics §1.c.2).
        let line = [ours.as_bytes(), b" UID SEARCH RETURN (ALL COUNT) 1:*\r\n"].concat();
        self.probe = Probe::Searching { ours };
        line
    }

    // ---- the server's side ----------------------------------------------------------------------------

    /// Takes bytes of the backend. Whole lines go on in one run; the run ends at a line that needs more.
    pub fn server(&mut self, input: &[u8]) -> Step {
        let mut at = 0;
        while at < input.len() {
            if self.literal > 0 {
                let n = bounded(input.len() - at, self.literal);
                if self.continues == Some(false) {
                    self.literal -= n as u64;
                    return Step { forward: at, swallow: n, ..Step::default() };
                }
                self.literal -= n as u64;
                at += n;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', &input[at..]).map(|n| at + n + 1) else {
                return self.unfinished_line(input, at);
            };
            if !self.server.is_empty() {
                return self.finished_line(&input[..end]);
            }
            match self.line(&input[at..end]) {
                Fate::Forward(None) => at = end,
                Fate::Forward(event) => return Step { forward: end, event, ..Step::default() },
                Fate::Swallow(event) => {
                    return Step { forward: at, swallow: end - at, event, ..Step::default() };
                }
                Fate::Lost(why) => {
                    return Step { forward: at, event: Some(Event::Lost(why)), ..Step::default() };
                }
            }
        }
        Step { forward: at, ..Step::default() }
    }

    fn unfinished_line(&mut self, input: &[u8], at: usize) -> Step {
        if at > 0 {
            return Step { forward: at, ..Step::default() };
        }
        self.server.extend_from_slice(input);
        let event = (self.server.len() > RESPONSE_LINE).then_some(Event::Lost("response line too long"));
        let owned = if event.is_some() { std::mem::take(&mut self.server) } else { Vec::new() };
        Step { owned, swallow: input.len(), event, ..Step::default() }
    }

    fn finished_line(&mut self, rest: &[u8]) -> Step {
        let mut line = std::mem::take(&mut self.server);
        line.extend_from_slice(rest);
        let (owned, event) = match self.line(&line) {
            Fate::Forward(event) => (line, event),
            Fate::Swallow(event) => (Vec::new(), event),
            Fate::Lost(why) => (line, Some(Event::Lost(why))),
        };
        Step { owned, swallow: rest.len(), event, ..Step::default() }
    }

    fn line(&mut self, line: &[u8]) -> Fate {
        let text = fragment::text(line);
        if let Some(forward) = self.continues.take() {
            self.literal = fragment::literal(text).map_or(0, |l| l.size);
            if self.literal > 0 || fragment::literal(text).is_some() {
                self.continues = Some(forward);
            }
            return if forward { Fate::Forward(None) } else { Fate::Swallow(None) };
        }
        let Ok(response) = Response::parse(text) else { return Fate::Lost("not a response") };
        let fate = self.response(&response);
        if response.is_data() && fragment::literal(text).is_some() {
            self.literal = response::literal_after(&response, text);
            self.continues = Some(matches!(fate, Fate::Forward(_)));
        }
        fate
    }

    fn response(&mut self, response: &Response<'_>) -> Fate {
        match *response {
            Response::Continue => self.on_continue(),
            Response::Tagged { tag, status, .. } => self.on_tagged(tag, status),
            Response::Untagged { status: Status::Bye, .. } => Fate::Swallow(Some(Event::Bye)),
            Response::Untagged { text, .. } => self.on_status(text),
            Response::Exists(n) => self.mailbox(|m| m.on_exists(n)),
            Response::Recent(n) => self.mailbox(|m| m.recent = n),
            Response::Expunge(n) => self.removal(|m| m.on_expunge(n)),
            Response::Vanished { earlier: true, .. } => Fate::Forward(None),
            Response::Vanished { earlier: false, set } => self.removal(|m| m.on_vanished(set)),
            Response::Fetch(n, items) => self.mailbox(|m| {
                if m.view.is_some()
                    && let Some(uid) = response::fetch_uid(items)
                {
                    m.on_fetch(n, uid);
                }
            }),
            Response::Esearch(data) => self.on_esearch(data),
            // CAPABILITY is never forwarded, so nobody asked for this one (I7).
            Response::Capability(_) => Fate::Swallow(None),
            Response::Enabled(words) => {
                self.state.enable(words);
                Fate::Forward(None)
            }
            Response::Data => Fate::Forward(None),
        }
    }

    fn mailbox(&mut self, change: impl FnOnce(&mut Selected)) -> Fate {
        // Only the oldest command speaks: before its turn a pipelined SELECT has selected nothing.
        let pending = self.flight.front_mut().and_then(|s| match &mut s.what {
            What::Select(selected) => Some(selected),
            What::Read
            | What::Write
            | What::Upload
            | What::Deselect { .. }
            | What::Enable
            | What::SaveSearch => None,
        });
        if let Some(selected) = pending.or(self.state.selected.as_mut()) {
            change(selected);
        }
        Fate::Forward(None)
    }

    /// EXPUNGE or VANISHED. Where only a command of ours made the backend speak, the client must not hear it
    /// now (semantics §1.c.9), and cannot be followed afterwards.
    fn removal(&mut self, change: impl FnOnce(&mut Selected)) -> Fate {
        if self.flight.is_empty() && self.client_idle.is_none() && self.own_outstanding() && self.answered() {
            if let Some(selected) = &mut self.state.selected {
                selected.diverged = true;
            }
            return Fate::Swallow(None);
        }
        self.mailbox(change)
    }

    /// Answers come in the order of the questions, and an IDLE is always older than a literal that waits.
    fn on_continue(&mut self) -> Fate {
        match std::mem::replace(&mut self.server_idle, ServerIdle::No) {
            ServerIdle::Asked(ours) => {
                self.server_idle = ServerIdle::Running(ours);
                return Fate::Swallow(None);
            }
            ServerIdle::Ending { ours, plus: false, answer } => {
                self.server_idle = ServerIdle::Ending { ours, plus: true, answer };
                return Fate::Swallow(None);
            }
            other @ (ServerIdle::No | ServerIdle::Running(_) | ServerIdle::Ending { .. }) => {
                self.server_idle = other
            }
        }
        match self.awaits_go.take() {
            Some(_) => Fate::Swallow(Some(Event::Go)),
            None => Fate::Lost("continuation that nobody asked for"),
        }
    }

    fn on_status(&mut self, text: &[u8]) -> Fate {
        match response::code(text) {
            Some((name, _)) if name.eq_ignore_ascii_case(b"CAPABILITY") => Fate::Swallow(None),
            Some((name, _)) if name.eq_ignore_ascii_case(b"CLOSED") => {
                self.state.selected = None;
                Fate::Forward(None)
            }
            Some(_) => self.mailbox(|m| m.on_code(text)),
            None => Fate::Forward(None),
        }
    }

    fn on_esearch(&mut self, data: &[u8]) -> Fate {
        let Probe::Searching { ours } = &self.probe else { return Fate::Forward(None) };
        let result = response::esearch(data);
        if result.tag != Some(ours.as_bytes()) {
            return Fate::Forward(None);
        }
        // The view as of this line: an EXISTS behind it makes it grow.
        if let (Some(selected), Some(count)) = (&mut self.state.selected, result.count)
            && count == selected.exists
        {
            selected.view = result.all.and_then(|set| View::new(set, count));
        }
        Fate::Swallow(None)
    }

    fn on_tagged(&mut self, tag: &[u8], status: Status) -> Fate {
        if let Some(fate) = self.on_own(tag, status) {
            return fate;
        }
        let waiting = [&mut self.awaits_go, &mut self.uploading];
        let mut early = false;
        for waits in waiting {
            if waits.as_ref().is_some_and(|t| t.as_bytes() == tag) {
                *waits = None;
                early = true;
            }
        }
        if early {
            return Fate::Forward(Some(Event::Answered(Tag::new(tag))));
        }
        let Some(at) = self.flight.iter().position(|s| s.tag.as_bytes() == tag) else {
            return Fate::Lost("unknown tag");
        };
        let Some(sent) = self.flight.remove(at) else { return Fate::Lost("unknown tag") };
        let upload = matches!(sent.what, What::Upload);
        self.complete(sent, status == Status::Ok);
        Fate::Forward(upload.then(|| Event::Answered(Tag::new(tag))))
    }

    fn on_own(&mut self, tag: &[u8], status: Status) -> Option<Fate> {
        let idle = match &self.server_idle {
            ServerIdle::Asked(ours) | ServerIdle::Running(ours) | ServerIdle::Ending { ours, .. } => {
                Some(ours)
            }
            ServerIdle::No => None,
        };
        if idle.is_some_and(|ours| ours.as_bytes() == tag) {
            let was = std::mem::replace(&mut self.server_idle, ServerIdle::No);
            if let Probe::Wanted = self.probe {
                return Some(Fate::Swallow(Some(Event::Send(self.search()))));
            }
            let answer = match was {
                ServerIdle::Ending { answer, .. } => answer.map(|tag| idle_completed(&tag)),
                // Refused, or ended by the server: the client's IDLE goes on all the same.
                ServerIdle::No | ServerIdle::Asked(_) | ServerIdle::Running(_) => {
                    self.idle_refused = status != Status::Ok;
                    None
                }
            };
            return Some(Fate::Swallow(Some(Event::IdleEnded(answer))));
        }
        match std::mem::replace(&mut self.probe, Probe::No) {
            Probe::Searching { ours } if ours.as_bytes() == tag => Some(Fate::Swallow(Some(Event::Probed))),
            other => {
                self.probe = other;
                None
            }
        }
    }

    /// How often the selected mailbox has changed.
    pub fn selections(&self) -> u32 {
        self.selections
    }

    fn complete(&mut self, sent: Sent, ok: bool) {
        self.selections += u32::from(matches!(sent.what, What::Select(_) | What::Deselect { .. }));
        match sent.what {
            What::Select(selected) if ok => {
                self.state.condstore |= selected.condstore;
                self.state.selected = Some(selected);
            }
            // A failed SELECT leaves no mailbox selected (RFC 3501 §6.3.1).
            What::Select(_) => self.state.selected = None,
            What::Deselect { .. } if ok => self.state.selected = None,
            What::SaveSearch => {
                if let Some(selected) = &mut self.state.selected {
                    selected.saved_search = true;
                }
            }
            What::Read | What::Write | What::Upload | What::Deselect { .. } | What::Enable => {}
        }
    }
}

impl State {
    fn enable(&mut self, words: &[u8]) {
        for word in words.split(|b| *b == b' ').filter(|w| !w.is_empty()) {
            if !self.enabled.iter().any(|have| have.eq_ignore_ascii_case(word)) {
                self.condstore |=
                    word.eq_ignore_ascii_case(b"CONDSTORE") || word.eq_ignore_ascii_case(b"QRESYNC");
                self.enabled.push(word.into());
            }
        }
    }
}

/// A command line without literals.
fn whole<'a>(
    line: &'a [u8],
    text: &'a [u8],
    tags: &mut TagMaker,
    reading: &mut Reading,
    enableable: &[&str],
) -> Verdict<'a> {
    let head = match command::head(text) {
        Ok(head) => head,
        Err(error) => {
            return Verdict::Own(Own::Refuse(refusal(command::tag_of(text), &format!("BAD {error}."))));
        }
    };
    tags.avoid(head.tag);
    let tag = Tag::new(head.tag);
    match (head.verb.class(), head.verb) {
        (Class::Own, Verb::Idle) => {
            *reading = Reading::Idle;
            Verdict::Own(Own::Idle(tag))
        }
        (Class::Own, Verb::Capability) => Verdict::Own(Own::Capability(tag)),
        (Class::Own, Verb::Id) => Verdict::Own(Own::Id(tag, head.arguments.into())),
        (Class::Own, _) => Verdict::Own(Own::Logout(tag)),
        (Class::Denied, _) => Verdict::Own(Own::Refuse(answer(&tag, "BAD Not available here."))),
        (Class::Read | Class::Write, _) if updates(&head) => {
            Verdict::Own(Own::Refuse(answer(&tag, "BAD CONTEXT is not available here.")))
        }
        (_, Verb::Enable) => enable(&head, enableable),
        (Class::Read | Class::Write, _) => {
            let bytes = if line.ends_with(b"\r\n") {
                Cow::Borrowed(line)
            } else {
                Cow::Owned([text, b"\r\n"].concat())
            };
            Verdict::Command(sent(&head), bytes)
        }
    }
}

/// ENABLE of what clients are shown; the rest is ignored, as RFC 5161 §3.1 has it for unknown words.
fn enable<'a>(head: &Head<'_>, enableable: &[&str]) -> Verdict<'a> {
    let wanted: Vec<&[u8]> = head
        .arguments
        .split(|b| *b == b' ')
        .filter(|word| enableable.iter().any(|have| have.as_bytes().eq_ignore_ascii_case(word)))
        .collect();
    if wanted.is_empty() {
        let nothing = [b"* ENABLED\r\n", &answer(&Tag::new(head.tag), "OK Enabled.")[..]].concat();
        return Verdict::Own(Own::Refuse(nothing));
    }
    let line = [head.tag, b" ENABLE ", &wanted.join(&b' '), b"\r\n"].concat();
    Verdict::Command(sent(head), Cow::Owned(line))
}

fn sent(head: &Head<'_>) -> Sent {
    let what = match head.verb {
        Verb::Select | Verb::Examine => match command::astring(head.arguments) {
            Some((name, parameters)) => {
                let parameters = parameters.to_ascii_uppercase();
                let condstore = [&b"CONDSTORE"[..], b"QRESYNC"].iter().any(|p| contains(&parameters, p));
                What::Select(Box::new(Selected::new(&name, head.verb == Verb::Examine, condstore)))
            }
            None => What::Read,
        },
        Verb::Close => What::Deselect { close: true },
        Verb::Unselect => What::Deselect { close: false },
        Verb::Enable => What::Enable,
        Verb::Search | Verb::Sort | Verb::Thread if returns(head, b"SAVE") => What::SaveSearch,
        verb => match verb.class() {
            Class::Write => What::Write,
            Class::Read | Class::Own | Class::Denied => What::Read,
        },
    };
    Sent { tag: Tag::new(head.tag), what }
}

/// `SEARCH RETURN (… option …)`
fn returns(head: &Head<'_>, option: &[u8]) -> bool {
    let (first, rest) = command::word(head.arguments);
    let Some(inner) = rest.strip_prefix(b"(").filter(|_| first.eq_ignore_ascii_case(b"RETURN")) else {
        return false;
    };
    let end = memchr::memchr(b')', inner).unwrap_or(inner.len());
    inner[..end].split(|b| *b == b' ').any(|word| word.eq_ignore_ascii_case(option))
}

fn updates(head: &Head<'_>) -> bool {
    matches!(head.verb, Verb::Search | Verb::Sort) && returns(head, b"UPDATE")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

fn bounded(have: usize, left: u64) -> usize {
    usize::try_from(left).map_or(have, |left| have.min(left))
}

fn idle_completed(tag: &Tag) -> Vec<u8> {
    answer(tag, "OK Idle completed.")
}

fn refusal(tag: &[u8], text: &str) -> Vec<u8> {
    [tag, b" ", text.as_bytes(), b"\r\n"].concat()
}

fn close(line: &[u8], error: LineError) -> Verdict<'static> {
    let mut out = refusal(command::tag_of(fragment::text(line)), &format!("BAD {error}."));
    out.extend_from_slice(b"* BYE Protocol error\r\n");
    Verdict::Close(out)
}
