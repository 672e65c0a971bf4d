//! The bytes of a client of HTTP/1.1, watched on their way to a parser that forgives more than is good.
//!
//! Rule: what passes here is framed in one way only, so that it does not matter who reads it; nothing is changed.

use super::framing::{ENDS, Next, Refused, check_raw, is_token};

/// The longest line with a chunk's size, extensions included.
const SIZE_LINE: usize = 256 + 16;
/// More digits than any chunk has bytes for.
const DIGITS: usize = 16;

/// So many bytes of empty lines may stand before a head.
const BLANK: usize = 16;

/// Where the bytes of a connection are.
#[derive(Debug)]
pub struct Wire {
    at: At,
    /// The longest head, and the longest trailer.
    limit: usize,
    heads: u64,
    /// Something else than HTTP may follow the request.
    upgrade: bool,
}

#[derive(Debug)]
enum At {
    /// In a head, or before one; what came of it in earlier pieces.
    Head(Vec<u8>),
    /// In a body, so many bytes before its end.
    Length(u64),
    /// In the line with a chunk's size.
    Size(Vec<u8>),
    /// In a chunk, so many bytes before its end with CRLF.
    Chunk { left: u64, end: u8 },
    /// After the last chunk.
    Trailer(Vec<u8>),
    /// It may be anything. True: something came.
    Opaque(bool),
    /// Nothing after it is looked at.
    Refused(Refused),
}

/// What must not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// Bytes of the piece that may pass.
    pub good: usize,
    /// Why not more.
    pub why: Refused,
    /// It is in the body of a request whose head has passed.
    pub body: bool,
}

impl Wire {
    /// Before the first request of a connection; heads may be so long.
    pub fn new(limit: usize) -> Self {
        Self { at: At::Head(Vec::new()), limit, heads: 0, upgrade: false }
    }

    /// Looks at a piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Bad> {
        let mut rest = piece;
        while !rest.is_empty() {
            let body = !matches!(self.at, At::Head(_));
            match self.step(rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(why) => {
                    self.at = At::Refused(why);
                    return Err(Bad { good: piece.len() - rest.len(), why, body });
                }
            }
        }
        Ok(())
    }

    /// Heads that have passed as a whole.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head has begun to pass.
    pub fn is_within_head(&self) -> bool {
        matches!(&self.at, At::Head(begun) if !begun.is_empty())
    }

    /// Whether what has passed ends in the middle of a request.
    pub fn is_within_request(&self) -> bool {
        !matches!(&self.at, At::Head(begun) if begun.is_empty())
    }

    /// Why nothing passes any more.
    pub fn refused(&self) -> Option<Refused> {
        if let At::Refused(why) = self.at { Some(why) } else { None }
    }

    /// The request that might have brought something else did not. False: it is not known what came since.
    pub fn resume(&mut self) -> bool {
        if let At::Opaque(came) = self.at {
            self.at = At::Head(Vec::new());
            return !came;
        }
        true
    }

    /// Takes some bytes; how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        match &mut self.at {
            At::Head(begun) => {
                // As most come: nothing is copied.
                if let (true, Some(length)) = (begun.is_empty(), whole_head(bytes, self.limit)) {
                    let next = check_raw(&bytes[..length])?;
                    self.head_passes(next);
                    return Ok(length);
                }
                let blank = begun.iter().chain(bytes).take_while(|b| b"\r\n".contains(b));
                if blank.take(BLANK + 1).count() > BLANK {
                    return Err(Refused::Field);
                }
                let (taken, whole) = collect(begun, bytes, self.limit, is_head)?;
                if let Some(head) = whole {
                    let next = check_raw(&head)?;
                    self.head_passes(next);
                }
                Ok(taken)
            }
            At::Length(left) => {
                let taken = least(*left, bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.at = self.after_body();
                }
                Ok(taken)
            }
            At::Size(begun) => {
                let (taken, whole) = collect(begun, bytes, SIZE_LINE, |line| line.ends_with(b"\n"))
                    .map_err(|_| Refused::Chunk)?;
                if let Some(line) = whole {
                    self.at = match size(&line)? {
                        0 => At::Trailer(Vec::new()),
                        left => At::Chunk { left, end: 0 },
                    };
                }
                Ok(taken)
            }
            At::Chunk { left, .. } if *left > 0 => {
                let taken = least(*left, bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            At::Chunk { end, .. } => {
                if bytes[0] != b"\r\n"[usize::from(*end)] {
                    return Err(Refused::Chunk);
                }
                *end += 1;
                if *end == 2 {
                    self.at = At::Size(Vec::new());
                }
                Ok(1)
            }
            At::Trailer(begun) => {
                let (taken, whole) = collect(begun, bytes, self.limit, is_trailer)?;
                if let Some(trailer) = whole {
                    check_trailer(&trailer)?;
                    self.at = self.after_body();
                }
                Ok(taken)
            }
            At::Opaque(came) => {
                *came = true;
                Ok(bytes.len())
            }
            At::Refused(why) => Err(*why),
        }
    }

    fn head_passes(&mut self, next: Next) {
        self.heads += 1;
        self.upgrade = next.upgrade;
        self.at = match next {
            Next { chunks: true, .. } => At::Size(Vec::new()),
            Next { length: 0, .. } => self.after_body(),
            Next { length, .. } => At::Length(length),
        };
    }

    fn after_body(&self) -> At {
        if self.upgrade { At::Opaque(false) } else { At::Head(Vec::new()) }
    }
}

