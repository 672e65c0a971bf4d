//! What a client may believe: a model of one session that checks every reply for legality.
//!
//! Rule: it knows only what the client sent and what arrived. Each command has one reply, in the order of commands; in
//! LMTP a message has one for each recipient that was accepted before it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Dialect,
    reply::{Reply, enhanced},
};
use crate::oracle::Violation;

type Verdict<T = ()> = Result<T, Violation>;

fn wrong<T>(what: impl Into<String>) -> Verdict<T> {
    Err(Violation(what.into()))
}

/// How far a connection is; the keywords of EHLO are constant within a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before TLS.
    Plain,
    /// Inside TLS, not logged in.
    Tls,
    /// Logged in.
    Authenticated,
}

/// The model of one session.
#[derive(Debug)]
pub struct Oracle {
    dialect: Dialect,
    stage: Stage,
    /// TLS stands.
    secure: bool,
    /// As the greeting named the server.
    host: Option<String>,
    shown: BTreeMap<Stage, BTreeSet<String>>,
    /// The verbs without a reply.
    outstanding: VecDeque<String>,
    /// What EHLO showed last; gone after STARTTLS.
    keywords: BTreeSet<String>,
    /// Recipients of the transaction that were accepted.
    accepted: usize,
    /// Replies that a message still has to get.
    due: Option<usize>,
    /// What the server said before it closed.
    farewell: Option<String>,
}

impl Oracle {
    /// A connection that begins.
    pub fn new(dialect: Dialect, stage: Stage) -> Self {
        Self {
            dialect,
            stage,
            secure: stage == Stage::Tls,
            host: None,
            shown: BTreeMap::new(),
            outstanding: VecDeque::from(["greeting".to_owned()]),
            keywords: BTreeSet::new(),
            accepted: 0,
            due: None,
            farewell: None,
        }
    }

    /// A command line was sent. `BDAT … LAST` is the verb `BDAT LAST`; the end of DATA is `DOT`.
    pub fn sent(&mut self, line: &str) {
        let mut words = line.split_whitespace().map(str::to_ascii_uppercase);
        let verb = words.next().unwrap_or_default();
        let last = verb == "BDAT" && words.next_back().is_some_and(|w| w == "LAST");
        self.outstanding.push_back(if last { "BDAT LAST".into() } else { verb });
    }

