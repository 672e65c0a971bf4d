//! Before the login: any bytes, cut anywhere. No password stands in an answer, and what goes to the backend says
//! what the client said.
//!
//! Rule: clear text never leads to a login, TLS never begins twice, and nonsense ends.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    byhand,
    input::{Cuts, Input, shown},
};
use crate::imap::{
    capability::{Pinned, Stage},
    command,
    login::{Credentials, Mechanism, PreAuth, Verdict},
    restore::{Dialogue, Login, Next, Plan},
    tag::TagMaker,
};

pub(super) const WORDS: &[&str] = &[
    "a NOOP\r\n",
    "b CAPABILITY\r\n",
    "c ID (\"name\" {3+}\r\nfoo)\r\n",
    "d LOGIN bob \"\x01\"\r\n",
    "LOGIN ",
    "\x01",
    "d LOGIN {3}\r\nbob {9+}\r\n\x01\r\n",
    "e AUTHENTICATE PLAIN \x02\r\n",
    "e AUTHENTICATE PLAIN\r\n",
    "\x02\r\n",
    "=\r\n",
    "e AUTHENTICATE PLAIN =\r\n",
    "AUTHENTICATE LOGIN\r\n",
    "f SELECT x\r\n",
    "g STARTTLS\r\n",
    "h LOGOUT\r\n",
    "a ",
    "*\r\n",
    "x {99999}\r\n",
    "{2+}\r\n",
    "{2}\r\nab",
    "\"se\\\"cret\"",
    "\r\n",
    " ",
    "\0",
    "\r",
];

/// What no answer may hold; a 0x01 of the input stands for it, and 0x02 for its PLAIN message.
const SECRET: &[u8] = b"Ge#eim-17";

/// `stage, cuts, stream`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let stage =
        input.one_of(&[Stage::Tls, Stage::Plain { starttls: true }, Stage::Plain { starttls: false }]);
    let cuts = input.cuts();
    let message = BASE64_STANDARD.encode([b"\0bob\0", SECRET].concat());
    let stream: Vec<u8> = input.rest().iter().fold(vec![], |mut stream, byte| {
        match byte {
            1 => stream.extend_from_slice(SECRET),
            2 => stream.extend_from_slice(message.as_bytes()),
            byte => stream.push(*byte),
        }
        stream
    });
    let whole = before_login(stage, &stream, &Cuts::none());
    for cuts in [cuts, Cuts::every(1)] {
        assert_eq!(before_login(stage, &stream, &cuts), whole, "{cuts:?} {}", shown(&stream));
    }
}

/// All that the client is told, its login, and what is left of its bytes.
fn before_login(stage: Stage, stream: &[u8], cuts: &Cuts) -> (Vec<String>, usize) {
    let (mut machine, pinned) = (PreAuth::new(stage), Pinned::default());
    let (mut said, mut at) = (vec![], 0);
    for piece in cuts.pieces(stream) {
        let end = at + piece.len();
        while at < end {
            let (n, verdict) = machine.step(&stream[at..end], &pinned);
            assert!(n > 0, "a step takes something");
            at += n;
            let debug = format!("{verdict:?}");
            // Whoever has it for a name shows it.
            let named = matches!(&verdict, Verdict::Login(_, who) if holds_secret(&who.user));
            assert!(named || !holds_secret(debug.as_bytes()), "shown: {debug}");
            match verdict {
                Verdict::NeedMore => {}
                Verdict::Answer(words) => said.push(answered(&words)),
                Verdict::Login(_, credentials) => {
                    assert_eq!(stage, Stage::Tls, "a login in clear text");
                    passes_on(&credentials);
                    said.push(format!("{debug} {:?} {:?}", credentials.password, machine.client_id()));
                    return (said, at);
                }
                Verdict::Starttls(words) => {
                    assert_eq!(stage, Stage::Plain { starttls: true }, "TLS where it is not offered");
                    said.push(answered(&words));
                    return (said, at);
                }
                Verdict::Close(words) => {
                    said.push(answered(&words));
                    // How much was read of a line without an end depends on the cuts.
                    return (said, 0);
                }
            }
        }
        assert!(said.iter().filter(|words| words.contains(" BAD ")).count() < 20, "nonsense without an end");
    }
    (said, at)
}

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|word| word == SECRET)
}

/// An answer is lines, and of the client's words it holds only tags.
fn answered(words: &[u8]) -> String {
    let (responses, place) = byhand::responses(words);
    assert_eq!(place, byhand::Place::Between, "{}", shown(words));
    assert!(!responses.is_empty());
    for response in responses {
        let tag = byhand::tag(response).map_or(0, <[u8]>::len);
        let rest = &response[tag..];
        assert!(!holds_secret(rest), "a password: {}", shown(words));
        assert!(rest.ends_with(b"\r\n") && !byhand::text(rest).iter().any(u8::is_ascii_control));
    }
    String::from_utf8_lossy(words).into_owned()
}

/// The dialogue with the backend says the same name and password, in one line or one message.
fn passes_on(credentials: &Credentials) {
    assert!(!credentials.user.is_empty());
    let mut tags = TagMaker::new(7);
    let plan = Plan { login: Some(Login::Client(credentials.clone())), ..Plan::default() };
    let (mut dialogue, first) = Dialogue::new(plan, &mut tags);
    let first = first.expect("a login is asked for");
    let text = byhand::text(&first);
    assert!(!text.contains(&b'\n') && !text.contains(&b'\r'), "more than a line: {}", shown(&first));
    let (_, arguments) = text.split_at(text.iter().position(|b| *b == b' ').map_or(0, |at| at + 1));
    let Some(login) = arguments.strip_prefix(b"LOGIN ") else {
        assert_eq!(arguments, b"AUTHENTICATE PLAIN");
        let Next::Send(message) = dialogue.step(b"+ \r\n", &mut tags).1 else { panic!("no message") };
        let message = BASE64_STANDARD.decode(byhand::text(&message)).expect("base64");
        let parts: Vec<&[u8]> = message.split(|b| *b == 0).collect();
        return assert_eq!(parts, [&credentials.authzid[..], &credentials.user, &credentials.password]);
    };
    assert_eq!(credentials.mechanism, Mechanism::Login);
    let (user, rest) = command::astring(login).expect("a name");
    assert_eq!(user, credentials.user);
    assert_eq!(command::astring(rest), Some((credentials.password.to_vec(), &b""[..])));
}
