//! A mail server by hand: it frames what it is sent, keeps one mailbox, and answers in order.
//!
//! Rule: it is honest and sequential. What it is sent must be whole commands of the client's or the proxy's.

use std::collections::VecDeque;

use super::super::{byhand, input::shown};

/// A command, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) tag: String,
    /// Its text with its literals in place; how they were announced makes no difference.
    pub(super) text: Vec<u8>,
}

impl Command {
    fn verb(&self) -> String {
        let text = String::from_utf8_lossy(&self.text).to_uppercase();
        let mut words = text.split([' ', '\r']).skip(1).filter(|word| *word != "UID");
        words.next().unwrap_or_default().to_owned()
    }

    pub(super) fn leaves_mailbox(&self) -> bool {
        matches!(&self.verb()[..], "SELECT" | "EXAMINE" | "CLOSE")
    }
}

#[derive(Debug)]
enum Doing {
    Command(Command),
    Idle { tag: String, plus: bool, done: bool },
}

/// What it says of itself, in lines.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) lines: Vec<Vec<u8>>,
    /// Whether they are for the client.
    pub(super) passes: bool,
}

impl Words {
    fn of(passes: bool, lines: Vec<String>) -> Self {
        Self { lines: lines.into_iter().map(|line| (line + "\r\n").into_bytes()).collect(), passes }
    }
}

#[derive(Debug)]
pub(super) struct Backend {
    inbox: Vec<u8>,
    /// The command whose end has not come: its text, and the bytes that its literal lacks.
    partial: Vec<u8>,
    lacks: usize,
    /// A literal waits for `+`.
    waits: bool,
    /// The partial command was refused before its end.
    refused: bool,
    doing: VecDeque<Doing>,
    /// All commands that came whole and were not refused before, in order.
    pub(super) executed: Vec<Command>,
    pub(super) selected: bool,
    pub(super) mailbox: Vec<u32>,
    next: u32,
    own: &'static str,
}

impl Backend {
    /// Tags that begin with `own` are the proxy's.
    pub(super) fn new(own: &'static str) -> Self {
        Self {
            inbox: vec![],
            partial: vec![],
            lacks: 0,
            waits: false,
            refused: false,
            doing: VecDeque::new(),
            executed: vec![],
            selected: false,
            mailbox: vec![1, 2, 3],
            next: 4,
            own,
        }
    }

    /// The connection ended: what was not answered is forgotten, and what came half.
    pub(super) fn disconnect(&mut self) {
        self.doing.clear();
        self.inbox.clear();
        self.partial.clear();
        (self.lacks, self.waits, self.refused) = (0, false, false);
    }

    pub(super) fn is_ours(&self, tag: &str) -> bool {
        tag.starts_with(self.own)
    }

    /// Commands of the client that are not answered.
    pub(super) fn unanswered(&self) -> usize {
        let client = |doing: &&Doing| matches!(doing, Doing::Command(c) if !self.is_ours(&c.tag));
        self.doing.iter().filter(client).count()
    }

    /// Whether it has nothing to answer and nothing half read.
    pub(super) fn quiet(&self) -> bool {
        self.doing.is_empty() && self.partial.is_empty()
    }

    /// Whether a message may be reported to be gone (RFC 3501 §7.4.1).
    pub(super) fn may_expunge(&self) -> bool {
        match self.doing.front() {
            Some(Doing::Command(command)) => {
                !matches!(&command.verb()[..], "FETCH" | "STORE" | "SEARCH" | "SELECT" | "EXAMINE")
            }
            Some(Doing::Idle { plus, .. }) => *plus,
            None => false,
        }
    }

    /// Whether it is in the middle of opening another mailbox.
    pub(super) fn selecting(&self) -> bool {
        matches!(self.doing.front(), Some(Doing::Command(c)) if matches!(&c.verb()[..], "SELECT" | "EXAMINE"))
    }

    /// Reads.
    pub(super) fn takes(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        while !self.waits && !self.inbox.is_empty() {
            if self.lacks > 0 {
                let n = self.lacks.min(self.inbox.len());
                self.partial.extend(self.inbox.drain(..n));
                self.lacks -= n;
                continue;
            }
            let Some(line) = byhand::line(&self.inbox, 0).map(<[u8]>::to_vec) else { return };
            self.inbox.drain(..line.len());
            assert!(line.ends_with(b"\r\n"), "a line of another end: {}", shown(&line));
            self.line(byhand::text(&line));
        }
    }

