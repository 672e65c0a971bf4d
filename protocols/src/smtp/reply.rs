//! A server's replies: code, class, enhanced code, and where a reply of several lines ends (RFC 5321 §4.2, RFC 3463).
//!
//! Rule: a reply is one only with the same code on each of its lines; what cannot be read as one ends the connection
//! that it came on.

/// What a reply means for a command (RFC 5321 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 2yz
    Done,
    /// 3yz
    Go,
    /// 4yz
    Later,
    /// 5yz
    Never,
}

/// A whole reply, its lines with their line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// As it came, and as it goes on.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// A reply of the proxy's own: `text` begins with an enhanced code.
    pub fn own(code: u16, text: &str) -> Self {
        Self { code, bytes: format!("{code} {text}\r\n").into_bytes() }
    }

    /// Its class; a code of another kind cannot come out of [`Replies`].
    pub fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Done,
            3 => Class::Go,
            4 => Class::Later,
            _ => Class::Never,
        }
    }

    /// As a person reads it: on one line, without bytes that would upset a terminal.
    pub fn text(&self) -> String {
        let lines = String::from_utf8_lossy(&self.bytes);
        lines.split_whitespace().collect::<Vec<_>>().join(" ").replace(char::is_control, " ")
    }

    /// What stands behind the code on each line.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|b| *b == b'\n').filter_map(|line| line.get(4..)).map(<[u8]>::trim_ascii_end)
    }
}

/// The bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// Not `ddd`, `ddd text` or `ddd-text`, or a code that changes within one reply.
    #[error("not an SMTP reply")]
    Malformed,
    /// Longer than anybody's reply.
    #[error("an SMTP reply without an end")]
    TooLong,
}

/// Longest reply, bytes: EHLO with a hundred keywords is below 8 KiB.
const LONGEST: usize = 64 * 1024;

/// Cuts replies out of a stream.
#[derive(Debug, Default)]
pub struct Replies {
    /// What came of the reply that is not whole.
    bytes: Vec<u8>,
    /// Where its last, unfinished line begins.
    line: usize,
}

impl Replies {
    /// The next whole reply, and how many bytes of `input` it took. `None`: all was taken and more must come.
    pub fn next(&mut self, input: &[u8]) -> (usize, Result<Option<Reply>, NoReply>) {
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &input[taken..]) {
            let line_end = taken + end + 1;
            if self.bytes.len() + end >= LONGEST {
                return (line_end, Err(NoReply::TooLong));
            }
            self.bytes.extend_from_slice(&input[taken..line_end]);
            taken = line_end;
            match self.on_line() {
                Ok(Some(code)) => {
                    self.line = 0;
                    return (taken, Ok(Some(Reply { code, bytes: std::mem::take(&mut self.bytes) })));
                }
                Ok(None) => self.line = self.bytes.len(),
                Err(error) => return (taken, Err(error)),
            }
        }
        let rest = &input[taken..];
        if self.bytes.len() + rest.len() > LONGEST {
            return (input.len(), Err(NoReply::TooLong));
        }
        self.bytes.extend_from_slice(rest);
        (input.len(), Ok(None))
    }

    /// Whether a reply has begun and is not whole.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The code, if the line that was just completed is a reply's last.
    fn on_line(&mut self) -> Result<Option<u16>, NoReply> {
        let last_line = self.bytes[self.line..].trim_ascii_end();
        let (code, last) = head(last_line)?;
        if self.line > 0 && head(&self.bytes)?.0 != code {
            return Err(NoReply::Malformed);
        }
        if !self.bytes.ends_with(b"\r\n") {
            // The client gets clean line ends whatever the server writes.
            self.bytes.truncate(self.bytes.len() - 1);
            self.bytes.extend_from_slice(b"\r\n");
        }
        Ok(last.then_some(code))
    }
}

fn head(line: &[u8]) -> Result<(u16, bool), NoReply> {
    let (digits, rest) = line.split_at_checked(3).ok_or(NoReply::Malformed)?;
    if !matches!(digits[0], b'2'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NoReply::Malformed);
    }
    let code = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    match rest.first() {
        None | Some(b' ') => Ok((code, true)),
        Some(b'-') => Ok((code, false)),
        Some(_) => Err(NoReply::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(wire: &[u8], cut: usize) -> Result<Vec<Reply>, NoReply> {
        let (mut replies, mut out) = (Replies::default(), Vec::new());
        for chunk in wire.chunks(cut) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let (n, reply) = replies.next(rest);
                out.extend(reply?);
                rest = &rest[n..];
            }
        }
        assert!(replies.is_empty());
        Ok(out)
    }

    #[test]
    fn replies_however_they_are_cut() {
        let wire = b"250-one\r\n250-two\r\n250 three\r\n354 go\r\n550\r\n";
        for cut in 1..wire.len() {
            let replies = all(wire, cut).unwrap();
            let seen: Vec<_> = replies.iter().map(|r| (r.code, r.class())).collect();
            assert_eq!(seen, [(250, Class::Done), (354, Class::Go), (550, Class::Never)]);
            assert_eq!(replies.iter().flat_map(|r| r.bytes.clone()).collect::<Vec<_>>(), wire);
            assert_eq!(replies[0].texts().collect::<Vec<_>>(), [&b"one"[..], b"two", b"three"]);
        }
    }

    #[test]
    fn a_bare_line_end_is_made_whole() {
        assert_eq!(all(b"250-a\n250 b\n", 100).unwrap()[0].bytes, b"250-a\r\n250 b\r\n");
    }

    #[test]
    fn what_is_no_reply() {
        for wire in [
            &b"hello\r\n"[..],
            b"25\r\n",
            b"250-a\r\n251 b\r\n",
            b"250+a\r\n",
            b"650 a\r\n",
            b"\r\n",
            b"199 a\r\n",
        ] {
            assert_eq!(all(wire, 100), Err(NoReply::Malformed), "{wire:?}");
        }
        let (_, endless) = Replies::default().next(&vec![b'2'; LONGEST + 1]);
        assert_eq!(endless, Err(NoReply::TooLong));
    }
}
