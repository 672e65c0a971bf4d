//! Where the network cuts a stream changes nothing: framing, the time before the login, dialogues with backends.
//!
//! Rule: the streams are wild, the comparison is exact: what comes whole and what comes in pieces ends alike.

use imap_codec::fragmentizer::Fragmentizer;
use proptest::{collection::vec, prelude::*};

use super::{
    capability::{Pinned, Stage},
    login::{Credentials, Mechanism, PreAuth, Verdict as Said},
    relay::{Relay, Verdict},
    restore::{Dialogue, Login, Mailbox, Next, Plan},
    tag::TagMaker,
};

/// `input` in pieces of these sizes, over and over.
pub(super) fn chunks<'a>(mut input: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let (piece, rest) = input.split_at(input.len().min(*size));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// A stream of known lines and pieces, with here and there a byte of another kind.
pub(super) fn wild(
    lines: &'static [&'static str],
    end: &'static str,
    pieces: &'static [&'static str],
) -> impl Strategy<Value = Vec<u8>> {
    let line = move || {
        proptest::sample::select(lines).prop_map(move |line| [line.as_bytes(), end.as_bytes()].concat())
    };
    let piece = || proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec());
    // A byte that fits nowhere ends most streams, so it is rare.
    let byte = proptest::sample::select(&b"\0\r\n\"{}\\ +1~a\xff"[..]).prop_map(|byte| vec![byte]);
    let long = (180usize..240).prop_map(|n| vec![b'x'; n]);
    vec(prop_oneof![20 => line(), 12 => piece(), 1 => byte, 1 => long], 0..20).prop_map(|all| all.concat())
}

const COMMANDS: &[&str] = &[
    "a NOOP",
    "b CAPABILITY",
    "c ID (\"name\" {3+}\r\nfoo)",
    "d LOGIN bob \"se\\\"cret\"",
    "d LOGIN {3}\r\nbob {4+}\r\npa\n ",
    "e AUTHENTICATE PLAIN AGJvYgBzZWNyZXQ=",
    "e AUTHENTICATE PLAIN",
    "AGJvYgBzZWNyZXQ=",
    "f SELECT x",
    "g STARTTLS",
    "h LOGOUT",
];
const PIECES: &[&str] = &["a ", "LOGIN ", "*\r\n", "x {99999}\r\n", "{2+}\r\n", "{2}\r\nab", "\r\n"];

/// All that the client of a not-authenticated session is told, its login, and what is left of its bytes.
fn before_login(stage: Stage, stream: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let (mut machine, pinned) = (PreAuth::new(stage), Pinned::default());
    let mut said = Vec::new();
    let mut at = 0;
    for piece in chunks(stream, cuts) {
        let end = at + piece.len();
        while at < end {
            let (n, verdict) = machine.step(&stream[at..end], &pinned);
            at += n;
            match &verdict {
                Said::NeedMore => {}
                Said::Answer(_) => said.push(format!("{verdict:?}")),
                Said::Login(_, Credentials { password, .. }) => {
                    said.push(format!("{verdict:?} {:?} {:?}", **password, machine.client_id()));
                    return (said, stream[at..].to_vec());
                }
                // What was read ahead is thrown away.
                Said::Starttls(_) | Said::Close(_) => {
                    said.push(format!("{verdict:?}"));
                    return (said, vec![]);
                }
            }
        }
    }
    (said, vec![])
}

/// All that a dialogue sends, how it ends, and what is left of the server's bytes.
fn dialogue(plan: &Plan, stream: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut tags = TagMaker::new(7);
    let (mut machine, first) = Dialogue::new(plan.clone(), &mut tags);
    let mut said = vec![format!("{first:?}")];
    let mut at = 0;
    for piece in chunks(stream, cuts) {
        let end = at + piece.len();
        while at < end {
            let (n, next) = machine.step(&stream[at..end], &mut tags);
            at += n;
            match &next {
                Next::More => {}
                Next::Send(_) => said.push(format!("{next:?}")),
                Next::Done(_) | Next::Failed(_) => {
                    said.push(format!("{next:?}"));
                    return (said, stream[at..].to_vec());
                }
            }
        }
    }
    (said, vec![])
}

const ANSWERS: &[&str] = &[
    "* CAPABILITY IMAP4rev1 ESEARCH",
    "HAAAAA1 OK [CAPABILITY IMAP4rev1 ESEARCH] in",
    "HAAAAA1 OK",
    "HAAAAA2 OK",
    "HAAAAA3 OK",
    "HAAAAA4 OK",
    "HAAAAA5 OK",
    "+ ",
    "* 2 EXISTS",
    "* OK [UIDVALIDITY 7] x",
    "* OK [UIDNEXT 12] x",
    "* ENABLED CONDSTORE",
    "* ESEARCH (TAG \"HAAAAA2\") UID COUNT 2 ALL 5,9",
    "* SEARCH 5 9",
    "* LIST () \"/\" {3}\r\nabc",
    "* 1 EXPUNGE",
    "* 1 FETCH (BODY[] {12}\r\nHAAAAA1 NO\r\n)",
];
const SURPRISES: &[&str] = &["* BYE x\r\n", "HAAAAA1 NO x\r\n", "HAAAAA2 NO x\r\n", "zz OK x\r\n", "* "];

