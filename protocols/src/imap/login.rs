//! Before the login: the proxy speaks alone, also with every backend down.
//!
//! Rule: no password is accepted in clear text, and none is checked here: it goes to the active pool with the
//! client's own words (design §4.3).

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    capability::{Pinned, Stage},
    command::{self, Verb},
    farewell::answer,
    fragment,
    tag::Tag,
};
use crate::lines::Lines;

/// How the client said who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// `LOGIN user password`
    Login,
    /// `AUTHENTICATE PLAIN`
    Plain,
}

/// What the client logged in with; wiped when dropped, shown by nothing.
#[derive(Clone)]
pub struct Credentials {
    /// LOGIN or PLAIN; a restore uses the same.
    pub mechanism: Mechanism,
    /// Whose mailbox (RFC 4616 authzid); empty: the user's own.
    pub authzid: Vec<u8>,
    /// Who logs in.
    pub user: Vec<u8>,
    /// With what.
    pub password: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &String::from_utf8_lossy(&self.user))
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Whose mailbox is opened.
    pub fn identity(&self) -> &[u8] {
        if self.authzid.is_empty() { &self.user } else { &self.authzid }
    }
}

/// What the client's bytes lead to.
#[derive(Debug)]
pub enum Verdict {
    /// All bytes were taken; nothing to do yet.
    NeedMore,
    /// Say this.
    Answer(Vec<u8>),
    /// Say this, throw away what was read ahead (RFC 3501 §6.2.1), and begin TLS.
    Starttls(Vec<u8>),
    /// Ask the active pool.
    Login(Tag, Credentials),
    /// Say this and end.
    Close(Vec<u8>),
}

/// The machine of the not-authenticated state.
#[derive(Debug)]
pub struct PreAuth {
    lines: Lines,
    reading: Reading,
    stage: Stage,
    nonsense: u32,
    client_id: Option<Box<[u8]>>,
}

#[derive(Debug)]
enum Reading {
    Command,
    /// A command with literals is being collected; `left` bytes of the current one are missing.
    Collect {
        command: Zeroizing<Vec<u8>>,
        left: usize,
    },
    /// `AUTHENTICATE PLAIN` waits for its line.
    Sasl(Tag),
}

/// Longest command before the login, with its literals. Names and passwords are short.
const LIMIT: usize = 16 * 1024;
/// Lines that are no commands before somebody is taken for another protocol.
const NONSENSE: u32 = 10;

impl PreAuth {
    /// In clear text or under TLS.
    pub fn new(stage: Stage) -> Self {
        Self { lines: Lines::default(), reading: Reading::Command, stage, nonsense: 0, client_id: None }
    }

    /// The greeting, with the capabilities of this stage.
    pub fn greeting(&self, pinned: &Pinned, hostname: &str) -> Vec<u8> {
        [b"* OK [CAPABILITY ", pinned.bytes(self.stage), b"] ", hostname.as_bytes(), b" ready\r\n"].concat()
    }

    /// The arguments of the client's ID command, if it sent one.
    pub fn client_id(&self) -> Option<&[u8]> {
        self.client_id.as_deref()
    }

    /// Whether bytes of an unfinished command are held: after STARTTLS they must be thrown away.
    pub fn is_empty(&self) -> bool {
        self.lines.unfinished().is_empty()
    }

    /// Takes bytes of the client. Returns how many.
    pub fn step(&mut self, input: &[u8], pinned: &Pinned) -> (usize, Verdict) {
        if let Reading::Collect { command, left } = &mut self.reading
            && *left > 0
        {
            let n = input.len().min(*left);
            command.extend_from_slice(&input[..n]);
            *left -= n;
            return (n, Verdict::NeedMore);
        }
        let (n, line) = self.lines.next(input, LIMIT);
        let line = match line {
            Ok(None) => return (n, Verdict::NeedMore),
            Ok(Some(line)) => Zeroizing::new(fragment::text(line).to_vec()),
            Err(error) => return (n, Verdict::Close(refuse(b"*", &error.to_string()))),
        };
        if let Err(error) = fragment::check(&line) {
            let answer = refuse(command::tag_of(&line), &error.to_string());
            self.reading = Reading::Command;
            return (n, if error.is_framed() { self.nonsense(answer) } else { Verdict::Close(answer) });
        }
        (n, self.line(line, pinned))
    }

