//! A client's command line: tag, verb, and what it means for the gate.
//!
//! Rule: only the words are looked at that decide where a command goes; a word nobody knows passes as a write.

/// The first words of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The tag as the client wrote it.
    pub tag: &'a [u8],
    /// What is asked for.
    pub verb: Verb,
    /// `UID` stood before the verb.
    pub uid: bool,
    /// What follows the verb and one space.
    pub arguments: &'a [u8],
}

/// Why a line is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No tag, or one with characters that a tag must not have.
    #[error("no valid tag")]
    Tag,
    /// Nothing after the tag.
    #[error("no command after the tag")]
    Verb,
}

macro_rules! verbs {
    ($($name:ident $word:literal $class:ident,)*) => {
        /// The commands that the proxy tells apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Verb {
            $(#[doc = $word] $name,)*
            /// Not known here.
            Other,
        }

        impl Verb {
            /// By its word, in any case.
            pub fn from_word(word: &[u8]) -> Self {
                $(if word.eq_ignore_ascii_case($word.as_bytes()) { return Self::$name; })*
                Self::Other
            }

            /// What it may do.
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* Self::Other => Class::Write }
            }
        }
    };
}

/// What a command may do, as the gate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Answered by the proxy.
    Own,
    /// Would take the session to where it cannot be followed: refused by the proxy.
    Denied,
    /// Changes nothing that another session could see (\Seen and \Recent aside).
    Read,
    /// May change the mailbox store.
    Write,
}

// The frequent ones first: the table is searched in order.
verbs! {
    Fetch "FETCH" Read, Noop "NOOP" Read, Idle "IDLE" Own, Store "STORE" Write, Search "SEARCH" Read,
    Select "SELECT" Read, Status "STATUS" Read, List "LIST" Read, Append "APPEND" Write, Copy "COPY" Write,
    Move "MOVE" Write, Expunge "EXPUNGE" Write, Examine "EXAMINE" Read, Close "CLOSE" Write,
    Unselect "UNSELECT" Read, Check "CHECK" Read, Sort "SORT" Read, Thread "THREAD" Read, Lsub "LSUB" Read,
    Xlist "XLIST" Read, Namespace "NAMESPACE" Read, Enable "ENABLE" Read, Id "ID" Own,
    Capability "CAPABILITY" Own, Logout "LOGOUT" Own, Login "LOGIN" Denied, Authenticate "AUTHENTICATE" Denied,
    Starttls "STARTTLS" Denied, Create "CREATE" Write, Delete "DELETE" Write, Rename "RENAME" Write,
    Subscribe "SUBSCRIBE" Write, Unsubscribe "UNSUBSCRIBE" Write, Myrights "MYRIGHTS" Read,
    Getacl "GETACL" Read, Listrights "LISTRIGHTS" Read, Getquota "GETQUOTA" Read,
    Getquotaroot "GETQUOTAROOT" Read, Getmetadata "GETMETADATA" Read, Compress "COMPRESS" Denied,
    Notify "NOTIFY" Denied, Cancelupdate "CANCELUPDATE" Denied, Unauthenticate "UNAUTHENTICATE" Denied,
    Xstate "X-STATE" Denied, Replace "REPLACE" Write, Language "LANGUAGE" Denied,
    Comparator "COMPARATOR" Denied,
}

impl Verb {
    /// A command whose body may be too large to be collected before it is sent.
    pub fn uploads(self) -> bool {
        matches!(self, Self::Append | Self::Replace)
    }

    /// May follow `UID`.
    fn takes_uid(self) -> bool {
        matches!(
            self,
            Self::Fetch
                | Self::Store
                | Self::Search
                | Self::Copy
                | Self::Move
                | Self::Expunge
                | Self::Sort
                | Self::Thread
                | Self::Replace
        )
    }

    /// Selects a mailbox.
    pub fn selects(self) -> bool {
        matches!(self, Self::Select | Self::Examine)
    }
}

