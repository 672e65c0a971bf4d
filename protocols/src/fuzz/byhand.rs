//! Framing written a second time, over whole streams and byte by byte, to be compared with the machines.
//!
//! Rule: nothing here is shared with the machines; what is simple to read stands here, however slow.

use crate::imap::fragment::LineError;

/// The line that begins at `at`, its LF included; `None` if its end has not come.
pub(crate) fn line(stream: &[u8], at: usize) -> Option<&[u8]> {
    let end = stream[at..].iter().position(|b| *b == b'\n')?;
    Some(&stream[at..=at + end])
}

/// A line without its end.
pub(crate) fn text(line: &[u8]) -> &[u8] {
    match line {
        [text @ .., b'\r', b'\n'] | [text @ .., b'\n' | b'\r'] => text,
        text => text,
    }
}

/// A literal as a line announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) size: u64,
    pub(crate) sync: bool,
    pub(crate) binary: bool,
    /// Where its marker begins.
    pub(crate) marker: usize,
    /// Whether an argument may begin there.
    pub(crate) placed: bool,
}

/// What looks like a literal at the end of `text`.
pub(crate) fn announced(text: &[u8]) -> Option<Announced> {
    let open = (0..text.len()).find(|at| text[*at] == b'{' && is_count(&text[at + 1..]))?;
    let inner = &text[open + 1..text.len() - 1];
    let sync = !inner.ends_with(b"+");
    let digits = &inner[..inner.len() - usize::from(!sync)];
    let significant: &[u8] = &digits[digits.iter().take_while(|b| **b == b'0').count()..];
    let value = significant.iter().take(30).fold(0u128, |n, b| n * 10 + u128::from(b - b'0'));
    let binary = text[..open].ends_with(b"~");
    let marker = open - usize::from(binary);
    let placed = marker == 0 || b" (".contains(&text[marker - 1]);
    Some(Announced { size: u64::try_from(value).unwrap_or(u64::MAX), sync, binary, marker, placed })
}

/// Digits, perhaps a plus, the closing brace, and nothing else.
fn is_count(rest: &[u8]) -> bool {
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    digits > 0 && matches!(&rest[digits..], b"}" | b"+}")
}

/// Whether a client's line may be read at all.
pub(crate) fn check(text: &[u8]) -> Result<(), LineError> {
    let (mut open, mut escaped) = (false, false);
    for byte in text {
        match byte {
            b'\r' => return Err(LineError::BareCr),
            0 => return Err(LineError::Nul),
            _ if escaped => escaped = false,
            b'\\' => escaped = open,
            b'"' => open = !open,
            _ => {}
        }
    }
    match announced(text) {
        Some(marker) if open || !marker.placed => Err(LineError::Marker),
        Some(_) => Ok(()),
        None if open => Err(LineError::OpenQuote),
        None => Ok(()),
    }
}

/// Where a stream of responses stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between two responses.
    Between,
    /// In a literal with so many bytes to come.
    Literal(u64),
    /// Behind a literal, in the rest of its response.
    Behind,
    /// In the middle of a line.
    Line,
}

/// Splits a server's stream into responses, each with its literals, and says where it ends.
pub(crate) fn responses(stream: &[u8]) -> (Vec<&[u8]>, Place) {
    let (mut all, mut begin, mut at, mut place) = (vec![], 0, 0, Place::Between);
    while at < stream.len() {
        let Some(line) = line(stream, at) else { return (all, Place::Line) };
        at += line.len();
        let literal = announced(text(line)).filter(|l| l.placed && (place == Place::Behind || is_data(line)));
        let Some(literal) = literal else {
            all.push(&stream[begin..at]);
            (begin, place) = (at, Place::Between);
            continue;
        };
        place = Place::Behind;
        let left = (stream.len() - at) as u64;
        if literal.size > left {
            return (all, Place::Literal(literal.size - left));
        }
        at += usize::try_from(literal.size).unwrap_or(usize::MAX);
    }
    (all, place)
}

/// Whether a response may hold literals: untagged, and no status (RFC 3501 §7).
pub(crate) fn is_data(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"* ") else { return false };
    let word = text(rest).split(|b| *b == b' ').next().unwrap_or_default();
    !["OK", "NO", "BAD", "BYE", "PREAUTH"].iter().any(|status| word.eq_ignore_ascii_case(status.as_bytes()))
}

/// The tag of a tagged response.
pub(crate) fn tag(response: &[u8]) -> Option<&[u8]> {
    let end = response.iter().position(|b| *b == b' ')?;
    (!matches!(response[0], b'*' | b'+')).then_some(&response[..end])
}
