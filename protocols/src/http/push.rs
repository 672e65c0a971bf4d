//! JMAP's push by a stream of events (RFC 8620 §7.1, §7.3): what its client has heard of, and what it is told when its
//! stream goes on from a server that cannot know what it has heard.
//!
//! Rule: what a server named on this stream is named again, with those types that come with it; where that is not known
//! whole, nothing is made up.
//!
//! A server that is asked without Last-Event-ID says nothing of what was before, and an id is a state of the server that
//! gave it. Cyrus 3.6, asked by hand: without an id, with its newest one, and with one above all of its own, it says nothing
//! at first; with the last of these nothing later either, until its numbers get there; with a lower one it says at once
//! what is above it. Over HTTP/1.1 even its answer's head waits for its first event. Stalwart gives no ids and tells what
//! happens from now on. So the silence of a new server proves nothing and cannot be waited for, and an id of another one
//! may make it dumb. The client is told first, as soon as the new stream is open (what happens from then on is the new
//! server's to tell), and what that server says comes after it and is the last word.
//!
//! The state in it is none that a server gave. The client only compares it with its own and asks for the changes since its
//! own (§7.1, §5.2): the last one that it heard of would tell it that it has everything, and one that it had earlier could
//! be taken for news or not. A client that asks again until it has what was pushed would also not come to rest with a
//! server whose state moves on between the push and the question; aerc and Fastmail's Overture ask once. No id goes with
//! it: there is none that a server would understand.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memchr2;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// Types that an account has together: mail (RFC 8621 §2-4), calendars (draft-ietf-jmap-calendars), contacts (RFC 9610).
/// A client that only ever heard of mails that came would otherwise not hear of a mailbox that was made in the gap.
const TOGETHER: [&[&str]; 3] =
    [&["Email", "Mailbox", "Thread"], &["Calendar", "CalendarEvent"], &["AddressBook", "ContactCard"]];

/// So many bytes of names are remembered of one stream.
const MOST: usize = 32 * 1024;

/// What a client has heard of on one stream.
#[derive(Debug, Default)]
pub struct Heard {
    /// Types by account.
    accounts: BTreeMap<String, BTreeSet<String>>,
    /// Bytes of these names.
    size: usize,
    /// There was more than is remembered.
    missed: bool,
    asked: Option<Asked>,
}

/// What a client wants of a source of JMAP's events.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// `None`: all.
    types: Option<BTreeSet<String>>,
    /// The stream ends after the first state.
    once: bool,
}

/// What the client is told of a gap in its stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Gap {
    /// Nothing: this is no push of JMAP's.
    Foreign,
    /// This event.
    Told(Vec<u8>),
    /// This event, which is the last one.
    Last(Vec<u8>),
    /// It has heard of nothing: only its own question, on a stream of its own, finds out what happened.
    Unheard,
    /// It has heard of more than is remembered: likewise.
    Missed,
}

#[derive(Deserialize)]
struct StateChange {
    #[serde(rename = "@type")]
    kind: String,
    changed: BTreeMap<String, BTreeMap<String, IgnoredAny>>,
}

impl Heard {
    /// On a stream of this path and query.
    pub fn at(target: &str) -> Self {
        Self { asked: Asked::at(target), ..Self::default() }
    }

    /// Takes whole events as they went on, with comments between them.
    pub fn listen(&mut self, mut events: &[u8]) {
        let (mut is_state, mut data) = (false, Vec::new());
        while let Some(end) = memchr2(b'\r', b'\n', events) {
            let (line, rest) = (&events[..end], &events[end..]);
            events = &rest[if rest.starts_with(b"\r\n") { 2 } else { 1 }..];
            if line.is_empty() {
                if is_state && !data.is_empty() {
                    self.state(&data.join(&b'\n'));
                }
                (is_state, data) = (false, Vec::new());
                continue;
            }
            match field(line) {
                (b"event", name) => is_state = name == b"state",
                (b"data", value) => data.push(value),
                _ => {}
            }
        }
    }

    /// Whether this is JMAP's push, by its target or by what came.
    pub fn is_push(&self) -> bool {
        self.asked.is_some() || !self.accounts.is_empty()
    }

