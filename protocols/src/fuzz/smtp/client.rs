//! A client of the model: says what a sender may say, pipelines, and knows which reply it waits for.
//!
//! Rule: what it believes of each message is what it was told, and nothing else.

use std::collections::VecDeque;

use super::{super::input::Input, server::Server};
use crate::smtp::relay::Role;

/// Somebody who sends messages.
#[derive(Debug)]
pub(super) struct Client {
    role: Role,
    /// Said, and not yet with the proxy.
    pub(super) wire: Vec<u8>,
    expects: VecDeque<Expect>,
    phase: Phase,
    pub(super) messages: Vec<Message>,
    heard: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No message, or one whose replies are all that is left.
    Idle,
    Envelope,
    /// DATA or the last chunk was said.
    Asked,
    /// So many bytes of the wire form are said.
    Content(usize),
    /// So many bytes went in chunks.
    Chunks(usize),
    /// Something was refused: RSET comes next.
    Broken,
}

/// Whose reply comes next. Numbers are those of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Fine,
    Mail(usize),
    /// The same MAIL once more, behind the first.
    Again(usize),
    Rcpt(usize, usize),
    Data(usize),
    Chunk(usize),
    /// So many are left; `None`: as many as recipients were accepted.
    Final(usize, Option<usize>),
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    content: Vec<u8>,
    /// Name, and whether it was accepted.
    rcpts: Vec<(String, bool)>,
    /// MAIL was accepted.
    begun: bool,
    /// A chunk was refused.
    failed: bool,
    /// One per accepted recipient where the protocol has that.
    finals: Vec<u16>,
}

impl Client {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            wire: Vec::new(),
            expects: VecDeque::new(),
            phase: Phase::Idle,
            messages: Vec::new(),
            heard: Vec::new(),
        }
    }

    pub(super) fn hello(&mut self) {
        self.say(if self.role == Role::Lmtp { "LHLO me" } else { "EHLO me" }, Expect::Fine);
    }

    fn say(&mut self, line: &str, expect: Expect) {
        self.wire.extend(format!("{line}\r\n").into_bytes());
        self.expects.push_back(expect);
    }

    /// Says something that fits.
    pub(super) fn speak(&mut self, input: &mut Input<'_>) {
        let deed = input.below(10);
        match (self.phase, deed) {
            (Phase::Asked, _) => {}
            (Phase::Content(at), 0..=3) => self.content(at, usize::from(input.byte())),
            (Phase::Content(at), _) => self.content(at, usize::MAX),
            (Phase::Broken, _) | (Phase::Envelope | Phase::Chunks(_), 9) => self.reset(),
            (_, 8) => self.say("NOOP", Expect::Fine),
            (Phase::Idle, 7) => self.say("RSET", Expect::Fine),
            (Phase::Idle, _) => self.mail(usize::from(input.byte())),
            (Phase::Envelope, 7) => {
                self.phase = Phase::Idle;
                self.hello();
            }
            (Phase::Envelope, 0..=2) => self.rcpt(),
            (Phase::Envelope, 3..=4) => self.chunk(0, usize::from(input.byte()), input.flag()),
            (Phase::Envelope, 6) => self.say("MAIL FROM:<a>", Expect::Again(self.last())),
            (Phase::Envelope, _) => self.data(),
            (Phase::Chunks(at), 0..=3) => self.chunk(at, usize::from(input.byte()), false),
            (Phase::Chunks(at), _) => self.chunk(at, usize::MAX, true),
        }
    }

    /// Says what is missing to the message under way, so that it has an end.
    pub(super) fn finish(&mut self) {
        match self.phase {
            Phase::Content(at) => self.content(at, usize::MAX),
            Phase::Chunks(at) => self.chunk(at, usize::MAX, true),
            Phase::Envelope | Phase::Broken => self.reset(),
            Phase::Idle | Phase::Asked => {}
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Idle && self.expects.is_empty() && self.wire.is_empty()
    }

    fn last(&self) -> usize {
        self.messages.len() - 1
    }

    fn mail(&mut self, shape: usize) {
        let number = self.messages.len();
        let lines = [".\r\n", "..two\r\n", "text\r\n", "\r\n", ".x\r\n"];
        let body: String = (0..shape % 5).map(|at| lines[(shape / 5 + at) % 5]).collect();
        let content = format!("m{number}\r\n{body}").into_bytes();
        self.messages.push(Message {
            content,
            rcpts: Vec::new(),
            begun: false,
            failed: false,
            finals: Vec::new(),
        });
        self.say("MAIL FROM:<a>", Expect::Mail(number));
        self.phase = Phase::Envelope;
    }

    fn rcpt(&mut self) {
        let at = self.last();
        let number = self.messages[at].rcpts.len();
        let name = format!("r{number}");
        self.say(&format!("RCPT TO:<{name}>"), Expect::Rcpt(at, number));
        self.messages[at].rcpts.push((name, false));
    }

    fn data(&mut self) {
        self.say("DATA", Expect::Data(self.last()));
        self.phase = Phase::Asked;
    }

    fn reset(&mut self) {
        self.say("RSET", Expect::Fine);
        self.phase = Phase::Idle;
    }

    fn content(&mut self, at: usize, count: usize) {
        let number = self.last();
        let wire = self.messages[number].wire();
        let to = at.saturating_add(count).min(wire.len());
        self.wire.extend(&wire[at..to]);
        self.phase = Phase::Content(to);
        if to == wire.len() {
            self.expects.push_back(Expect::Final(number, None));
            self.phase = Phase::Idle;
        }
    }

    fn chunk(&mut self, at: usize, count: usize, last: bool) {
        let number = self.last();
        let content = self.messages[number].content.clone();
        let to = if last { content.len() } else { at.saturating_add(count).min(content.len()) };
        let suffix = if last { " LAST" } else { "" };
        let expect = if last { Expect::Final(number, None) } else { Expect::Chunk(number) };
        self.say(&format!("BDAT {}{suffix}", to - at), expect);
        self.wire.extend(&content[at..to]);
        self.phase = if last { Phase::Asked } else { Phase::Chunks(to) };
    }

    // ---- replies --------------------------------------------------------------------------------------

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.heard) {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let code = std::str::from_utf8(&line[..3]).ok().and_then(|code| code.parse().ok());
            let expect = self.expects.pop_front();
            let expect = expect.unwrap_or_else(|| panic!("not asked for: {}", line.escape_ascii()));
            self.on_reply(expect, code.expect("a code"));
        }
    }

    fn on_reply(&mut self, expect: Expect, code: u16) {
        let current = |number: usize, client: &Self| number == client.last();
        match expect {
            Expect::Fine => assert_eq!(code, 250),
            Expect::Mail(number) => {
                self.messages[number].begun = code == 250;
                let hopes = self.expects.contains(&Expect::Again(number));
                if code != 250 && !hopes && current(number, self) && self.phase == Phase::Envelope {
                    self.phase = Phase::Broken;
                }
            }
            // RFC 5321 §4.1.1.2: where it is accepted it begins anew, and has no recipients yet.
            Expect::Again(number) if self.messages[number].begun => {
                let accepted = self.messages[number].rcpts.iter_mut().map(|(_, accepted)| accepted);
                accepted.for_each(|accepted| *accepted &= code != 250);
            }
            Expect::Again(number) => self.on_reply(Expect::Mail(number), code),
            Expect::Rcpt(number, at) => {
                assert!(code != 250 || self.messages[number].begun, "a recipient without a message");
                self.messages[number].rcpts[at].1 = code == 250;
            }
            Expect::Data(number) => {
                assert!(code != 354 || self.messages[number].accepted() > 0, "354 for nobody");
                self.phase = if code == 354 { Phase::Content(0) } else { Phase::Broken };
            }
            Expect::Chunk(number) => {
                let failed = code != 250;
                self.messages[number].failed |= failed;
                if failed && current(number, self) && matches!(self.phase, Phase::Chunks(_)) {
                    self.phase = Phase::Broken;
                }
            }
            Expect::Final(number, left) => self.on_final(number, left, code),
        }
    }

    fn on_final(&mut self, number: usize, left: Option<usize>, code: u16) {
        assert!(code == 250 || code >= 400, "{code} ends a message");
        let message = &mut self.messages[number];
        let each = self.role == Role::Lmtp && !message.failed;
        let owed = left.unwrap_or_else(|| if each { message.accepted().max(1) } else { 1 });
        let nobody = message.failed || message.accepted() == 0;
        assert!(!(code == 250 && nobody), "250 for a message that nobody takes");
        message.finals.push(code);
        // By DATA it is over whatever the reply says; after a chunk that failed nothing but RSET is sure.
        if self.phase == Phase::Asked && number + 1 == self.messages.len() {
            let broken = code != 250 && self.role == Role::Relay || nobody;
            self.phase = if broken { Phase::Broken } else { Phase::Idle };
        }
        if owed > 1 {
            self.expects.push_front(Expect::Final(number, Some(owed - 1)));
        }
    }
}

