//! The relay's client side: the same verdicts however the stream is cut, and every forwarded byte is the client's.
//!
//! Rule: the stream is framed a second time by hand; what a refused line or literal brings, and what follows a
//! line that closes the session, must be in no verdict.

use super::{
    byhand,
    input::{Cuts, Input, shown},
};
use crate::imap::{
    command::{self, Class, Verb},
    fragment::Literal,
    relay::{Own, Relay, Verdict},
    tag::{Tag, TagMaker},
};

pub(super) const WORDS: &[&str] = &[
    "a NOOP\r\n",
    "b1 IDLE\r\n",
    "DONE\r\n",
    "done\n",
    "c UID FETCH 1:* (FLAGS)\r\n",
    "d SELECT \"a {5} box\"\r\n",
    "e APPEND x (\\Seen) {5}\r\nhe\nlo",
    "f APPEND x {2+}\r\n\r\n {9+}\r\na OK {9+}",
    "g SEARCH SUBJECT {3+}\r\nabc",
    "h APPEND x ~{4+}\r\na\0b\n",
    "i LOGOUT\r\n",
    "j ID NIL\r\n",
    "k COMPRESS DEFLATE\r\n",
    "l ENABLE CONDSTORE X\r\n",
    "m SEARCH RETURN (SAVE) ALL\r\n",
    "n CLOSE\n",
    "{99+}\r\n",
    " {70}\r\n",
    "{4+}",
    "~{2}",
    "HAAAAA1 NOOP\r\n",
    "UID ",
    "XFOO \"",
    "STORE",
    " ",
    "\r",
    "\0",
    "\\",
    "\r\n",
];

/// The longest line.
const LINE: usize = 120;
/// Literals above this are never taken.
const BIG: u64 = 60;

/// `which literals are taken, cuts, stream`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (taken, cuts) = (input.byte(), input.cuts());
    let stream = input.rest();
    let expected = by_hand(stream, taken);
    for cuts in [Cuts::none(), cuts, Cuts::every(1)] {
        assert_eq!(verdicts(&cuts.pieces(stream), taken), expected, "{cuts:?} {}", shown(stream));
    }
}

/// What becomes of the client's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Became {
    /// For the backend, as it would be sent.
    Command(Vec<u8>),
    /// A line that announces a literal, without the marker.
    Literal(Vec<u8>, u64),
    Data(Vec<u8>),
    Last(Vec<u8>),
    /// The proxy's to answer.
    Own,
    Close,
}

fn wanted(taken: u8, count: usize, size: u64) -> bool {
    size <= BIG && taken >> (count % 8) & 1 == 0
}

fn verdicts(pieces: &[&[u8]], taken: u8) -> Vec<Became> {
    let mut relay = Relay::new(TagMaker::new(7), LINE);
    relay.show(b"ENABLE CONDSTORE");
    let (mut all, mut literals, mut uploading) = (vec![], 0, Tag::default());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (n, verdict) = relay.client(rest);
            assert!(n > 0, "a step takes something where no literal waits for a word");
            let mut announced = None;
            match verdict {
                Verdict::NeedMore => {}
                Verdict::Command(sent, bytes) => {
                    assert!(sent.tag.as_bytes() == bytes.split(|b| *b == b' ').next().unwrap_or_default());
                    all.push(Became::Command(bytes.into_owned()));
                }
                Verdict::Literal { begins, line, literal } => {
                    if let Some((tag, _)) = begins {
                        uploading = tag;
                    }
                    all.push(Became::Literal(line.to_vec(), literal.size));
                    announced = Some(literal);
                }
                Verdict::Data(bytes) => match all.last_mut() {
                    Some(Became::Data(before)) => before.extend_from_slice(bytes),
                    _ => all.push(Became::Data(bytes.to_vec())),
                },
                Verdict::Last(line) => all.push(Became::Last(line.to_vec())),
                Verdict::Own(own) => {
                    all.push(Became::Own);
                    idle(&mut relay, own);
                }
                Verdict::Close(words) => {
                    assert!(words.ends_with(b"* BYE Protocol error\r\n"));
                    all.push(Became::Close);
                    return all;
                }
            }
            if let Some(literal) = announced {
                literals += 1;
                if !decide(&mut relay, &uploading, literal, wanted(taken, literals, literal.size)) {
                    all.push(Became::Close);
                    return all;
                }
            }
            assert!(relay.unfinished().len() <= LINE, "more is kept than a line");
            rest = &rest[n..];
        }
    }
    all
}

/// False: nothing more can be read.
fn decide(relay: &mut Relay, tag: &Tag, literal: Literal, wanted: bool) -> bool {
    assert!(relay.undecided() && relay.mid_command());
    assert!(matches!(relay.client(b"x"), (0, Verdict::NeedMore)), "nothing is read before the decision");
    if wanted {
        relay.accept();
        return true;
    }
    relay.refuse(tag, literal).inspect(|now| assert_eq!(*now, literal.sync)).is_ok()
}

