//! How a server is told whose connection it is, and which message: XCLIENT and XFORWARD (Postfix XCLIENT_README and
//! XFORWARD_README).
//!
//! Rule: a server is told only what it says that it takes, and an address that it must know is never left out.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use bascule_protocols::smtp::{keywords::Keywords, relay::Role};

use super::open::Whom;

/// Longest line of either command.
const LINE: usize = 512;

/// Whether the server takes `attribute` with `command`.
pub(super) fn takes(keywords: &Keywords, command: &str, attribute: &str) -> bool {
    let offered = keywords.parameters(command);
    offered.is_some_and(|list| list.split(' ').any(|word| word.eq_ignore_ascii_case(attribute)))
}

/// XCLIENT with what the server takes of it. `None`: without ADDR it is of no use.
pub(super) fn xclient(keywords: &Keywords, whom: &Whom) -> Option<Vec<u8>> {
    takes(keywords, "XCLIENT", "ADDR").then_some(())?;
    let mut attributes = vec![
        ("NAME", "[UNAVAILABLE]".to_owned()),
        ("PORT", whom.client.port().to_string()),
        ("HELO", xtext(&whom.hello.name)),
        ("PROTO", proto(whom).to_owned()),
    ];
    if let Some(local) = whom.local {
        attributes.extend([("DESTADDR", address(local)), ("DESTPORT", local.port().to_string())]);
    }
    // The last one: where there is too much for one line, it makes the server begin anew with all of them.
    attributes.push(("ADDR", address(whom.client)));
    Some(lines(keywords, "XCLIENT", &attributes).concat().into_bytes())
}

/// XFORWARD for the next message, a line each: its name, and whose it is where `client` says so. Nothing where the server
/// takes nothing of it.
pub(super) fn xforward(keywords: &Keywords, whom: &Whom, client: bool, ident: &str) -> Vec<String> {
    let mut attributes = Vec::new();
    if client {
        attributes = vec![
            ("NAME", "[UNAVAILABLE]".to_owned()),
            ("ADDR", address(whom.client)),
            ("PORT", whom.client.port().to_string()),
            ("PROTO", proto(whom).to_owned()),
            ("HELO", xtext(&whom.hello.name)),
            ("SOURCE", "REMOTE".to_owned()),
        ];
    }
    attributes.push(("IDENT", ident.to_owned()));
    lines(keywords, "XFORWARD", &attributes)
}

fn lines(keywords: &Keywords, command: &str, attributes: &[(&str, String)]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (name, value) in attributes.iter().filter(|(name, _)| takes(keywords, command, name)) {
        let room = lines.last().is_some_and(|line| line.len() + name.len() + value.len() + 4 <= LINE);
        if !room {
            lines.push(command.to_owned());
        }
        if let Some(line) = lines.last_mut() {
            let _ = write!(line, " {name}={value}");
        }
    }
    lines.iter_mut().for_each(|line| line.push_str("\r\n"));
    lines
}

fn proto(whom: &Whom) -> &'static str {
    match (whom.role, whom.hello.extended) {
        (Role::Lmtp, _) => "LMTP",
        (Role::Relay | Role::Submission, true) => "ESMTP",
        (Role::Relay | Role::Submission, false) => "SMTP",
    }
}

fn address(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("IPV6:{v6}"),
    }
}

/// RFC 3461 §4.
fn xtext(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'+' | b'=');
    bytes.iter().map(|b| if plain(b) { char::from(*b).to_string() } else { format!("+{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use bascule_protocols::smtp::relay::Hello;

    use super::*;
    use crate::config::Protocol;

    fn whom() -> Whom {
        Whom {
            protocol: Protocol::Smtp,
            role: Role::Relay,
            hello: Hello { extended: true, name: b"a=b+c.test"[..].into() },
            client: "[2001:db8::7]:4000".parse().unwrap(),
            local: None,
            credentials: None,
        }
    }

    #[test]
    fn a_server_is_told_what_it_takes_and_never_without_the_address() {
        let some: Keywords = ["XCLIENT NAME HELO ADDR", "XFORWARD ident"].into_iter().collect();
        let said = String::from_utf8(xclient(&some, &whom()).unwrap()).unwrap();
        assert_eq!(said, "XCLIENT NAME=[UNAVAILABLE] HELO=a+3Db+2Bc.test ADDR=IPV6:2001:db8::7\r\n");
        assert_eq!(xforward(&some, &whom(), true, "x.1"), ["XFORWARD IDENT=x.1\r\n"]);
        let none: Keywords = ["XCLIENT NAME", "PIPELINING"].into_iter().collect();
        assert!(xclient(&none, &whom()).is_none());
        assert!(xforward(&none, &whom(), true, "x.1").is_empty());
    }

    #[test]
    fn what_is_too_long_for_one_line_takes_two() {
        let all: Keywords = ["XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"].into_iter().collect();
        let mut whom = whom();
        whom.hello.name = vec![b'+'; 150].into();
        let lines = xforward(&all, &whom, true, "x.1");
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= LINE && line.starts_with("XFORWARD ")), "{lines:?}");
        assert!(lines[1].ends_with(" IDENT=x.1\r\n"));
    }
}