    fn line(&mut self, line: Zeroizing<Vec<u8>>, pinned: &Pinned) -> Verdict {
        match std::mem::replace(&mut self.reading, Reading::Command) {
            Reading::Sasl(tag) => self.sasl(tag, &line),
            Reading::Command => self.piece(Zeroizing::new(Vec::new()), &line, pinned),
            Reading::Collect { command, .. } => self.piece(command, &line, pinned),
        }
    }

    /// `line` continues `command`, which is empty or ends with a literal.
    fn piece(&mut self, mut command: Zeroizing<Vec<u8>>, line: &[u8], pinned: &Pinned) -> Verdict {
        let Some(literal) = fragment::literal(line) else {
            command.extend_from_slice(line);
            return self.command(&command, pinned);
        };
        let first = if command.is_empty() { line } else { &command[..] };
        let tag = command::tag_of(first).to_vec();
        let size = usize::try_from(literal.size).unwrap_or(usize::MAX);
        if size > LIMIT || command.len() + line.len() + size > LIMIT {
            let answer = refuse(&tag, "literal too long");
            return if literal.sync { self.nonsense(answer) } else { Verdict::Close(answer) };
        }
        if literal.sync && self.clear_text() && command::head(first).is_ok_and(|h| h.verb == Verb::Login) {
            return Verdict::Answer(privacy(&Tag::new(&tag)));
        }
        command.extend_from_slice(line);
        command.extend_from_slice(b"\r\n");
        self.reading = Reading::Collect { command, left: size };
        if literal.sync { Verdict::Answer(b"+ OK\r\n".to_vec()) } else { Verdict::NeedMore }
    }

    fn clear_text(&self) -> bool {
        matches!(self.stage, Stage::Plain { .. })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other verb needs a login")]
    fn command(&mut self, line: &[u8], pinned: &Pinned) -> Verdict {
        let head = match command::head(line) {
            Ok(head) => head,
            Err(error) => return self.nonsense(refuse(command::tag_of(line), &error.to_string())),
        };
        let tag = Tag::new(head.tag);
        match head.verb {
            Verb::Capability => Verdict::Answer(
                [
                    b"* CAPABILITY ",
                    pinned.bytes(self.stage),
                    b"\r\n",
                    &answer(&tag, "OK Capability completed.")[..],
                ]
                .concat(),
            ),
            Verb::Noop => Verdict::Answer(answer(&tag, "OK NOOP completed.")),
            Verb::Logout => Verdict::Close(logout(&tag)),
            Verb::Id => {
                self.client_id = Some(head.arguments.into());
                Verdict::Answer(id(&tag))
            }
            Verb::Starttls if self.stage == (Stage::Plain { starttls: true }) => {
                Verdict::Starttls(answer(&tag, "OK Begin TLS negotiation now."))
            }
            Verb::Starttls => self.nonsense(answer(&tag, "BAD STARTTLS is not available here.")),
            Verb::Login if self.clear_text() => Verdict::Answer(privacy(&tag)),
            Verb::Authenticate if self.clear_text() => Verdict::Answer(privacy(&tag)),
            Verb::Login => self.login(tag, head.arguments),
            Verb::Authenticate => self.authenticate(tag, head.arguments),
            _ => self.nonsense(answer(&tag, "BAD Log in first.")),
        }
    }

    fn login(&mut self, tag: Tag, arguments: &[u8]) -> Verdict {
        let parsed = command::astring(arguments)
            .and_then(|(user, rest)| Some((user, command::astring(rest)?)))
            .filter(|(user, (password, rest))| {
                // NUL would shift the fields of a PLAIN message (RFC 4616), line ends would add a command.
                let clean = |text: &[u8]| !text.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
                rest.is_empty() && !user.is_empty() && clean(user) && clean(password)
            });
        let Some((user, (password, _))) = parsed else {
            return self.nonsense(answer(&tag, "BAD LOGIN takes a name and a password."));
        };
        Verdict::Login(
            tag,
            Credentials {
                mechanism: Mechanism::Login,
                authzid: Vec::new(),
                user,
                password: Zeroizing::new(password),
            },
        )
    }

    fn authenticate(&mut self, tag: Tag, arguments: &[u8]) -> Verdict {
        let (mechanism, initial) = command::word(arguments);
        if !mechanism.eq_ignore_ascii_case(b"PLAIN") {
            return Verdict::Answer(answer(&tag, "NO Unsupported authentication mechanism."));
        }
        if initial.is_empty() {
            self.reading = Reading::Sasl(tag);
            return Verdict::Answer(b"+ \r\n".to_vec());
        }
        self.sasl(tag, if initial == b"=" { b"" } else { initial })
    }

    fn sasl(&mut self, tag: Tag, line: &[u8]) -> Verdict {
        if line == b"*" {
            return Verdict::Answer(answer(&tag, "BAD Authentication cancelled."));
        }
        let Some(message) = BASE64_STANDARD.decode(line).ok().map(Zeroizing::new) else {
            return self.nonsense(answer(&tag, "BAD Invalid base64."));
        };
        let mut parts = message.split(|b| *b == 0);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(authzid), Some(user), Some(password), None) if !user.is_empty() => Verdict::Login(
                tag,
                Credentials {
                    mechanism: Mechanism::Plain,
                    authzid: authzid.to_vec(),
                    user: user.to_vec(),
                    password: Zeroizing::new(password.to_vec()),
                },
            ),
            _ => self.nonsense(answer(&tag, "BAD Invalid PLAIN message.")),
        }
    }

    fn nonsense(&mut self, answer: Vec<u8>) -> Verdict {
        self.nonsense += 1;
        if self.nonsense < NONSENSE {
            return Verdict::Answer(answer);
        }
        Verdict::Close([&answer[..], b"* BYE Too many bad commands.\r\n"].concat())
    }
}

