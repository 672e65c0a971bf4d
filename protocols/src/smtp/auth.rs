//! A login of a client, and the same login said to a backend (RFC 4954, 4616, 7628; LOGIN and XOAUTH2 as everybody
//! does them).
//!
//! Rule: nothing is checked here: the words go to the active pool, and they are wiped when they are dropped.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::keywords::Keywords;

/// The mechanisms that the proxy can say again to another backend, as EHLO shows them.
pub const MECHANISMS: [&str; 4] = ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"];

/// The longest command, its CRLF not counted (RFC 5321 §4.5.3.1.4).
const COMMAND: usize = 510;

/// How somebody logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// PLAIN
    Plain,
    /// LOGIN
    Login,
    /// XOAUTH2
    Xoauth2,
    /// OAUTHBEARER
    Oauthbearer,
}

impl Mechanism {
    fn from_word(word: &[u8]) -> Option<Self> {
        let all = [Self::Plain, Self::Login, Self::Xoauth2, Self::Oauthbearer];
        all.into_iter().find(|one| one.name().as_bytes().eq_ignore_ascii_case(word))
    }

    /// As it stands on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Xoauth2 => "XOAUTH2",
            Self::Oauthbearer => "OAUTHBEARER",
        }
    }
}

/// What a client logged in with.
#[derive(Clone)]
pub struct Credentials {
    /// What it chose.
    pub mechanism: Mechanism,
    /// Whose account it is.
    pub identity: Vec<u8>,
    /// The whole client message of PLAIN or of a token mechanism; of LOGIN the message that PLAIN would have.
    message: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &String::from_utf8_lossy(&self.identity))
            .finish_non_exhaustive()
    }
}

/// What a line of a login leads to.
#[derive(Debug)]
pub enum Step {
    /// Say this, and read a line.
    Ask(&'static [u8]),
    /// Ask the active pool.
    Done(Credentials),
    /// Say this; the login is over.
    Refuse(&'static [u8]),
}

/// A login in progress.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    /// LOGIN: the name, once it was said.
    user: Option<Vec<u8>>,
}

const USERNAME: &[u8] = b"334 VXNlcm5hbWU6\r\n";
const PASSWORD: &[u8] = b"334 UGFzc3dvcmQ6\r\n";
const CANCELLED: &[u8] = b"501 5.7.0 Cancelled\r\n";
const MALFORMED: &[u8] = b"501 5.5.2 Not what this mechanism says\r\n";
const UNKNOWN: &[u8] = b"504 5.5.4 This mechanism is not available\r\n";

impl Exchange {
    /// The arguments of AUTH. Where the login goes on, with the exchange to feed.
    pub fn begin(arguments: &[u8]) -> (Option<Self>, Step) {
        let mut words = arguments.split(|b| *b == b' ').filter(|word| !word.is_empty());
        let Some(mechanism) = words.next().and_then(Mechanism::from_word) else {
            return (None, Step::Refuse(UNKNOWN));
        };
        let mut exchange = Self { mechanism, user: None };
        let step = match (words.next(), words.next()) {
            (None, _) if mechanism == Mechanism::Login => Step::Ask(USERNAME),
            (None, _) => Step::Ask(b"334 \r\n"),
            // RFC 4954 §4: an empty initial response is written `=`.
            (Some(b"="), None) => exchange.answer(b""),
            (Some(initial), None) => exchange.answer(initial),
            (Some(_), Some(_)) => Step::Refuse(MALFORMED),
        };
        (Some(exchange), step)
    }

