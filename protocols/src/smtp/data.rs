//! The content of a message after DATA: where it ends, and what of it the backend is sent (RFC 5321 §4.5.2).
//!
//! Rule: only `CRLF . CRLF` ends a message, and what goes on holds no other CR or LF than in CRLF, so that a backend
//! cannot see an end where we saw none (CVE-2023-51764 and its kin). The end itself is never given out: it is the
//! commit point, and the driver's to send.
//!
//! A sender that wrote a bare LF did not take it for the end of a line, so a dot behind it was not stuffed; where it
//! becomes CRLF, the dot is. A dot before something other than CRLF is a stuffing dot whatever follows.

use memchr::memchr2;

/// What to do with a CR or an LF that is not part of CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// It becomes CRLF, and is data.
    Normalize,
    /// The message is refused.
    Reject,
}

/// A piece of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Content as it goes on; may be empty while a line end is undecided.
    Content(&'a [u8]),
    /// The end was read. What follows belongs to the next command.
    End,
    /// A bare CR or LF where none is allowed. The rest is read, and nothing of it is content.
    Refused,
}

/// Bytes that are looked at together.
const BLOCK: usize = 256;

/// Whether no pair of neighbours in `bytes` needs a decision: CR and LF stand only together, and no dot behind them.
fn is_clean(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    // Without a branch, so that many bytes are compared at once.
    !pairs.fold(false, |found, (a, b)| {
        found | ((*a == b'\r') != (*b == b'\n')) | ((*a == b'\n') & (*b == b'.'))
    })
}

/// Reads the content of one message.
#[derive(Debug)]
pub struct Content {
    at: At,
    bare: Bare,
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the beginning of a line, after CRLF.
    Line,
    /// At the beginning of a line that a bare CR or LF began.
    Converted,
    /// Inside a line.
    Inside,
    /// After a CR inside a line; it was not given out.
    Cr,
    /// After a dot at the beginning of a line; it was not given out.
    Dot,
    /// After that and a CR.
    DotCr,
}

impl Content {
    /// After 354.
    pub fn new(bare: Bare) -> Self {
        Self { at: At::Line, bare, refused: false }
    }

    /// The next piece, and how many bytes of `input` it took. Call again with the rest until all is taken.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let Some(&first) = input.first() else { return (0, Piece::Content(b"")) };
        match (self.at, first) {
            (At::Inside, _) => self.inside(input),
            (At::Line, b'.') => self.go(1, At::Dot, b""),
            // It would begin a line for the backend, and was none for the sender.
            (At::Converted, b'.') => self.go(1, At::Inside, b".."),
            (At::Line | At::Converted, _) => self.inside(input),
            (At::Cr, b'\n') => self.go(1, At::Line, b"\r\n"),
            (At::Cr, _) => self.bare(0),
            (At::Dot, b'\r') => self.go(1, At::DotCr, b""),
            // A second dot stays stuffed; any other byte had no need of the first.
            (At::Dot, b'.') => self.go(1, At::Inside, b".."),
            (At::Dot, _) => self.inside(input),
            (At::DotCr, b'\n') => {
                self.at = At::Line;
                (1, Piece::End)
            }
            (At::DotCr, _) => self.bare(0),
        }
    }

    /// Content up to the next byte that needs a decision.
    fn inside<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut end = 0;
        if input.first() != Some(&b'\n') {
            while input.get(end..=end + BLOCK).is_some_and(is_clean) {
                end += BLOCK;
            }
            // What follows begins with a whole line end.
            if end > 0 && input[end - 1] == b'\r' {
                end -= 1;
            }
        }
        loop {
            let Some(at) = memchr2(b'\r', b'\n', &input[end..]).map(|n| end + n) else {
                self.at = At::Inside;
                return self.give(input.len(), input);
            };
            match input.get(at..at + 3) {
                // The common case: a line end, and a line that begins with no dot.
                Some([b'\r', b'\n', third]) if *third != b'.' => end = at + 2,
                _ if at > 0 && (end < at || end > 0) => {
                    self.at = if end == at { At::Line } else { At::Inside };
                    return self.give(at, &input[..at]);
                }
                _ if input[at] == b'\r' => return self.go(1, At::Cr, b""),
                _ => return self.bare(1),
            }
        }
    }

    /// A bare CR that was kept back, or a bare LF: `taken` bytes of the input are it.
    fn bare(&mut self, taken: usize) -> (usize, Piece<'static>) {
        self.at = At::Converted;
        if self.bare == Bare::Reject && !std::mem::replace(&mut self.refused, true) {
            return (taken, Piece::Refused);
        }
        self.give(taken, b"\r\n")
    }

    fn go(&mut self, taken: usize, at: At, content: &'static [u8]) -> (usize, Piece<'static>) {
        self.at = at;
        self.give(taken, content)
    }

    fn give<'a>(&self, taken: usize, content: &'a [u8]) -> (usize, Piece<'a>) {
        (taken, Piece::Content(if self.refused { b"" } else { content }))
    }
}

