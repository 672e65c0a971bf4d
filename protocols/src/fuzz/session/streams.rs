//! Raw bytes from both sides, interleaved, and deeds of the proxy between them.
//!
//! Rule: whatever both sides send, the client sees whole responses, and nothing that only the proxy asked for.

use super::{
    driver::{End, Manner, Session},
    manner,
};
use crate::fuzz::{
    byhand::{self, Place},
    input::{Cuts, Input, shown},
    server::Seen,
};

pub(in crate::fuzz) const WORDS: &[&str] = &[
    "\x01a NOOP\r\n",
    "\x01b SELECT x\r\n",
    "\x01c IDLE\r\n",
    "\x01DONE\r\n",
    "\x01d APPEND x {5}\r\n",
    "\x01he\nlo\r\n",
    "\x01e APPEND x {2+}\r\nab\r\n",
    "\x01f XFOO\r\n",
    "\x01HAAAAA1 NOOP\r\n",
    "\x02a OK x\r\n",
    "\x02b OK x\r\n",
    "\x02+ x\r\n",
    "\x02HAAAAA1 OK x\r\n",
    "\x02HAAAAA2 OK x\r\n",
    "\x02* 3 EXISTS\r\n",
    "\x02* 1 EXPUNGE\r\n",
    "\x02* OK [UIDVALIDITY 7] x\r\n",
    "\x02* 1 FETCH (BODY[] {9}\r\na OK\r\n",
    "\x02\r\n\r\n)\r\n",
    "\x02* ESEARCH (TAG \"HAAAAA1\") UID COUNT 3 ALL 1:3\r\n",
    "\x02d NO x\r\n",
    "\x02e OK x\r\n",
    "\x02* BYE x\r\n",
    "\x03",
    "\x04",
    "\x05",
    "\x06",
    "\x07",
];

/// `manner, script`: 1 and 2 begin what the client and the server send, 3 to 7 are deeds of the proxy.
pub(in crate::fuzz) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.byte();
    let cuts = input.cuts();
    let script = input.rest();
    // What a lying server sees of the proxy's own commands may depend on the cuts; what the client sees is whole.
    for cuts in [Cuts::none(), cuts, Cuts::every(1)] {
        play(script, manner(how, cuts));
    }
}

fn play(script: &[u8], manner: Manner) {
    let (mut session, mut read, mut seen) = (Session::new(manner), 0, Seen::new());
    let mut asked = vec![];
    let mut rest = script;
    while let Some((deed, more)) = rest.split_first() {
        let end = more.iter().position(|byte| (1..8).contains(byte)).unwrap_or(more.len());
        let (bytes, next) = more.split_at(end);
        rest = next;
        match deed {
            1 => {
                asked.extend_from_slice(bytes);
                session.client(bytes);
            }
            2 => session.server(bytes),
            3 => session.probe(),
            4 => session.shut(),
            5 => session.open(),
            6 if session.has_backend() && session.end.is_none() => session.lose_backend(),
            7 if !session.has_backend() => session.attach(),
            _ => {}
        }
        if session.end == Some(End::Pipe) {
            break;
        }
        nothing_of_ours(&session, &mut seen, &mut read, &asked);
    }
}

/// What the client sees are whole responses, and no line of ours.
fn nothing_of_ours(session: &Session, seen: &mut Seen, read: &mut usize, asked: &[u8]) {
    // A client that begins its tags like ours gets its own back.
    let clients = |tag: &[u8]| asked.windows(tag.len()).any(|word| word == tag);
    for response in seen.push(&session.to_client[*read..]) {
        let tag = byhand::tag(&response).unwrap_or_default();
        assert!(
            !session.own.iter().any(|own| own.as_bytes() == tag && !clients(tag)),
            "a line of ours: {}",
            shown(&response)
        );
    }
    *read = session.to_client.len();
    assert_ne!(seen.place(), Place::Line, "half a line: {}", shown(&seen.bytes));
    let inside = seen.place() != Place::Between;
    assert!(
        !inside || session.end.is_some() || session.relay.mid_response(),
        "nobody knows that a response is cut"
    );
}
