//! Lines and literals: cut anywhere, the same lines; nothing lost, nothing invented, nothing beyond the limit.
//!
//! Rule: what a machine frames is what the framing by hand finds in the whole stream.

use super::{
    byhand,
    input::{Cuts, Input, shown},
};
use crate::{
    imap::fragment,
    lines::{Lines, TooLong},
};

pub(super) const WORDS: &[&str] = &[
    "a NOOP\r\n",
    "\n",
    "\r\n",
    "\r",
    "\"",
    "\\",
    "\\\"",
    "\"a\\\\\\\"",
    "{5}",
    "{12+}\r\n",
    "~{3+}",
    " {0}\r\n",
    "({7}\r\n",
    "{00000000000000000000001}",
    "{18446744073709551616}",
    "{}",
    "{+}",
    "{1x}",
    "x{5+}",
    "\0",
];

/// `limit, whether lines are taken out, cuts, stream`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (limit, takes, cuts) = (usize::from(input.byte()), input.flag(), input.cuts());
    let stream = input.rest();
    let expected = lines_by_hand(stream, limit);
    for cuts in [Cuts::none(), cuts, Cuts::every(1)] {
        assert_eq!(lines(&cuts.pieces(stream), limit, takes), expected, "{cuts:?}");
    }
    for line in stream.split(|b| *b == b'\n') {
        same_reading(line);
    }
}

/// The whole lines, and what is left or that it is too long.
type Cut = (Vec<Vec<u8>>, Result<Vec<u8>, TooLong>);

fn lines(pieces: &[&[u8]], limit: usize, takes: bool) -> Cut {
    let (mut machine, mut all) = (Lines::default(), vec![]);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (n, line) = machine.next(rest, limit);
            match line {
                Err(error) => return (all, Err(error)),
                Ok(None) => assert_eq!(n, rest.len(), "everything is taken where no line ends"),
                Ok(Some(line)) => {
                    let mut line = line.to_vec();
                    let kept = machine.held() > 0;
                    assert!(machine.unfinished().is_empty());
                    if takes && kept {
                        line = machine.take();
                        assert_eq!(machine.held(), 0, "a line that was taken out is gone");
                    }
                    all.push(line);
                }
            }
            assert!(machine.held() <= limit + 1, "held {} of {limit}", machine.held());
            rest = &rest[n..];
        }
    }
    (all, Ok(machine.unfinished().to_vec()))
}

fn lines_by_hand(stream: &[u8], limit: usize) -> Cut {
    let (mut all, mut at) = (vec![], 0);
    while let Some(line) = byhand::line(stream, at) {
        if line.len() > limit + 1 {
            return (all, Err(TooLong));
        }
        at += line.len();
        all.push(line.to_vec());
    }
    let rest = &stream[at..];
    (all, if rest.len() > limit { Err(TooLong) } else { Ok(rest.to_vec()) })
}

fn same_reading(text: &[u8]) {
    assert_eq!(fragment::text(text), byhand::text(text));
    let text = fragment::text(text);
    assert_eq!(fragment::check(text), byhand::check(text), "{}", shown(text));
    let read = fragment::literal(text).map(|l| (l.size, l.sync, l.binary, l.marker));
    let placed = byhand::announced(text).filter(|l| l.placed);
    assert_eq!(read, placed.map(|l| (l.size, l.sync, l.binary, l.marker)), "{}", shown(text));
}