impl Message {
    fn accepted(&self) -> usize {
        self.rcpts.iter().filter(|(_, accepted)| *accepted).count()
    }

    /// The content as DATA has it, its end included.
    fn wire(&self) -> Vec<u8> {
        let lines = self.content.split_inclusive(|b| *b == b'\n');
        let stuff = |line: &[u8]| if line.starts_with(b".") { [b".", line].concat() } else { line.to_vec() };
        [&lines.map(stuff).collect::<Vec<_>>().concat()[..], b".\r\n"].concat()
    }

    /// Whether the servers have what the client was told that they have.
    pub(super) fn judge(&self, role: Role, servers: &[&Server], replays: bool) {
        let accepted: Vec<&str> =
            self.rcpts.iter().filter(|(_, accepted)| *accepted).map(|(name, _)| &name[..]).collect();
        let head = self.content.split(|b| *b == b'\r').next().unwrap_or_default();
        let copies = |name: &str| {
            let all = servers.iter().flat_map(|server| &server.taken);
            all.filter(|(rcpt, content)| rcpt == name && content.split(|b| *b == b'\r').next() == Some(head))
                .inspect(|(_, content)| assert_eq!(content, &self.content, "changed on the way"))
                .count()
        };
        let fate = |at: usize| if role == Role::Lmtp { self.finals.get(at) } else { self.finals.first() };
        for (at, name) in accepted.iter().enumerate() {
            let copies = copies(name);
            match fate(at) {
                Some(250) if replays => assert!(copies >= 1, "lost: {self:?}"),
                Some(250) => assert_eq!(copies, 1, "acknowledged: {self:?}"),
                // Taken by a server that died before it said so.
                _ if replays => assert!(copies < servers.len() || servers.is_empty(), "{self:?}"),
                _ => assert!(copies <= 1, "said again: {self:?}"),
            }
        }
        for (name, accepted) in &self.rcpts {
            assert!(*accepted || copies(name) == 0, "{name} was refused: {self:?}");
        }
    }
}
