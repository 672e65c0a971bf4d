//! The commands that need no further byte from the client.
//!
//! Rule: an answer begins with its code. What is refused although a good client may say it is no violation: behind a
//! MAIL that was refused, pipelined RCPTs and DATA are (RFC 2920 §3.1).

use super::{Door, Trust, session::Session};

/// What EHLO must show for a parameter to be allowed.
const MAIL: &[(&str, &str)] =
    &[("SIZE", "SIZE"), ("BODY", "8BITMIME"), ("SMTPUTF8", "SMTPUTF8"), ("RET", "DSN"), ("ENVID", "DSN")];
const RCPT: &[(&str, &str)] = &[("NOTIFY", "DSN"), ("ORCPT", "DSN")];

/// A recipient that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Recipient {
    pub(super) address: String,
    /// The account, if it is one of ours.
    pub(super) user: Option<String>,
}

/// A message on its way.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// MAIL was said, whatever became of it.
    pub(super) tried: bool,
    pub(super) from: Option<String>,
    pub(super) binary: bool,
    /// RCPT was said.
    pub(super) asked: bool,
    pub(super) recipients: Vec<Recipient>,
    /// The chunks of BDAT so far.
    pub(super) chunks: Option<Vec<u8>>,
    /// A chunk that was not the last was refused: as with Postfix only RSET leads out of this (RFC 3030 §2).
    pub(super) failed: bool,
}

impl Transaction {
    pub(super) fn open(&self) -> bool {
        self.from.is_some()
    }
}

impl Session {
    pub(super) fn plain_command(&mut self, verb: &str, args: &str) -> String {
        match verb {
            "EHLO" | "LHLO" | "HELO" => self.hello(verb, args),
            "MAIL" => self.mail(args).unwrap_or_else(|refusal| refusal),
            "RCPT" => self.rcpt(args).unwrap_or_else(|refusal| refusal),
            "RSET" => {
                self.reset();
                "250 2.0.0 ok".into()
            }
            "NOOP" => "250 2.0.0 ok".into(),
            "VRFY" => "252 2.0.0 try it".into(),
            "QUIT" => "221 2.0.0 bye".into(),
            "XCLIENT" if self.options().xclient != Trust::Off => self.xclient(args),
            "XFORWARD" if self.options().xforward != Trust::Off => self.xforward(args),
            _ => {
                self.violation(&format!("no such command: {verb} {args}"));
                "500 5.5.2 what?".into()
            }
        }
    }

    /// A command was refused by the test; the client may pipeline on it.
    pub(super) fn refused(&mut self, verb: &str) {
        match verb {
            "MAIL" => self.transaction = Transaction { tried: true, ..Transaction::default() },
            "RCPT" => self.transaction.asked = true,
            _ => {}
        }
    }

    pub(super) fn reset(&mut self) {
        self.transaction = Transaction::default();
        self.peer.xforward.clear();
    }

    fn hello(&mut self, verb: &str, args: &str) -> String {
        let right = match self.door {
            Door::Lmtp => verb == "LHLO",
            Door::Imap | Door::Relay | Door::Submission => verb != "LHLO",
        };
        if !right || args.trim().is_empty() {
            self.violation(&format!("{verb} {args}"));
            return "500 5.5.1 not like this".into();
        }
        self.reset();
        self.greeted = true;
        if !self.peer.xclient.contains_key("HELO") {
            self.peer.hello = args.trim().into();
        }
        if verb == "HELO" { format!("250 {}", self.options().hostname) } else { self.keywords() }
    }

