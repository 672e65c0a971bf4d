//! Both sides of a session at once: a client and a server by hand, the relay between them, a gate that shuts and
//! backends that go.
//!
//! Rule: every command is executed once and answered once, in order; what the server says passes once, in order;
//! of what the proxy asks no line passes; and the cuts of the network change nothing.

mod backend;
mod client;
pub(crate) mod driver;
pub(super) mod streams;

use std::collections::VecDeque;

use self::{
    backend::{Backend, Command, Words},
    client::{Ask, Client},
    driver::{Manner, Session},
};
use super::{
    byhand,
    input::{Cuts, Input, shown},
};

/// `manner, deeds`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.byte();
    let cuts = input.cuts();
    let deeds = input.rest();
    let whole = Play::run(deeds, manner(how, Cuts::none()));
    let cut = Play::run(deeds, manner(how, cuts));
    // A backend that takes its time makes a difference to when things happen.
    if manner(how, Cuts::none()).takes == 0 {
        assert_eq!(cut.session.outcome(), whole.session.outcome());
    }
}

fn manner(how: u8, cuts: Cuts) -> Manner {
    Manner { cuts, streams: how & 1 == 1, waits: how & 2 == 2, takes: usize::from(how >> 2) % 4 }
}

/// Commands without literals. The first are the proxy's to answer.
const COMMANDS: &[&str] = &[
    "CAPABILITY",
    "ID NIL",
    "LANGUAGE x",
    "ENABLE NOTHING",
    "XFOO \"bar",
    "NOOP",
    "UID FETCH 1:* (FLAGS)",
    "STORE 1 +FLAGS (\\Seen)",
    "SELECT INBOX",
    "EXAMINE \"a \\\"box\\\"\"",
    "CLOSE",
    "XFOO bar {x}",
    "ENABLE CONDSTORE",
    "SEARCH RETURN (SAVE) ALL",
    "SELECT INBOX",
    "NOOP",
];
const OWN: usize = 5;

/// Commands with literals: what stands before each, its size, and whether it is binary.
type Literals = &'static [(&'static str, &'static str, bool)];
const LITERALS: &[(Literals, &str)] = &[
    (&[("APPEND x (\\Seen) ", "he\nlo", false)], ""),
    (&[("APPEND x ", "", false), (" ", "a1 OK {9+}\r\n", false)], " "),
    (&[("SEARCH SUBJECT ", "abc", false)], ""),
    (&[("APPEND x ", "a\0b\n", true)], ""),
    (&[("SELECT ", "INBOX", false)], ""),
    (&[("APPEND x ", "0123456789012345678901234567890123456789012345678901234567890", false)], ""),
    (&[("SEARCH SUBJECT ", "0123456789012345678901234567890123456789012345678901234567890", false)], " ALL"),
    (&[("ID (\"name\" ", "foo", false)], ")"),
];

struct Play {
    session: Session,
    client: Client,
    backend: Backend,
    /// How much of the session's words each side has read.
    read: (usize, usize),
    /// What the server said for the client.
    for_client: Vec<Vec<u8>>,
    /// The end of a response that has begun.
    unsaid: Vec<u8>,
    /// How many commands had come when the client was not told of a message that went.
    untold: Vec<usize>,
    /// The gate shut, or a backend went: not everything needs to come to its end.
    moved: bool,
    shut: bool,
    number: usize,
}

