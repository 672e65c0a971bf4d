//! The relay's server side: the same bytes to the client however the stream is cut, and only whole lines.
//!
//! Rule: a response is forwarded as it came or not at all, and of what the proxy asked no line is forwarded.

use super::{
    byhand::{self, Place},
    input::{Cuts, Input, shown},
};
use crate::imap::{
    command,
    relay::{Event, Relay, Verdict},
    tag::{Tag, TagMaker},
};

pub(super) const WORDS: &[&str] = &[
    "* 4 EXISTS\r\n",
    "* 1 EXPUNGE\r\n",
    "* 2 RECENT\n",
    "* VANISHED 2\r\n",
    "* VANISHED (EARLIER) 2\r\n",
    "* 2 FETCH (FLAGS (\\Seen) UID 2)\r\n",
    "* 1 FETCH (UID 1 BODY[] {9}\r\na1 OK no\n FLAGS ())\r\n",
    "* 1 FETCH (BODY[1] {0}\r\n BODY[2] {3}\r\nabc)\r\n",
    "* OK [UIDNEXT 12] more\r\n",
    "* OK see {25}\r\n",
    "* OK [UIDVALIDITY 7] x\r\n",
    "* NO [ALERT] quota\r\n",
    "* OK [CLOSED] x\r\n",
    "* BYE x\r\n",
    "+ go\r\n",
    "* CAPABILITY IMAP4rev1\r\n",
    "* CAPABILITY {9}\r\na0 OK x\r\n X\r\n",
    "* OK [CAPABILITY IMAP4rev1] x\r\n",
    "* ENABLED CONDSTORE X-1 x-2 qresync UTF8=ACCEPT\r\n",
    "* LIST () \"/\" {3}\r\na\nb\r\n",
    "* ESEARCH (TAG \"HAAAAA1\") UID COUNT 3 ALL 1:3\r\n",
    "HAAAAA1 OK x\r\n",
    "HAAAAA2 NO x\r\n",
    "a0 OK x\r\n",
    "a1 NO x\r\n",
    "a2 BAD x\r\n",
    "a3 OK {5}\r\n",
    "u OK x\r\n",
    "zz OK x\r\n",
    "HAAAAA1 ",
    "{4294967296}\r\n",
    "* ",
    "* OK ",
    "{0}\r\n",
    "\r\n",
];

/// What the proxy has asked before the server speaks. The first is a SELECT that was answered.
const ASKED: &[&str] = &[
    "selected",
    "idle",
    "done",
    "probe",
    "literal",
    "upload",
    "NOOP",
    "STORE 1 FLAGS ()",
    "SELECT INBOX",
    "CLOSE",
    "ENABLE CONDSTORE",
    "SEARCH RETURN (SAVE) ALL",
    "UNSELECT",
];

/// `what was asked before, cuts, stream`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = input.below(7);
    let asked: Vec<_> = (0..count).map(|_| input.one_of(ASKED)).collect();
    let (cuts, stream) = (input.cuts(), input.rest());
    let whole = Backend::play(&asked, &[stream]);
    for cuts in [cuts, Cuts::every(1)] {
        let cut = Backend::play(&asked, &cuts.pieces(stream));
        assert_eq!(cut.outcome(), whole.outcome(), "{asked:?} {cuts:?} {}", shown(stream));
    }
    let passed = &whole.seen.bytes;
    let mut left = stream.iter();
    assert!(passed.iter().all(|byte| left.any(|b| b == byte)), "not of the server: {}", shown(passed));
}

/// What the client has been sent, response by response.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) bytes: Vec<u8>,
    /// Where the response begins that is not whole yet.
    begin: usize,
    place: Place,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { bytes: vec![], begin: 0, place: Place::Between }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Adds bytes. Returns the responses that became whole.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.bytes.extend_from_slice(bytes);
        let (whole, place) = byhand::responses(&self.bytes[self.begin..]);
        let whole: Vec<_> = whole.into_iter().map(<[u8]>::to_vec).collect();
        self.begin += whole.iter().map(Vec::len).sum::<usize>();
        self.place = place;
        whole
    }
}

/// A relay with its server's side under test.
struct Backend {
    relay: Relay,
    seen: Seen,
    /// Tags of the proxy's own.
    own: Vec<Tag>,
    /// What happened, and after how many bytes to the client.
    events: Vec<(usize, String)>,
    /// Tagged replies that the client has seen, and of them those to what was never committed.
    replies: usize,
    early: usize,
    lost: bool,
    /// What the server had sent, and nobody has seen, when step was lost.
    unseen: Vec<u8>,
}

