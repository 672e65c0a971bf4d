//! Logging in to a backend and finding a session's mailbox there again (semantics §1.b).
//!
//! Rule: no line of this dialogue reaches the client, and a refusal is sorted by what it means: the user's own
//! credentials, a server that cannot now, or a mailbox that is not the same.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    capability::Capabilities,
    command, fragment,
    login::{Credentials, Mechanism},
    reconcile::Found,
    response::{self, Response, Status},
    state::{Selected, State},
    tag::{Tag, TagMaker},
    view::UidSet,
};
use crate::lines::Lines;

/// Longest line that is accepted in a dialogue of ours: a mailbox of a million scattered UIDs fits.
const LINE: usize = 16 << 20;

/// How often a mailbox is opened again because it changed meanwhile.
const ROUNDS: u8 = 3;

/// What a dialogue is to do, in this order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The arguments of ID, sent first (Dovecot honours the client's address only there).
    pub id: Option<Vec<u8>>,
    /// Log in. `None`: the connection is logged in already.
    pub login: Option<Login>,
    /// What the client enabled.
    pub enable: Vec<u8>,
    /// The mailbox to open.
    pub mailbox: Option<Mailbox>,
}

/// Whose words are used.
#[derive(Debug, Clone)]
pub enum Login {
    /// The client's own.
    Client(Credentials),
    /// A master's, for this identity.
    Master {
        /// Whose mailbox.
        identity: Vec<u8>,
        /// The master's name.
        user: Vec<u8>,
        /// The master's password.
        password: Zeroizing<Vec<u8>>,
    },
}

/// A mailbox to open.
#[derive(Debug, Clone)]
pub struct Mailbox {
    /// Its decoded name.
    pub name: Box<[u8]>,
    /// EXAMINE.
    pub examine: bool,
    /// With CONDSTORE.
    pub condstore: bool,
}

impl Mailbox {
    /// As the session has it; `verify` only looks (EXAMINE), whatever the client did.
    pub fn of(selected: &Selected, condstore: bool, verify: bool) -> Self {
        Self {
            name: selected.name.clone(),
            examine: verify || selected.examine,
            condstore: selected.condstore || condstore,
        }
    }
}

impl Plan {
    /// The mailbox and the extensions of `state`.
    pub fn of(state: &State, login: Option<Login>, verify: bool) -> Self {
        Self {
            id: None,
            enable: if login.is_some() { state.enabled.join(&b' ') } else { Vec::new() },
            login,
            mailbox: state.selected.as_ref().map(|s| Mailbox::of(s, state.condstore, verify)),
        }
    }
}

/// What a dialogue found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the server offers after the login; `None` if nothing was logged in.
    pub capabilities: Option<Capabilities>,
    /// The opened mailbox, as of the search.
    pub found: Option<Found>,
    /// Messages that came after the search: the server will not say so again.
    pub arrived: Option<u32>,
    /// SELECT opened it, and nobody may change what is in it.
    pub read_only: bool,
}

/// Why a dialogue failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The credentials were refused. The text with its code, as the server gave it.
    #[error("login refused: {0}")]
    Refused(String),
    /// The server cannot now: try another, or later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The mailbox cannot be opened.
    #[error("mailbox refused: {0}")]
    Mailbox(String),
    /// What the client enabled is not to be had.
    #[error("ENABLE granted less")]
    Enable,
    /// The server does not speak IMAP as we know it.
    #[error("protocol: {0}")]
    Protocol(&'static str),
}

impl Failure {
    /// A stable label for metrics and reports.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Refused(_) => "login_refused",
            Self::Unavailable(_) => "unavailable",
            Self::Mailbox(_) => "mailbox_refused",
            Self::Enable => "enable",
            Self::Protocol(_) => "protocol",
        }
    }
}

/// How a dialogue goes on.
#[derive(Debug)]
pub enum Next {
    /// Read on.
    More,
    /// Send this, then read on.
    Send(Zeroizing<Vec<u8>>),
    /// Done.
    Done(Outcome),
    /// It cannot be done.
    Failed(Failure),
}

#[derive(Debug)]
enum Stage {
    /// The login's tagged reply; `secret` is what a `+` asks for.
    Login {
        tag: Tag,
        secret: Option<Zeroizing<Vec<u8>>>,
    },
    Capability {
        tag: Tag,
    },
    Mailbox(Opening),
    Over,
}

#[derive(Debug)]
struct Opening {
    enable: Option<Tag>,
    select: Option<Tag>,
    search: Option<Tag>,
}