    /// The client's line.
    pub fn answer(&mut self, line: &[u8]) -> Step {
        if line == b"*" {
            return Step::Refuse(CANCELLED);
        }
        let Ok(bytes) = BASE64_STANDARD.decode(line).map(Zeroizing::new) else {
            return Step::Refuse(MALFORMED);
        };
        let done = match self.mechanism {
            Mechanism::Login => match self.user.take() {
                None => {
                    self.user = Some(bytes.to_vec());
                    return Step::Ask(PASSWORD);
                }
                Some(user) => login(user, &bytes),
            },
            Mechanism::Plain => plain(bytes),
            Mechanism::Xoauth2 | Mechanism::Oauthbearer => token(self.mechanism, bytes),
        };
        done.map_or(Step::Refuse(MALFORMED), Step::Done)
    }
}

fn login(user: Vec<u8>, password: &[u8]) -> Option<Credentials> {
    let clean = !user.is_empty() && !user.contains(&0) && !password.contains(&0);
    let message = Zeroizing::new([b"\0", &user[..], b"\0", password].concat());
    clean.then_some(Credentials { mechanism: Mechanism::Login, identity: user, message })
}

fn plain(message: Zeroizing<Vec<u8>>) -> Option<Credentials> {
    let parts: Vec<&[u8]> = message.split(|b| *b == 0).collect();
    let [authzid, user, _] = parts[..] else { return None };
    let identity = if authzid.is_empty() { user } else { authzid }.to_vec();
    (!user.is_empty()).then_some(Credentials { mechanism: Mechanism::Plain, identity, message })
}

/// `user=…^Aauth=Bearer …^A^A`, or `n,a=…,^Aauth=Bearer …^A^A`.
fn token(mechanism: Mechanism, message: Zeroizing<Vec<u8>>) -> Option<Credentials> {
    let first = message.split(|b| *b == 1).next()?;
    let key: &[u8] = if mechanism == Mechanism::Xoauth2 { b"user=" } else { b"a=" };
    let fields = first.split(|b| *b == b',' && mechanism == Mechanism::Oauthbearer);
    let identity = fields.filter_map(|field| field.strip_prefix(key)).next()?.to_vec();
    (!identity.is_empty()).then_some(Credentials { mechanism, identity, message })
}

impl Credentials {
    /// Of an account of our own. `None`: no server could be told these.
    pub fn own(user: &str, password: &[u8]) -> Option<Self> {
        login(user.as_bytes().to_vec(), password)
    }

