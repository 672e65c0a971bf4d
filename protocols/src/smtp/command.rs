//! A client's command line: its verb, and what the proxy must know of its arguments (RFC 5321 §4.1.1).
//!
//! Rule: a line is read for what decides its way; addresses and parameters go on as the client wrote them.

/// The verbs that the proxy tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `HELO`
    Helo,
    /// `EHLO`
    Ehlo,
    /// `LHLO` (RFC 2033)
    Lhlo,
    /// `STARTTLS`
    Starttls,
    /// `AUTH`
    Auth,
    /// `MAIL`
    Mail,
    /// `RCPT`
    Rcpt,
    /// `DATA`
    Data,
    /// `BDAT` (RFC 3030)
    Bdat,
    /// `RSET`
    Rset,
    /// `NOOP`
    Noop,
    /// `QUIT`
    Quit,
    /// `VRFY`
    Vrfy,
    /// `EXPN`
    Expn,
    /// `HELP`
    Help,
    /// `XFORWARD` (Postfix), which a delivering server says to an LMTP server.
    Xforward,
    /// Anything else, what only a trusted proxy may say (XCLIENT) included.
    Other,
}

const VERBS: [(&str, Verb); 16] = [
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("EHLO", Verb::Ehlo),
    ("QUIT", Verb::Quit),
    ("RSET", Verb::Rset),
    ("BDAT", Verb::Bdat),
    ("LHLO", Verb::Lhlo),
    ("AUTH", Verb::Auth),
    ("NOOP", Verb::Noop),
    ("HELO", Verb::Helo),
    ("VRFY", Verb::Vrfy),
    ("EXPN", Verb::Expn),
    ("HELP", Verb::Help),
    ("STARTTLS", Verb::Starttls),
    ("XFORWARD", Verb::Xforward),
];

/// A line cut into verb and arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// What is asked for.
    pub verb: Verb,
    /// What follows the verb, without spaces around it.
    pub arguments: &'a [u8],
}

/// Reads a line without its line end.
pub fn command(text: &[u8]) -> Command<'_> {
    let end = memchr::memchr(b' ', text).unwrap_or(text.len());
    let (word, arguments) = text.split_at(end);
    let verb = VERBS.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word));
    Command { verb: verb.map_or(Verb::Other, |(_, verb)| *verb), arguments: arguments.trim_ascii() }
}

/// Why a line cannot be a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A CR or LF that is no part of its CRLF: another server could see two commands (semantics §2.12).
    #[error("bare CR or LF in a command")]
    Bare,
    /// NUL.
    #[error("NUL in a command")]
    Nul,
}

/// The text of a line that ends with LF.
pub fn text(line: &[u8]) -> Result<&[u8], LineError> {
    let text = line.strip_suffix(b"\r\n").ok_or(LineError::Bare)?;
    match memchr::memchr3(b'\r', b'\n', 0, text) {
        Some(at) if text[at] == 0 => Err(LineError::Nul),
        Some(_) => Err(LineError::Bare),
        None => Ok(text),
    }
}

/// Why a command's arguments cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in the arguments")]
pub struct Syntax;

/// The arguments of MAIL or RCPT: `FROM:<…>` or `TO:<…>`, then parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// Between the angle brackets.
    pub address: &'a [u8],
    /// Parameters, `KEY` or `KEY=value`, separated by spaces.
    pub parameters: &'a [u8],
}

impl<'a> Path<'a> {
    /// Reads what follows `MAIL` (`keyword` is `FROM:`) or `RCPT` (`TO:`). A space before the path is borne, as every
    /// server bears it.
    pub fn read(arguments: &'a [u8], keyword: &[u8]) -> Result<Self, Syntax> {
        let (head, rest) = arguments.split_at_checked(keyword.len()).ok_or(Syntax)?;
        if !head.eq_ignore_ascii_case(keyword) {
            return Err(Syntax);
        }
        let inside = rest.trim_ascii_start().strip_prefix(b"<").ok_or(Syntax)?;
        let end = closing(inside).ok_or(Syntax)?;
        let parameters = &inside[end + 1..];
        if !parameters.is_empty() && parameters[0] != b' ' {
            return Err(Syntax);
        }
        Ok(Self { address: &inside[..end], parameters: parameters.trim_ascii() })
    }