    fn line(&mut self, text: &[u8]) {
        assert_eq!(byhand::check(text), Ok(()), "not a line for a backend: {}", shown(text));
        if self.partial.is_empty() && text == b"DONE" {
            let Some(Doing::Idle { done, .. }) = self.doing.back_mut() else {
                panic!("DONE outside of IDLE")
            };
            assert!(!std::mem::replace(done, true), "DONE twice");
            return;
        }
        let idles = matches!(self.doing.back(), Some(Doing::Idle { done: false, .. }));
        assert!(!idles, "a command in IDLE: {}", shown(text));
        let literal = byhand::announced(text).filter(|l| l.placed);
        let end = literal.map_or(text.len(), |l| l.marker);
        self.partial.extend_from_slice(&text[..end]);
        if let Some(literal) = literal {
            let tilde = if literal.binary { "~" } else { "" };
            self.partial.extend(format!("{tilde}{{{}}}\r\n", literal.size).into_bytes());
            self.lacks = usize::try_from(literal.size).unwrap_or(usize::MAX);
            self.waits = literal.sync;
            return;
        }
        let text = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.refused) {
            return;
        }
        let tag = String::from_utf8_lossy(byhand::tag(&text).unwrap_or_default()).into_owned();
        let command = Command { tag, text };
        if command.verb() == "IDLE" {
            return self.doing.push_back(Doing::Idle { tag: command.tag, plus: false, done: false });
        }
        self.executed.push(command.clone());
        self.doing.push_back(Doing::Command(command));
    }

    /// The oldest of what waits for a word gets one: `status`, where that is what it waits for.
    pub(super) fn reply(&mut self, status: &str) -> Words {
        match self.doing.pop_front() {
            Some(Doing::Command(command)) => self.complete(&command, status),
            Some(Doing::Idle { tag, plus: false, done }) => {
                self.doing.push_front(Doing::Idle { tag, plus: true, done });
                Words::of(false, vec!["+ idling".to_owned()])
            }
            Some(Doing::Idle { tag, done: true, .. }) => Words::of(false, vec![format!("{tag} OK idled")]),
            Some(idle @ Doing::Idle { .. }) => {
                self.doing.push_front(idle);
                Words::default()
            }
            None if self.partial.is_empty() || self.refused => Words::default(),
            None => self.partial(status),
        }
    }

    /// A word on a command whose end has not come.
    fn partial(&mut self, status: &str) -> Words {
        let tag = String::from_utf8_lossy(byhand::tag(&self.partial).unwrap_or_default()).into_owned();
        if status == "OK" {
            return match std::mem::take(&mut self.waits) {
                true => {
                    self.takes(b"");
                    Words::of(false, vec!["+ go".to_owned()])
                }
                false => Words::default(),
            };
        }
        if std::mem::take(&mut self.waits) {
            self.partial.clear();
            self.lacks = 0;
            self.takes(b"");
        } else {
            self.refused = true;
        }
        Words::of(true, vec![format!("{tag} {status} [LIMIT] enough")])
    }

    fn complete(&mut self, command: &Command, status: &str) -> Words {
        let (tag, verb) = (&command.tag, command.verb());
        let ours = self.is_ours(tag);
        if ours && verb == "SEARCH" {
            let uids: Vec<String> = self.mailbox.iter().map(u32::to_string).collect();
            let all = if uids.is_empty() { String::new() } else { format!(" ALL {}", uids.join(",")) };
            let found = format!("* ESEARCH (TAG \"{tag}\") UID COUNT {}{all}", uids.len());
            return Words::of(false, vec![found, format!("{tag} OK searched")]);
        }
        assert!(!ours, "nothing else is asked by the proxy: {}", shown(&command.text));
        let mut lines = vec![];
        match &verb[..] {
            "SELECT" | "EXAMINE" => {
                let exists = self.mailbox.len();
                self.selected = status == "OK";
                lines.extend([
                    "* FLAGS (\\Seen)".to_owned(),
                    format!("* {exists} EXISTS"),
                    "* 1 RECENT".to_owned(),
                ]);
                lines
                    .extend(["* OK [UIDVALIDITY 7] x".to_owned(), format!("* OK [UIDNEXT {}] x", self.next)]);
            }
            "CLOSE" | "UNSELECT" if status == "OK" => self.selected = false,
            "ENABLE" if status == "OK" => lines.push("* ENABLED CONDSTORE".to_owned()),
            "FETCH" if self.selected => lines.extend(self.fetched(status.len())),
            _ => {}
        }
        lines.push(format!("{tag} {status} so be it"));
        Words::of(true, lines)
    }

    fn fetched(&self, how: usize) -> Vec<String> {
        let line = |(at, uid): (usize, &u32)| match how {
            2 => format!("* {} FETCH (UID {uid} BODY[] {{12}}\r\na OK {{5}}\r\n\r\n FLAGS ())", at + 1),
            _ => format!("* {} FETCH (FLAGS (\\Seen) UID {uid})", at + 1),
        };
        self.mailbox.iter().enumerate().map(line).collect()
    }

    /// Something happens in the mailbox: so many new messages.
    pub(super) fn arrive(&mut self, count: u8) -> Words {
        for _ in 0..count {
            self.mailbox.push(self.next);
            self.next += u32::from(count);
        }
        Words::of(true, vec![format!("* {} EXISTS", self.mailbox.len())])
    }

    /// A message goes.
    pub(super) fn expunge(&mut self, place: u8, vanished: bool) -> Words {
        let at = usize::from(place) % self.mailbox.len();
        let uid = self.mailbox.remove(at);
        Words::of(
            true,
            vec![if vanished { format!("* VANISHED {uid}") } else { format!("* {} EXPUNGE", at + 1) }],
        )
    }

    /// A word that changes nothing.
    pub(super) fn chat(&self, which: u8) -> Vec<u8> {
        let lines = [
            "* OK see {25}",
            "* LIST () \"/\" {3}\r\na\nb",
            "* ESEARCH (TAG \"zz\") COUNT 3",
            "* NO [ALERT] quota",
            "* VANISHED (EARLIER) 2",
            "* 1 FETCH (BODY[1] {0}\r\n BODY[2] {3}\r\nabc)",
            "* STATUS x (MESSAGES 3)",
        ];
        [lines[usize::from(which) % lines.len()], "\r\n"].concat().into_bytes()
    }
}