    /// The lines that say it to `server`: the first at once, each other one after a 334. `None`: it takes none of
    /// them. A password may go by PLAIN or by LOGIN.
    pub fn lines(&self, server: &Keywords) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        let encoded = |bytes: &[u8]| Zeroizing::new(BASE64_STANDARD.encode(bytes));
        let line = |text: &str| Zeroizing::new([text.as_bytes(), b"\r\n"].concat());
        let password = matches!(self.mechanism, Mechanism::Plain | Mechanism::Login);
        let mechanism = if password { Mechanism::Plain } else { self.mechanism };
        if server.authenticates(mechanism.name()) {
            let (begin, message) = (format!("AUTH {}", mechanism.name()), encoded(&self.message));
            if begin.len() + 1 + message.len() <= COMMAND {
                return Some(vec![line(&format!("{begin} {}", *message))]);
            }
            // RFC 4954 §4: otherwise it is said when it is asked for. Postfix cuts longer lines, and finds half a token.
            return Some(vec![line(&begin), line(&message)]);
        }
        if !password || !server.authenticates("LOGIN") {
            return None;
        }
        let mut parts = self.message.splitn(3, |b| *b == 0);
        let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
        Some(vec![line("AUTH LOGIN"), line(&encoded(user)), line(&encoded(password))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b64(text: &str) -> Vec<u8> {
        BASE64_STANDARD.encode(text).into_bytes()
    }

    fn done(step: Step) -> Credentials {
        let Step::Done(credentials) = step else { panic!("{step:?}") };
        credentials
    }

    fn said(credentials: &Credentials, server: &str) -> Option<Vec<String>> {
        let server: Keywords = [server].into_iter().collect();
        let lines = credentials.lines(&server)?;
        Some(lines.iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect())
    }

    #[test]
    fn plain_with_and_without_an_initial_response() {
        let (mut exchange, step) = Exchange::begin(b"plain");
        assert!(matches!(step, Step::Ask(b"334 \r\n")));
        let later = done(exchange.as_mut().unwrap().answer(&b64("\0alice\0secret")));
        let line = [b"PLAIN ", &b64("\0alice\0secret")[..]].concat();
        let at_once = done(Exchange::begin(&line).1);
        assert_eq!((&later.identity[..], &at_once.identity[..]), (&b"alice"[..], &b"alice"[..]));
        assert_eq!(said(&later, "AUTH PLAIN LOGIN").unwrap(), ["AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"]);
        assert_eq!(
            done(Exchange::begin(&[b"PLAIN ", &b64("bob\0admin\0x")[..]].concat()).1).identity,
            b"bob"
        );
        assert!(!format!("{later:?}").contains("secret"));
    }

    #[test]
    fn what_is_too_long_for_a_command_is_said_when_it_is_asked_for() {
        for (length, lines) in [(300, 1), (3000, 2)] {
            let token = format!("user=alice\x01auth=Bearer {}\x01\x01", "x".repeat(length));
            let credentials = done(Exchange::begin(&[b"XOAUTH2 ", &b64(&token)[..]].concat()).1);
            let said = said(&credentials, "AUTH XOAUTH2").unwrap();
            assert_eq!(said.len(), lines);
            assert!(said[0].len() <= 512 && said[0].starts_with("AUTH XOAUTH2"));
            assert!(said.concat().ends_with(&format!("{}\r\n", BASE64_STANDARD.encode(&token))));
        }
    }

    #[test]
    fn login_becomes_plain_where_the_server_has_it() {
        let (exchange, step) = Exchange::begin(b"LOGIN");
        let mut exchange = exchange.unwrap();
        assert!(matches!(step, Step::Ask(USERNAME)));
        assert!(matches!(exchange.answer(&b64("alice")), Step::Ask(PASSWORD)));
        let credentials = done(exchange.answer(&b64("secret")));
        assert_eq!(said(&credentials, "AUTH PLAIN").unwrap(), ["AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"]);
        let lines = said(&credentials, "AUTH LOGIN").unwrap();
        assert_eq!(lines, ["AUTH LOGIN\r\n", "YWxpY2U=\r\n", "c2VjcmV0\r\n"]);
        assert_eq!(said(&credentials, "AUTH XOAUTH2"), None);
    }

    #[test]
    fn tokens_name_their_user_and_go_only_by_their_own_mechanism() {
        for (mechanism, message) in [
            ("XOAUTH2", "user=alice@example.org\x01auth=Bearer abc\x01\x01"),
            ("OAUTHBEARER", "n,a=alice@example.org,\x01host=x\x01auth=Bearer abc\x01\x01"),
        ] {
            let line = [mechanism.as_bytes(), b" ", &b64(message)[..]].concat();
            let credentials = done(Exchange::begin(&line).1);
            assert_eq!(credentials.identity, b"alice@example.org");
            let lines = said(&credentials, &format!("AUTH PLAIN {mechanism}")).unwrap();
            assert_eq!(lines, [format!("AUTH {mechanism} {}\r\n", BASE64_STANDARD.encode(message))]);
            assert_eq!(said(&credentials, "AUTH PLAIN"), None);
        }
    }

    #[test]
    fn what_is_refused() {
        for line in [&b"CRAM-MD5"[..], b"", b"PLAIN !!!", b"PLAIN YQ==", b"PLAIN AAA= more", b"XOAUTH2 YQ=="]
        {
            assert!(matches!(Exchange::begin(line).1, Step::Refuse(_)), "{line:?}");
        }
        let (exchange, _) = Exchange::begin(b"LOGIN");
        assert!(matches!(exchange.unwrap().answer(b"*"), Step::Refuse(CANCELLED)));
    }
}