fn least(left: u64, here: usize) -> usize {
    usize::try_from(left).map_or(here, |left| left.min(here))
}

/// How long the head is that these bytes begin with, if all of it is there and nothing stands before it.
fn whole_head(bytes: &[u8], limit: usize) -> Option<usize> {
    if matches!(bytes.first(), None | Some(b'\r' | b'\n')) {
        return None;
    }
    let length = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    (length <= limit).then_some(length)
}

/// A head ends with an empty line; what is nothing but empty lines stands before one (RFC 9112 §2.2).
fn is_head(all: &[u8]) -> bool {
    all.ends_with(b"\r\n\r\n") && all.iter().take(BLANK + 1).any(|b| !b"\r\n".contains(b))
}

fn is_trailer(all: &[u8]) -> bool {
    all == b"\r\n" || all.ends_with(b"\r\n\r\n")
}

/// Adds bytes to what has begun, up to its end: how many, and the whole of it if that was there.
fn collect(
    begun: &mut Vec<u8>,
    bytes: &[u8],
    limit: usize,
    ended: impl Fn(&[u8]) -> bool,
) -> Result<(usize, Option<Vec<u8>>), Refused> {
    let mut taken = 0;
    // Every end is the end of a line.
    while let Some(line) = memchr::memchr(b'\n', &bytes[taken..]) {
        begun.extend_from_slice(&bytes[taken..=taken + line]);
        taken += line + 1;
        if begun.len() > limit {
            return Err(Refused::TooLong);
        }
        if ended(begun) {
            return Ok((taken, Some(std::mem::take(begun))));
        }
    }
    begun.extend_from_slice(&bytes[taken..]);
    if begun.len() > limit { Err(Refused::TooLong) } else { Ok((bytes.len(), None)) }
}

/// The size in a chunk's line.
fn size(line: &[u8]) -> Result<u64, Refused> {
    let line = line.strip_suffix(b"\r\n").ok_or(Refused::Chunk)?;
    let (digits, extension) = line.split_at(memchr::memchr(b';', line).unwrap_or(line.len()));
    let plain = |b: &u8| *b == b'\t' || (b' '..0x7f).contains(b);
    if !(1..=DIGITS).contains(&digits.len()) || !extension.iter().all(plain) {
        return Err(Refused::Chunk);
    }
    let number = digits.iter().try_fold(0u64, |sum, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(sum << 4 | u64::from(digit))
    });
    number.ok_or(Refused::Chunk)
}

