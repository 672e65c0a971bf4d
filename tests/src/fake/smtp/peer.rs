//! Who the client is, when somebody stands between it and the server: PROXY v2, XCLIENT, XFORWARD.
//!
//! Rule: what cannot be parsed is refused and leaves everything as it was.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Who the client is, as far as the server was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Of the connection, unless the PROXY header or XCLIENT said otherwise.
    pub address: SocketAddr,
    /// Whom it connected to, if the PROXY header or XCLIENT said so.
    pub destination: Option<SocketAddr>,
    /// As EHLO or XCLIENT gave it.
    pub hello: String,
    /// Who logged in, or who XCLIENT said has.
    pub user: Option<String>,
    /// The connection was inside TLS.
    pub tls: bool,
    /// All that XCLIENT said, decoded.
    pub xclient: BTreeMap<String, String>,
    /// All that XFORWARD said for this transaction, decoded.
    pub xforward: BTreeMap<String, String>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            destination: None,
            hello: String::new(),
            user: None,
            tls: false,
            xclient: BTreeMap::new(),
            xforward: BTreeMap::new(),
        }
    }

    /// Reads a PROXY header, which must be there.
    pub(super) async fn proxied<R: AsyncRead + Unpin>(&mut self, stream: &mut R) -> io::Result<()> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "no PROXY header, version 2");
        let mut head = [0; 16];
        stream.read_exact(&mut head).await?;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
        if head[..12] != SIGNATURE[..] || head[12] >> 4 != 2 {
            return Err(broken());
        }
        stream.read_exact(&mut rest).await?;
        if head[12] & 0xF == 0 {
            return Ok(()); // LOCAL: the proxy speaks for itself
        }
        let (from, to) = addresses(head[13], &rest).ok_or_else(broken)?;
        self.address = from;
        self.destination = Some(to);
        Ok(())
    }

    /// Takes in what XCLIENT says.
    pub(super) fn said(&mut self, args: &str) -> Result<(), String> {
        let said = attributes(
            args,
            &[
                "NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT", "TTL", "TIMEOUT",
                "SESSION",
            ],
        )?;
        self.xclient.extend(said);
        let known = |name: &str| self.xclient.get(name).filter(|v| !v.starts_with('[')).map(String::as_str);
        let place =
            |ip: &str, port: &str, before: Option<SocketAddr>| -> Result<Option<SocketAddr>, String> {
                let Some(text) = known(ip) else { return Ok(before) };
                let ip = address(text).ok_or_else(|| format!("501 5.5.4 {ip}={text}?"))?;
                let port = known(port).map_or(Ok(0), str::parse).map_err(|_| format!("501 5.5.4 {port}?"))?;
                Ok(Some(SocketAddr::new(ip, port)))
            };
        let from = place("ADDR", "PORT", Some(self.address))?;
        let to = place("DESTADDR", "DESTPORT", self.destination)?;
        let (hello, login) = (known("HELO").map(String::from), known("LOGIN").map(String::from));
        self.address = from.unwrap_or(self.address);
        self.destination = to;
        self.hello = hello.unwrap_or_default();
        if login.is_some() {
            self.user = login;
        }
        Ok(())
    }

    /// Takes in what XFORWARD says.
    pub(super) fn forwarded(&mut self, args: &str) -> Result<(), String> {
        let said = attributes(args, &["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"])?;
        self.xforward.extend(said);
        Ok(())
    }
}

fn addresses(family: u8, rest: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let (from, to, ports) = match family {
        0x11 => {
            let ip = |at: usize| {
                Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(rest.get(at..at + 4)?).ok()?)))
            };
            (ip(0)?, ip(4)?, 8)
        }
        0x21 => {
            let ip = |at: usize| {
                Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(rest.get(at..at + 16)?).ok()?)))
            };
            (ip(0)?, ip(16)?, 32)
        }
        _ => return None,
    };
    Some((SocketAddr::new(from, port(ports)?), SocketAddr::new(to, port(ports + 2)?)))
}

/// `NAME=value …`, the values in xtext (RFC 3461 §4).
fn attributes(args: &str, known: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for word in args.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or("501 5.5.4 NAME=value")?;
        let name = name.to_ascii_uppercase();
        if !known.contains(&name.as_str()) {
            return Err(format!("501 5.5.4 {name} is not known"));
        }
        all.insert(name, decoded(value).ok_or("501 5.5.4 not xtext")?);
    }
    if all.is_empty() { Err("501 5.5.4 nothing said".into()) } else { Ok(all) }
}

fn decoded(xtext: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::new(), xtext.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => {
                let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                rest = &rest[2..];
            }
            b'!'..=b'~' if byte != b'=' => out.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(out).ok()
}

/// An address as XCLIENT writes it.
fn address(text: &str) -> Option<IpAddr> {
    match text.get(..5).filter(|p| p.eq_ignore_ascii_case("IPV6:")) {
        Some(_) => text[5..].parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::Peer;

    fn peer() -> Peer {
        Peer::new("127.0.0.1:7".parse().unwrap())
    }

    #[test]
    fn xclient_changes_who_the_client_is() {
        let mut one = peer();
        one.said("ADDR=203.0.113.7 PORT=50344 HELO=a+2Bb LOGIN=anna@example.org").unwrap();
        assert_eq!(one.address, "203.0.113.7:50344".parse().unwrap());
        assert_eq!((one.hello.as_str(), one.user.as_deref()), ("a+b", Some("anna@example.org")));
        one.said("ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE] DESTADDR=192.0.2.1 DESTPORT=587").unwrap();
        assert_eq!(one.address, "[2001:db8::1]:50344".parse().unwrap());
        assert_eq!(one.destination, Some("192.0.2.1:587".parse().unwrap()));
        for wrong in ["", "ADDR", "ADDR=2001:db8::1", "ADDR=1.2.3.4 PORT=x", "FOO=bar", "HELO=+2", "HELO=a=b"]
        {
            assert!(peer().said(wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_proxy_header_does_too() {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0e".to_vec();
        header.extend([203, 0, 113, 7, 192, 0, 2, 1, 0, 80, 0, 25, 1, 2]);
        let mut one = peer();
        one.proxied(&mut header.as_slice()).await.unwrap();
        assert_eq!(one.address, "203.0.113.7:80".parse().unwrap());
        assert_eq!(one.destination, Some("192.0.2.1:25".parse().unwrap()));
        assert!(peer().proxied(&mut &b"EHLO client.test\r\nMAIL"[..]).await.is_err());
    }
}
