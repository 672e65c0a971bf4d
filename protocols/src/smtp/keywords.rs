//! What EHLO and LHLO show: the same during a connection and across a cutover (semantics §2.11).
//!
//! Rule: a keyword is shown if every pool has it and a transaction that uses it can be replayed; SIZE is the lowest.

use std::fmt;

/// What a server says it can do, by its EHLO reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keywords(Vec<Box<str>>);

impl Keywords {
    /// Reads the texts of an EHLO reply; the first is the greeting and no keyword.
    pub fn of_ehlo<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Self {
        texts.skip(1).filter_map(|line| std::str::from_utf8(line).ok()).collect()
    }

    /// Whether a keyword is there, whatever its parameters.
    pub fn has(&self, word: &str) -> bool {
        self.parameters(word).is_some()
    }

    /// The parameters of a keyword, if it is there.
    pub fn parameters(&self, word: &str) -> Option<&str> {
        self.0.iter().find_map(|line| {
            let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
            name.eq_ignore_ascii_case(word).then_some(parameters)
        })
    }

    /// The lines, in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|line| &**line)
    }

    /// The largest message; `None`: not said, or no fixed maximum (RFC 1870 §4).
    pub fn size(&self) -> Option<u64> {
        self.parameters("SIZE")?.trim().parse().ok().filter(|size| *size > 0)
    }

    /// Whether it takes the client's words for a SASL mechanism. `AUTH=` is how old servers spell it.
    pub fn authenticates(&self, mechanism: &str) -> bool {
        let lists = self.0.iter().filter_map(|line| line.split_once([' ', '=']));
        lists
            .filter(|(name, _)| name.eq_ignore_ascii_case("AUTH"))
            .any(|(_, list)| list.split([' ', '=']).any(|word| word.eq_ignore_ascii_case(mechanism)))
    }
}

impl<'a> FromIterator<&'a str> for Keywords {
    fn from_iter<I: IntoIterator<Item = &'a str>>(lines: I) -> Self {
        Self(lines.into_iter().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect())
    }
}

impl fmt::Display for Keywords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Keywords that are shown if every pool has them. Each only adds parameters or replies that pass, and that a replayed
/// transaction repeats word for word.
const CARRIED: [(&str, &[&str]); 10] = [
    ("8BITMIME", &["BODY"]),
    ("SMTPUTF8", &["SMTPUTF8"]),
    ("DSN", &["RET", "ENVID", "NOTIFY", "ORCPT"]),
    ("ENHANCEDSTATUSCODES", &[]),
    ("CHUNKING", &[]),
    ("BINARYMIME", &["BODY"]),
    ("DELIVERBY", &["BY"]),
    ("MT-PRIORITY", &["MT-PRIORITY"]),
    ("FUTURERELEASE", &["HOLDFOR", "HOLDUNTIL"]),
    ("REQUIRETLS", &["REQUIRETLS"]),
];

/// What clients of one listener are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    carried: Vec<&'static str>,
    size: Option<u64>,
    /// Every pool takes a message's size with MAIL. One that does not, Dovecot's LMTP, would refuse the message for good.
    sized: bool,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a> {
    /// STARTTLS is offered now.
    pub starttls: bool,
    /// The mechanisms that may be used now.
    pub mechanisms: &'a [&'a str],
    /// The client may name its messages (`XFORWARD IDENT`).
    pub ident: bool,
}

impl Pinned {
    /// Pins what every pool has. `limit` is the largest upload that the proxy takes; `verified` says that each leg to a
    /// pool is verified TLS, without which nobody may be promised TLS on the way (RFC 8689 §2).
    pub fn of(pools: &[&Keywords], limit: u64, verified: bool) -> Self {
        let every = |word: &str| !pools.is_empty() && pools.iter().all(|pool| pool.has(word));
        let shown = |word: &str| match word {
            "REQUIRETLS" => verified && every(word),
            // A message of binary parts cannot go by DATA.
            "BINARYMIME" => every(word) && every("CHUNKING"),
            _ => every(word),
        };
        let carried = CARRIED.iter().map(|(word, _)| *word).filter(|word| shown(word)).collect();
        let size = pools.iter().filter_map(|pool| pool.size()).chain([limit]).min();
        Self { carried, size, sized: every("SIZE") }
    }

    /// Whether clients are shown `word`.
    pub fn has(&self, word: &str) -> bool {
        self.carried.contains(&word)
    }

    /// The largest message that is taken.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether a parameter of MAIL or RCPT belongs to something that was shown. One that no list names passes: the
    /// server says what it thinks of it.
    pub fn allows(&self, parameter: &[u8]) -> bool {
        let owners = CARRIED
            .iter()
            .filter(|(_, keys)| keys.iter().any(|key| key.as_bytes().eq_ignore_ascii_case(parameter)));
        let mut named = !self.sized && parameter.eq_ignore_ascii_case(b"SIZE");
        for (word, _) in owners {
            named = true;
            if self.has(word) {
                return true;
            }
        }
        !named
    }