    /// Key and value of each parameter.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        self.parameters.split(|b| *b == b' ').filter(|word| !word.is_empty()).map(
            |word| match memchr::memchr(b'=', word) {
                Some(at) => (&word[..at], Some(&word[at + 1..])),
                None => (word, None),
            },
        )
    }

    /// The value of `SIZE=` (RFC 1870).
    pub fn size(&self) -> Option<u64> {
        let (_, value) = self.parameters().find(|(key, _)| key.eq_ignore_ascii_case(b"SIZE"))?;
        std::str::from_utf8(value?).ok()?.parse().ok()
    }
}

/// Where the path ends: `>` outside of a quoted local part.
fn closing(inside: &[u8]) -> Option<usize> {
    let (mut quoted, mut at) = (false, 0);
    while let Some(byte) = inside.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The arguments of BDAT: size, and whether it is the last chunk.
pub fn chunk(arguments: &[u8]) -> Result<(u64, bool), Syntax> {
    let mut words = arguments.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.iter().all(u8::is_ascii_digit)).ok_or(Syntax)?;
    let size = std::str::from_utf8(size).ok().and_then(|word| word.parse().ok()).ok_or(Syntax)?;
    match (words.next(), words.next()) {
        (None, _) => Ok((size, false)),
        (Some(last), None) if last.eq_ignore_ascii_case(b"LAST") => Ok((size, true)),
        (Some(_), _) => Err(Syntax),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_in_any_case() {
        assert_eq!(command(b"mail FROM:<a> "), Command { verb: Verb::Mail, arguments: b"FROM:<a>" });
        assert_eq!(command(b"StartTLS").verb, Verb::Starttls);
        assert_eq!(command(b"XCLIENT ADDR=1.2.3.4").verb, Verb::Other);
        assert_eq!(command(b""), Command { verb: Verb::Other, arguments: b"" });
        assert_eq!(command(b" MAIL").verb, Verb::Other);
    }

    #[test]
    fn lines_are_strict() {
        assert_eq!(text(b"NOOP\r\n"), Ok(&b"NOOP"[..]));
        for bare in [&b"NOOP\n"[..], b"NO\rOP\r\n", b"NOOP\r\r\n"] {
            assert_eq!(text(bare), Err(LineError::Bare));
        }
        assert_eq!(text(b"NO\0OP\r\n"), Err(LineError::Nul));
    }

    #[test]
    fn paths() {
        let path = |text: &'static [u8]| Path::read(text, b"FROM:");
        let a = path(b"FROM:<a@b> SIZE=10  BODY=8BITMIME SMTPUTF8").unwrap();
        assert_eq!((a.address, a.size()), (&b"a@b"[..], Some(10)));
        let keys: Vec<_> = a.parameters().map(|p| p.0).collect();
        assert_eq!(keys, [&b"SIZE"[..], b"BODY", b"SMTPUTF8"]);
        assert_eq!(path(b"from: <>").unwrap().address, b"");
        assert_eq!(path(br#"FROM:<"a>\"b"@c> X"#).unwrap().address, br#""a>\"b"@c"#);
        for bad in [&b"FROM:a@b"[..], b"FROM:<a", b"TO:<a>", b"FROM:<a>X", b"", b"FROM"] {
            assert_eq!(path(bad), Err(Syntax), "{bad:?}");
        }
    }

    #[test]
    fn chunks() {
        assert_eq!(chunk(b"10"), Ok((10, false)));
        assert_eq!(chunk(b"0 last"), Ok((0, true)));
        for bad in [&b""[..], b"-1", b"x", b"10 FIRST", b"10 LAST more", b"99999999999999999999", b"+5"] {
            assert_eq!(chunk(bad), Err(Syntax), "{bad:?}");
        }
    }
}
