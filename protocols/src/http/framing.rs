//! Requests that two parsers may read differently are refused before anything else looks at them (semantics §3.5).
//!
//! Rule: what is refused here is answered 400, the connection is closed, and not a byte reaches a backend.

use smallvec::SmallVec;

/// A request's head, fields in their order.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a, F> {
    /// The request target as it came.
    pub target: &'a str,
    /// Its version.
    pub version: Version,
    /// Names in any case, and values.
    pub fields: F,
}

/// The versions that differ in how a message is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.0: no transfer codings.
    Http10,
    /// 1.1
    Http11,
    /// Frames of its own; neither transfer codings nor fields about the connection.
    Http2,
}

/// Why a request is refused; the name is a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Both Transfer-Encoding and Content-Length: whose end counts?
    TwoLengths,
    /// Content-Length that is no number, or several that differ.
    Length,
    /// A transfer coding other than one `chunked`, or one where there may be none.
    Coding,
    /// Not exactly one Host.
    Host,
    /// CR, LF or NUL in a value, a name that is none.
    Field,
    /// A chunk whose size, end or trailer is not as it must be.
    Chunk,
    /// A head, or a trailer, that is longer than it may be.
    TooLong,
    /// `.` or `..` as a segment of the path, also encoded: it would be routed by one path and served by another.
    Path,
}

impl Refused {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoLengths => "two_lengths",
            Self::Length => "length",
            Self::Coding => "coding",
            Self::Host => "host",
            Self::Field => "field",
            Self::Path => "path",
            Self::Chunk => "chunk",
            Self::TooLong => "http_header_size",
        }
    }

    /// The status that tells the client.
    pub fn status(self) -> u16 {
        if self == Self::TooLong { 431 } else { 400 }
    }
}

/// What comes after a head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Next {
    /// Bytes of its body, where they are counted.
    pub length: u64,
    /// Its body comes in chunks.
    pub chunks: bool,
    /// Something else than HTTP may come after the request.
    pub upgrade: bool,
}

/// Fields about the connection, which HTTP/2 does not have (RFC 9113 §8.2.2).
const CONNECTION: [&str; 5] =
    ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];

/// Fields that no `Connection` may name, and that no trailer may bring.
pub(super) const ENDS: [&str; 3] = ["content-length", "transfer-encoding", "host"];

/// Looks at a request's head.
pub fn check<'a>(head: Head<'_, impl Iterator<Item = (&'a str, &'a [u8])>>) -> Result<Next, Refused> {
    let (mut length, mut codings, mut hosts, mut upgrade) = (None::<&[u8]>, 0u8, 0u8, false);
    for (name, value) in head.fields {
        if !is_token(name) || memchr::memchr3(b'\r', b'\n', 0, value).is_some() {
            return Err(Refused::Field);
        }
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if head.version == Version::Http2 && CONNECTION.iter().any(|field| is(field)) {
            return Err(Refused::Field);
        }
        if is("content-length") {
            let value = trim(value);
            let number = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
            if !number || length.is_some_and(|other| other != value) {
                return Err(Refused::Length);
            }
            length = Some(value);
        } else if is("transfer-encoding") {
            codings = codings.saturating_add(1);
            if codings > 1 || head.version != Version::Http11 || !trim(value).eq_ignore_ascii_case(b"chunked")
            {
                return Err(Refused::Coding);
            }
        } else if is("host") {
            hosts = hosts.saturating_add(1);
            if !value.iter().all(|b| is_of_host(*b)) {
                return Err(Refused::Host);
            }
        } else if is("connection") {
            // Whoever takes out what is named here would take out where the message ends, or for whom it is.
            let mut named = value.split(|b| *b == b',').map(trim);
            if named.any(|name| ENDS.iter().any(|end| name.eq_ignore_ascii_case(end.as_bytes()))) {
                return Err(Refused::Field);
            }
        } else if is("upgrade") {
            upgrade = true;
        }
    }
    if codings > 0 && length.is_some() {
        return Err(Refused::TwoLengths);
    }
    if hosts > 1 || (hosts == 0 && head.version == Version::Http11) {
        return Err(Refused::Host);
    }
    if head.target.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(Refused::Field);
    }
    if path_of(head.target).split('/').any(is_dots) {
        return Err(Refused::Path);
    }
    // Digits, and not too many of them: it cannot fail.
    let length = length.and_then(|length| str::from_utf8(length).ok()?.parse().ok()).unwrap_or(0);
    Ok(Next { length, chunks: codings > 0, upgrade })
}