/// Reads the head of `line` (without its line end).
pub fn head(line: &[u8]) -> Result<Head<'_>, HeadError> {
    let (tag, rest) = word(line);
    if tag.is_empty() || !tag.iter().all(|b| is_tag_char(*b)) {
        return Err(HeadError::Tag);
    }
    let (first, rest) = word(rest);
    if first.is_empty() {
        return Err(HeadError::Verb);
    }
    if first.eq_ignore_ascii_case(b"UID") {
        let (second, arguments) = word(rest);
        let verb = Verb::from_word(second);
        // `UID SELECT` is nothing: the server says BAD, and no state may follow from it.
        let verb = if verb.takes_uid() { verb } else { Verb::Other };
        return Ok(Head { tag, verb, uid: true, arguments });
    }
    Ok(Head { tag, verb: Verb::from_word(first), uid: false, arguments: rest })
}

/// The tag of a line that may not be a command, for an answer that names it.
pub fn tag_of(line: &[u8]) -> &[u8] {
    let (tag, _) = word(line);
    if !tag.is_empty() && tag.len() <= 64 && tag.iter().all(|b| is_tag_char(*b)) { tag } else { b"*" }
}

/// Splits at the first space.
pub fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', line) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// RFC 3501 `tag`: ASTRING-CHAR except `+`.
fn is_tag_char(b: u8) -> bool {
    b > b' ' && b < 0x7f && !matches!(b, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b'+')
}

/// The first argument as a string, and what follows it: an atom, a quoted string, or — `literals` holding what
/// was collected — a literal.
pub fn astring(arguments: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if let Some(rest) = arguments.strip_prefix(b"\"") {
        return quoted(rest);
    }
    if arguments.first() == Some(&b'{') {
        let end = memchr::memchr(b'\n', arguments)?;
        let size = super::fragment::literal(super::fragment::text(&arguments[..=end]))?.size;
        let body = arguments.get(end + 1..)?;
        let size = usize::try_from(size).ok().filter(|n| *n <= body.len())?;
        let rest = &body[size..];
        return Some((body[..size].to_vec(), rest.strip_prefix(b" ").unwrap_or(rest)));
    }
    let (atom, rest) = word(arguments);
    (!atom.is_empty()).then(|| (atom.to_vec(), rest))
}

fn quoted(inside: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut value, mut at) = (Vec::new(), 0);
    loop {
        match *inside.get(at)? {
            b'"' => break,
            b'\\' => {
                value.push(*inside.get(at + 1)?);
                at += 2;
            }
            b => {
                value.push(b);
                at += 1;
            }
        }
    }
    let rest = &inside[at + 1..];
    Some((value, rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// Writes `value` as a quoted string, or says that it needs a literal (CR, LF, NUL, 8-bit).
pub fn quote(value: &[u8], out: &mut Vec<u8>) -> bool {
    if value.iter().any(|b| !(b' '..0x7f).contains(b)) {
        return false;
    }
    out.push(b'"');
    for b in value {
        if matches!(b, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*b);
    }
    out.push(b'"');
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let h = head(b"a1 UID fetch 1:* (FLAGS)").unwrap();
        assert_eq!((h.tag, h.verb, h.uid, h.arguments), (&b"a1"[..], Verb::Fetch, true, &b"1:* (FLAGS)"[..]));
        assert_eq!(head(b"a1 XFOO bar").unwrap().verb.class(), Class::Write);
        assert_eq!(head(b"a1"), Err(HeadError::Verb));
        assert_eq!(head(b""), Err(HeadError::Tag));
        assert_eq!(head(b"+ x"), Err(HeadError::Tag));
        assert_eq!(head(b"* OK"), Err(HeadError::Tag));
        assert_eq!(tag_of(b"a+b NOOP"), b"*");
    }

    #[test]
    fn astrings() {
        assert_eq!(astring(br#""a \"b\" \\c" (X)"#), Some((br#"a "b" \c"#.to_vec(), &b"(X)"[..])));
        assert_eq!(astring(b"INBOX"), Some((b"INBOX".to_vec(), &b""[..])));
        assert_eq!(astring(b"{3+}\r\na\"b (X)"), Some((b"a\"b".to_vec(), &b"(X)"[..])));
        assert_eq!(astring(b"{30+}\r\na"), None);
        assert_eq!(astring(br#""open"#), None);
    }

    #[test]
    fn quoting_is_undone_by_reading() {
        let mut out = Vec::new();
        assert!(quote(br#"a "b" \c"#, &mut out));
        assert_eq!(astring(&out).unwrap().0, br#"a "b" \c"#);
        assert!(!quote("é".as_bytes(), &mut Vec::new()));
    }
}