impl Play {
    fn run(deeds: &[u8], manner: Manner) -> Self {
        let mut play = Self {
            session: Session::new(manner),
            client: Client::new(),
            backend: Backend::new("HAAAAA"),
            read: (0, 0),
            for_client: vec![],
            unsaid: vec![],
            untold: vec![],
            moved: false,
            shut: false,
            number: 0,
        };
        let mut input = Input::new(deeds);
        while !input.is_empty() && play.session.end.is_none() {
            play.act(&mut input);
            play.holds();
        }
        play.finish();
        play.judge();
        play
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0..3 => {
                let which = usize::from(input.byte());
                self.ask_line(which);
            }
            3 | 4 => {
                let (which, sync) = (usize::from(input.byte()), input.byte());
                self.ask_literals(which, sync);
            }
            5 => self.idle(input.below(8)),
            6..10 => {
                let status = input.one_of(&["OK", "OK", "OK", "NO", "BAD"]);
                let words = self.backend.reply(status);
                self.says(words);
            }
            10 => self.chat(input.byte(), input.byte()),
            11 => self.happens(input.byte()),
            12 => {
                self.session.probe();
                self.exchange();
            }
            13 => self.gate(),
            14 => self.lose(),
            _ => self.attach(),
        }
    }

    // ---- the client -----------------------------------------------------------------------------------

    fn tag(&mut self) -> String {
        self.number += 1;
        format!("c{}", self.number)
    }

    fn ask_line(&mut self, which: usize) {
        let (tag, which) = (self.tag(), which % COMMANDS.len());
        let text = format!("{tag} {}", COMMANDS[which]);
        let end = if self.number.is_multiple_of(3) { "\n" } else { "\r\n" };
        let pieces = VecDeque::from([format!("{text}{end}").into_bytes()]);
        let command = Command { tag, text: text.into_bytes() };
        self.asks(Ask { command, pieces, own: which < OWN, refused: false, idle: false });
    }

    fn ask_literals(&mut self, which: usize, sync: u8) {
        let tag = self.tag();
        let (literals, last) = LITERALS[which % LITERALS.len()];
        let (mut text, mut pieces, mut piece) = (format!("{tag} "), VecDeque::new(), format!("{tag} "));
        let mut refused = false;
        for (number, (before, data, binary)) in literals.iter().enumerate() {
            let (sync, tilde, size) = (sync >> number & 1 == 1, if *binary { "~" } else { "" }, data.len());
            text += &format!("{before}{tilde}{{{size}}}\r\n{data}");
            piece += &format!("{before}{tilde}{{{size}{}}}\r\n", if sync { "" } else { "+" });
            if sync {
                pieces.push_back(std::mem::take(&mut piece).into_bytes());
            }
            piece += data;
            refused |= size as u64 > driver::BIG;
        }
        pieces.push_back(format!("{piece}{last}\r\n").into_bytes());
        let own = text.contains(" ID ");
        let command = Command { tag, text: format!("{text}{last}").into_bytes() };
        self.asks(Ask { command, pieces, own, refused, idle: false });
    }

    fn idle(&mut self, word: u8) {
        if self.client.idles() {
            let bytes = self.client.done(if word == 7 { b"c0 NOOP\r\n" } else { b"DONE\r\n" });
            self.session.client(&bytes);
            return self.exchange();
        }
        let tag = self.tag();
        let text = format!("{tag} IDLE");
        let pieces = VecDeque::from([format!("{text}\r\n").into_bytes()]);
        let command = Command { tag, text: text.into_bytes() };
        self.asks(Ask { command, pieces, own: true, refused: false, idle: true });
    }

    fn asks(&mut self, ask: Ask) {
        let bytes = self.client.asks(ask);
        self.session.client(&bytes);
        self.exchange();
    }

    // ---- the server -----------------------------------------------------------------------------------

    fn says(&mut self, words: Words) {
        self.finish_response();
        for line in words.lines {
            if words.passes && self.session.end.is_none() {
                self.for_client.push(line.clone());
            }
            self.session.server(&line);
            self.exchange();
        }
    }

    /// A word that changes nothing, of which the end may come later.
    fn chat(&mut self, which: u8, cut: u8) {
        if self.session.has_backend() && !self.backend.selecting() {
            self.finish_response();
            let line = self.backend.chat(which);
            if self.session.end.is_none() {
                self.for_client.push(line.clone());
            }
            let (now, later) = line.split_at(line.len() - usize::from(cut) % line.len());
            self.unsaid = later.to_vec();
            self.session.server(now);
            self.exchange();
        }
    }

    fn finish_response(&mut self) {
        let rest = std::mem::take(&mut self.unsaid);
        self.session.server(&rest);
        self.exchange();
    }

    /// Mail comes or goes.
    fn happens(&mut self, what: u8) {
        if !self.session.has_backend() || !self.backend.selected || self.backend.selecting() {
            return;
        }
        if what < 128 {
            let words = self.backend.arrive(what % 3 + 1);
            return self.says(words);
        }
        if self.backend.mailbox.is_empty() || !self.backend.may_expunge() {
            return;
        }
        let mut words = self.backend.expunge(what, what.is_multiple_of(2));
        let relay = &self.session.relay;
        let ours_alone =
            relay.own_outstanding() && relay.in_flight() == (0, 0) && !relay.idling() && relay.answered();
        words.passes = !ours_alone;
        if ours_alone {
            self.untold.push(self.backend.executed.len());
        }
        self.says(words);
    }

    // ---- the gate and the backends --------------------------------------------------------------------

    fn gate(&mut self) {
        self.moved = true;
        self.shut = !self.shut;
        if self.shut {
            self.session.shut()
        } else {
            self.session.open()
        }
        self.exchange();
    }

    fn lose(&mut self) {
        if self.session.has_backend() {
            self.moved = true;
            self.session.lose_backend();
            self.backend.disconnect();
            if !std::mem::take(&mut self.unsaid).is_empty() {
                self.for_client.pop();
            }
            self.read.1 = self.session.to_server.len();
            self.exchange();
        }
    }

    fn attach(&mut self) {
        if !self.session.has_backend() {
            self.session.attach();
            self.exchange();
        }
    }

    /// Each side reads what it was sent, and answers at once what only it can.
    fn exchange(&mut self) {
        loop {
            let server = self.session.to_server[self.read.1..].to_vec();
            let client = self.session.to_client[self.read.0..].to_vec();
            if server.is_empty() && client.is_empty() {
                return;
            }
            self.read = (self.read.0 + client.len(), self.read.1 + server.len());
            self.backend.takes(&server);
            let bytes = self.client.reads(&client);
            self.session.client(&bytes);
        }
    }

    /// For messages: what both sides have been sent.
    fn passed(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!(
            "to the client:\n{}\nto the server:\n{}",
            text(&self.session.to_client),
            text(&self.session.to_server)
        )
    }

    // ---- what must hold -------------------------------------------------------------------------------

    /// After every deed.
    fn holds(&self) {
        if self.session.end.is_some() {
            return;
        }
        let (writes, reads) = self.session.relay.in_flight();
        assert_eq!(usize::from(writes + reads), self.backend.unanswered(), "in flight");
        assert!(self.client.whole() || self.session.relay.mid_response());
        let settled = !self.backend.selecting() && self.session.has_backend();
        if settled && !self.backend.selected {
            assert!(self.session.relay.state.selected.is_none(), "no mailbox is selected: {}", self.passed());
        }
        let Some(selected) = self.session.relay.state.selected.as_ref().filter(|s| !s.diverged) else {
            return;
        };
        if settled && self.backend.selected {
            let sides = (self.client.exists, self.backend.mailbox.len());
            assert_eq!((selected.exists as usize, selected.exists as usize), sides, "{}", self.passed());
            if let Some(view) = &selected.view {
                let known = view.known().iter().zip(&self.backend.mailbox);
                assert!(
                    view.len() == selected.exists && { known }.all(|(known, uid)| known == *uid),
                    "{view:?}"
                );
            }
        }
    }

    /// The gate opens, a backend serves, everything is answered, the client is out of IDLE.
    fn finish(&mut self) {
        if self.shut {
            self.gate();
        }
        self.attach();
        self.finish_response();
        let (mut before, mut still) = (0, 0);
        for _ in 0..100 * (self.number + 40) {
            if self.client.idles() {
                self.idle(0);
            }
            let words = self.backend.reply("OK");
            self.says(words);
            self.session.open();
            self.exchange();
            // A backend that takes little at a time needs many of these.
            let said = self.session.to_client.len() + self.session.to_server.len();
            still = if said == before { still + 1 } else { 0 };
            before = said;
            if still > 3 {
                return;
            }
        }
        panic!("it does not come to its end: {}", self.passed());
    }

    fn judge(&self) {
        let asked = &self.client.asked;
        let mut executed = self.backend.executed.iter().filter(|c| !self.backend.is_ours(&c.tag)).peekable();
        for (ask, answer) in asked {
            let text = shown(&ask.command.text);
            let was = executed.next_if(|command| command.tag == ask.command.tag);
            match was {
                Some(command) => assert_eq!(shown(&command.text), text, "executed"),
                None => {
                    let told = answer.as_ref().is_none_or(|a| !a.starts_with("OK") || ask.own);
                    assert!(told, "{text} was not executed and its answer is {answer:?}");
                }
            }
            let ended = self.session.end.is_some();
            assert!(answer.is_some() || ended, "{text} has no answer");
            assert!(!(ask.own && was.is_some()), "{text} is the proxy's");
        }
        assert_eq!(executed.next(), None, "executed and not asked, or out of order");
        for count in &self.untold {
            let next = self.backend.executed.iter().skip(*count).find(|c| !self.backend.is_ours(&c.tag));
            assert!(
                next.is_none_or(Command::leaves_mailbox),
                "by numbers that are not the server's: {next:?}"
            );
        }
        self.judge_order();
        if self.session.end.is_none() {
            let relay = &self.session.relay;
            assert!(
                relay.answered() && self.backend.quiet() && self.client.open() == 0 && self.client.whole()
            );
            assert!(
                relay.safepoint()
                    && !relay.mid_command()
                    && !relay.undecided()
                    && relay.in_flight() == (0, 0)
            );
        }
    }

    /// Answers come in the order of the questions; a refused literal's may come before its turn.
    fn judge_order(&self) {
        let refused: Vec<&str> =
            self.client.asked.iter().filter(|(a, _)| a.refused).map(|(a, _)| &a.command.tag[..]).collect();
        let answered = self.client.answers.iter().map(|tag| &tag[..]).filter(|tag| !refused.contains(tag));
        let asked = self.client.asked.iter().filter(|(ask, answer)| answer.is_some() && !ask.refused);
        assert!(
            answered.eq(asked.map(|(ask, _)| &ask.command.tag[..])),
            "order of {:?}",
            self.client.answers
        );
        if !self.moved && self.session.end.is_none() {
            let own = |line: &&Vec<u8>| {
                byhand::tag(line).is_none_or(|tag| {
                    let asked = self.client.asked.iter().find(|(ask, _)| ask.command.tag.as_bytes() == tag);
                    asked.is_some_and(|(ask, answer)| {
                        !ask.own
                            && answer.as_ref().is_some_and(|a| a.contains("so be it") || a.contains("enough"))
                    })
                })
            };
            let told: Vec<String> = self
                .client
                .told
                .iter()
                .filter(own)
                .filter(|l| **l != b"* ENABLED\r\n")
                .map(|l| shown(l))
                .collect();
            let said: Vec<String> = self.for_client.iter().map(|line| shown(line)).collect();
            assert_eq!(told, said, "what the server said");
        }
    }
}