    fn mail(&mut self, args: &str) -> Result<String, String> {
        if !self.greeted || self.transaction.open() || self.transaction.failed {
            self.violation("MAIL at the wrong time");
            return Err("503 5.5.1 not now".into());
        }
        self.transaction = Transaction { tried: true, ..Transaction::default() };
        let (from, parameters) = self.path(args, "FROM:")?;
        if self.door == Door::Submission && self.peer.user.is_none() {
            return Err("530 5.7.0 log in first".into());
        }
        self.parameters(&parameters, MAIL)?;
        let value = |name: &str| parameters.iter().find_map(|(n, v)| (n == name).then_some(v.as_str()));
        let size = value("SIZE").map_or(Ok(0), str::parse::<usize>).map_err(|_| "501 5.5.4 SIZE?")?;
        if size > self.options().size {
            return Err("552 5.3.4 too large".into());
        }
        let binary = value("BODY").is_some_and(|v| v.eq_ignore_ascii_case("BINARYMIME"));
        if binary && !self.options().shows("BINARYMIME") {
            self.violation("BODY=BINARYMIME was not offered");
            return Err("555 5.5.4 no BINARYMIME here".into());
        }
        if !self.shared.posture().writes() {
            return Err(super::content::FENCED.into());
        }
        self.transaction.from = Some(from);
        self.transaction.binary = binary;
        Ok("250 2.1.0 ok".into())
    }

    fn rcpt(&mut self, args: &str) -> Result<String, String> {
        if !self.transaction.tried || self.transaction.chunks.is_some() {
            self.violation("RCPT at the wrong time");
        }
        self.transaction.asked = true;
        if !self.transaction.open() || self.transaction.chunks.is_some() {
            return Err("503 5.5.1 MAIL first".into());
        }
        let (address, parameters) = self.path(args, "TO:")?;
        self.parameters(&parameters, RCPT)?;
        let user = self.user(&address)?;
        self.transaction.recipients.push(Recipient { address, user });
        Ok("250 2.1.5 ok".into())
    }

    /// The account behind an address; `None` if it is elsewhere and mail for it is taken all the same.
    fn user(&self, address: &str) -> Result<Option<String>, String> {
        let options = self.options();
        if let Some(local) = options.local(address) {
            let known = [local, address].into_iter().find(|user| self.shared.store.account(user).is_some());
            return known.map(|user| Some(user.to_owned())).ok_or_else(|| "550 5.1.1 no such user".into());
        }
        let permitted = options.open_relay
            || self.peer.user.is_some()
            || options.networks.contains(&self.peer.address.ip());
        if permitted && self.door != Door::Lmtp {
            Ok(None)
        } else {
            Err("554 5.7.1 relay access denied".into())
        }
    }

    /// `FROM:<path> NAME=value …`
    fn path(&self, args: &str, word: &str) -> Result<(String, Vec<(String, String)>), String> {
        let rest = args.get(..word.len()).filter(|w| w.eq_ignore_ascii_case(word)).map(|w| &args[w.len()..]);
        let Some((path, rest)) = rest.and_then(|r| r.strip_prefix('<')).and_then(split_path) else {
            self.violation(&format!("not {word}<path>: {args}"));
            return Err(format!("501 5.5.4 {word}<path>"));
        };
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_ascii_uppercase(), value.to_owned())
        };
        Ok((path.to_owned(), rest.split_whitespace().map(pair).collect()))
    }

    fn parameters(&self, all: &[(String, String)], known: &[(&str, &str)]) -> Result<(), String> {
        for (name, _) in all {
            let by = known.iter().find_map(|(n, keyword)| (n == name).then_some(*keyword));
            if !by.is_some_and(|keyword| self.options().shows(keyword)) {
                self.violation(&format!("{name} was not offered"));
                return Err(format!("555 5.5.4 {name} is not known"));
            }
        }
        Ok(())
    }

    fn xclient(&mut self, args: &str) -> String {
        if self.transaction.open() {
            self.violation("XCLIENT in a transaction");
            return "503 5.5.1 not now".into();
        }
        if self.options().xclient == Trust::Refused {
            return "550 5.7.0 not from you".into();
        }
        match self.peer.said(args) {
            Ok(()) => {
                self.reset();
                self.greeted = false;
                self.greeting()
            }
            Err(refusal) => refusal,
        }
    }

    fn xforward(&mut self, args: &str) -> String {
        if self.transaction.open() || !self.greeted {
            self.violation("XFORWARD at the wrong time");
            return "503 5.5.1 not now".into();
        }
        if self.options().xforward == Trust::Refused {
            return "550 5.7.0 not from you".into();
        }
        self.peer.forwarded(args).map_or_else(|refusal| refusal, |()| "250 2.0.0 ok".into())
    }
}

/// The path up to its `>`, which may also stand in quotes; what comes behind it.
fn split_path(text: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}