/// The same for a head of HTTP/1 as it came, from the request line on: what a parser mended shows here.
pub fn check_raw<'a>(head: &'a [u8]) -> Result<Next, Refused> {
    let mut lines = lines(head).skip_while(|line| line.is_empty());
    let line = str::from_utf8(lines.next().unwrap_or_default()).map_err(|_| Refused::Field)?;
    let mut words = line.split(' ');
    let (target, version) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some("HTTP/1.1"), None) if is_token(method) => (target, Version::Http11),
        (Some(method), Some(target), Some("HTTP/1.0"), None) if is_token(method) => (target, Version::Http10),
        _ => return Err(Refused::Field),
    };
    // A folded line has no name of its own, and a name is ASCII; a value may be anything that stays in its line.
    let field = |line: &'a [u8]| {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        Some((str::from_utf8(name).ok()?, trim(&value[1..])))
    };
    let fields: Option<SmallVec<[_; 32]>> = lines.take_while(|line| !line.is_empty()).map(field).collect();
    check(Head { target, version, fields: fields.ok_or(Refused::Field)?.into_iter() })
}

/// Without the space around it, which is of two kinds only (RFC 9110 §5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let all = rest?;
        let end = memchr::memchr_iter(b'\n', all).find(|at| *at > 0 && all[at - 1] == b'\r');
        rest = end.map(|at| &all[at + 1..]);
        Some(end.map_or(all, |at| &all[..at - 1]))
    })
}

/// The path of a request target: without the query, and without scheme and authority where those are there.
pub fn path_of(target: &str) -> &str {
    let end = memchr::memchr2(b'?', b'#', target.as_bytes());
    let path = &target[..end.unwrap_or(target.len())];
    if path.starts_with('/') {
        return path;
    }
    match path.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        Some(_) | None => path,
    }
}

/// A host with its port (RFC 3986 §3.2.2), as far as no other part of an address can be in it.
fn is_of_host(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&b)
}

/// A request target without scheme and authority; `None`: it has none.
pub fn without_authority(target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    if scheme.contains(['/', '?', '#']) {
        return None;
    }
    Some(match rest.find(['/', '?']).map(|at| &rest[at..]) {
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(query) => format!("/{query}"),
        None => "/".to_owned(),
    })
}