impl Backend {
    fn play(asked: &[&str], pieces: &[&[u8]]) -> Self {
        let mut relay = Relay::new(TagMaker::new(7), 200);
        relay.show(b"ENABLE CONDSTORE");
        let (own, events, unseen) = (vec![], vec![], vec![]);
        let mut play =
            Self { relay, seen: Seen::new(), own, events, replies: 0, early: 0, lost: false, unseen };
        for (number, what) in asked.iter().enumerate() {
            play.ask(number, what);
        }
        let (writes, reads) = play.relay.in_flight();
        for piece in pieces {
            play.server(piece);
        }
        let (writes_left, reads_left) = play.relay.in_flight();
        let answered = usize::from(writes + reads - writes_left - reads_left);
        assert!(play.relay.state.enabled.len() <= 3, "kept without an end: {:?}", play.relay.state);
        assert_eq!(play.replies, answered + play.early, "replies and what is in flight");
        play
    }

    fn ask(&mut self, number: usize, what: &str) {
        let line = match what {
            "selected" => return self.select(number),
            "idle" => {
                self.relay.begin_idle(Tag::new(b"i"));
                self.relay.idle_backend()
            }
            "done" => {
                self.relay.end_idle(true);
                None
            }
            "probe" if self.relay.safepoint() => self.relay.probe(),
            "probe" => None,
            "literal" => {
                self.relay.await_go(Tag::new(b"u"));
                None
            }
            "upload" => {
                self.relay.stream_upload(Tag::new(b"u"));
                None
            }
            words => {
                self.commit(&format!("a{number} {words}\r\n"));
                None
            }
        };
        self.asks(&line.unwrap_or_default());
    }

    fn select(&mut self, number: usize) {
        if self.relay.safepoint() && !self.relay.own_outstanding() {
            self.commit(&format!("s{number} SELECT one\r\n"));
            let answer = format!("* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\ns{number} OK x\r\n");
            let step = self.relay.server(answer.as_bytes());
            assert_eq!(step.forward, answer.len());
        }
    }

    fn commit(&mut self, line: &str) {
        if let (_, Verdict::Command(sent, _)) = self.relay.client(line.as_bytes()) {
            self.relay.commit(sent);
        }
    }

    /// A line of the proxy's own.
    fn asks(&mut self, line: &[u8]) {
        let tag = command::tag_of(line);
        if !line.is_empty() && tag != b"*" && line != b"DONE\r\n" {
            self.own.push(Tag::new(tag));
        }
    }

    fn server(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while !rest.is_empty() {
            if self.lost {
                return self.unseen.extend_from_slice(rest);
            }
            let step = self.relay.server(rest);
            let taken = step.forward + step.swallow;
            self.passes(&[&step.owned[..], &rest[..step.forward]].concat());
            rest = &rest[taken..];
            assert!(taken > 0 || step.event.is_some(), "a step takes something or says why not");
            if let Some(event) = step.event {
                self.happened(event);
            }
        }
    }

    /// Bytes of the server for the client.
    fn passes(&mut self, bytes: &[u8]) {
        for response in self.seen.push(bytes) {
            let text = shown(&response);
            let upper = byhand::text(&response).to_ascii_uppercase();
            let words: Vec<&[u8]> = upper.split(|b| b" ]".contains(b)).collect();
            let kept = [&[&b"*"[..], b"BYE"][..], &[b"*", b"CAPABILITY"], &[b"*", b"OK", b"[CAPABILITY"]];
            let kept = kept.iter().any(|kept| words.starts_with(kept));
            let code = words.get(2).is_some_and(|word| word.starts_with(b"["));
            // A code without its end is none.
            assert!(!(kept && (!code || upper.contains(&b']'))) && words[0] != b"+", "{text}");
            if let Some(tag) = byhand::tag(&response) {
                assert!(!self.own.iter().any(|own| own.as_bytes() == tag), "a line of ours: {text}");
                self.replies += 1;
            }
        }
        assert_ne!(self.seen.place(), Place::Line, "half a line: {}", shown(&self.seen.bytes));
        let inside = self.seen.place() != Place::Between;
        assert!(self.relay.mid_response() || !inside, "nobody knows that a response is cut");
    }

    fn happened(&mut self, event: Event) {
        self.events.push((self.seen.bytes.len(), format!("{event:?}")));
        match event {
            Event::Send(line) => self.asks(&line),
            Event::Answered(tag) if tag.as_bytes() == b"u" => self.early += 1,
            Event::Lost(_) => {
                self.lost = true;
                self.unseen = self.relay.unsent().to_vec();
            }
            Event::Go | Event::Answered(_) | Event::IdleEnded(_) | Event::Probed | Event::Bye => {}
        }
    }

    /// All that must not depend on the cuts.
    fn outcome(&self) -> (String, String, &[(usize, String)], String) {
        let relay = &self.relay;
        let standing = (relay.in_flight(), relay.answered(), relay.idling(), relay.own_outstanding());
        // What stands half read is the same only where somebody reads on.
        let safe = (!self.lost).then(|| (relay.safepoint(), relay.mid_response()));
        let state = format!("{:?} {standing:?} {safe:?} {}", relay.state, relay.selections());
        (shown(&self.seen.bytes), shown(&self.unseen), &self.events, state)
    }
}
