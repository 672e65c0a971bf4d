//! What a server says, read without an error and as by hand.
//!
//! Rule: `{n}` announces a literal in data only, never in what somebody wrote for people (semantics §1.0).

use super::{
    byhand,
    input::{Input, shown},
};
use crate::imap::{
    capability::{Capabilities, Stage, pin},
    response::{Esearch, Response, Status, code, esearch, fetch_uid, literal_after, number},
    view::UidSet,
};

pub(super) const WORDS: &[&str] = &[
    "* ",
    "+ ",
    "a1 ",
    "OK ",
    "no ",
    "BAD ",
    "BYE ",
    "PREAUTH ",
    "12 ",
    "4294967295 ",
    "4294967296 ",
    "007 ",
    "EXISTS",
    "expunge",
    "RECENT",
    "FETCH (",
    "UID 42",
    "FLAGS (\\Seen)",
    "ENVELOPE (\"UID 1\")",
    "BODY[] {25}",
    "VANISHED ",
    "(EARLIER) ",
    "1:3,9",
    "ESEARCH (TAG \"A1\") UID COUNT 3 ALL 1:2,9",
    "MIN 1 ",
    "COUNT 0",
    "CAPABILITY IMAP4rev1 ",
    "LITERAL- ",
    "APPENDLIMIT=10 ",
    "RIGHTS=kxte ",
    "[UIDVALIDITY 7]",
    "[",
    "]",
    "{25}",
    "{3+}",
    ")",
    "ENABLED ",
    "\"",
    "\r\n",
];

/// `tag, count and set of a search, text`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    searches(&mut input);
    for line in input.rest().split(|b| *b == b'\n') {
        let text = byhand::text(line);
        reads(text);
        capabilities(text);
        esearch(text);
    }
}

/// What is written as a search result is read as one.
fn searches(input: &mut Input<'_>) {
    let set: UidSet = (0..input.below(8)).map(|_| input.uid()).collect();
    let (tag, count) = (["A1", "HAAAAA1", "x"][usize::from(input.below(3))], u32::from(input.byte()));
    let all = if set.is_empty() { String::new() } else { format!(" ALL {set}") };
    for (text, tag) in [
        (format!("(TAG \"{tag}\") UID COUNT {count}{all}"), Some(tag)),
        (format!("(tag {tag}) uid{all} MODSEQ 7 count {count}"), Some(tag)),
        (format!("UID MIN 1{all} COUNT {count}"), None),
    ] {
        let all = (!set.is_empty()).then(|| set.clone());
        let expected = Esearch { tag: tag.map(str::as_bytes), count: Some(count), all };
        assert_eq!(esearch(text.as_bytes()), expected, "{text}");
    }
}

fn reads(text: &[u8]) {
    let words: Vec<&[u8]> = text.split(|b| *b == b' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default().trim_ascii_end();
    let response = Response::parse(text);
    let Ok(response) = response else {
        return assert!(!text.starts_with(b"+") && (word(0) != b"*" || number_by_hand(word(1)).is_none()));
    };
    let literal = byhand::announced(text).filter(|l| l.placed && byhand::is_data(text));
    assert_eq!(literal_after(&response, text), literal.map_or(0, |l| l.size), "{}", shown(text));
    assert_eq!(response.is_data(), byhand::is_data(text), "{}", shown(text));
    let counted = word(0) == b"*" && word(1).first().is_some_and(u8::is_ascii_digit);
    let n = number_by_hand(word(1)).unwrap_or_default();
    let is = |at: usize, name: &str| word(at).eq_ignore_ascii_case(name.as_bytes());
    let expected = match response {
        Response::Continue => text.starts_with(b"+"),
        Response::Tagged { tag, status, .. } => tag == word(0) && tag != b"*" && is(1, name(status)),
        Response::Untagged { status, .. } => word(0) == b"*" && is(1, name(status)),
        Response::Exists(told) => counted && told == n && is(2, "EXISTS"),
        Response::Recent(told) => counted && told == n && is(2, "RECENT"),
        Response::Expunge(told) => counted && told == n && is(2, "EXPUNGE"),
        Response::Fetch(told, items) => {
            same_uid(items);
            counted && told == n && is(2, "FETCH")
        }
        Response::Vanished { earlier, .. } => is(1, "VANISHED") && earlier == is(2, "(EARLIER)"),
        Response::Esearch(_) => is(1, "ESEARCH"),
        Response::Capability(_) => is(1, "CAPABILITY"),
        Response::Enabled(_) => is(1, "ENABLED"),
        Response::Data => {
            !(counted && ["EXISTS", "RECENT", "EXPUNGE", "FETCH"].iter().any(|name| is(2, name)))
        }
    };
    assert!(expected, "{response:?} of {}", shown(text));
    if let Some((name, arguments)) = code(text) {
        let inner = [name, if arguments.is_empty() { b"" } else { b" " }, arguments].concat();
        assert!(text[1..].starts_with(&inner) && !inner.contains(&b']'), "{}", shown(text));
    }
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Ok => "OK",
        Status::No => "NO",
        Status::Bad => "BAD",
        Status::Bye => "BYE",
        Status::Preauth => "PREAUTH",
    }
}

fn number_by_hand(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok().filter(|d| d.len() <= 10 && !d.starts_with('+'))?;
    assert_eq!(digits.parse().ok(), number(digits.as_bytes()), "{digits}");
    digits.parse().ok()
}

/// The UID that stands outside of every list, before anything that could hide it.
fn same_uid(items: &[u8]) {
    let Some(uid) = fetch_uid(items) else { return };
    let (mut depth, mut found) = (0, false);
    for (at, byte) in items.iter().enumerate() {
        let stands = depth == 1 && matches!(items[at - 1], b' ' | b'(');
        if stands && items[at..].get(..4).is_some_and(|item| item.eq_ignore_ascii_case(b"UID ")) {
            let digits = items[at + 4..].split(|b| !b.is_ascii_digit()).next().unwrap_or_default();
            found = number_by_hand(digits) == Some(uid);
            break;
        }
        assert!(!matches!(byte, b'"' | b'{'), "what follows may be text: {}", shown(items));
        depth += i32::from(matches!(byte, b'(' | b'[')) - i32::from(matches!(byte, b')' | b']'));
    }
    assert!(found, "UID {uid} in {}", shown(items));
}

fn capabilities(text: &[u8]) {
    let read = Capabilities::parse(text);
    assert_eq!(Capabilities::parse(read.to_string().as_bytes()), read);
    assert!(read.iter().all(|word| read.has(word) && read.has(word.to_ascii_lowercase())));
    let pinned = pin(&[&read]);
    assert!(pinned.beyond(&read).is_empty(), "shown and not there: {:?}", pinned.beyond(&read));
    for stage in
        [Stage::Plain { starttls: true }, Stage::Plain { starttls: false }, Stage::Tls, Stage::Authenticated]
    {
        let shown = pinned.bytes(stage);
        assert!(!shown.iter().any(u8::is_ascii_control), "one line: {shown:?}");
    }
}
