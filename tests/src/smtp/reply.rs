//! Replies: three digits, and lines that all carry them.
//!
//! Rule: only the form is judged here; whether a reply fits its command is the oracle's to say.

use std::{fmt, io};

use crate::{
    client::{Error, Result, Taken, take_line},
    oracle::Violation,
};

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The verb it answers; `DOT` for a message, `greeting` for the first.
    pub verb: String,
    /// Its three digits.
    pub code: u16,
    /// What stands behind them, line by line.
    pub lines: Vec<String>,
    /// No other reply to the same command follows; false for all but the last of LMTP's.
    pub last: bool,
}

impl Reply {
    /// The reply, or an error if it is a refusal.
    pub fn ok(self) -> Result<Self> {
        if self.code < 400 { Ok(self) } else { Err(Error::Violation(Violation(format!("refused: {self}")))) }
    }

    /// 2, 3, 4 or 5.
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// The first line's text.
    pub fn text(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }

    /// The enhanced status code that the first line begins with.
    pub fn enhanced(&self) -> Option<&str> {
        enhanced(self.text())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.verb, self.code, self.lines.join(" | "))
    }
}

/// `2.1.5` at the start of a text (RFC 3463).
pub(crate) fn enhanced(text: &str) -> Option<&str> {
    let code = text.split(' ').next()?;
    let mut parts = code.split('.');
    let number = |part: Option<&str>, digits| {
        part.is_some_and(|p| (1..=digits).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    let three = number(parts.next(), 1) && number(parts.next(), 3) && number(parts.next(), 3);
    (three && parts.next().is_none()).then_some(code)
}

/// A reply that is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Partial {
    line: Vec<u8>,
    code: Option<u16>,
    lines: Vec<String>,
}

impl Partial {
    /// Takes bytes of one line; how many, and the code and the lines of a reply that is whole.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Taken<(u16, Vec<String>)> {
        let (taken, line) = take_line(&mut self.line, chunk)?;
        let Some(line) = line else { return Ok((taken, None)) };
        let broken =
            || io::Error::new(io::ErrorKind::InvalidData, format!("no reply: {}", line.escape_ascii()));
        let text = std::str::from_utf8(&line).map_err(|_| broken())?;
        let code = text.get(..3).filter(|c| c.bytes().all(|b| b.is_ascii_digit())).ok_or_else(broken)?;
        let code: u16 = code.parse().map_err(|_| broken())?;
        let goes_on = match text.as_bytes().get(3) {
            Some(b'-') => true,
            Some(b' ') | None => false,
            Some(_) => return Err(broken()),
        };
        let legal = (200..600).contains(&code) && code / 10 % 10 <= 5;
        let control = text.bytes().any(|b| b.is_ascii_control() && b != b'\t');
        if !legal || control || self.code.is_some_and(|first| first != code) {
            return Err(broken());
        }
        self.lines.push(text.get(4..).unwrap_or_default().to_owned());
        self.code = goes_on.then_some(code);
        Ok((taken, (!goes_on).then(|| (code, std::mem::take(&mut self.lines)))))
    }
}

#[cfg(test)]
mod tests {
    use super::{Partial, enhanced};

    fn read(text: &str) -> Option<(u16, Vec<String>)> {
        let (mut partial, mut rest) = (Partial::default(), text.as_bytes());
        while !rest.is_empty() {
            match partial.take(rest) {
                Ok((_, Some(whole))) => return Some(whole),
                Ok((taken, None)) => rest = &rest[taken..],
                Err(_) => return None,
            }
        }
        None
    }

    #[test]
    fn only_what_has_the_form_of_a_reply_is_one() {
        assert_eq!(read("250-a\r\n250 b\r\n"), Some((250, vec!["a".into(), "b".into()])));
        assert_eq!(read("221\r\n"), Some((221, vec![String::new()])));
        let wrong =
            ["250-a\r\n251 b\r\n", "25 a\r\n", "250_a\r\n", "199 a\r\n", "270 a\r\n", "250 a\n", "600 a\r\n"];
        for text in wrong {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn enhanced_codes() {
        assert_eq!(enhanced("2.1.5 ok"), Some("2.1.5"));
        assert_eq!(enhanced("5.7.133"), Some("5.7.133"));
        for text in ["ok", "2.1 x", "2.1.5.1 x", "2.x.1", "22.1.1 x", "", "2.1.5000"] {
            assert_eq!(enhanced(text), None, "{text:?}");
        }
    }
}
