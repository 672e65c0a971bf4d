//! The relay under random chunkings and random deeds of both sides, and the traces in `testdata`.
//!
//! Rule: the cuts of the network change nothing: the bytes to each side and the state at the end are those of a
//! run in which everything came whole.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::imap::{
    cuts::{chunks, wild},
    farewell::answer,
};

const LINE: usize = 200;
/// Literals above this are refused by the session of these tests.
const BIG: u64 = 60;

/// A session as its driver runs it, in memory: commands are collected whole, own answers wait for their turn.
struct Session {
    relay: Relay,
    cuts: Vec<usize>,
    queue: VecDeque<Item>,
    collected: Vec<u8>,
    /// Everything that the client sees, in order.
    to_client: Vec<u8>,
    /// Of it, what the server said.
    relayed: Vec<u8>,
    /// Everything that the server sees, in order.
    to_server: Vec<u8>,
    /// Of it, what the client asked.
    asked: Vec<u8>,
    /// Tags of our own that were sent.
    own: Vec<Tag>,
    /// What the server has not answered, in order.
    open: VecDeque<Open>,
    events: Vec<String>,
    closed: bool,
}

#[derive(Debug)]
enum Item {
    Command(Sent, Vec<u8>),
    Own(Own),
}

/// A command that the server knows.
#[derive(Debug, Clone, PartialEq)]
enum Open {
    Command(Tag),
    Select(Tag),
    Idle { ours: Tag, plus: bool, done: bool },
    Search(Tag),
}

impl Session {
    fn new(cuts: &[usize]) -> Self {
        let mut relay = Relay::new(TagMaker::new(7), LINE);
        relay.show(b"IMAP4rev1 ENABLE CONDSTORE");
        Self {
            relay,
            cuts: cuts.to_vec(),
            queue: VecDeque::new(),
            collected: vec![],
            to_client: vec![],
            relayed: vec![],
            to_server: vec![],
            asked: vec![],
            own: vec![],
            open: VecDeque::new(),
            events: vec![],
            closed: false,
        }
    }

    /// All that must not depend on the chunking.
    fn outcome(&self) -> (String, String, String, Vec<String>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let relay = &self.relay;
        let standing = (relay.in_flight(), relay.answered(), relay.safepoint(), relay.mid_command());
        // What is left over after the end is nobody's.
        let standing = (!self.closed).then_some(standing);
        let state = format!("{:?} {standing:?} {} {}", relay.state, relay.idling(), self.closed);
        (text(&self.to_client), text(&self.to_server), state, self.events.clone())
    }

    fn client(&mut self, input: &[u8]) {
        for mut piece in chunks(input, &self.cuts.clone()) {
            while !piece.is_empty() && !self.closed {
                let n = self.take(piece);
                piece = &piece[n..];
                self.pump();
            }
        }
    }

    /// One verdict.
    fn take(&mut self, piece: &[u8]) -> usize {
        let (n, verdict) = self.relay.client(piece);
        match verdict {
            Verdict::NeedMore => {}
            Verdict::Command(sent, bytes) => self.queue.push_back(Item::Command(sent, bytes.into_owned())),
            Verdict::Own(own) => self.queue.push_back(Item::Own(own)),
            Verdict::Data(bytes) => self.collected.extend_from_slice(bytes),
            Verdict::Last(text) => {
                let whole = [&self.collected[..], text].concat();
                self.collected.clear();
                self.queue.push_back(match self.relay.sent(&whole) {
                    Ok(sent) => Item::Command(sent, [&whole[..], b"\r\n"].concat()),
                    Err(own) => Item::Own(own),
                });
            }
            Verdict::Literal { line, literal, .. } => {
                let line = line.to_vec();
                self.literal(&line, literal);
            }
            Verdict::Close(words) => {
                self.queue.push_back(Item::Own(Own::Refuse(words)));
                self.closed = true;
            }
        }
        n
    }

