//! Bytes → lines and literals, in both directions (semantics §1.0, RFC 3501 §4.3, RFC 7888).
//!
//! Rule: both sides of the proxy must agree on where a command ends, so whatever could be read in two ways is
//! refused here: bare CR, NUL, an open quote at the end of a line.

use memchr::memchr3_iter;

use crate::lines::TooLong;

/// What a line ending in `{n}` announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    /// Bytes that follow the line end.
    pub size: u64,
    /// The sender waits for `+` (`{n}`), or does not (`{n+}`).
    pub sync: bool,
    /// `~{n}`: may contain NUL (RFC 3516).
    pub binary: bool,
    /// Where in the line the marker begins.
    pub marker: usize,
}

/// The literal that `line` (without its line end) announces, if it does: the marker stands where an argument
/// may begin.
pub fn literal(line: &[u8]) -> Option<Literal> {
    marker(line).filter(|l| l.marker == 0 || matches!(line[l.marker - 1], b' ' | b'('))
}

/// A line that ends like a marker.
fn marker(line: &[u8]) -> Option<Literal> {
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let (digits, sync) = match inner[open + 1..].strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (&inner[open + 1..], true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')));
    let binary = open > 0 && line[open - 1] == b'~';
    // A number beyond u64 is still a literal, and one that nobody accepts.
    Some(Literal { size: size.unwrap_or(u64::MAX), sync, binary, marker: open - usize::from(binary) })
}

/// Why a line cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than the limit, and no end in sight.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// A CR that is not part of the line end.
    #[error("bare CR in a command")]
    BareCr,
    /// A NUL outside of a literal.
    #[error("NUL in a command")]
    Nul,
    /// A quoted string without its end, and nothing at the end of the line that some would take for a literal.
    #[error("unfinished quoted string")]
    OpenQuote,
    /// `{n}` at the end of an atom or inside quotes: some would read a literal.
    #[error("literal marker where no argument begins")]
    Marker,
}

impl LineError {
    /// Whether what follows can still be framed: the line's end is known to both sides.
    pub fn is_framed(self) -> bool {
        match self {
            Self::OpenQuote => true,
            Self::TooLong(_) | Self::BareCr | Self::Nul | Self::Marker => false,
        }
    }
}

/// `line` without its CRLF or LF.
pub fn text(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Refuses a client line (without its line end) that a backend might frame differently.
pub fn check(text: &[u8]) -> Result<(), LineError> {
    let (mut open, mut escaped_until) = (false, 0);
    for at in memchr3_iter(b'"', b'\r', 0, text) {
        match text[at] {
            b'\r' => return Err(LineError::BareCr),
            0 => return Err(LineError::Nul),
            _ if !open => {
                open = true;
                escaped_until = at + 1;
            }
            // A quote after an odd number of backslashes is part of the string.
            _ => {
                let slashes = text[escaped_until..at].iter().rev().take_while(|b| **b == b'\\').count();
                open = slashes % 2 == 1;
            }
        }
    }
    match () {
        () if marker(text).is_some() && (open || literal(text).is_none()) => Err(LineError::Marker),
        () if open => Err(LineError::OpenQuote),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        let l = literal(b"a APPEND x {12}").unwrap();
        assert_eq!((l.size, l.sync, l.binary, l.marker), (12, true, false, 11));
        let l = literal(b"a APPEND x ~{12+}").unwrap();
        assert_eq!((l.size, l.sync, l.binary, l.marker), (12, false, true, 11));
        assert_eq!(literal(b"{9223372036854775808}").unwrap().size, 1 << 63);
        assert_eq!(literal(b"{99999999999999999999}").unwrap().size, u64::MAX);
        assert_eq!(literal(b"a {000000000000000000010+}").unwrap().size, 10);
        for none in [&b"a {}"[..], b"a {1x}", b"a 1}", b"a {-1}", b"a {+}", b"a x{5+}"] {
            assert_eq!(literal(none), None, "{}", String::from_utf8_lossy(none));
        }
    }

    #[test]
    fn quotes() {
        for (line, want) in [
            (&br#"a LOGIN "x" "y""#[..], Ok(())),
            (br#"a LOGIN "x\"" "y\\""#, Ok(())),
            (br#"a LOGIN "x"#, Err(LineError::OpenQuote)),
            (br#"a LOGIN "x\""#, Err(LineError::OpenQuote)),
            (br#"a LOGIN "x {5}"#, Err(LineError::Marker)),
            (br#"a LOGIN "{5+}"#, Err(LineError::Marker)),
            (b"a \r b", Err(LineError::BareCr)),
            (b"a \0", Err(LineError::Nul)),
        ] {
            assert_eq!(check(line), want, "{}", String::from_utf8_lossy(line));
        }
    }
}
