//! A backend of the model: strict about order, free in its opinion.
//!
//! Rule: it does what it is told, writes down what it took, and panics at what no proxy may say.

use std::collections::VecDeque;

use crate::smtp::relay::Role;

/// One backend connection.
#[derive(Debug)]
pub(super) struct Server {
    role: Role,
    pub(super) inbox: Vec<u8>,
    pub(super) outbox: VecDeque<u16>,
    /// The message under way: recipients that were accepted, content so far.
    message: Option<(Vec<String>, Vec<u8>)>,
    /// It asked for content.
    data: bool,
    /// A chunk failed: nothing but RSET is understood (RFC 3030 §2).
    broken: bool,
    /// What it took: recipient and content, and whether that was acknowledged to the proxy is the outbox's.
    pub(super) taken: Vec<(String, Vec<u8>)>,
}

impl Server {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            message: None,
            data: false,
            broken: false,
            taken: Vec::new(),
        }
    }

    /// Reads one command, or one message's content, if it is whole.
    pub(super) fn work(&mut self, choice: u8) {
        if self.data {
            return self.content(choice);
        }
        let Some(end) = memchr::memmem::find(&self.inbox, b"\r\n") else { return };
        let line = String::from_utf8(self.inbox[..end].to_vec()).expect("ASCII");
        if let Some(size) = line.strip_prefix("BDAT ") {
            return self.chunk(size, end + 2, choice);
        }
        self.inbox.drain(..end + 2);
        let refused = choice % 7 == 6;
        let code = match (line.split([' ', ':']).next().unwrap_or(""), &mut self.message) {
            ("MAIL", None) if refused => 450,
            ("MAIL", message @ None) => {
                *message = Some((Vec::new(), Vec::new()));
                250
            }
            ("RCPT", Some(_)) if refused => 550,
            ("RCPT", Some((rcpts, _))) => {
                rcpts.push(line["RCPT TO:<".len()..line.len() - 1].to_owned());
                250
            }
            // What a proxy that pipelines says after a MAIL that was refused.
            ("RCPT" | "DATA", None) => 503,
            ("DATA", Some((rcpts, _))) if rcpts.is_empty() || refused => 554,
            ("DATA", Some(_)) => {
                self.data = true;
                354
            }
            ("RSET", _) => {
                (self.message, self.broken) = (None, false);
                250
            }
            said => panic!("a server is told {said:?}: {line}"),
        };
        self.outbox.push_back(code);
    }

    fn content(&mut self, choice: u8) {
        let Some(end) = memchr::memmem::find(&self.inbox, b"\r\n.\r\n") else { return };
        let stuffed: Vec<u8> = self.inbox.drain(..end + 5).collect();
        let lines = stuffed[..end + 2].split_inclusive(|b| *b == b'\n');
        let content = lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
        self.data = false;
        self.take(content, choice);
    }

    fn chunk(&mut self, size: &str, head: usize, choice: u8) {
        let (size, last) = size.strip_suffix(" LAST").map_or((size, false), |size| (size, true));
        let size: usize = size.parse().expect("a size");
        if self.inbox.len() < head + size {
            return;
        }
        let bytes: Vec<u8> = self.inbox.drain(..head + size).skip(head).collect();
        if self.broken {
            return self.outbox.push_back(503);
        }
        let Some((rcpts, content)) = &mut self.message else { return self.outbox.push_back(503) };
        if rcpts.is_empty() || (choice % 7 == 6 && !last) {
            self.broken = true;
            return self.outbox.push_back(if last { 554 } else { 452 });
        }
        content.extend(bytes);
        if last {
            let content = std::mem::take(content);
            self.take(content, choice);
        } else {
            self.outbox.push_back(250);
        }
    }

    /// The message is whole: one opinion, or one for each recipient.
    fn take(&mut self, content: Vec<u8>, choice: u8) {
        let Some((rcpts, _)) = self.message.take() else { return };
        let lmtp = self.role == Role::Lmtp;
        for (at, rcpt) in rcpts.into_iter().enumerate() {
            let refused = (choice >> (if lmtp { at % 4 } else { 0 })) % 7 == 6;
            if !refused {
                self.taken.push((rcpt, content.clone()));
            }
            if lmtp || at == 0 {
                self.outbox.push_back(if refused { 452 } else { 250 });
            }
        }
    }
}