/// What a token may be made of (RFC 9110 §5.6.2).
const TCHARS: [bool; 256] = {
    let mut all = [false; 256];
    let (others, mut at) = (b"!#$%&'*+-.^_`|~", 0);
    while at < 256 {
        all[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < others.len() {
        all[others[at] as usize] = true;
        at += 1;
    }
    all
};

/// RFC 9110 §5.6.2.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| TCHARS[usize::from(b)])
}

/// `.` or `..`, with either dot encoded, and with the backslash that some servers take for a slash.
fn is_dots(segment: &str) -> bool {
    if memchr::memchr2(b'%', b'\\', segment.as_bytes()).is_none() {
        return segment == "." || segment == "..";
    }
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    let split = plain.replace("%5c", "\\").replace("%5C", "\\").replace("%2f", "\\").replace("%2F", "\\");
    split.split('\\').any(|part| part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, target: &str, fields: &[(&str, &str)]) -> Result<(), Refused> {
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        check(Head { target, version, fields }).map(drop)
    }

    fn fields(more: &[(&'static str, &'static str)]) -> Result<(), Refused> {
        checked(Version::Http11, "/", &[&[("Host", "a.test")], more].concat())
    }

    #[test]
    fn the_end_of_a_request_is_one_place() {
        let (length, coding) = (Err(Refused::Length), Err(Refused::Coding));
        for (more, said) in [
            (&[("Content-Length", "5")][..], Ok(())),
            (&[("Content-Length", "5"), ("content-length", "5")], Ok(())),
            (&[("Content-Length", "5"), ("Content-Length", "6")], length),
            (&[("Content-Length", "5, 5")], length),
            (&[("Content-Length", "+5")], length),
            (&[("Content-Length", "0x5")], length),
            (&[("Content-Length", "")], length),
            (&[("Content-Length", "99999999999999999999")], length),
            (&[("Transfer-Encoding", "chunked")], Ok(())),
            (&[("Transfer-Encoding", "Chunked ")], Ok(())),
            (&[("Transfer-Encoding", "gzip, chunked")], coding),
            (&[("Transfer-Encoding", "chunked, identity")], coding),
            (&[("Transfer-Encoding", "xchunked")], coding),
            (&[("Transfer-Encoding", "\u{b}chunked")], coding),
            (&[("Transfer-Encoding", "\u{c}chunked")], coding),
            (&[("Transfer-Encoding", "\tchunked ")], Ok(())),
            (&[("Content-Length", "\u{c}5")], length),
            (&[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], coding),
            (&[("Transfer-Encoding", "chunked"), ("Content-Length", "5")], Err(Refused::TwoLengths)),
            (&[("Content-Length", "5"), ("TRANSFER-ENCODING", "chunked")], Err(Refused::TwoLengths)),
        ] {
            assert_eq!(fields(more), said, "{more:?}");
        }
        let old = checked(Version::Http10, "/", &[("Transfer-Encoding", "chunked")]);
        assert_eq!(old, coding);
    }

    #[test]
    fn fields_cannot_bring_fields() {
        for (name, value) in [
            ("X", "a\r\nY: b"),
            ("X", "a\nb"),
            ("X", "a\0"),
            ("X ", "a"),
            ("", "a"),
            ("X:Y", "a"),
            ("Content-Length\t", "5"),
        ] {
            assert_eq!(fields(&[(name, value)]), Err(Refused::Field), "{name:?} {value:?}");
        }
        for named in ["Host", "close, content-length", "x,Transfer-Encoding ,y"] {
            assert_eq!(fields(&[("Connection", named)]), Err(Refused::Field), "{named}");
        }
        assert_eq!(fields(&[("Connection", "close, X-Host")]), Ok(()));
        for name in ["connection", "Transfer-Encoding", "upgrade", "keep-alive"] {
            let said = checked(Version::Http2, "/", &[(name, "chunked")]);
            assert_eq!(said, Err(Refused::Field), "{name}");
        }
    }

    #[test]
    fn a_head_is_looked_at_as_it_came() {
        for (head, said) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", Ok(())),
            ("\r\nGET / HTTP/1.1\r\nHost:h\t\r\n\r\n", Ok(())),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
                Err(Refused::TwoLengths),
            ),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.1\r\nHost: h\nX: a\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.1\r\nHost: h\r\nX: y\r\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.1\r\nHost: h\r\nX:\ry\r\n\r\n", Err(Refused::Field)),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", Err(Refused::Field)),
            ("G{T / HTTP/1.1\r\nHost: h\r\n\r\n", Err(Refused::Field)),
            ("GET /\rX HTTP/1.1\r\nHost: h\r\n\r\n", Err(Refused::Field)),
            ("GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", Err(Refused::Host)),
            ("GET / HTTP/1.1\r\nHost: user@h\r\n\r\n", Err(Refused::Host)),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\nHost: h\r\nX\u{e9}: y\r\n\r\n", Err(Refused::Field)),
        ] {
            assert_eq!(check_raw(head.as_bytes()).map(drop), said, "{head:?}");
        }
    }

    #[test]
    fn values_are_of_any_alphabet() {
        assert!(check_raw(b"GET / HTTP/1.1\r\nHost: h\r\nX: caf\xe9\r\n\r\n").is_ok());
        assert_eq!(check_raw(b"GET /caf\xe9 HTTP/1.1\r\nHost: h\r\n\r\n"), Err(Refused::Field));
        assert_eq!(check_raw(b"GET / HTTP/1.1\r\nHost: caf\xe9\r\n\r\n"), Err(Refused::Host));
    }

    #[test]
    fn what_comes_after_a_head_is_told() {
        let next = |more: &str| check_raw(format!("POST / HTTP/1.1\r\nHost: h\r\n{more}\r\n").as_bytes());
        let none = Next::default();
        assert_eq!(next(""), Ok(none));
        assert_eq!(next("Content-Length: 050\r\n"), Ok(Next { length: 50, ..none }));
        assert_eq!(next("Transfer-Encoding: chunked\r\n"), Ok(Next { chunks: true, ..none }));
        assert_eq!(next("Upgrade: h2c\r\n"), Ok(Next { upgrade: true, ..none }));
    }

    #[test]
    fn there_is_one_host() {
        assert_eq!(checked(Version::Http11, "/", &[]), Err(Refused::Host));
        assert_eq!(fields(&[("host", "a.test")]), Err(Refused::Host));
        assert_eq!(checked(Version::Http10, "/", &[]), Ok(()));
        assert_eq!(checked(Version::Http2, "/", &[]), Ok(()), "it has :authority");
    }

    #[test]
    fn a_path_is_served_where_it_was_routed() {
        for bad in [
            "/dav/../admin",
            "/dav/..",
            "/./x",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a/..%5cb",
            "/a/..%2fb",
            "http://h/../x",
        ] {
            assert_eq!(checked(Version::Http11, bad, &[("Host", "h")]), Err(Refused::Path), "{bad}");
        }
        for good in ["/", "/a..b/...", "/.well-known/caldav", "/x?y=/../z", "*", "http://h", "/%2ehidden"] {
            assert_eq!(checked(Version::Http11, good, &[("Host", "h")]), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_asked_for_is_told_without_whom() {
        for (target, path) in [
            ("http://h.test:80/a?b=http://c", Some("/a?b=http://c")),
            ("https://h?x", Some("/?x")),
            ("http://h", Some("/")),
            ("/a?to=http://x/y", None),
            ("/a/http://x", None),
            ("*", None),
        ] {
            assert_eq!(without_authority(target).as_deref(), path, "{target}");
        }
    }

    #[test]
    fn the_path_is_found_in_every_form_of_a_target() {
        for (target, path) in [
            ("/a/b?c", "/a/b"),
            ("http://h.test:80/a?b", "/a"),
            ("http://h.test", "/"),
            ("/go?to=http://x/y", "/go"),
            ("/go/http://x/y", "/go/http://x/y"),
            ("*", "*"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }
}