/// Fields that would have to be known before the body have no place after it.
fn check_trailer(trailer: &[u8]) -> Result<(), Refused> {
    let text = str::from_utf8(trailer).map_err(|_| Refused::Chunk)?;
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let plain = lines.all(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            is_token(name)
                && !ENDS.iter().any(|end| name.eq_ignore_ascii_case(end))
                && !value.bytes().any(|b| b"\r\n\0".contains(&b))
        })
    });
    if plain { Ok(()) } else { Err(Refused::Chunk) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many heads of this passed, and what was refused after how many bytes.
    fn fed(bytes: &[u8], pieces: usize) -> (u64, Option<(usize, Refused, bool)>) {
        let (mut wire, mut before) = (Wire::new(1000), 0);
        for piece in bytes.chunks(pieces.max(1)) {
            if let Err(Bad { good, why, body }) = wire.feed(piece) {
                return (wire.heads(), Some((before + good, why, body)));
            }
            before += piece.len();
        }
        (wire.heads(), None)
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn few_empty_lines_may_stand_before_a_head_and_many_are_refused_at_once() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for lines in [0, 1, BLANK / 2] {
            for pieces in [1, 3, 100] {
                let bytes = "\r\n".repeat(lines) + head;
                assert_eq!(fed(bytes.as_bytes(), pieces), (1, None), "{lines} {pieces}");
            }
        }
        for pieces in [1, 2, 7] {
            let (heads, refused) = fed(("\r\n".repeat(400) + head).as_bytes(), pieces);
            let (after, why, _) = refused.unwrap();
            assert_eq!((heads, why), (0, Refused::Field));
            assert!(after <= BLANK + pieces, "{after} {pieces}");
        }
    }

    #[test]
    fn requests_in_a_row_are_told_apart() {
        let sized = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /";
        for (text, heads) in [
            (GET.to_owned(), 1),
            (format!("\r\n{GET}\r\n\r\n{GET}"), 2),
            (format!("{sized}{GET}"), 2),
            (format!("{CHUNKED}5\r\nGET /\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n{GET}"), 2),
            (format!("{CHUNKED}0\r\nX: y\r\nZ: \r\n\r\n{GET}"), 2),
            (format!("{sized}{CHUNKED}0\r\n\r\n{sized}"), 3),
        ] {
            for pieces in [1, 2, 7, 1000] {
                assert_eq!(fed(text.as_bytes(), pieces), (heads, None), "{text:?} in pieces of {pieces}");
            }
        }
    }

    #[test]
    fn chunks_are_framed_in_one_way() {
        for bad in [
            ";1\r\nZ\r\n0\r\n\r\n",
            "\r\n1\r\nZ\r\n0\r\n\r\n",
            "1;a\nZZ\r\n0\r\n\r\n",
            "1;a\rZ\r\n",
            "1 \r\nZ\r\n",
            " 1\r\nZ\r\n",
            "0x1\r\nZ\r\n",
            "+1\r\nZ\r\n",
            "00000000000000001\r\nZ\r\n",
            "1\nZ\r\n",
            "1\r\nZZ\r\n",
            "1\r\nZ\n0\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            "0\r\nContent-Length: 5\r\n\r\n",
            "0\r\nX: y\nZ: a\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
        ] {
            let text = format!("{CHUNKED}{bad}");
            for pieces in [1, 3, 1000] {
                let (heads, refused) = fed(text.as_bytes(), pieces);
                assert!(
                    heads == 1 && matches!(refused, Some((_, Refused::Chunk, true))),
                    "{bad:?}: {refused:?}"
                );
            }
        }
        let long = format!("{CHUNKED}1;{}\r\nZ\r\n", "x".repeat(300));
        assert_eq!(fed(long.as_bytes(), 1000).1.map(|bad| bad.1), Some(Refused::Chunk));
    }

    #[test]
    fn a_bad_head_does_not_begin_to_pass_behind_a_good_one() {
        let text = format!("{GET}GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n");
        assert_eq!(fed(text.as_bytes(), 1000), (1, Some((GET.len(), Refused::Host, false))));
        let mut wire = Wire::new(1000);
        assert!(wire.feed(b"nonsense\r\n\r\n").is_err() && wire.refused() == Some(Refused::Field));
        assert!(wire.feed(GET.as_bytes()).is_err(), "for ever");
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(1000));
        assert_eq!(fed(long.as_bytes(), 100).1.map(|bad| bad.1), Some(Refused::TooLong));
    }

    #[test]
    fn what_follows_an_upgrade_is_not_looked_at() {
        let upgrade = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let mut wire = Wire::new(1000);
        wire.feed(upgrade).unwrap();
        wire.feed(b"\x81\x05hello\r\n\0").unwrap();
        assert!(!wire.resume(), "nobody knows what that was");
        let mut wire = Wire::new(1000);
        wire.feed(upgrade).unwrap();
        assert!(wire.resume());
        wire.feed(GET.as_bytes()).unwrap();
        assert!(wire.heads() == 2 && wire.resume());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in prop::collection::vec(prop::sample::select(
            &b"\r\n\r\n01;:GaX \t"[..]), 0..60), pieces in 1usize..5) {
            for begin in ["", CHUNKED, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"] {
                let text = [begin.as_bytes(), &bytes].concat();
                let (whole, parts) = (fed(&text, 1000), fed(&text, pieces));
                prop_assert_eq!(whole.0, parts.0);
                prop_assert_eq!(whole.1.map(|bad| bad.1), parts.1.map(|bad| bad.1));
            }
        }
    }
}