    fn literal(&mut self, line: &[u8], literal: Literal) {
        let marker = format!("{{{}+}}\r\n", literal.size);
        self.collected.extend([line, marker.as_bytes()].concat());
        if literal.size <= BIG {
            self.relay.accept();
            return;
        }
        let tag = Tag::new(crate::imap::command::tag_of(&self.collected));
        self.collected.clear();
        match self.relay.refuse(&tag, literal) {
            Ok(true) => self.queue.push_back(Item::Own(Own::Refuse(answer(&tag, "NO too big")))),
            Ok(false) => {}
            Err(_) => self.closed = true,
        }
    }

    /// What may be sent or said now.
    fn pump(&mut self) {
        while let Some(item) = self.queue.pop_front() {
            match item {
                Item::Command(sent, bytes) if !self.relay.probing() => {
                    let tag = sent.tag.clone();
                    let select = matches!(sent.what, What::Select(_));
                    self.open.push_back(if select { Open::Select(tag) } else { Open::Command(tag) });
                    self.to_server.extend_from_slice(&bytes);
                    self.asked.extend_from_slice(&bytes);
                    self.relay.commit(sent);
                }
                Item::Own(own) if self.relay.answered() => self.answer(own),
                waits @ (Item::Command(..) | Item::Own(_)) => {
                    self.queue.push_front(waits);
                    break;
                }
            }
        }
        if let Some(line) = self.relay.idle_backend() {
            self.tell(&line);
        }
    }

    fn answer(&mut self, own: Own) {
        match own {
            Own::Idle(tag) => {
                let words = self.relay.begin_idle(tag);
                self.to_client.extend_from_slice(words);
            }
            Own::Done => {
                let (client, server) = self.relay.end_idle(true);
                self.to_client.extend(client.unwrap_or_default());
                server.into_iter().for_each(|line| self.tell(line));
            }
            Own::NotDone => {
                let tag = self.relay.abandon_idle();
                self.to_client.extend(tag.map(|tag| answer(&tag, "BAD expected DONE")).unwrap_or_default());
                self.relay.rouse_backend().into_iter().for_each(|line| self.tell(line));
            }
            Own::Capability(tag) | Own::Id(tag, _) | Own::Logout(tag) => {
                self.to_client.extend(answer(&tag, "OK ours"));
            }
            Own::Refuse(words) => self.to_client.extend(words),
        }
    }

    /// A line of our own to the server.
    fn tell(&mut self, line: &[u8]) {
        self.to_server.extend_from_slice(line);
        if line == b"DONE\r\n" {
            for open in &mut self.open {
                if let Open::Idle { done, .. } = open {
                    *done = true;
                }
            }
            return;
        }
        let ours = Tag::new(crate::imap::command::tag_of(line));
        self.own.push(ours.clone());
        let idle = line.ends_with(b" IDLE\r\n");
        self.open.push_back(if idle {
            Open::Idle { ours, plus: false, done: false }
        } else {
            Open::Search(ours)
        });
    }

    fn probe(&mut self) {
        if self.relay.safepoint()
            && self.queue.is_empty()
            && let Some(line) = self.relay.probe()
        {
            self.tell(&line);
        }
    }

    /// Bytes of the server; what comes after the stream was lost goes to the client as it is.
    fn server(&mut self, input: &[u8]) {
        for mut piece in chunks(input, &self.cuts.clone()) {
            while !piece.is_empty() {
                if self.closed {
                    self.relay_on(piece);
                    break;
                }
                let step = self.relay.server(piece);
                self.relay_on(&step.owned);
                self.relay_on(&piece[..step.forward]);
                piece = &piece[step.forward + step.swallow..];
                if let Some(event) = step.event {
                    self.happened(event);
                }
                self.pump();
            }
        }
    }

    fn relay_on(&mut self, bytes: &[u8]) {
        self.to_client.extend_from_slice(bytes);
        self.relayed.extend_from_slice(bytes);
    }

    fn happened(&mut self, event: Event) {
        self.events.push(format!("{event:?}"));
        match event {
            Event::Send(line) => self.tell(&line),
            Event::IdleEnded(words) => self.to_client.extend(words.unwrap_or_default()),
            Event::Lost(_) => self.closed = true,
            Event::Go | Event::Answered(_) | Event::Probed | Event::Bye => {}
        }
    }

