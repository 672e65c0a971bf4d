//! A mail client by hand: it sends commands one behind the other, waits where IMAP makes it wait, and reads what
//! it is told.
//!
//! Rule: every answer must be to a question that is open, every `+` to something that waits for one.

use std::collections::VecDeque;

use super::{
    super::{
        byhand::{self, Place},
        input::shown,
        server::Seen,
    },
    backend::Command,
};

/// A command as the client sends it.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) command: Command,
    /// What is sent at once; between two pieces the client waits for `+`.
    pub(super) pieces: VecDeque<Vec<u8>>,
    /// The proxy answers it itself.
    pub(super) own: bool,
    /// A literal in it is refused by the proxy.
    pub(super) refused: bool,
    pub(super) idle: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Waits {
    No,
    /// For `+`, with the rest of this command.
    Go(String),
    /// IDLE was sent.
    IdleGo(String),
    /// In IDLE.
    Idle(String),
}

pub(super) struct Client {
    seen: Seen,
    waits: Waits,
    rest: VecDeque<Vec<u8>>,
    later: VecDeque<Ask>,
    /// What was sent, and the answer.
    pub(super) asked: Vec<(Ask, Option<String>)>,
    /// Tags in the order of their answers.
    pub(super) answers: Vec<String>,
    /// Untagged responses and replies, as they came.
    pub(super) told: Vec<Vec<u8>>,
    /// How many messages it believes in.
    pub(super) exists: usize,
}

impl Client {
    pub(super) fn new() -> Self {
        Self {
            seen: Seen::new(),
            waits: Waits::No,
            rest: VecDeque::new(),
            later: VecDeque::new(),
            asked: vec![],
            answers: vec![],
            told: vec![],
            exists: 0,
        }
    }

    pub(super) fn idles(&self) -> bool {
        matches!(self.waits, Waits::Idle(_))
    }

    pub(super) fn open(&self) -> usize {
        self.asked.iter().filter(|(_, answer)| answer.is_none()).count() + self.later.len()
    }

    /// Asks, now or when it may. Returns what it sends.
    pub(super) fn asks(&mut self, ask: Ask) -> Vec<u8> {
        self.later.push_back(ask);
        self.sends()
    }

    fn sends(&mut self) -> Vec<u8> {
        let mut out = vec![];
        while self.waits == Waits::No
            && let Some(mut ask) = self.later.pop_front()
        {
            let tag = ask.command.tag.clone();
            out.extend(ask.pieces.pop_front().unwrap_or_default());
            self.rest = std::mem::take(&mut ask.pieces);
            if ask.idle {
                self.waits = Waits::IdleGo(tag);
            } else if !self.rest.is_empty() {
                self.waits = Waits::Go(tag);
            }
            self.asked.push((ask, None));
        }
        out
    }

    /// Ends its IDLE, with DONE or another word.
    pub(super) fn done(&mut self, word: &[u8]) -> Vec<u8> {
        self.waits = Waits::No;
        [word, &self.sends()].concat()
    }

    /// Reads what it is told. Returns what it sends then.
    pub(super) fn reads(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        for response in self.seen.push(bytes) {
            out.extend(self.response(&response));
        }
        assert_ne!(self.seen.place(), Place::Line, "half a line: {}", shown(&self.seen.bytes));
        out
    }

    /// Whether it has read everything to its end.
    pub(super) fn whole(&self) -> bool {
        self.seen.place() == Place::Between
    }

    fn response(&mut self, response: &[u8]) -> Vec<u8> {
        if response.starts_with(b"+") {
            return self.goes();
        }
        self.told.push(response.to_vec());
        if let Some(tag) = byhand::tag(response) {
            return self.answered(&String::from_utf8_lossy(tag), response);
        }
        let text = String::from_utf8_lossy(response).into_owned();
        let words: Vec<&str> = text.split([' ', '\r']).collect();
        match words[..] {
            ["*", count, "EXISTS", ..] => self.exists = count.parse().expect("a number"),
            ["*", _, "EXPUNGE", ..] | ["*", "VANISHED", _, ""] | ["*", "VANISHED", _, "\n"] => {
                self.exists -= 1
            }
            _ => {}
        }
        vec![]
    }

    fn goes(&mut self) -> Vec<u8> {
        match std::mem::replace(&mut self.waits, Waits::No) {
            Waits::IdleGo(tag) => self.waits = Waits::Idle(tag),
            Waits::Go(tag) => {
                let piece = self.rest.pop_front().expect("what waits has a rest");
                if !self.rest.is_empty() {
                    self.waits = Waits::Go(tag);
                    return piece;
                }
                return [piece, self.sends()].concat();
            }
            waits @ (Waits::No | Waits::Idle(_)) => {
                panic!("a + that nobody waits for: {waits:?} {:?}", self.told)
            }
        }
        vec![]
    }

    fn answered(&mut self, tag: &str, response: &[u8]) -> Vec<u8> {
        let open = self.asked.iter_mut().find(|(ask, answer)| ask.command.tag == tag && answer.is_none());
        let Some((_, answer)) = open else { panic!("an answer to nothing: {}", shown(response)) };
        *answer = Some(String::from_utf8_lossy(&response[tag.len() + 1..]).into_owned());
        self.answers.push(tag.to_owned());
        match &self.waits {
            Waits::Go(waits) | Waits::IdleGo(waits) | Waits::Idle(waits) if waits == tag => {
                self.waits = Waits::No;
                self.rest.clear();
                self.sends()
            }
            Waits::No | Waits::Go(_) | Waits::IdleGo(_) | Waits::Idle(_) => vec![],
        }
    }
}