/// One dialogue with one backend.
#[derive(Debug)]
pub struct Dialogue {
    plan: Plan,
    lines: Lines,
    literal: u64,
    continues: bool,
    stage: Stage,
    capabilities: Option<Capabilities>,
    enabled: Vec<u8>,
    found: Found,
    search: Option<Option<UidSet>>,
    arrived: Option<u32>,
    read_only: bool,
    /// A message went meanwhile: the search must be asked again.
    stale: bool,
    rounds: u8,
}

impl Dialogue {
    /// A dialogue, and what to send first. `None`: there is nothing to do.
    pub fn new(plan: Plan, tags: &mut TagMaker) -> (Self, Option<Zeroizing<Vec<u8>>>) {
        let mut dialogue = Self {
            plan,
            lines: Lines::default(),
            literal: 0,
            continues: false,
            stage: Stage::Over,
            capabilities: None,
            enabled: Vec::new(),
            found: Found::default(),
            search: None,
            arrived: None,
            read_only: false,
            stale: false,
            rounds: 0,
        };
        let first = match dialogue.plan.login.take() {
            Some(login) => Some(dialogue.login(&login, tags)),
            None => dialogue.open(tags),
        };
        (dialogue, first)
    }

    fn login(&mut self, login: &Login, tags: &mut TagMaker) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        if let Some(id) = self.plan.id.take() {
            out.extend_from_slice(&[tags.make().as_bytes(), b" ID ", &id, b"\r\n"].concat());
        }
        let tag = tags.make();
        out.extend_from_slice(tag.as_bytes());
        let secret = match login {
            Login::Client(c) if c.mechanism == Mechanism::Login && login_line(c, &mut out) => None,
            Login::Client(c) => Some(plain(&c.authzid, &c.user, &c.password)),
            Login::Master { identity, user, password } => Some(plain(identity, user, password)),
        };
        if secret.is_some() {
            out.extend_from_slice(b" AUTHENTICATE PLAIN\r\n");
        }
        self.stage = Stage::Login { tag, secret };
        out
    }

    /// ENABLE, SELECT and the search go in one write (RFC 5161 §3.1, RFC 3501 §5.5).
    fn open(&mut self, tags: &mut TagMaker) -> Option<Zeroizing<Vec<u8>>> {
        let mut out = Zeroizing::new(Vec::new());
        let mut opening = Opening { enable: None, select: None, search: None };
        if !self.plan.enable.is_empty() {
            let tag = tags.make();
            out.extend_from_slice(&[tag.as_bytes(), b" ENABLE ", &self.plan.enable, b"\r\n"].concat());
            opening.enable = Some(tag);
        }
        let clean = |m: &&Mailbox| !m.name.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
        if let Some(mailbox) = self.plan.mailbox.as_ref().filter(clean) {
            let (select, search) = (tags.make(), tags.make());
            out.extend_from_slice(select.as_bytes());
            out.extend_from_slice(if mailbox.examine { b" EXAMINE " } else { b" SELECT " });
            if !command::quote(&mailbox.name, &mut out) {
                // 8-bit names only exist for clients that enabled UTF8=ACCEPT, where quoted strings carry them.
                out.push(b'"');
                out.extend(mailbox.name.iter().flat_map(|b| match b {
                    b'"' | b'\\' => vec![b'\\', *b],
                    b => vec![*b],
                }));
                out.push(b'"');
            }
            out.extend_from_slice(if mailbox.condstore { b" (CONDSTORE)\r\n" } else { b"\r\n" });
            out.extend_from_slice(&self.search_line(&search));
            (opening.select, opening.search) = (Some(select), Some(search));
        }
        let empty = out.is_empty();
        self.stage = if empty { Stage::Over } else { Stage::Mailbox(opening) };
        (!empty).then_some(out)
    }

    fn search_line(&self, tag: &Tag) -> Vec<u8> {
        let all: &[u8] = if self.has(b"ESEARCH") {
            b" UID SEARCH RETURN (ALL COUNT) ALL\r\n"
        } else {
            b" UID SEARCH ALL\r\n"
        };
        [tag.as_bytes(), all].concat()
    }

    /// Without a login of ours in this dialogue the server is assumed to be the one that was logged in to.
    fn has(&self, capability: &[u8]) -> bool {
        self.capabilities.as_ref().is_none_or(|c| c.has(capability))
    }

    /// Takes bytes of the server. Returns how many. After the end nothing is sent any more.
    pub fn step(&mut self, input: &[u8], tags: &mut TagMaker) -> (usize, Next) {
        let (n, next) = self.read(input, tags);
        if let Next::Failed(_) = next {
            self.stage = Stage::Over;
        }
        (n, next)
    }

    fn read(&mut self, input: &[u8], tags: &mut TagMaker) -> (usize, Next) {
        if self.literal > 0 {
            let n = usize::try_from(self.literal).map_or(input.len(), |left| left.min(input.len()));
            self.literal -= n as u64;
            return (n, Next::More);
        }
        let (n, line) = self.lines.next(input, LINE);
        let line = match line {
            Ok(None) => return (n, Next::More),
            Ok(Some(line)) => fragment::text(line).to_vec(),
            Err(_) => return (n, Next::Failed(Failure::Protocol("line too long"))),
        };
        if std::mem::take(&mut self.continues) {
            self.expect_literal(&line);
            return (n, Next::More);
        }
        let Ok(response) = Response::parse(&line) else {
            return (n, Next::Failed(Failure::Protocol("not a response")));
        };
        if response.is_data() {
            self.expect_literal(&line);
        }
        (n, self.response(&response, &line, tags))
    }

    fn expect_literal(&mut self, line: &[u8]) {
        if let Some(literal) = fragment::literal(line) {
            (self.literal, self.continues) = (literal.size, true);
        }
    }

    fn response(&mut self, response: &Response<'_>, line: &[u8], tags: &mut TagMaker) -> Next {
        match *response {
            Response::Tagged { tag, status, text } => return self.tagged(tag, status, text, tags),
            Response::Untagged { status: Status::Bye, text } => {
                return Next::Failed(Failure::Unavailable(lossy(text)));
            }
            Response::Untagged { text, .. } => self.code(text),
            Response::Continue => {
                if let Stage::Login { secret, .. } = &mut self.stage
                    && let Some(secret) = secret.take()
                {
                    return Next::Send(secret);
                }
                return Next::Failed(Failure::Protocol("continuation that nobody asked for"));
            }
            Response::Exists(n) if self.search.is_some() => self.arrived = Some(n),
            Response::Exists(n) => self.found.exists = n,
            Response::Recent(n) => self.found.recent = n,
            Response::Capability(words) => self.capabilities = Some(Capabilities::parse(words)),
            Response::Enabled(words) => self.enabled = words.to_ascii_uppercase(),
            Response::Esearch(data) => {
                let result = response::esearch(data);
                // More runs than are kept: the mailbox has no view, which is not the server's fault.
                let uids = if result.count == Some(0) { Some(UidSet::default()) } else { result.all };
                self.search = Some(uids);
            }
            Response::Data => self.numbers(line),
            Response::Expunge(_) | Response::Vanished { earlier: false, .. } => self.stale = true,
            Response::Fetch(..) | Response::Vanished { earlier: true, .. } => {}
        }
        Next::More
    }

    /// `* SEARCH 1 2 3`, where ESEARCH is not offered.
    fn numbers(&mut self, line: &[u8]) {
        if let Some(numbers) =
            line.get(2..8).filter(|w| w.eq_ignore_ascii_case(b"SEARCH")).map(|_| &line[8..])
        {
            let uids = numbers.split(|b| *b == b' ').filter_map(response::number).collect();
            self.search = Some(Some(uids));
        }
    }

    fn code(&mut self, text: &[u8]) {
        match response::code(text) {
            Some((name, value)) if name.eq_ignore_ascii_case(b"UIDVALIDITY") => {
                self.found.uidvalidity = response::number(value).unwrap_or_default();
            }
            Some((name, value)) if name.eq_ignore_ascii_case(b"UIDNEXT") => {
                self.found.uidnext = response::number(value);
            }
            Some((name, words)) if name.eq_ignore_ascii_case(b"CAPABILITY") => {
                self.capabilities = Some(Capabilities::parse(words));
            }
            Some(_) | None => {}
        }
    }

    fn tagged(&mut self, tag: &[u8], status: Status, text: &[u8], tags: &mut TagMaker) -> Next {
        match &mut self.stage {
            Stage::Login { tag: ours, .. } if ours.as_bytes() == tag => {
                if status != Status::Ok {
                    return Next::Failed(login_failure(status, text));
                }
                // What was said before the login no longer holds (RFC 3501 §6.2.3).
                self.capabilities = None;
                self.code(text);
                if self.capabilities.is_some() {
                    return self.logged_in(tags);
                }
                let tag = tags.make();
                let line = Zeroizing::new([tag.as_bytes(), b" CAPABILITY\r\n"].concat());
                self.stage = Stage::Capability { tag };
                Next::Send(line)
            }
            Stage::Capability { tag: ours } if ours.as_bytes() == tag => match self.capabilities {
                Some(_) => self.logged_in(tags),
                None => Next::Failed(Failure::Protocol("no capabilities")),
            },
            Stage::Mailbox(opening) => {
                let (tag, status) = (Some(tag), status == Status::Ok);
                if opening.enable.as_ref().map(Tag::as_bytes) == tag {
                    return self.on_enable();
                }
                if opening.select.as_ref().map(Tag::as_bytes) == tag {
                    let examines = self.plan.mailbox.as_ref().is_some_and(|mailbox| mailbox.examine);
                    self.read_only = !examines && response::says(text, b"READ-ONLY");
                    return if status { Next::More } else { Next::Failed(Failure::Mailbox(lossy(text))) };
                }
                if opening.search.as_ref().map(Tag::as_bytes) == tag {
                    return if status {
                        self.searched(tags)
                    } else {
                        Next::Failed(Failure::Mailbox(lossy(text)))
                    };
                }
                Next::Failed(Failure::Protocol("unknown tag"))
            }
            // The answer to ID, whatever it is.
            Stage::Login { .. } => Next::More,
            Stage::Capability { .. } | Stage::Over => Next::Failed(Failure::Protocol("unknown tag")),
        }
    }

    fn on_enable(&mut self) -> Next {
        let plan = std::mem::take(&mut self.plan.enable);
        let granted =
            |want: &[u8]| self.enabled.split(|b| *b == b' ').any(|have| have.eq_ignore_ascii_case(want));
        if !plan.split(|b| *b == b' ').all(granted) {
            return Next::Failed(Failure::Enable);
        }
        if self.plan.mailbox.is_some() { Next::More } else { self.done() }
    }

    fn logged_in(&mut self, tags: &mut TagMaker) -> Next {
        match self.open(tags) {
            Some(bytes) => Next::Send(bytes),
            None => self.done(),
        }
    }

    /// The result holds only if the numbers of the server still are those of the search.
    fn searched(&mut self, tags: &mut TagMaker) -> Next {
        let uids = self.search.take().flatten();
        let agrees = uids.as_ref().is_none_or(|uids| uids.len() == self.found.exists);
        if !std::mem::take(&mut self.stale) && agrees {
            self.found.uids = uids;
            return self.done();
        }
        self.rounds += 1;
        if self.rounds > ROUNDS {
            return Next::Failed(Failure::Unavailable(
                "the mailbox changes faster than it can be read".to_owned(),
            ));
        }
        // Whoever removed a message changed the count without an EXISTS: SELECT says it anew.
        self.arrived = None;
        match self.open(tags) {
            Some(bytes) => Next::Send(bytes),
            None => self.done(),
        }
    }

    fn done(&mut self) -> Next {
        self.stage = Stage::Over;
        let found = self.plan.mailbox.is_some().then(|| std::mem::take(&mut self.found));
        let (capabilities, arrived) = (self.capabilities.take(), self.arrived.take());
        Next::Done(Outcome { capabilities, found, arrived, read_only: self.read_only })
    }

    /// Bytes of an unfinished line.
    pub fn is_clean(&self) -> bool {
        self.lines.unfinished().is_empty() && self.literal == 0
    }
}