    /// The server answers its oldest command. Each line is handed over by itself.
    fn reply(&mut self, status: &str) -> Vec<u8> {
        let Some(open) = self.open.pop_front() else { return vec![] };
        let tagged = |tag: &Tag, status: &str| answer(tag, &format!("{status} so be it"));
        let (told, ours) = match open {
            Open::Command(tag) => (vec![tagged(&tag, status)], false),
            Open::Select(tag) => {
                let lines = [
                    "* 3 EXISTS\r\n",
                    "* 1 RECENT\r\n",
                    "* OK [UIDVALIDITY 7] x\r\n",
                    "* OK [UIDNEXT 9] x\r\n",
                ];
                let mut told: Vec<_> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
                told.push(tagged(&tag, status));
                (told, false)
            }
            Open::Search(tag) => {
                let exists = self.relay.state.selected.as_ref().map_or(0, |selected| selected.exists);
                let tag_text = String::from_utf8_lossy(tag.as_bytes()).into_owned();
                let found = format!("* ESEARCH (TAG \"{tag_text}\") UID COUNT {exists} ALL 1:{exists}\r\n");
                (vec![found.into_bytes(), tagged(&tag, "OK")], true)
            }
            Open::Idle { ours, plus: false, done } => {
                self.open.push_front(Open::Idle { ours, plus: true, done });
                (vec![b"+ idling\r\n".to_vec()], true)
            }
            Open::Idle { ours, done: true, .. } => (vec![tagged(&ours, "OK")], true),
            running @ Open::Idle { .. } => {
                self.open.push_front(running);
                (vec![], true)
            }
        };
        for line in &told {
            self.server(line);
        }
        if ours { vec![] } else { told.concat() }
    }
}