fn plan() -> impl Strategy<Value = Plan> {
    let client = |mechanism| {
        let (user, password) = (b"bob".to_vec(), b"secret".to_vec().into());
        Login::Client(Credentials { mechanism, authzid: vec![], user, password })
    };
    let login = proptest::sample::select(vec![
        None,
        Some(client(Mechanism::Login)),
        Some(client(Mechanism::Plain)),
        Some(Login::Master {
            identity: b"bob".to_vec(),
            user: b"master".to_vec(),
            password: b"secret".to_vec().into(),
        }),
    ]);
    let enable = proptest::sample::select(vec![&b""[..], b"CONDSTORE"]);
    let mailbox =
        proptest::option::of((any::<bool>(), any::<bool>()).prop_map(|(examine, condstore)| Mailbox {
            name: b"INBOX"[..].into(),
            examine,
            condstore,
        }));
    let id = proptest::option::of(Just(b"NIL".to_vec()));
    (id, login, enable, mailbox).prop_map(|(id, login, enable, mailbox)| Plan {
        id,
        login,
        enable: enable.to_vec(),
        mailbox,
    })
}

const MAILBOX_COMMANDS: &[&str] = &[
    "a NOOP",
    "b SELECT \"a {5} box\"",
    "c APPEND x (\\Seen) {5}\r\nhe\nlo",
    "d APPEND x {2+}\r\n\r\n {9+}\r\na OK {9+}",
    "e SEARCH SUBJECT {3}\r\nabc",
    "f APPEND x ~{4+}\r\na\0b\n",
    "g FETCH 1 BODY[]\n",
];

/// Where the relay sees commands end, up to where it stops reading.
fn borders(stream: &[u8], cuts: &[usize]) -> (Vec<usize>, bool) {
    let mut relay = Relay::new(TagMaker::new(7), 10_000);
    let (mut at, mut borders) = (0, Vec::new());
    for piece in chunks(stream, cuts) {
        let end = at + piece.len();
        while at < end {
            let (n, verdict) = relay.client(&stream[at..end]);
            at += n;
            match verdict {
                Verdict::NeedMore | Verdict::Data(_) => {}
                Verdict::Command(..) | Verdict::Last(_) | Verdict::Own(_) => borders.push(at),
                Verdict::Literal { .. } => relay.accept(),
                Verdict::Close(_) => return (borders, true),
            }
        }
    }
    (borders, false)
}

/// The same as another parser sees it.
fn other_borders(stream: &[u8]) -> Vec<usize> {
    let mut other = Fragmentizer::without_max_message_size();
    other.enqueue_bytes(stream);
    let (mut at, mut borders) = (0, Vec::new());
    while other.progress().is_some() {
        if other.is_message_complete() {
            at += other.message_bytes().len();
            borders.push(at);
        }
    }
    borders
}

proptest! {
    #[test]
    fn before_the_login(
        stream in wild(COMMANDS, "\r\n", PIECES),
        cuts in vec(1usize..40, 1..8),
        stage in proptest::sample::select(vec![Stage::Tls, Stage::Plain { starttls: true }]),
    ) {
        let whole = before_login(stage, &stream, &[usize::MAX]);
        prop_assert_eq!(before_login(stage, &stream, &cuts), whole);
    }

    #[test]
    fn dialogues_with_backends(
        plan in plan(),
        stream in wild(ANSWERS, "\r\n", SURPRISES),
        cuts in vec(1usize..40, 1..8),
    ) {
        prop_assert_eq!(dialogue(&plan, &stream, &cuts), dialogue(&plan, &stream, &[usize::MAX]));
    }

    #[test]
    fn commands_end_where_another_parser_sees_them_end(
        stream in wild(MAILBOX_COMMANDS, "\r\n", &["a ", "x\r\n", "b XFOO \"", "{4+}\r\n", " {3}\r\n"]),
        cuts in vec(1usize..40, 1..8),
    ) {
        let (ours, closed) = borders(&stream, &cuts);
        let mut others = other_borders(&stream);
        if closed {
            // What we refuse to frame may end anywhere.
            others.truncate(ours.len());
        }
        prop_assert_eq!(ours, others, "{:?}", String::from_utf8_lossy(&stream));
    }
}
