//! What a server sends: lines with their literals.
//!
//! Rule: a number in braces is a literal only in data; the text of a status response is for people (RFC 3501
//! §7.1), however it ends.

use super::{Error, Result, Taken, take_line};
use crate::oracle::Violation;

/// One whole response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Lines without their ends, each but the last with its literal behind it.
    parts: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The first word of a tagged reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Refused.
    No,
    /// Not understood.
    Bad,
}

/// A tagged reply with all that came before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whose it is.
    pub tag: String,
    /// How it went.
    pub status: Status,
    /// What the server said about it, code included.
    pub text: String,
    /// The untagged responses before it.
    pub lines: Vec<Response>,
}

impl Reply {
    /// The reply, or an error if it is not OK.
    pub fn ok(self) -> Result<Self> {
        match self.status {
            Status::Ok => Ok(self),
            Status::No | Status::Bad => {
                Err(Error::Violation(Violation(format!("not OK: {:?} {}", self.status, self.text))))
            }
        }
    }

    /// The untagged responses as text.
    pub fn texts(&self) -> Vec<String> {
        self.lines.iter().map(Response::text).collect()
    }
}

impl Response {
    /// A response of one line.
    pub fn from_line(line: &str) -> Self {
        Self { parts: vec![(line.as_bytes().to_vec(), None)] }
    }

    /// All of it as text, literals included.
    pub fn text(&self) -> String {
        let mut all = Vec::new();
        for (line, literal) in &self.parts {
            all.extend_from_slice(line);
            if let Some(literal) = literal {
                all.extend_from_slice(b"\r\n");
                all.extend_from_slice(literal);
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Its lines without literals and without what quoted strings contain, so that words can be looked for.
    pub fn bare(&self) -> String {
        let mut bare = Vec::new();
        let status = self.parts.first().is_some_and(|(line, _)| is_text(line));
        for (line, _) in &self.parts {
            let (mut quoted, mut escaped) = (false, false);
            for byte in line {
                match (quoted, escaped, byte) {
                    _ if status => bare.push(*byte),
                    (true, true, _) => escaped = false,
                    (true, false, b'\\') => escaped = true,
                    (_, _, b'"') => {
                        quoted = !quoted;
                        bare.push(b'"');
                    }
                    (true, false, _) => {}
                    (false, _, _) => bare.push(*byte),
                }
            }
        }
        String::from_utf8_lossy(&bare).into_owned()
    }

    /// Its literals.
    pub fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter_map(|(_, literal)| literal.as_deref())
    }

    pub(super) fn is_continuation(&self) -> bool {
        self.parts.first().is_some_and(|(line, _)| line.starts_with(b"+"))
    }

    /// The tagged reply that it is.
    pub(super) fn reply(&self) -> Option<Reply> {
        let text = self.text();
        let (tag, rest) = text.split_once(' ').filter(|(tag, _)| *tag != "*")?;
        let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = match status {
            "OK" => Status::Ok,
            "NO" => Status::No,
            _ => Status::Bad,
        };
        Some(Reply { tag: tag.into(), status, text: text.into(), lines: Vec::new() })
    }
}

/// Whether a line is text for people, in which braces mean nothing.
fn is_text(line: &[u8]) -> bool {
    let mut words = line.split(|b| *b == b' ');
    match (words.next(), words.next()) {
        (Some(b"*"), Some(word)) => matches!(word, b"OK" | b"NO" | b"BAD" | b"BYE" | b"PREAUTH"),
        _ => true,
    }
}

fn literal(line: &[u8]) -> Option<usize> {
    let inner = line.strip_suffix(b"}")?;
    let start = inner.iter().rposition(|b| *b == b'{')?;
    std::str::from_utf8(&inner[start + 1..]).ok()?.parse().ok()
}

/// A response that is not whole yet; nothing is lost when a reader stops waiting.
#[derive(Debug, Default)]
pub(super) struct Partial {
    response: Response,
    line: Vec<u8>,
    /// The literal that is being read, and its size.
    literal: Option<(Vec<u8>, usize)>,
}

impl Partial {
    /// Takes bytes of one line or literal; how many, and the response once it is whole.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Taken<Response> {
        if let Some((bytes, size)) = &mut self.literal {
            let taken = chunk.len().min(*size - bytes.len());
            bytes.extend_from_slice(&chunk[..taken]);
            if bytes.len() == *size {
                self.end_literal();
            }
            return Ok((taken, None));
        }
        let (taken, Some(line)) = take_line(&mut self.line, chunk)? else { return Ok((chunk.len(), None)) };
        let text = self.response.parts.is_empty() && is_text(&line);
        let size = literal(&line).filter(|_| !text);
        self.literal = size.map(|size| (Vec::new(), size));
        self.response.parts.push((line, None));
        if size == Some(0) {
            self.end_literal();
        }
        Ok((taken, size.is_none().then(|| std::mem::take(&mut self.response))))
    }

    fn end_literal(&mut self) {
        let literal = self.literal.take().map(|(bytes, _)| bytes);
        if let Some(last) = self.response.parts.last_mut() {
            last.1 = literal;
        }
    }
}
