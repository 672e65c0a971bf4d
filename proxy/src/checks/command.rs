//! A command of a probe account, cut where the server must ask for the rest.
//!
//! Rule: every string is quoted or a literal, so that no name or password can end a line; what was written is
//! wiped when dropped, because it may be a password.

use bascule_protocols::imap::command::quote;
use zeroize::Zeroizing;

/// One command without its tag: chunks of bytes, after each of which but the last the server must say `+`.
pub(super) struct Command(Vec<Zeroizing<Vec<u8>>>);

impl Command {
    /// Begins with a verb and what needs no quoting.
    pub(super) fn new(text: &str) -> Self {
        Self(vec![Zeroizing::new(text.as_bytes().to_vec())])
    }

    /// Adds text as it is.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.put(text.as_bytes());
        self
    }

    /// Adds a space and a string.
    pub(super) fn string(mut self, string: &[u8]) -> Self {
        let mut quoted = Zeroizing::new(b" ".to_vec());
        if !quote(string, &mut quoted) {
            return self.literal(string);
        }
        self.put(&quoted);
        self
    }

    /// Adds a space and a literal.
    pub(super) fn literal(mut self, bytes: &[u8]) -> Self {
        self.put(format!(" {{{}}}", bytes.len()).as_bytes());
        self.answer(bytes)
    }

    /// Ends the line; `bytes` follow when the server has said `+`.
    pub(super) fn answer(mut self, bytes: &[u8]) -> Self {
        self.put(b"\r\n");
        self.0.push(Zeroizing::new(bytes.to_vec()));
        self
    }

    /// The chunks as they go out under `tag`.
    pub(super) fn chunks(mut self, tag: &str) -> Vec<Zeroizing<Vec<u8>>> {
        self.put(b"\r\n");
        if let Some(first) = self.0.first_mut() {
            let line = [tag.as_bytes(), b" ", first].concat();
            *first = Zeroizing::new(line);
        }
        self.0
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(last) = self.0.last_mut() {
            last.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(command: Command) -> Vec<String> {
        command.chunks("p1").into_iter().map(|c| String::from_utf8_lossy(&c).into_owned()).collect()
    }

    #[test]
    fn strings_cannot_leave_their_place() {
        let login = |user: &str, password: &str| {
            wire(Command::new("LOGIN").string(user.as_bytes()).string(password.as_bytes()))
        };
        assert_eq!(login("probe1", "s3cret"), ["p1 LOGIN \"probe1\" \"s3cret\"\r\n"]);
        assert_eq!(login("", r#"a"b\c"#), ["p1 LOGIN \"\" \"a\\\"b\\\\c\"\r\n"]);
        assert_eq!(login("a\r\nb", "ü"), ["p1 LOGIN {4}\r\n", "a\r\nb {2}\r\n", "ü\r\n"]);
    }

    #[test]
    fn a_literal_waits_for_the_server() {
        let append = Command::new("APPEND").string(b"box").text(" (\\Seen)").literal(b"m\r\n");
        assert_eq!(wire(append), ["p1 APPEND \"box\" (\\Seen) {3}\r\n", "m\r\n\r\n"]);
        let plain = Command::new("AUTHENTICATE PLAIN").answer(b"AHUAcA==");
        assert_eq!(wire(plain), ["p1 AUTHENTICATE PLAIN\r\n", "AHUAcA==\r\n"]);
    }
}