/// Counts the bytes of a BDAT chunk (RFC 3030 §2): nothing in it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Chunk(u64);

impl Chunk {
    /// A chunk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self(size)
    }

    /// Whether all of it was read.
    pub fn is_over(self) -> bool {
        self.0 == 0
    }

    /// The part of `input` that belongs to it.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let n = usize::try_from(self.0).map_or(input.len(), |left| left.min(input.len()));
        self.0 -= n as u64;
        &input[..n]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What went on, whether it was refused, and what followed the end.
    fn read(wire: &[u8], bare: Bare, cuts: &[usize]) -> (Vec<u8>, bool, Option<Vec<u8>>) {
        let (mut content, mut refused, mut machine) = (Vec::new(), false, Content::new(bare));
        let mut from = 0;
        for to in cuts.iter().copied().chain([wire.len()]) {
            while from < to {
                let (n, piece) = machine.next(&wire[from..to]);
                from += n;
                match piece {
                    Piece::Content(bytes) => content.extend_from_slice(bytes),
                    Piece::Refused => refused = true,
                    Piece::End => return (content, refused, Some(wire[from..].to_vec())),
                }
            }
        }
        (content, refused, None)
    }

    fn normal(wire: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let (content, refused, rest) = read(wire, Bare::Normalize, &[]);
        assert!(!refused);
        (content, rest)
    }

    /// An independent reader of what goes on, as strict as a backend: lines unstuffed, or none if they hold a bare
    /// CR or LF, or an end.
    fn backend(wire: &[u8]) -> Option<Vec<Vec<u8>>> {
        let text = wire.strip_suffix(b"\r\n").or_else(|| wire.is_empty().then_some(wire))?;
        let mut lines = Vec::new();
        if wire.is_empty() {
            return Some(lines);
        }
        for line in String::from_utf8_lossy(text).split("\r\n") {
            if line.contains(['\r', '\n']) || line == "." {
                return None;
            }
            lines.push(line.strip_prefix('.').unwrap_or(line).as_bytes().to_vec());
        }
        Some(lines)
    }

    #[test]
    fn clean_content_goes_on_as_it_came() {
        for content in
            [&b""[..], b"\r\n", b"a\r\n", b"..\r\n", b"...a\r\n..b\r\n", b"a\r\n\r\nb..\r\n", b"a.\r\n"]
        {
            let wire = [content, b".\r\nQUIT\r\n"].concat();
            assert_eq!(normal(&wire), (content.to_vec(), Some(b"QUIT\r\n".to_vec())), "{content:?}");
        }
    }

    #[test]
    fn scenario_102_nothing_but_crlf_dot_crlf_ends_a_message() {
        for end in [
            &b"\n.\n"[..],
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r\n.\r",
            b"\r.\r\n",
            b"\n.\r",
            b"\r.\n",
            b"\r\n.\r\r\n",
            b"\r\n.\0\r\n",
            b"\r\n.\r\0\n",
            b"\n\n.\r\n",
            b"\r\r\n.\n",
        ] {
            let smuggled = b"MAIL FROM:<evil@example.org>\r\n";
            let wire = [b"first", end, smuggled, b"\r\n.\r\nNOOP\r\n"].concat();
            let (content, rest) = normal(&wire);
            assert_eq!(rest.as_deref(), Some(&b"NOOP\r\n"[..]), "{end:?}");
            let lines = backend(&content).unwrap_or_else(|| panic!("{end:?} went on as {content:?}"));
            assert!(lines.contains(&smuggled[..smuggled.len() - 2].to_vec()), "{end:?}: it is content");
            let (_, refused, rest) = read(&wire, Bare::Reject, &[]);
            assert!(rest.is_some() && (refused || end == b"\r\n.\0\r\n"), "{end:?}");
        }
    }

    #[test]
    fn dots_keep_their_meaning() {
        for (wire, lines) in [
            (&b"a\n.b\r\n.\r\n"[..], vec!["a", ".b"]),
            (b"a\n..b\r\n.\r\n", vec!["a", "..b"]),
            (b".a\r\n.\r\n", vec!["a"]),
            (b"..a\r\n.\r\n", vec![".a"]),
            (b".\na\r\n.\r\n", vec!["", "a"]),
            (b"\r.\ra\r\n.\r\n", vec!["", ".", "a"]),
        ] {
            let (content, _) = normal(wire);
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
            assert_eq!(backend(&content), Some(lines), "{wire:?}");
        }
    }

    #[test]
    fn a_refused_message_is_read_to_its_end_and_gives_nothing_more() {
        let (content, refused, rest) = read(b"a\r\nb\nc\r\nd\re\r\n.\r\nRSET\r\n", Bare::Reject, &[]);
        assert_eq!((content, refused, rest), (b"a\r\nb".to_vec(), true, Some(b"RSET\r\n".to_vec())));
    }

    #[test]
    fn a_chunk_is_counted() {
        let mut chunk = Chunk::new(5);
        assert_eq!(chunk.next(b"\r\n."), b"\r\n.");
        assert_eq!(chunk.next(b"\r\nRSET"), b"\r\n");
        assert!(chunk.is_over());
    }

    fn wires() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            4 => Just(&b"\r\n"[..]), 2 => Just(&b"\n"[..]), 2 => Just(&b"\r"[..]), 4 => Just(&b"."[..]),
            2 => Just(&b"x"[..]), 1 => Just(&b"\r\n.\r\n"[..]), 1 => Just(&b"text text"[..]),
        ];
        prop::collection::vec(pieces, 0..40)
            .prop_map(|pieces| [pieces.concat(), b"\r\n.\r\n".to_vec()].concat())
    }

    proptest! {
        #[test]
        fn many_bytes_are_read_as_one_by_one(
            pieces in prop::collection::vec(prop_oneof![
                8 => "[a-z ]{0,80}\r\n",
                4 => "[a-z]{0,300}",
                1 => "\r|\n|\\.|\r\n\\.\\.|\r\n\\.",
            ], 0..60),
            reject: bool,
        ) {
            let wire = pieces.concat().replace("\r\n.\r\n", "\r\n..\r\n").into_bytes();
            let bare = if reject { Bare::Reject } else { Bare::Normalize };
            let single: Vec<usize> = (1..wire.len()).collect();
            prop_assert_eq!(read(&wire, bare, &[]), read(&wire, bare, &single));
        }

        /// However the bytes come, the same goes on; and a strict backend finds no end and no bare byte in it.
        #[test]
        fn any_cutting_gives_the_same(
            wire in wires(), cuts in prop::collection::vec(0usize..200, 0..8), reject in any::<bool>()
        ) {
            let bare = if reject { Bare::Reject } else { Bare::Normalize };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (wire.len() + 1)).collect();
            cuts.sort_unstable();
            let bytewise: Vec<usize> = (1..wire.len()).collect();
            let whole = read(&wire, bare, &[]);
            prop_assert_eq!(&whole, &read(&wire, bare, &cuts));
            prop_assert_eq!(&whole, &read(&wire, bare, &bytewise));
            prop_assert!(whole.2.is_some());
            if !whole.1 {
                prop_assert!(backend(&whole.0).is_some(), "{:?} -> {:?}", wire, whole.0);
            }
        }
    }
}
