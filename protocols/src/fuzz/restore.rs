//! Dialogues with a backend: whatever it says, they end or wait, and after their end they say nothing.
//!
//! Rule: only lines of ours are sent, each once, the password at most once, and never after a refusal.

use super::{
    byhand,
    input::{Cuts, Input, shown},
};
use crate::imap::{
    login::{Credentials, Mechanism},
    restore::{Dialogue, Login, Mailbox, Next, Outcome, Plan},
    tag::TagMaker,
};

pub(super) const WORDS: &[&str] = &[
    "* CAPABILITY IMAP4rev1 ESEARCH\r\n",
    "HAAAAA1 OK [CAPABILITY IMAP4rev1 ESEARCH] in\r\n",
    "HAAAAA1 OK x\r\n",
    "HAAAAA2 OK x\r\n",
    "HAAAAA3 OK x\r\n",
    "HAAAAA4 OK x\r\n",
    "HAAAAA5 OK x\r\n",
    "HAAAAA6 OK x\r\n",
    "HAAAAA1 NO ",
    "[UNAVAILABLE] x\r\n",
    "+ \r\n",
    "* 2 EXISTS\r\n",
    "* 0 EXISTS\r\n",
    "* 1 RECENT\r\n",
    "* OK [UIDVALIDITY 7] x\r\n",
    "* OK [UIDNEXT 12] x\r\n",
    "* ENABLED CONDSTORE\r\n",
    "* ESEARCH (TAG \"HAAAAA2\") UID COUNT 2 ALL 5,9\r\n",
    "* ESEARCH (TAG \"HAAAAA2\") UID COUNT 0\r\n",
    "* SEARCH 5 9\r\n",
    "* LIST () \"/\" {3}\r\nabc\r\n",
    "* 1 EXPUNGE\r\n",
    "* VANISHED 5\r\n",
    "* 1 FETCH (BODY[] {12}\r\nHAAAAA1 NO\r\n)\r\n",
    "* BYE x\r\n",
    "zz OK x\r\n",
    "* ",
    "* OK {5}\r\n",
];

const PASSWORD: &[u8] = b"Ge#eim-17";
/// More is never asked: login, capabilities, and a mailbox four times.
const MOST: usize = 6;

/// `plan, cuts, stream`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let plan = plan(&mut input);
    let (cuts, stream) = (input.cuts(), input.rest());
    let whole = dialogue(&plan, stream, &Cuts::none());
    for cuts in [cuts, Cuts::every(1)] {
        assert_eq!(dialogue(&plan, stream, &cuts), whole, "{cuts:?} {}", shown(stream));
    }
}

fn plan(input: &mut Input<'_>) -> Plan {
    let client = |mechanism| {
        let (user, password) = (b"bob".to_vec(), PASSWORD.to_vec().into());
        Some(Login::Client(Credentials { mechanism, authzid: vec![], user, password }))
    };
    let (identity, user) = (b"bob".to_vec(), b"master".to_vec());
    let login = match input.below(4) {
        0 => None,
        1 => client(Mechanism::Login),
        2 => client(Mechanism::Plain),
        _ => Some(Login::Master { identity, user, password: PASSWORD.to_vec().into() }),
    };
    let name = input.one_of(&[&b"INBOX"[..], b"a \"b\" \\c", "é".as_bytes(), b"two\r\nlines"]);
    let (examine, condstore) = (input.flag(), input.flag());
    Plan {
        id: input.flag().then(|| b"NIL".to_vec()),
        login,
        enable: input.one_of(&[&b""[..], b"CONDSTORE", b"CONDSTORE QRESYNC"]).to_vec(),
        mailbox: input.flag().then(|| Mailbox { name: name.into(), examine, condstore }),
    }
}

/// All that a dialogue sends, how it ends, and how much it took.
fn dialogue(plan: &Plan, stream: &[u8], cuts: &Cuts) -> (Vec<String>, Option<usize>) {
    let mut tags = TagMaker::new(7);
    let (mut machine, first) = Dialogue::new(plan.clone(), &mut tags);
    let mut asked = Asked { plan, words: vec![] };
    if let Some(first) = &first {
        asked.sends(first);
    }
    let (mut at, mut end) = (0, None);
    for piece in cuts.pieces(stream) {
        let until = at + piece.len();
        while at < until {
            let (n, next) = machine.step(&stream[at..until], &mut tags);
            assert!(n > 0, "a step takes something");
            at += n;
            match next {
                Next::More => {}
                Next::Send(words) => {
                    assert!(end.is_none(), "said after the end: {}", shown(&words));
                    asked.sends(&words);
                }
                Next::Done(outcome) => {
                    assert!(end.is_none() && first.is_some(), "done again: {outcome:?}");
                    holds(&outcome);
                    end = Some((at, format!("{outcome:?}")));
                }
                Next::Failed(failure) => {
                    end.get_or_insert_with(|| (at, format!("{failure:?}")));
                }
            }
        }
    }
    let mut said: Vec<String> = asked.words.iter().map(|words| shown(words)).collect();
    said.extend(end.iter().map(|(_, how)| how.clone()));
    (said, end.map(|(at, _)| at))
}

/// What was found is a mailbox: as many UIDs as messages, and no mailbox where none was asked for.
fn holds(outcome: &Outcome) {
    let Some(found) = &outcome.found else { return };
    assert!(found.uids.as_ref().is_none_or(|uids| uids.len() == found.exists), "{found:?}");
}

/// What was sent so far.
struct Asked<'a> {
    plan: &'a Plan,
    words: Vec<Vec<u8>>,
}

impl Asked<'_> {
    fn sends(&mut self, words: &[u8]) {
        self.words.push(words.to_vec());
        assert!(self.words.len() <= MOST, "asks without an end: {:?}", self.words);
        let all = self.words.concat();
        let lines = all.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        // A line without a space is what a `+` asked for.
        let secret =
            |line: &&[u8]| !line.contains(&b' ') || line.windows(PASSWORD.len()).any(|w| w == PASSWORD);
        assert!(lines.filter(secret).count() <= 1, "a password twice");
        let mut at = 0;
        while let Some(line) = byhand::line(words, at) {
            at += line.len();
            let text = byhand::text(line);
            let ours = text.starts_with(b"HAAAAA") && byhand::check(text).is_ok() && line.ends_with(b"\r\n");
            assert!(
                ours || self.plan.login.is_some() && !text.contains(&b' '),
                "not a line of ours: {}",
                shown(line)
            );
        }
        assert_eq!(at, words.len(), "half a line: {}", shown(words));
    }
}