/// What one of the sides does.
#[derive(Debug, Clone)]
enum Deed {
    /// A command of the client: bytes after the tag, as the server sees them.
    Command { tag: String, words: &'static str, lf: bool },
    /// IDLE, or DONE if it is in IDLE.
    Idle(String),
    /// Something that the proxy answers.
    Own(String, &'static str),
    /// Data that nobody asked for.
    Data(&'static str),
    /// The oldest command is answered.
    Reply(&'static str),
    /// The proxy asks for the view.
    Probe,
}

fn tag() -> impl Strategy<Value = String> {
    // The second kind begins like tags of our own (the seed is 7).
    prop_oneof!["[a-z][0-9]{1,3}", "HAAAAA[xyz]{1,2}", "haaaaa[xyz]"]
}

const COMMANDS: &[&str] = &[
    "NOOP",
    "UID FETCH 1:* (FLAGS)",
    "STORE 1 +FLAGS (\\Seen)",
    "SELECT INBOX",
    "EXAMINE \"a \\\"box\\\"\"",
    "CLOSE",
    "XFOO bar {x}",
    "ENABLE CONDSTORE",
    "APPEND x (\\Seen) {5+}\r\nhe\nlo",
    "APPEND x {2+}\r\n\r\n {12+}\r\na1 OK {9+}\r\n ",
    "SEARCH SUBJECT {3+}\r\nabc",
    "SEARCH RETURN (SAVE) ALL",
];

const DATA: &[&str] = &[
    "* 4 EXISTS\r\n",
    "* 7 EXISTS\r\n",
    "* 1 EXPUNGE\r\n",
    "* VANISHED 2\r\n",
    "* VANISHED (EARLIER) 2\r\n",
    "* 2 FETCH (FLAGS (\\Seen) UID 2)\r\n",
    "* 1 FETCH (UID 1 BODY[] {20}\r\na1 OK no\r\n* 9 EXISTS FLAGS ())\r\n",
    "* 1 FETCH (BODY[1] {0}\r\n BODY[2] {3}\r\nabc)\r\n",
    "* OK [UIDNEXT 12] more\r\n",
    "* OK see {25}\r\n",
    "* NO [ALERT] quota\r\n",
    "* LIST () \"/\" {3}\r\na\nb\r\n",
    "* ESEARCH (TAG \"zz\") COUNT 3\r\n",
    "* FLAGS (\\Seen)\n",
];

fn deed() -> impl Strategy<Value = Deed> {
    let one = |list: &'static [&'static str]| proptest::sample::select(list);
    prop_oneof![
        4 => (tag(), one(COMMANDS), any::<bool>()).prop_map(|(tag, words, lf)| Deed::Command { tag, words, lf }),
        2 => tag().prop_map(Deed::Idle),
        1 => (tag(), one(&["CAPABILITY", "ID NIL", "LANGUAGE x", "ENABLE NOTHING"]))
            .prop_map(|(tag, words)| Deed::Own(tag, words)),
        4 => one(DATA).prop_map(Deed::Data),
        5 => one(&["OK", "OK", "NO", "BAD"]).prop_map(Deed::Reply),
        1 => Just(Deed::Probe),
    ]
}

/// A session and the plain bookkeeping of what must have passed.
struct Play {
    session: Session,
    idling: bool,
    /// The client's commands that are the server's to see.
    for_server: Vec<u8>,
    /// The server's words that are the client's to see.
    for_client: Vec<u8>,
}

impl Play {
    fn run(deeds: &[Deed], cuts: &[usize]) -> Self {
        let (for_server, for_client) = (vec![], vec![]);
        let mut play = Self { session: Session::new(cuts), idling: false, for_server, for_client };
        deeds.iter().for_each(|deed| play.act(deed));
        play.finish();
        play
    }

    fn act(&mut self, deed: &Deed) {
        match deed {
            Deed::Command { .. } | Deed::Own(..) if self.idling => self.done(),
            Deed::Command { tag, words, lf } => {
                self.for_server.extend(format!("{tag} {words}\r\n").into_bytes());
                let end = if *lf { "\n" } else { "\r\n" };
                self.session.client(format!("{tag} {words}{end}").as_bytes());
            }
            Deed::Own(tag, words) => self.session.client(format!("{tag} {words}\r\n").as_bytes()),
            Deed::Idle(_) if self.idling => self.done(),
            Deed::Idle(tag) => {
                self.session.client(format!("{tag} IDLE\r\n").as_bytes());
                self.idling = true;
            }
            Deed::Data(line) => {
                let relay = &self.session.relay;
                let removes = line.contains("EXPUNGE") || line.contains("VANISHED 2");
                let ours_alone = relay.own_outstanding()
                    && relay.in_flight() == (0, 0)
                    && !relay.idling()
                    && relay.answered();
                if !(removes && ours_alone) {
                    self.for_client.extend_from_slice(line.as_bytes());
                }
                self.session.server(line.as_bytes());
            }
            Deed::Reply(status) => {
                let told = self.session.reply(status);
                self.for_client.extend(told);
            }
            Deed::Probe => self.session.probe(),
        }
    }

    fn done(&mut self) {
        self.session.client(b"DONE\r\n");
        self.idling = false;
    }

    /// Everything is answered, the client is out of IDLE.
    fn finish(&mut self) {
        if self.idling {
            self.done();
        }
        // Each turn answers one line; more than three a command are never outstanding.
        for _ in 0..400 {
            self.act(&Deed::Reply("OK"));
        }
    }
}

proptest! {
    #[test]
    fn sessions_pass_everything_once_and_nothing_of_ours(
        deeds in vec(deed(), 1..60),
        cuts in vec(1usize..40, 1..8),
    ) {
        let play = Play::run(&deeds, &cuts);
        let session = &play.session;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        prop_assert_eq!(text(&session.asked), text(&play.for_server), "to the server");
        prop_assert_eq!(text(&session.relayed), text(&play.for_client), "to the client");
        prop_assert!(session.open.is_empty() && session.queue.is_empty(), "{:?} {:?}", session.open, session.queue);
        prop_assert!(session.relay.safepoint() && !session.closed);
        let seen = text(&session.to_client);
        for ours in &session.own {
            let ours = text(ours.as_bytes());
            prop_assert!(!seen.lines().any(|line| line.starts_with(&format!("{ours} "))), "{} in {}", ours, seen);
        }
        prop_assert_eq!(session.outcome(), Play::run(&deeds, &[usize::MAX]).session.outcome());
    }

    #[test]
    fn whatever_a_client_sends_its_cuts_change_nothing(
        stream in wild(COMMANDS, "\r\n", &["a ", "b1 ", "IDLE\r\n", "DONE\r\n", "x {61+}\r\n", "{70}\r\n", "LOGOUT\r\n"]),
        cuts in vec(1usize..40, 1..8),
    ) {
        let mut whole = Session::new(&[usize::MAX]);
        let mut cut = Session::new(&cuts);
        whole.client(&stream);
        cut.client(&stream);
        prop_assert_eq!(cut.outcome(), whole.outcome());
    }

    #[test]
    fn whatever_a_server_sends_its_cuts_change_nothing(
        stream in wild(DATA, "", &["a OK x\r\n", "b NO x\r\n", "s OK x\r\n", "* BYE x\r\n", "+ x\r\n", "c OK x\r\n", "\r\n"]),
        cuts in vec(1usize..40, 1..8),
    ) {
        let mut whole = Session::new(&[usize::MAX]);
        let mut cut = Session::new(&cuts);
        for session in [&mut whole, &mut cut] {
            session.client(b"s SELECT INBOX\r\na NOOP\r\nb STORE 1 FLAGS ()\r\n");
            session.server(&stream);
        }
        prop_assert_eq!(cut.outcome(), whole.outcome());
    }
}

/// Plays a trace and compares what each side saw.
fn replay(trace: &str, cuts: &[usize]) -> Session {
    let mut session = Session::new(cuts);
    let (mut for_client, mut for_server) = (String::new(), String::new());
    for (number, line) in trace.lines().enumerate() {
        let Some((kind, text)) = line.split_once(' ') else { continue };
        // Our tags, from the seed of these tests.
        let bytes = text.replace('@', "HAAAAA") + "\r\n";
        match kind {
            "C:" | "c:" => session.client(bytes.as_bytes()),
            "S:" | "s:" => session.server(bytes.as_bytes()),
            "!" => session.probe(),
            "=" => assert_eq!(described(&session.relay.state), text, "line {}", number + 1),
            "P:" | "p:" | "#" => {}
            other => panic!("line {}: {other}", number + 1),
        }
        match kind {
            "S:" | "P:" => for_client += &bytes,
            "C:" | "p:" => for_server += &bytes,
            _ => {}
        }
    }
    assert_eq!(String::from_utf8_lossy(&session.to_client), for_client, "to the client");
    assert_eq!(String::from_utf8_lossy(&session.to_server), for_server, "to the server");
    session
}

fn described(state: &State) -> String {
    let Some(selected) = &state.selected else { return "none".into() };
    let uids = selected.view.as_ref().map_or_else(
        || "?".to_owned(),
        |view| format!("{}{}", view.known(), ",?".repeat(view.unknown() as usize)),
    );
    let name = String::from_utf8_lossy(&selected.name);
    let diverged = if selected.diverged { " diverged" } else { "" };
    let saved = if selected.saved_search { " saved" } else { "" };
    format!("{name} exists {} uids {uids}{diverged}{saved}", selected.exists)
}

/// What the traces are written in: `C:` and `S:` pass, `c:` and `s:` do not, `P:` is said to the client and `p:`
/// to the server by the proxy itself (`@1` is its first tag), `!` asks for the view, `=` is the mailbox's state.
#[test]
fn traces() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let trace = std::fs::read_to_string(&path).unwrap();
        let replayed = |cuts: &[usize]| std::panic::catch_unwind(|| replay(&trace, cuts).outcome());
        for cuts in [&[usize::MAX][..], &[1], &[2, 3, 5, 7]] {
            assert!(replayed(cuts).is_ok(), "{} in pieces of {cuts:?}", path.display());
        }
        count += 1;
    }
    assert!(count >= 9, "{count} traces");
}