    /// TLS stands: what was shown before is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        self.stage = Stage::Tls;
        self.secure = true;
        self.keywords.clear();
    }

    /// Whether EHLO shows a keyword now.
    pub fn shows(&self, keyword: &str) -> bool {
        self.parameter(keyword).is_some()
    }

    /// What EHLO shows behind a keyword.
    pub fn parameter(&self, keyword: &str) -> Option<&str> {
        self.keywords.iter().find_map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            word.eq_ignore_ascii_case(keyword).then_some(rest)
        })
    }

    /// How far the connection is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// How many commands have no reply yet.
    pub fn unanswered(&self) -> usize {
        self.outstanding.len()
    }

    /// The 421 that said that the connection ends.
    pub fn farewell(&self) -> Option<&str> {
        self.farewell.as_deref()
    }

    /// A reply arrived.
    pub fn heard(&mut self, code: u16, lines: Vec<String>) -> Verdict<Reply> {
        let text = lines.first().cloned().unwrap_or_default();
        if self.farewell.is_some() {
            return wrong(format!("{code} {text} after a 421"));
        }
        if code == 421 {
            self.farewell = Some(format!("421 {text}"));
        }
        let Some(verb) = self.outstanding.front().cloned() else {
            // RFC 5321 §3.8 allows a 421 at any time; whoever waits is told that the connection ended.
            let reply = Reply { verb: "nothing".into(), code, lines, last: true };
            return if code == 421 { Ok(reply) } else { wrong(format!("nobody asked for {code} {text}")) };
        };
        self.fits(&verb, code, &text)?;
        self.coded(&verb, code, &lines)?;
        let last = self.ended(&verb, code, &lines)?;
        if last {
            self.outstanding.pop_front();
        }
        Ok(Reply { verb, code, lines, last })
    }

    /// Whether a command may be answered so (RFC 5321 §4.3.2).
    fn fits(&self, verb: &str, code: u16, text: &str) -> Verdict {
        let good = match verb {
            "greeting" | "XCLIENT" | "STARTTLS" => code == 220,
            "DATA" => code == 354,
            "AUTH" => code == 235 || code == 334,
            "QUIT" => code == 221,
            "HELP" => code == 211 || code == 214,
            "MAIL" | "RSET" | "NOOP" | "EHLO" | "LHLO" | "HELO" | "XFORWARD" | "BDAT" => code == 250,
            "RCPT" | "VRFY" => matches!(code, 250..=252),
            _ => code / 100 == 2,
        };
        let message = matches!(verb, "DOT" | "BDAT LAST");
        if message && self.dialect == Dialect::Lmtp && self.accepted == 0 && code < 400 {
            return wrong(format!("{code} {text} to a message without recipients"));
        }
        if good || code >= 400 { Ok(()) } else { wrong(format!("{verb} answered with {code} {text}")) }
    }

    /// Whether each line has the enhanced code that was promised (RFC 2034 §4).
    fn coded(&self, verb: &str, code: u16, lines: &[String]) -> Verdict {
        let exempt = matches!(verb, "greeting" | "EHLO" | "LHLO" | "HELO" | "XCLIENT");
        if exempt || code / 100 == 3 || !self.shows("ENHANCEDSTATUSCODES") {
            return Ok(());
        }
        let class = char::from_digit(u32::from(code / 100), 10);
        for line in lines {
            match enhanced(line) {
                None => return wrong(format!("no enhanced code to {verb}: {code} {line}")),
                Some(found) if found.chars().next() != class => {
                    return wrong(format!("the codes to {verb} differ: {code} {line}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What a reply does to the session; whether the command has no other.
    fn ended(&mut self, verb: &str, code: u16, lines: &[String]) -> Verdict<bool> {
        let good = code < 400;
        match verb {
            "greeting" | "XCLIENT" if good => {
                // XCLIENT makes it another session, whose keywords may be others.
                self.shown.clear();
                self.keywords.clear();
                self.accepted = 0;
                self.host(lines)?;
            }
            "EHLO" | "LHLO" | "HELO" if good => {
                self.accepted = 0;
                self.host(lines)?;
                self.keywords(verb, lines)?;
            }
            "AUTH" if code == 334 => return Ok(false),
            "AUTH" if good => self.stage = Stage::Authenticated,
            "MAIL" | "RSET" if good => self.accepted = 0,
            "RCPT" if good => self.accepted += 1,
            "DOT" | "BDAT LAST" => return Ok(self.settled(code)),
            _ => {}
        }
        Ok(true)
    }

    /// Whether a message has all its replies. A 421 stands for the rest: the connection ends.
    fn settled(&mut self, code: u16) -> bool {
        let all = match self.dialect {
            Dialect::Smtp => 1,
            Dialect::Lmtp => self.accepted.max(1),
        };
        let left = self.due.take().unwrap_or(all) - 1;
        if left == 0 || code == 421 {
            self.accepted = 0;
            return true;
        }
        self.due = Some(left);
        false
    }

    /// The server's name is the same wherever it stands (semantics §2.11).
    fn host(&mut self, lines: &[String]) -> Verdict {
        let name = lines.first().and_then(|l| l.split(' ').next()).unwrap_or_default();
        if name.is_empty() {
            return wrong("a server without a name");
        }
        match &self.host {
            Some(known) if known != name => wrong(format!("the server was {known} and is {name}")),
            Some(_) => Ok(()),
            None => {
                self.host = Some(name.to_owned());
                Ok(())
            }
        }
    }

    fn keywords(&mut self, verb: &str, lines: &[String]) -> Verdict {
        self.keywords.clear();
        if verb == "HELO" {
            return if lines.len() == 1 { Ok(()) } else { wrong("HELO with keywords") };
        }
        let list: BTreeSet<String> = lines.iter().skip(1).map(|l| l.to_ascii_uppercase()).collect();
        if list.contains("STARTTLS") && self.secure {
            return wrong("STARTTLS inside TLS");
        }
        self.keywords.clone_from(&list);
        let known = self.shown.entry(self.stage).or_insert_with(|| list.clone());
        if *known == list {
            return Ok(());
        }
        let differs: Vec<_> = known.symmetric_difference(&list).cloned().collect();
        wrong(format!("the keywords of one stage differ by {differs:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Oracle, Stage};
    use crate::oracle::Violation;

    /// Replies in the order of `dialogue`: commands begin with `C:`.
    fn play(dialect: Dialect, dialogue: &[&str]) -> Result<Oracle, Violation> {
        let mut oracle = Oracle::new(dialect, Stage::Plain);
        oracle.heard(220, vec!["mx.test ready".into()])?;
        for line in dialogue {
            match line.strip_prefix("C: ") {
                Some(command) => oracle.sent(command),
                None => {
                    let lines = line[4..].split('|').map(String::from).collect();
                    oracle.heard(line[..3].parse().unwrap(), lines)?;
                }
            }
        }
        Ok(oracle)
    }

    fn smtp(dialogue: &[&str]) -> Result<Oracle, Violation> {
        play(Dialect::Smtp, dialogue)
    }

    #[test]
    fn one_reply_each_in_the_order_of_commands() {
        let oracle =
            smtp(&["C: MAIL FROM:<>", "C: RCPT TO:<a>", "C: DATA", "250 a", "451 b", "354 c"]).unwrap();
        assert_eq!(oracle.unanswered(), 0);
        assert!(smtp(&["250 why"]).is_err());
        assert!(smtp(&["C: NOOP", "250 a", "250 b"]).is_err());
        for (command, reply) in [
            ("DATA", "250 a"),
            ("MAIL FROM:<>", "354 a"),
            ("QUIT", "250 a"),
            ("AUTH PLAIN", "250 a"),
            ("DOT", "354 a"),
        ] {
            assert!(smtp(&[&format!("C: {command}"), reply]).is_err(), "{command} {reply}");
        }
    }

    #[test]
    fn lmtp_answers_once_for_each_accepted_recipient() {
        let rcpts = [
            "C: RCPT TO:<a>",
            "250 a",
            "C: RCPT TO:<b>",
            "550 b",
            "C: RCPT TO:<c>",
            "250 c",
            "C: DATA",
            "354 d",
        ];
        let with = |end: &[&str]| play(Dialect::Lmtp, &[&rcpts[..], end].concat());
        assert_eq!(with(&["C: DOT", "250 a", "451 c"]).unwrap().unanswered(), 0);
        assert_eq!(with(&["C: DOT", "250 a"]).unwrap().unanswered(), 1);
        assert!(with(&["C: DOT", "250 a", "250 c", "250 d"]).is_err());
        assert!(play(Dialect::Lmtp, &["C: BDAT 0 LAST", "250 a"]).is_err(), "nobody accepted it");
    }

    #[test]
    fn enhanced_codes_where_they_are_promised() {
        let hello = ["C: EHLO me", "250 mx.test|ENHANCEDSTATUSCODES"];
        let with = |end: &[&str]| smtp(&[&hello[..], end].concat());
        with(&["C: NOOP", "250 2.0.0 ok", "C: DATA", "354 go", "C: DOT", "451 4.3.0 a|4.3.0 b"]).unwrap();
        for reply in ["250 ok", "250 4.0.0 ok", "250 2.0.0 ok|more", "250 2.0 ok"] {
            assert!(with(&["C: NOOP", reply]).is_err(), "{reply}");
        }
        smtp(&["C: NOOP", "250 ok"]).unwrap();
    }

    #[test]
    fn name_and_keywords_are_constant() {
        assert!(smtp(&["C: EHLO me", "250 other.test|SIZE"]).is_err());
        assert!(smtp(&["C: EHLO me", "250 mx.test|SIZE", "C: EHLO me", "250 mx.test|SIZE 10"]).is_err());
        let mut oracle = smtp(&["C: EHLO me", "250 mx.test|SIZE|STARTTLS"]).unwrap();
        assert!(oracle.shows("size") && oracle.parameter("SIZE") == Some(""));
        oracle.secured();
        assert!(!oracle.shows("SIZE"));
        oracle.sent("EHLO me");
        assert!(oracle.heard(250, vec!["mx.test".into(), "STARTTLS".into()]).is_err(), "TLS stands");
        smtp(&["C: AUTH PLAIN x", "235 in", "C: EHLO me", "250 mx.test|STARTTLS"]).unwrap();
    }

    #[test]
    fn a_421_is_the_last_word() {
        assert!(smtp(&["421 4.3.2 mx.test later"]).unwrap().farewell().is_some());
        assert!(smtp(&["421 4.3.2 mx.test later", "421 4.3.2 again"]).is_err());
    }
}
