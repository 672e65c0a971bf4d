//! What a client may believe: a model of one IMAP session that checks every response for legality.
//!
//! Rule: it knows only what the client sent and what arrived, and is stricter than a client would be: what it
//! cannot explain is a violation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::client::Response;

/// Something arrived that must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "protocol violation: {}", self.0)
    }
}

impl std::error::Error for Violation {}

type Verdict = Result<(), Violation>;

fn wrong<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

/// How far a connection is; a capability list is constant within a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before TLS.
    Plain,
    /// Inside TLS, not logged in.
    Tls,
    /// Logged in.
    Authenticated,
}

/// A command without its answer.
#[derive(Debug)]
struct Sent {
    tag: String,
    /// Upper case; with the second word for UID.
    verb: String,
    uses_numbers: bool,
    /// Its last byte was sent.
    complete: bool,
    /// IDLE: the server said `+`.
    idling: bool,
}

/// A selected mailbox, by message number.
#[derive(Debug, Default, Clone)]
pub struct Selected {
    /// UIDs as far as they were seen.
    pub uids: Vec<Option<u32>>,
    /// UIDVALIDITY
    pub validity: Option<u32>,
    /// RECENT
    pub recent: u32,
}

/// The model of one session.
#[derive(Debug)]
pub struct Oracle {
    stage: Stage,
    shown: BTreeMap<Stage, BTreeSet<String>>,
    outstanding: VecDeque<Sent>,
    go_aheads_due: usize,
    selected: Option<Selected>,
    /// What the SELECT in progress has told so far.
    opening: Selected,
    bye: Option<String>,
    /// QRESYNC was enabled: messages vanish by their UIDs.
    resync: bool,
}

impl Oracle {
    /// A connection that begins.
    pub fn new(stage: Stage) -> Self {
        Self {
            stage,
            shown: BTreeMap::new(),
            outstanding: VecDeque::new(),
            go_aheads_due: 0,
            selected: None,
            opening: Selected::default(),
            bye: None,
            resync: false,
        }
    }

    /// The mailbox as the session must believe it to be.
    pub fn selected(&self) -> Option<&Selected> {
        self.selected.as_ref()
    }

    /// What the server said before it closed.
    pub fn bye(&self) -> Option<&str> {
        self.bye.as_deref()
    }

    /// The capabilities shown in a stage.
    pub fn capabilities(&self, stage: Stage) -> Option<&BTreeSet<String>> {
        self.shown.get(&stage)
    }

    /// TLS stands: everything that was learnt before is forgotten.
    pub fn secured(&mut self) {
        self.stage = Stage::Tls;
    }

    /// The first line of a command is about to be sent; `complete` where it is all of it.
    pub fn sent(&mut self, tag: &str, line: &str, complete: bool) {
        let mut words = line.split_whitespace().map(str::to_ascii_uppercase);
        let mut verb = words.next().unwrap_or_default();
        if verb == "UID" {
            verb = format!("UID {}", words.next().unwrap_or_default());
        }
        let rest: Vec<String> = words.collect();
        if verb == "IDLE" || (verb == "AUTHENTICATE" && rest.len() < 2) {
            self.go_aheads_due += 1;
        }
        let uses_numbers = uses_numbers(&verb, &rest);
        self.outstanding.push_back(Sent { tag: tag.into(), verb, uses_numbers, complete, idling: false });
    }

    /// A synchronizing literal was announced.
    pub fn announced(&mut self) {
        self.go_aheads_due += 1;
    }

    /// The last byte of a command is about to be sent.
    pub fn completed(&mut self, tag: &str) {
        if let Some(sent) = self.outstanding.iter_mut().find(|s| s.tag == tag) {
            sent.complete = true;
        }
    }