    /// An event went on that was too long to be read.
    pub fn miss(&mut self) {
        self.missed = true;
    }

    /// What the client is told after a gap; `state` is like no state of any server.
    pub fn gap(&self, state: &str) -> Gap {
        match &self.asked {
            _ if !self.is_push() => Gap::Foreign,
            _ if self.missed => Gap::Missed,
            _ if self.accounts.is_empty() => Gap::Unheard,
            Some(asked) if asked.once => Gap::Last(self.event(state)),
            _ => Gap::Told(self.event(state)),
        }
    }

    fn event(&self, state: &str) -> Vec<u8> {
        let changed: BTreeMap<_, _> =
            self.accounts.iter().map(|(account, types)| (account, self.states(types, state))).collect();
        format!("event: state\ndata: {}\n\n", json!({"@type": "StateChange", "changed": changed}))
            .into_bytes()
    }

    /// Of these types, and of those that come with them as far as they are wanted.
    fn states<'a>(&self, types: &'a BTreeSet<String>, state: &'a str) -> BTreeMap<&'a str, &'a str> {
        let has = |family: &&&[&str]| family.iter().any(|kind| types.contains(*kind));
        let along = TOGETHER.iter().filter(has).flat_map(|family| *family).copied();
        let all = types.iter().map(String::as_str).chain(along.filter(|kind| self.wants(kind)));
        all.map(|kind| (kind, state)).collect()
    }

    fn wants(&self, kind: &str) -> bool {
        let types = self.asked.as_ref().and_then(|asked| asked.types.as_ref());
        types.is_none_or(|types| types.contains(kind))
    }

    fn state(&mut self, data: &[u8]) {
        match serde_json::from_slice::<StateChange>(data) {
            Ok(change) if change.kind == "StateChange" => {
                for (account, types) in change.changed {
                    for kind in types.into_keys() {
                        self.name(&account, kind);
                    }
                }
            }
            // On a stream of JMAP's it may have named what is now not known.
            _ => self.missed = true,
        }
    }

    fn name(&mut self, account: &str, kind: String) {
        if !self.wants(&kind) {
            return;
        }
        let types = self.accounts.get(account);
        let more = match types {
            Some(types) if types.contains(&kind) => return,
            Some(_) => kind.len(),
            None => account.len() + kind.len(),
        };
        if self.size + more > MOST {
            self.missed = true;
            return;
        }
        self.size += more;
        self.accounts.entry(account.to_owned()).or_default().insert(kind);
    }
}

/// Whether a target is a source of JMAP's events.
pub fn is_source(target: &str) -> bool {
    Asked::at(target).is_some()
}

impl Asked {
    /// What the target says; `None`: this is no source of JMAP's events, whose address has a place for each of these
    /// three (RFC 8620 §2). Their names in it are the server's; Cyrus, Stalwart and James have these.
    fn at(target: &str) -> Option<Self> {
        let (_, query) = target.split_once('?')?;
        let value = |wanted: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value))
        };
        let (types, close, _) = (value("types")?, value("closeafter")?, value("ping")?);
        let types = types.split(',').map(|kind| kind.trim().to_owned()).collect::<BTreeSet<_>>();
        Some(Self { types: (!types.contains("*")).then_some(types), once: close == "state" })
    }
}