    /// What is shown and `server` does not have.
    pub fn beyond(&self, server: &Keywords) -> Vec<&'static str> {
        let sized = self.sized.then_some("SIZE");
        self.carried.iter().copied().chain(sized).filter(|word| !server.has(word)).collect()
    }

    /// The reply to EHLO or LHLO.
    pub fn reply(&self, hostname: &str, shown: Shown<'_>) -> Vec<u8> {
        let mut lines = vec![hostname.to_owned(), "PIPELINING".to_owned()];
        lines.extend(self.size.filter(|_| self.sized).map(|size| format!("SIZE {size}")));
        lines.extend(shown.starttls.then(|| "STARTTLS".to_owned()));
        if !shown.mechanisms.is_empty() {
            lines.push(format!("AUTH {}", shown.mechanisms.join(" ")));
        }
        lines.extend(shown.ident.then(|| "XFORWARD IDENT".to_owned()));
        lines.extend(self.carried.iter().map(ToString::to_string));
        let last = lines.len() - 1;
        let line =
            |(at, line): (usize, &String)| format!("250{}{line}\r\n", if at == last { ' ' } else { '-' });
        lines.iter().enumerate().map(line).collect::<String>().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keywords(text: &str) -> Keywords {
        text.split('\n').collect()
    }

    #[test]
    fn an_ehlo_reply_is_read() {
        let texts = [&b"mail.example.org"[..], b"SIZE 1000", b"AUTH PLAIN LOGIN", b"AUTH=PLAIN", b"8BITMIME"];
        let server = Keywords::of_ehlo(texts.into_iter());
        assert!(server.has("8bitmime") && !server.has("mail.example.org"));
        assert_eq!(server.size(), Some(1000));
        assert!(server.authenticates("login") && !server.authenticates("XOAUTH2"));
        assert!(keywords("AUTH=XOAUTH2").authenticates("XOAUTH2"));
    }

    #[test]
    fn scenario_107_the_lowest_size_of_all() {
        let (a, b) = (keywords("SIZE 100"), keywords("SIZE 50"));
        assert_eq!(Pinned::of(&[&a, &b], 1000, false).size(), Some(50));
        assert_eq!(Pinned::of(&[&b, &a], 10, false).size(), Some(10));
        assert_eq!(Pinned::of(&[&keywords("SIZE 0"), &keywords("X")], 1000, false).size(), Some(1000));
    }

    #[test]
    fn scenario_99_what_one_pool_lacks_is_never_shown() {
        let (old, new) = (
            keywords("CHUNKING\nBINARYMIME\nDSN\nSIZE\nXCLIENT NAME"),
            keywords("BINARYMIME\nDSN\nSIZE\nXCLIENT NAME"),
        );
        let pinned = Pinned::of(&[&old, &new], 1000, false);
        let shown =
            pinned.reply("mx.example.org", Shown { starttls: true, mechanisms: &["PLAIN"], ident: false });
        let want = "250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 DSN\r\n";
        assert_eq!(String::from_utf8(shown).unwrap(), want);
        assert!(pinned.allows(b"notify") && pinned.allows(b"X-UNKNOWN") && pinned.allows(b"SIZE"));
        assert!(!pinned.allows(b"BODY") && !pinned.allows(b"SMTPUTF8"));
        assert_eq!(Pinned::of(&[&old], 1, false).beyond(&new), ["CHUNKING"]);
    }

    #[test]
    fn a_size_is_asked_for_only_where_every_pool_takes_one() {
        let (postfix, dovecot) = (keywords("SIZE 100\nDSN"), keywords("DSN"));
        let pinned = Pinned::of(&[&postfix, &dovecot], 1000, false);
        let nothing = Shown { starttls: false, mechanisms: &[], ident: false };
        assert_eq!(pinned.reply("a.test", nothing), b"250-a.test\r\n250-PIPELINING\r\n250 DSN\r\n");
        assert!(!pinned.allows(b"size"));
        assert_eq!(pinned.size(), Some(100), "and is the limit all the same");
        assert_eq!(Pinned::of(&[&postfix], 1000, false).beyond(&dovecot), ["SIZE"]);
    }

    #[test]
    fn tls_all_the_way_is_promised_only_where_it_is() {
        let pool = keywords("REQUIRETLS");
        assert!(!Pinned::of(&[&pool], 1, false).has("REQUIRETLS"));
        assert!(Pinned::of(&[&pool], 1, true).has("REQUIRETLS"));
    }
}