    /// A whole response arrived.
    pub fn heard(&mut self, response: &Response) -> Verdict {
        let line = response.bare();
        if line.bytes().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
            return wrong(format!("control bytes in {line:?}"));
        }
        let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match first {
            "+" => self.go_ahead(),
            "*" => self.untagged(rest),
            tag => self.tagged(tag, rest),
        }
    }

    fn go_ahead(&mut self) -> Verdict {
        if self.go_aheads_due == 0 {
            return wrong("a continuation that nobody asked for");
        }
        self.go_aheads_due -= 1;
        if let Some(sent) = self.outstanding.front_mut().filter(|s| s.verb == "IDLE") {
            sent.idling = true;
        }
        Ok(())
    }

    fn tagged(&mut self, tag: &str, rest: &str) -> Verdict {
        match self.outstanding.front() {
            None => return wrong(format!("an answer to nothing: {tag} {rest}")),
            Some(sent) if sent.tag != tag => {
                return wrong(format!("{} is next to be answered, not {tag} {rest}", sent.tag));
            }
            Some(_) => {}
        }
        let Some(sent) = self.outstanding.pop_front() else { return Ok(()) };
        if !sent.complete {
            self.go_aheads_due = 0;
        }
        let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let ok = match status {
            "OK" => true,
            "NO" | "BAD" => false,
            other => return wrong(format!("{other} is not a status")),
        };
        if matches!(sent.verb.as_str(), "IDLE" | "AUTHENTICATE") && !ok && !sent.idling {
            self.go_aheads_due = 0;
        }
        self.ended(&sent.verb, ok);
        self.text(text)
    }

    /// What a tagged reply does to the session.
    fn ended(&mut self, verb: &str, ok: bool) {
        match (verb, ok) {
            ("LOGIN" | "AUTHENTICATE", true) => self.stage = Stage::Authenticated,
            ("SELECT" | "EXAMINE", true) => self.selected = Some(std::mem::take(&mut self.opening)),
            ("SELECT" | "EXAMINE", false) => {
                self.selected = None;
                self.opening = Selected::default();
            }
            ("CLOSE" | "UNSELECT", true) => self.selected = None,
            _ => {}
        }
    }

    fn untagged(&mut self, rest: &str) -> Verdict {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if let Ok(number) = word.parse::<u32>() {
            return self.numbered(number, after);
        }
        match word {
            "OK" | "NO" | "BAD" => self.text(after),
            "BYE" => {
                self.bye = Some(after.into());
                self.text(after)
            }
            "FLAGS" if self.selecting() || self.selected.is_some() => Ok(()),
            "CAPABILITY" => self.capability(after),
            "SEARCH" => {
                self.solicited(word, &["SEARCH", "UID SEARCH"])?;
                self.search(after)
            }
            "ESEARCH" => self.solicited(word, &["SEARCH", "UID SEARCH"]),
            "LIST" | "LSUB" | "STATUS" | "NAMESPACE" | "ID" => self.solicited(word, &[word]),
            "ENABLED" => {
                self.resync |= after.split(' ').any(|name| name == "QRESYNC");
                self.solicited(word, &["ENABLE"])
            }
            "VANISHED" if self.resync => self.vanished(after),
            _ => wrong(format!("* {rest}")),
        }
    }

    /// Whether one of these commands is unanswered. It need not be the first: servers may work on several at
    /// once (RFC 3501 §5.5; Dovecot puts off the end of an APPEND while others wait).
    fn solicited(&self, word: &str, verbs: &[&str]) -> Verdict {
        if self.outstanding.iter().any(|sent| verbs.contains(&sent.verb.as_str())) {
            return Ok(());
        }
        match self.outstanding.front() {
            Some(sent) => wrong(format!("{word} during {}", sent.verb)),
            None => wrong(format!("{word} during nothing")),
        }
    }

    fn selecting(&self) -> bool {
        self.outstanding.front().is_some_and(|s| matches!(s.verb.as_str(), "SELECT" | "EXAMINE"))
    }

    fn numbered(&mut self, number: u32, rest: &str) -> Verdict {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let selecting = self.selecting();
        let view = match (&mut self.selected, selecting) {
            (_, true) => &mut self.opening,
            (Some(view), false) => view,
            (None, false) => return wrong(format!("{number} {word} without a mailbox")),
        };
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        match word {
            "RECENT" => {
                view.recent = number;
                Ok(())
            }
            "EXISTS" if slot < view.uids.len() && !selecting => {
                wrong(format!("EXISTS fell from {} to {slot}", view.uids.len()))
            }
            "EXISTS" => {
                view.uids.resize(slot, None);
                Ok(())
            }
            _ if slot == 0 || slot > view.uids.len() => {
                wrong(format!("{word} of message {slot} of {}", view.uids.len()))
            }
            "FETCH" if !selecting => fetched(view, slot, after),
            "EXPUNGE" => self.expunged(slot),
            _ => wrong(format!("* {number} {rest}")),
        }
    }

    /// Whether now is a moment for EXPUNGE (RFC 3501 §7.4.1, RFC 9051 §5.5).
    fn expunged(&mut self, slot: usize) -> Verdict {
        self.may_expunge()?;
        if let Some(view) = &mut self.selected {
            view.uids.remove(slot - 1);
        }
        Ok(())
    }

    /// RFC 7162 §3.2.10: under the same rules, by UID.
    fn vanished(&mut self, uids: &str) -> Verdict {
        if let Some(earlier) = uids.strip_prefix("(EARLIER) ") {
            return self.solicited(&format!("VANISHED {earlier}"), &["SELECT", "EXAMINE", "UID FETCH"]);
        }
        self.may_expunge()?;
        let Some(view) = &mut self.selected else { return wrong("VANISHED without a mailbox") };
        for part in uids.split(',') {
            let (first, last) = part.split_once(':').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
                return wrong(format!("VANISHED {uids}"));
            };
            for uid in first..=last {
                // The client may not have asked for its UID yet.
                let at = [Some(uid), None].iter().find_map(|one| view.uids.iter().position(|uid| uid == one));
                let Some(at) = at else { return wrong(format!("VANISHED {uid}, which is not there")) };
                view.uids.remove(at);
            }
        }
        Ok(())
    }

    fn may_expunge(&self) -> Verdict {
        let Some(first) = self.outstanding.front() else {
            return wrong("EXPUNGE while no command is in progress");
        };
        let forbidden = matches!(
            first.verb.as_str(),
            "FETCH"
                | "STORE"
                | "SEARCH"
                | "SORT"
                | "THREAD"
                | "SELECT"
                | "EXAMINE"
                | "CLOSE"
                | "UNSELECT"
                | "LOGOUT"
        );
        let by_number = first.verb == "UID SEARCH" && first.uses_numbers;
        if forbidden || by_number || !first.complete || (first.verb == "IDLE" && !first.idling) {
            return wrong(format!("EXPUNGE during {}", first.verb));
        }
        if let Some(later) = self.outstanding.iter().skip(1).find(|s| s.uses_numbers) {
            return wrong(format!("EXPUNGE while {} with message numbers is on its way", later.verb));
        }
        Ok(())
    }

    fn search(&self, numbers: &str) -> Verdict {
        let searching = self.outstanding.iter().find(|s| s.verb.ends_with("SEARCH"));
        let by_uid = searching.is_some_and(|s| s.verb == "UID SEARCH");
        let count = self.selected.as_ref().map_or(0, |v| v.uids.len());
        for word in numbers.split_whitespace().take_while(|w| !w.starts_with('(')) {
            match word.parse::<usize>() {
                Ok(n) if n > 0 && (by_uid || n <= count) => {}
                Ok(_) | Err(_) => return wrong(format!("SEARCH found {word}")),
            }
        }
        Ok(())
    }

    /// The text of a status response with its code.
    fn text(&mut self, text: &str) -> Verdict {
        let Some((code, _)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) else { return Ok(()) };
        let (name, value) = code.split_once(' ').unwrap_or((code, ""));
        match name.to_ascii_uppercase().as_str() {
            "ALERT" => wrong(format!("an alert: {text}")),
            "CAPABILITY" => self.capability(value),
            "UIDVALIDITY" => self.validity(value.parse().ok()),
            _ => Ok(()),
        }
    }

    fn validity(&mut self, validity: Option<u32>) -> Verdict {
        if self.selecting() {
            self.opening.validity = validity;
            return Ok(());
        }
        match &self.selected {
            Some(view) if view.validity == validity => Ok(()),
            _ => wrong("UIDVALIDITY changed in a selected mailbox"),
        }
    }

    fn capability(&mut self, list: &str) -> Verdict {
        // A server may show the new list just before the tagged OK of a login.
        let logs_in =
            self.outstanding.front().is_some_and(|s| matches!(s.verb.as_str(), "LOGIN" | "AUTHENTICATE"));
        let stage = if logs_in { Stage::Authenticated } else { self.stage };
        let list: BTreeSet<String> = list.split_whitespace().map(str::to_ascii_uppercase).collect();
        let known = self.shown.entry(stage).or_insert_with(|| list.clone());
        if *known == list {
            return Ok(());
        }
        let differs: Vec<_> = known.symmetric_difference(&list).cloned().collect();
        wrong(format!("the capabilities of one stage differ by {differs:?}"))
    }
}