/// Sorts a refused login (semantics §1.b.2): only what is about the credentials may ever reach a client.
fn login_failure(status: Status, text: &[u8]) -> Failure {
    let temporary =
        [&b"UNAVAILABLE"[..], b"SERVERBUG", b"INUSE", b"LIMIT", b"CONTACTADMIN", b"PRIVACYREQUIRED"];
    let code = response::code(text).map(|(name, _)| name);
    match code {
        Some(name) if temporary.iter().any(|t| t.eq_ignore_ascii_case(name)) => {
            Failure::Unavailable(lossy(text))
        }
        _ if status == Status::No => Failure::Refused(lossy(text)),
        _ => Failure::Unavailable(lossy(text)),
    }
}

/// ` LOGIN "user" "password"`, where both can be quoted.
fn login_line(c: &Credentials, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.extend_from_slice(b" LOGIN ");
    let fits = command::quote(&c.user, out) && {
        out.push(b' ');
        command::quote(&c.password, out)
    };
    if fits {
        out.extend_from_slice(b"\r\n")
    } else {
        out.truncate(start)
    }
    fits
}

/// RFC 4616, as one base64 line.
fn plain(authzid: &[u8], user: &[u8], password: &[u8]) -> Zeroizing<Vec<u8>> {
    let message = Zeroizing::new([authzid, b"\0", user, b"\0", password].concat());
    Zeroizing::new([BASE64_STANDARD.encode(&*message).as_bytes(), b"\r\n"].concat())
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
