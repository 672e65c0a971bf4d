//! Requests of HTTP/1.1: cut anywhere, the same ones; and what passes is the same to parsers that forgive.
//!
//! Rule: whoever reads what passed finds as many requests in it as the watch did, however he reads lines, lengths and
//! chunks.

use super::input::{Cuts, Input};
use crate::http::{
    framing::Refused,
    wire::{Bad, Wire},
};

pub(super) const WORDS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /x HTTP/1.1\r\n",
    "POST /x HTTP/1.0\r\n",
    "Host: h\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 12\r\n",
    "Transfer-Encoding: chunked\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "X: y\r\n",
    "Connection: close, x\r\n",
    " folded\r\n",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    ":",
    ";a=b",
    "0\r\n",
    "5\r\nhello\r\n",
    "1;x\r\nZ\r\n",
    "a\r\n",
    "0\r\n\r\n",
    "hello",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    ";1\r\nZ\r\n0\r\n\r\n",
    "1;\nZ\r\n0\r\n\r\n",
    "Content-Length: 5\nContent-Length: 0\r\n",
];

/// `limit, cuts, stream`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (limit, cuts) = (200 + usize::from(input.byte()), input.cuts());
    let stream = input.rest();
    let whole = fed(&[stream], limit);
    for cuts in [cuts, Cuts::every(1)] {
        let parts = fed(&cuts.pieces(stream), limit);
        assert_eq!((parts.heads, parts.why), (whole.heads, whole.why), "{cuts:?}");
        // In one piece nothing of a bad head passes; in several its beginning is out before it shows.
        assert!(parts.passed >= whole.passed, "{cuts:?}");
    }
    let (passed, upgrade) = (&stream[..whole.passed], contains(stream, b"upgrade"));
    if whole.within || upgrade {
        return;
    }
    for reading in [Reading { lf: false, last: false }, Reading { lf: true, last: true }] {
        assert_eq!(reading.heads(passed), ends(passed, limit), "{reading:?}: {}", passed.escape_ascii());
    }
}

/// Where the heads end.
fn ends(passed: &[u8], limit: usize) -> Vec<usize> {
    let (mut wire, mut ends) = (Wire::new(limit), Vec::new());
    for (at, byte) in passed.iter().enumerate() {
        let before = wire.heads();
        assert_eq!(wire.feed(std::slice::from_ref(byte)), Ok(()));
        if wire.heads() > before {
            ends.push(at + 1);
        }
    }
    ends
}

/// What became of a stream.
struct Fed {
    heads: u64,
    passed: usize,
    why: Option<Refused>,
    /// It ends in the middle of a request.
    within: bool,
}

fn fed(pieces: &[&[u8]], limit: usize) -> Fed {
    let (mut wire, mut passed) = (Wire::new(limit), 0);
    for piece in pieces {
        match wire.feed(piece) {
            Ok(()) => passed += piece.len(),
            Err(Bad { good, why, body }) => {
                return Fed { heads: wire.heads(), passed: passed + good, why: Some(why), within: body };
            }
        }
    }
    Fed { heads: wire.heads(), passed, why: None, within: wire.is_within_request() }
}

/// A parser that forgives in its own way.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// A line ends with LF, whatever is before it; otherwise with CRLF.
    lf: bool,
    /// Of two fields the last one counts.
    last: bool,
}

impl Reading {
    /// Where it finds the heads to end.
    fn heads(self, passed: &[u8]) -> Vec<usize> {
        let (mut ends, mut rest) = (Vec::new(), passed);
        loop {
            while let [b'\r' | b'\n', after @ ..] = rest {
                rest = after;
            }
            if rest.is_empty() {
                return ends;
            }
            let (after, length) = self.after_head(rest);
            ends.push(passed.len() - after.len());
            rest = match length {
                None => self.after_chunks(after),
                Some(length) => after.get(length..).unwrap_or_default(),
            };
        }
    }

    fn line(self, bytes: &[u8]) -> (&[u8], &[u8]) {
        let end: &[u8] = if self.lf { b"\n" } else { b"\r\n" };
        match memchr::memmem::find(bytes, end) {
            Some(at) => (bytes[..at].trim_ascii_end(), &bytes[at + end.len()..]),
            None => (bytes, &[]),
        }
    }

    /// What comes after a head, and the length of its body; `None`: chunks.
    fn after_head(self, mut rest: &[u8]) -> (&[u8], Option<usize>) {
        let (mut length, mut chunks) = (None, false);
        loop {
            let (line, after) = self.line(rest);
            rest = after;
            if line.is_empty() {
                break;
            }
            let field = String::from_utf8_lossy(line).to_ascii_lowercase();
            let Some((name, value)) = field.split_once(':') else { continue };
            if name.trim() == "content-length" && (length.is_none() || self.last) {
                let digits = |c: &char| c.is_ascii_digit();
                let number: String = value.chars().skip_while(|c| !digits(c)).take_while(digits).collect();
                length = number.parse::<usize>().ok();
            }
            chunks |= name.trim() == "transfer-encoding" && value.contains("chunked");
        }
        (rest, (!chunks).then_some(length.unwrap_or(0)))
    }

    fn after_chunks(self, mut rest: &[u8]) -> &[u8] {
        loop {
            let (line, after) = self.line(rest);
            let text = String::from_utf8_lossy(line);
            let digits: String = text.trim_start().chars().take_while(char::is_ascii_hexdigit).collect();
            let size = usize::from_str_radix(&digits, 16).unwrap_or(0);
            rest = after;
            if size == 0 {
                break;
            }
            rest = self.line(rest.get(size..).unwrap_or_default()).1;
        }
        loop {
            let (line, after) = self.line(rest);
            rest = after;
            if line.is_empty() {
                return rest;
            }
        }
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}