fn idle(relay: &mut Relay, own: Own) {
    match own {
        Own::Idle(tag) => {
            relay.begin_idle(tag);
        }
        Own::Done => assert!(relay.end_idle(false).0.is_some(), "DONE outside of IDLE"),
        Own::NotDone => assert!(relay.abandon_idle().is_some(), "not DONE outside of IDLE"),
        Own::Capability(_) | Own::Id(..) | Own::Logout(_) | Own::Refuse(_) => {}
    }
}

/// What must become of the whole stream.
fn by_hand(stream: &[u8], taken: u8) -> Vec<Became> {
    let (mut hand, mut all) = (Hand { stream, at: 0, taken, literals: 0, idle: false }, vec![]);
    while hand.command(&mut all).is_some() {}
    all
}

struct Hand<'a> {
    stream: &'a [u8],
    at: usize,
    taken: u8,
    literals: usize,
    idle: bool,
}

impl<'a> Hand<'a> {
    /// One command, or one line in IDLE. `None`: nothing more is read.
    fn command(&mut self, all: &mut Vec<Became>) -> Option<()> {
        let text = self.line(all)?;
        if let Err(error) = byhand::check(text) {
            let refused = error.is_framed() && !self.idle;
            all.push(if refused { Became::Own } else { Became::Close });
            return refused.then_some(());
        }
        if std::mem::take(&mut self.idle) {
            let literal = byhand::announced(text).is_some();
            all.push(if literal { Became::Close } else { Became::Own });
            return (!literal).then_some(());
        }
        if byhand::announced(text).is_some() {
            if command::head(text).is_err() {
                all.push(Became::Close);
                return None;
            }
            return self.literals(text, all);
        }
        all.push(self.whole(text));
        Some(())
    }

    fn whole(&mut self, text: &[u8]) -> Became {
        let Ok(head) = command::head(text) else { return Became::Own };
        self.idle = head.verb == Verb::Idle;
        let upper = text.to_ascii_uppercase();
        let context =
            upper.windows(6).any(|w| w == b"UPDATE") && [Verb::Search, Verb::Sort].contains(&head.verb);
        match head.verb.class() {
            Class::Own | Class::Denied => Became::Own,
            // Only what is shown is forwarded of it, and the spelling is the client's.
            Class::Read if head.verb == Verb::Enable => {
                let shown = |w: &&[u8]| w.eq_ignore_ascii_case(b"CONDSTORE");
                let wanted: Vec<_> = head.arguments.split(|b| *b == b' ').filter(shown).collect();
                let line = [head.tag, b" ENABLE ", &wanted.join(&b' '), b"\r\n"].concat();
                if wanted.is_empty() { Became::Own } else { Became::Command(line) }
            }
            Class::Read if context && updates(head.arguments) => Became::Own,
            Class::Read | Class::Write => Became::Command([text, b"\r\n"].concat()),
        }
    }

    /// A command from its first literal on. Each is asked for by itself.
    fn literals(&mut self, first: &'a [u8], all: &mut Vec<Became>) -> Option<()> {
        let mut text = first;
        while let Some(literal) = byhand::announced(text) {
            self.literals += 1;
            all.push(Became::Literal(text[..literal.marker].to_vec(), literal.size));
            if !wanted(self.taken, self.literals, literal.size) {
                return self.refused(literal, all);
            }
            let data = self.data(literal.size);
            if !data.is_empty() {
                all.push(Became::Data(data.to_vec()));
            }
            text = self.line(all)?;
            if byhand::check(text).is_err() {
                all.push(Became::Close);
                return None;
            }
        }
        all.push(Became::Last(text.to_vec()));
        Some(())
    }

    /// Of a refused literal nothing reaches anybody; one that comes unasked is read past.
    fn refused(&mut self, mut literal: byhand::Announced, all: &mut Vec<Became>) -> Option<()> {
        if literal.sync {
            return Some(());
        }
        if literal.size > 1 << 30 {
            all.push(Became::Close);
            return None;
        }
        loop {
            if self.data(literal.size).len() as u64 != literal.size {
                return None;
            }
            let text = self.line(all)?;
            if byhand::check(text).is_err() {
                all.push(Became::Close);
                return None;
            }
            match byhand::announced(text).filter(|l| !l.sync) {
                Some(next) => literal = next,
                None => break,
            }
        }
        all.push(Became::Own);
        Some(())
    }

    fn line(&mut self, all: &mut Vec<Became>) -> Option<&'a [u8]> {
        let line = byhand::line(self.stream, self.at);
        if line.map_or(self.stream.len() - self.at, |line| line.len() - 1) > LINE {
            all.push(Became::Close);
            return None;
        }
        self.at += line?.len();
        line.map(byhand::text)
    }

    fn data(&mut self, size: u64) -> &'a [u8] {
        let left = &self.stream[self.at..];
        let data = &left[..usize::try_from(size).map_or(left.len(), |size| size.min(left.len()))];
        self.at += data.len();
        data
    }
}

/// `RETURN (… UPDATE …)`
fn updates(arguments: &[u8]) -> bool {
    let arguments = arguments.to_ascii_uppercase();
    let Some(inner) = arguments.strip_prefix(b"RETURN (") else { return false };
    let options = inner.split(|b| *b == b')').next().unwrap_or_default();
    options.split(|b| *b == b' ').any(|word| word == b"UPDATE")
}