/// A FETCH response: whose UID, if told, agrees with all that was told before.
fn fetched(view: &mut Selected, slot: usize, items: &str) -> Verdict {
    let mut words = items.split(|c: char| c == '(' || c == ')' || c.is_whitespace());
    let uid =
        words.by_ref().find(|w| *w == "UID").and_then(|_| words.next()).and_then(|w| w.parse::<u32>().ok());
    let Some(uid) = uid else { return Ok(()) };
    let at = slot - 1;
    if let Some(known) = view.uids[at].filter(|known| *known != uid) {
        return wrong(format!("message {slot} was UID {known} and is UID {uid}"));
    }
    let before = view.uids[..at].iter().rev().flatten().next();
    let after = view.uids[slot..].iter().flatten().next();
    if before.is_some_and(|b| *b >= uid) || after.is_some_and(|a| *a <= uid) {
        return wrong(format!("UID {uid} of message {slot} is out of order"));
    }
    view.uids[at] = Some(uid);
    Ok(())
}

/// Whether a command names messages by number.
fn uses_numbers(verb: &str, args: &[String]) -> bool {
    match verb {
        "FETCH" | "STORE" | "COPY" | "MOVE" | "SEARCH" | "SORT" | "THREAD" => true,
        "UID SEARCH" | "UID SORT" | "UID THREAD" => {
            let set = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_digit() || b":,*".contains(&b));
            let numeric = |before: &str| {
                matches!(before, "UID" | "LARGER" | "SMALLER" | "MODSEQ" | "OLDER" | "YOUNGER")
            };
            let trim = |w: &'_ str| w.trim_matches(['(', ')']).to_owned();
            let words: Vec<String> = args.iter().map(|w| trim(w)).collect();
            words.iter().enumerate().any(|(i, w)| set(w) && (i == 0 || !numeric(&words[i - 1])))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Oracle, Stage, Violation, uses_numbers};
    use crate::client::Response;

    /// A session with three messages selected.
    fn selected() -> Oracle {
        let mut oracle = Oracle::new(Stage::Authenticated);
        oracle.sent("a", "SELECT INBOX", true);
        hear(&mut oracle, &["* 3 EXISTS", "* 0 RECENT", "* OK [UIDVALIDITY 7] ok", "a OK [READ-WRITE] ok"])
            .unwrap();
        oracle
    }

    fn hear(oracle: &mut Oracle, lines: &[&str]) -> Result<(), Violation> {
        lines.iter().try_for_each(|line| oracle.heard(&Response::from_line(line)))
    }

    #[test]
    fn messages_vanish_once_and_only_for_who_wants_it() {
        let mut oracle = selected();
        oracle.sent("b", "NOOP", true);
        assert!(hear(&mut oracle, &["* VANISHED 1"]).is_err(), "nobody enabled it");
        let mut oracle = selected();
        oracle.sent("b", "ENABLE QRESYNC", true);
        hear(&mut oracle, &["* ENABLED CONDSTORE QRESYNC", "b OK ok", "* 2 FETCH (UID 5)"]).unwrap();
        assert!(hear(&mut oracle, &["* VANISHED 5"]).is_err(), "no command in progress");
        oracle.sent("c", "NOOP", true);
        hear(&mut oracle, &["* VANISHED 5,1:2"]).unwrap();
        assert!(hear(&mut oracle, &["* VANISHED 5"]).is_err(), "nothing is left");
    }

    #[test]
    fn expunge_only_where_it_is_allowed() {
        let allowed = ["NOOP", "UID FETCH 1:* (FLAGS)", "UID SEARCH UID 1:3", "EXPUNGE", "COPY 1 x"];
        let forbidden =
            ["FETCH 1 (FLAGS)", "STORE 1 +FLAGS (x)", "SEARCH ALL", "UID SEARCH 1:* SEEN", "CLOSE"];
        for (commands, fine) in [(&allowed, true), (&forbidden, false)] {
            for command in commands {
                let mut oracle = selected();
                oracle.sent("b", command, true);
                assert_eq!(hear(&mut oracle, &["* 2 EXPUNGE"]).is_ok(), fine, "{command}");
            }
        }
        assert!(hear(&mut selected(), &["* 2 EXPUNGE"]).is_err(), "no command in progress");
        let mut oracle = selected();
        oracle.sent("b", "NOOP", true);
        oracle.sent("c", "FETCH 2 (UID)", true);
        assert!(hear(&mut oracle, &["* 2 EXPUNGE"]).is_err(), "a later command uses numbers");
    }

    #[test]
    fn idle_begins_with_the_continuation() {
        let mut oracle = selected();
        oracle.sent("b", "IDLE", true);
        assert!(hear(&mut oracle, &["* 1 EXPUNGE"]).is_err());
        hear(&mut oracle, &["+ idling", "* 1 EXPUNGE", "* 5 EXISTS", "b OK done"]).unwrap();
        assert_eq!(oracle.selected().unwrap().uids.len(), 5);
        assert!(hear(&mut oracle, &["+ again"]).is_err());
    }

    #[test]
    fn numbers_and_uids_agree() {
        let mut oracle = selected();
        hear(&mut oracle, &["* 2 FETCH (UID 20 FLAGS ())", "* 3 FETCH (FLAGS () UID 30)"]).unwrap();
        for line in ["* 2 FETCH (UID 21)", "* 1 FETCH (UID 20)", "* 4 FETCH (UID 40)", "* 2 EXISTS"] {
            assert!(hear(&mut oracle, &[line]).is_err(), "{line}");
        }
        hear(&mut oracle, &["* 2 FETCH (ENVELOPE (\"UID 9\") UID 20)"]).unwrap();
    }

    #[test]
    fn answers_come_once_and_in_order() {
        let mut oracle = selected();
        oracle.sent("b", "NOOP", true);
        oracle.sent("c", "NOOP", true);
        assert!(hear(&mut oracle, &["c OK"]).is_err());
        hear(&mut oracle, &["b OK", "c OK"]).unwrap();
        for line in ["c OK", "zz OK", "* ID NIL", "* LIST () \"/\" x", "* OK [ALERT] hot", "* PREAUTH hi"] {
            assert!(hear(&mut oracle, &[line]).is_err(), "{line}");
        }
    }

    #[test]
    fn capabilities_are_constant_per_stage() {
        let mut oracle = Oracle::new(Stage::Tls);
        hear(&mut oracle, &["* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi"]).unwrap();
        oracle.sent("a", "LOGIN x y", true);
        hear(&mut oracle, &["a OK [CAPABILITY IMAP4rev1 IDLE] in"]).unwrap();
        oracle.sent("b", "CAPABILITY", true);
        assert!(hear(&mut oracle, &["* CAPABILITY IMAP4rev1 IDLE MOVE"]).is_err());
    }

    #[test]
    fn search_keys_that_name_numbers() {
        let words = |s: &str| s.split(' ').map(String::from).collect::<Vec<_>>();
        assert!(uses_numbers("UID SEARCH", &words("RETURN (ALL COUNT) 1:*")));
        assert!(!uses_numbers("UID SEARCH", &words("UID 1:* LARGER 100")));
        assert!(!uses_numbers("UID SEARCH", &words("ALL")));
    }
}