fn privacy(tag: &Tag) -> Vec<u8> {
    answer(tag, "NO [PRIVACYREQUIRED] Login is disabled without TLS.")
}

fn refuse(tag: &[u8], why: &str) -> Vec<u8> {
    [tag, b" BAD ", why.as_bytes(), b".\r\n"].concat()
}

/// The proxy's own ID: the same on every pool.
pub fn id(tag: &Tag) -> Vec<u8> {
    [b"* ID (\"name\" \"bascule\")\r\n", &answer(tag, "OK ID completed.")[..]].concat()
}

/// What of a client's ID may stand behind the proxy's own fields: key and value, quoted anew. Servers that trust the
/// proxy act on every `x-` key of the ID they are told (Dovecot), so a client has none. `None`: it is no list.
pub fn harmless_id(arguments: &[u8]) -> Option<Vec<u8>> {
    let mut rest = arguments.strip_prefix(b"(")?.strip_suffix(b")")?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (key, behind) = command::astring(rest)?;
        let nil = command::word(behind).0.eq_ignore_ascii_case(b"NIL");
        let (value, behind) = command::astring(behind)?;
        let mut pair = b" ".to_vec();
        // What needs a literal would need a dialogue of its own; it is only for logs.
        let mut quoted = command::quote(&key, &mut pair);
        pair.push(b' ');
        if nil {
            pair.extend_from_slice(b"NIL");
        } else {
            quoted &= command::quote(&value, &mut pair);
        }
        if quoted && !key.get(..2).is_some_and(|begins| begins.eq_ignore_ascii_case(b"x-")) {
            out.extend(pair);
        }
        rest = behind;
    }
    Some(out)
}

/// The answer to LOGOUT.
pub fn logout(tag: &Tag) -> Vec<u8> {
    [b"* BYE Logging out\r\n", &answer(tag, "OK Logout completed.")[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_clients_id_no_field_is_left_that_servers_trust() {
        let told = |list: &[u8]| harmless_id(list).map(|out| String::from_utf8(out).unwrap());
        let list = br#"("name" "x" "X-Originating-IP" "127.0.0.1" "x-forward-a" NIL "os" nil "nil" "NIL")"#;
        assert_eq!(told(list).unwrap(), r#" "name" "x" "os" NIL "nil" "NIL""#);
        assert_eq!(told(br#"("a\"b" x)"#).unwrap(), r#" "a\"b" "x""#);
        assert_eq!(told(b"({4}\r\nx-ip \"1\" {1}\r\na {2}\r\nbc)").unwrap(), r#" "a" "bc""#);
        assert_eq!(told("(\"name\" \"é\" \"os\" \"a\")".as_bytes()).unwrap(), r#" "os" "a""#);
        assert_eq!(told(b"()").unwrap(), "");
        for none in [&b"NIL"[..], b"", b"(\"name\")", b"(\"name\" \"open)", b"(\"a\" {9}\r\nb)", b"(\"a\" )"]
        {
            assert_eq!(told(none), None, "{none:?}");
        }
    }
}