/// The name and the value of a line; a comment has no name.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(at) = memchr::memchr(b':', line) else { return (line, b"") };
    let value = &line[at + 1..];
    (&line[..at], value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const ALL: &str = "/jmap/eventsource/?types=*&closeafter=no&ping=30";

    fn change(changed: &str) -> String {
        format!("event: state\ndata: {{\"@type\":\"StateChange\",\"changed\":{changed}}}\n\n")
    }

    /// What is said to be changed.
    fn told(heard: &Heard) -> Value {
        let (Gap::Told(event) | Gap::Last(event)) = heard.gap("new") else {
            panic!("{:?}", heard.gap("new"))
        };
        let event = String::from_utf8(event).unwrap();
        let data = event.strip_prefix("event: state\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let object: Value = serde_json::from_str(data.unwrap()).unwrap();
        assert_eq!(object["@type"], "StateChange");
        assert_eq!(object.as_object().unwrap().len(), 2);
        object["changed"].clone()
    }

    #[test]
    fn types_that_come_together_are_named_together() {
        for (target, heard_of, told_of) in [
            (ALL, "Thread", json!({"Email": "new", "Mailbox": "new", "Thread": "new"})),
            (ALL, "CalendarEvent", json!({"Calendar": "new", "CalendarEvent": "new"})),
            (ALL, "SieveScript", json!({"SieveScript": "new"})),
            (
                "/es?types=Email,Mailbox&closeafter=no&ping=0",
                "Email",
                json!({"Email": "new", "Mailbox": "new"}),
            ),
            ("/es?types=Email&closeafter=no&ping=0", "Email", json!({"Email": "new"})),
        ] {
            let mut heard = Heard::at(target);
            heard.listen(change(&format!(r#"{{"a":{{"{heard_of}":"1"}}}}"#)).as_bytes());
            assert_eq!(told(&heard), json!({ "a": told_of }), "{target} {heard_of}");
        }
    }

    #[test]
    fn what_was_heard_of_is_named_again_once() {
        let mut heard = Heard::at("/push");
        heard.listen(change(r#"{"a":{"Email":"1","Mailbox":"7"},"é\"b":{"SieveScript":"x"}}"#).as_bytes());
        heard.listen(change(r#"{"a":{"Email":"2","Thread":"2"},"none":{}}"#).as_bytes());
        heard.listen(b"event: ping\ndata: {\"interval\":300}\n\n: keep\n");
        let wanted = json!({
            "a": {"Email": "new", "Mailbox": "new", "Thread": "new"}, "é\"b": {"SieveScript": "new"}
        });
        assert_eq!(told(&heard), wanted);
    }

    #[test]
    fn an_event_is_read_as_the_standard_has_it() {
        for event in [
            "data:{\"@type\":\"StateChange\",\ndata: \"changed\":{\"a\":{\"E\":\"1\"}}}\nevent:state\nid: 4\n\n",
            "event: ping\r\nevent: state\r\n: c\r\ndata: {\"changed\":{\"a\":{\"E\":null}},\"@type\":\"StateChange\"}\r\n\r\n",
            "\revent: state\rdata: {\"@type\":\"StateChange\",\"new\":[1],\"changed\":{\"a\":{\"E\":\"1\"}}}\r\r",
        ] {
            let mut heard = Heard::default();
            heard.listen(event.as_bytes());
            assert_eq!(told(&heard), json!({"a": {"E": "new"}}), "{event:?}");
        }
    }

    #[test]
    fn other_streams_are_told_nothing() {
        for event in [
            "data: {\"@type\":\"StateChange\",\"changed\":{\"a\":{\"E\":\"1\"}}}\n\n",
            "event: ping\ndata: {\"@type\":\"StateChange\",\"changed\":{\"a\":{\"E\":\"1\"}}}\n\n",
            "event: state\nevent: other\ndata: {\"@type\":\"StateChange\",\"changed\":{\"a\":{\"E\":\"1\"}}}\n\n",
            "event: state\ndata: on\n\n",
            "event: state\n\n",
            "event: state\ndata: {\"@type\":\"Change\",\"changed\":{\"a\":{\"E\":\"1\"}}}\n\n",
            "event: state\ndata: {\"@type\":\"StateChange\",\"changed\":{}}\n\n",
        ] {
            let mut heard = Heard::at("/news?types=a&ping=1");
            heard.listen(event.as_bytes());
            assert_eq!(heard.gap("new"), Gap::Foreign, "{event:?}");
        }
        let mut heard = Heard::at("/news");
        heard.miss();
        assert_eq!(heard.gap("new"), Gap::Foreign);
    }

    #[test]
    fn a_push_on_which_nothing_was_heard_is_known_by_its_target() {
        let mut heard = Heard::at(ALL);
        heard.listen(b": hello\n\nevent: ping\ndata: {}\n\n");
        assert_eq!(heard.gap("new"), Gap::Unheard);
        assert_eq!(Heard::at("/es?Ping=0&closeAfter=no&types=Email").gap("new"), Gap::Unheard, "James's");
    }

    #[test]
    fn types_that_were_not_asked_for_are_not_named() {
        let mut heard = Heard::at("/es?types=Email%2CThread&closeafter=no&ping=0");
        heard.listen(change(r#"{"a":{"Email":"1","Mailbox":"1"},"b":{"Mailbox":"1"}}"#).as_bytes());
        assert_eq!(
            told(&heard),
            json!({"a": {"Email": "new", "Thread": "new"}}),
            "and not of b, nor of mailboxes"
        );
        let mut heard = Heard::at("/es?types=%2A&closeafter=no&ping=0");
        heard.listen(change(r#"{"b":{"Note":"1"}}"#).as_bytes());
        assert_eq!(told(&heard), json!({"b": {"Note": "new"}}));
    }

    #[test]
    fn one_state_is_the_last_event_where_that_was_asked_for() {
        let mut heard = Heard::at("/es?types=*&closeafter=state&ping=0");
        assert_eq!(heard.gap("new"), Gap::Unheard);
        heard.listen(change(r#"{"a":{"Email":"1"}}"#).as_bytes());
        assert!(matches!(heard.gap("new"), Gap::Last(_)));
    }

    #[test]
    fn who_heard_of_more_than_is_remembered_is_not_told_half_of_it() {
        let mut heard = Heard::at("/push");
        let long = "x".repeat(MOST - 5);
        heard.listen(change(&format!("{{\"{long}\":{{\"Email\":\"1\"}}}}")).as_bytes());
        assert!(matches!(heard.gap("new"), Gap::Told(_)));
        heard.listen(change(&format!("{{\"{long}\":{{\"Email\":\"2\"}}}}")).as_bytes());
        assert!(matches!(heard.gap("new"), Gap::Told(_)), "it is known");
        heard.listen(change("{\"\":{\"E\":\"1\"}}").as_bytes());
        assert_eq!(heard.gap("new"), Gap::Missed);
        assert!(heard.size <= MOST);
    }

    #[test]
    fn a_state_that_cannot_be_read_is_missed() {
        for event in ["event: state\ndata: {\"@type\":\"StateChange\"}\n\n", "event: state\ndata: [\n\n"] {
            let mut heard = Heard::at(ALL);
            heard.listen(change(r#"{"a":{"Email":"1"}}"#).as_bytes());
            heard.listen(event.as_bytes());
            assert_eq!(heard.gap("new"), Gap::Missed, "{event}");
        }
        let mut heard = Heard::at(ALL);
        heard.miss();
        assert_eq!(heard.gap("new"), Gap::Missed);
    }

    proptest! {
        /// Whatever is heard, in whatever order: all of it is told, and who listens to that has heard the same.
        #[test]
        fn what_is_told_is_what_was_heard(
            changes in proptest::collection::vec(
                proptest::collection::btree_map("\\PC{0,4}", proptest::collection::btree_map("[A-C]", "[0-9]", 1..3), 0..4),
                1..6,
            )
        ) {
            let (mut heard, mut all) = (Heard::default(), BTreeMap::<String, BTreeMap<String, String>>::new());
            for changed in changes {
                heard.listen(change(&serde_json::to_string(&changed).unwrap()).as_bytes());
                for (account, types) in changed {
                    all.entry(account).or_default().extend(types.into_keys().map(|kind| (kind, "new".into())));
                }
            }
            if all.is_empty() {
                prop_assert_eq!(heard.gap("new"), Gap::Foreign);
            } else {
                prop_assert_eq!(told(&heard), json!(all));
                let Gap::Told(event) = heard.gap("new") else { panic!() };
                let mut again = Heard::default();
                again.listen(&event);
                prop_assert_eq!(again.gap("new"), Gap::Told(event));
            }
        }

        /// Nothing breaks it, and memory is bounded.
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, middle in "[ -~\\r\\n]{0,80}") {
            let mut heard = Heard::at(&middle);
            heard.listen(&bytes);
            heard.listen(format!("event: state\ndata: {middle}\n\n").as_bytes());
            let _ = heard.gap("new");
            prop_assert!(heard.size <= MOST);
        }
    }
}
