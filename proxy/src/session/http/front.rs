//! What is done to a request and to its answer at the door: limits, answers of the proxy's own, and whom each side is
//! told that it speaks to.
//!
//! Rule: what a client says about where it comes from is never passed on.

use std::{borrow::Cow, net::IpAddr};

use bascule_protocols::http::framing;
use http::{HeaderMap, HeaderName, header};
use pingora_error::{ErrorType, OrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use smallvec::SmallVec;

use super::{
    answer,
    conn::Conn,
    cookie,
    request::{Request, target},
};
use crate::config::HttpAddress;

/// Where certificates' authorities look (RFC 8555 §8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// The fields that say where a request comes from, besides those that begin with [`ORIGIN`].
const ORIGINS: [&str; 7] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "true-client-ip",
];
/// What most of them begin with.
const ORIGIN: &str = "x-forwarded";
/// How long a connection is kept (RFC 2068 §19.7.1.1).
pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The fields of an answer that are about one leg, whether `Connection` names them or not. By `Alt-Svc` a server says how
/// else it can be reached: clients would go there for as long as it says, past the gate (RFC 7838 §3.1).
const HOPS: [HeaderName; 7] = [
    header::ALT_SVC,
    header::CONNECTION,
    header::UPGRADE,
    KEEP_ALIVE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
];

/// Whether a field says where a request comes from. Many servers read `_` as `-`.
fn is_origin(name: &str) -> bool {
    let read = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    let begins = |other: &str| {
        name.len() >= other.len() && name.bytes().map(read).zip(other.bytes()).all(|(a, b)| a == b)
    };
    begins(ORIGIN) || ORIGINS.iter().any(|other| name.len() == other.len() && begins(other))
}

/// The host that a request is for, as it was written.
pub(super) fn authority(head: &RequestHeader) -> &str {
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let field = head.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    authority.or(field).unwrap_or_default()
}

/// The same lower-cased, without a port.
pub(super) fn host(head: &RequestHeader) -> Cow<'_, str> {
    let host = authority(head);
    let bare = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => host,
    };
    let bare = bare.trim_matches(['[', ']']).trim_end_matches('.');
    if bare.bytes().any(|b| b.is_ascii_uppercase()) { bare.to_ascii_lowercase().into() } else { bare.into() }
}

/// Answers a request that is larger than what is taken. True: it was.
pub(super) async fn too_large(session: &mut Session, conn: &Conn) -> Result<bool> {
    let head = session.req_header();
    let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let limits = conn.limits();
    let length = length(head);
    let (status, limit) = match () {
        () if size + head.raw_path().len() > limits.header_size => (431, "http_header_size"),
        () if length.is_some_and(|length| length > limits.body_size) => (413, "http_body_size"),
        () => return Ok(false),
    };
    conn.world().metrics.limits_hit.count(limit);
    answer::refuse(session, conn, status, limit).await?;
    Ok(true)
}

/// Answers a client that asks too often. True: it did.
pub(super) async fn too_many(session: &mut Session, conn: &Conn) -> Result<bool> {
    match conn.door.rates.request(conn.entry.handle.peer.ip()) {
        Ok(()) => Ok(false),
        Err(limit) => answer::too_often(session, conn, limit).await.map(|()| true),
    }
}

/// The same of one whose credentials a pool took: nobody is to use up what another one may do, so that it is they that are
/// counted, and not the name in them.
pub(super) async fn too_many_of_one(session: &mut Session, request: &Request) -> Result<bool> {
    let (head, conn) = (session.req_header(), &request.conn);
    let Some(number) = conn.world().http.credentials.number(&request.service, head) else {
        return Ok(false);
    };
    match conn.door.rates.request_of(conn.entry.handle.peer.ip(), &number.to_string()) {
        Ok(()) => Ok(false),
        Err(limit) => answer::too_often(session, conn, limit).await.map(|()| true),
    }
}

/// The announced length of a request's body.
pub(super) fn length(head: &RequestHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok())
}

/// Answers what needs no pool. True: it did.
pub(super) async fn here(session: &mut Session, conn: &Conn) -> Result<bool> {
    let listener = &conn.door.listener.http;
    let head = session.req_header();
    let path = framing::path_of(target(head));
    let count = |outcome| conn.world().metrics.http_requests.count(outcome);
    if let (Some(folder), Some(token)) = (&listener.acme, path.strip_prefix(CHALLENGES)) {
        let plain =
            !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let answered = if plain { tokio::fs::read_to_string(folder.join(token)).await.ok() } else { None };
        count("acme");
        match answered {
            Some(text) => answer::say(session, 200, text.trim_end(), &[]).await?,
            None => answer::say(session, 404, "No such challenge", &[]).await?,
        }
        return Ok(true);
    }
    if !listener.redirect {
        return Ok(false);
    }
    count("redirected");
    let name = match (host(head).parse::<IpAddr>(), host(head)) {
        (Ok(IpAddr::V6(v6)), _) => format!("[{v6}]").into(),
        // HTTP/1.0 may have none.
        (Err(_), name) if name.is_empty() => conn.world().config.server.hostname.as_str().into(),
        (Ok(IpAddr::V4(_)) | Err(_), name) => name,
    };
    let asked = framing::without_authority(target(head)).unwrap_or_else(|| target(head).to_owned());
    let place = format!("https://{name}{asked}");
    answer::say(session, 308, "Moved", &[("Location", place)]).await?;
    Ok(true)
}

/// Tells the server whose request it is.
pub(super) fn introduce(head: &RequestHeader, upstream: &mut RequestHeader, request: &Request) -> Result<()> {
    let lies: Vec<String> =
        upstream.headers.keys().filter(|name| is_origin(name.as_str())).map(ToString::to_string).collect();
    lies.iter().for_each(|name| drop(upstream.remove_header(name.as_str())));
    cookie::hide(upstream, &request.service)?;
    cookie::join(upstream)?;
    // pingora has seen to it that Host says the same.
    if let Some(path) = str::from_utf8(upstream.raw_path()).ok().and_then(framing::without_authority) {
        upstream.set_uri(path.parse().or_err(ErrorType::InternalError, "a part of an address")?);
    }
    if upstream.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        // They are the same.
        let length = length(upstream).unwrap_or(0);
        upstream.insert_header("Content-Length", length.to_string())?;
    }
    let conn = &request.conn;
    let Some(flight) = &request.flight else { return Ok(()) };
    let topology = conn.world().topology.load();
    let service = topology.pool(flight.pool).http.get(&request.service);
    if service.is_none_or(|service| service.client_address == HttpAddress::None) {
        return Ok(());
    }
    let client = conn.entry.handle.peer.ip().to_canonical();
    let scheme = if conn.secure { "https" } else { "http" };
    let host = authority(head);
    upstream.insert_header("X-Forwarded-For", client.to_string())?;
    upstream.insert_header("X-Real-IP", client.to_string())?;
    upstream.insert_header("X-Forwarded-Proto", scheme)?;
    upstream.insert_header("X-Forwarded-Host", host)?;
    upstream.insert_header("Forwarded", forwarded(client, scheme, host))?;
    Ok(())
}

/// RFC 7239 §4.
fn forwarded(client: IpAddr, scheme: &str, host: &str) -> String {
    let node = match client {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    let quoted = host.replace(['"', '\\'], "");
    format!("for={node};proto={scheme};host=\"{quoted}\"")
}

/// RFC 6797 §7.1: with every answer, also with those of the proxy's own.
pub(super) fn hsts(conn: &Conn, head: &mut ResponseHeader) -> Result<()> {
    if let (Some(time), true) = (conn.door.listener.http.hsts, conn.secure) {
        head.insert_header("Strict-Transport-Security", format!("max-age={}", time.as_secs()))?;
    }
    Ok(())
}

/// What is said to the client about this proxy, and nothing about what stands behind it.
pub(super) fn dress(conn: &Conn, request: &Request, head: &mut ResponseHeader) -> Result<()> {
    hsts(conn, head)?;
    if let Some(value) = request.chosen.as_ref().and_then(|chosen| chosen.cookie.as_ref()) {
        head.append_header("Set-Cookie", cookie::setting(&request.service, value, conn.secure))?;
    }
    Ok(())
}

/// The fields of an answer that are about one leg.
fn hops(fields: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let named = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: SmallVec<[&str; 4]> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    let framing = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];
    let is_named = |name: &HeaderName| named.iter().any(|other| other.eq_ignore_ascii_case(name.as_str()));
    let ends = |name: &&HeaderName| HOPS.contains(name) || (is_named(name) && !framing.contains(name));
    fields.keys().filter(ends).cloned().collect()
}

/// Fields about the leg to the server end here (RFC 9110 §7.6.1), and what is said oddly is said well; pingora writes those
/// about the client's.
pub(super) fn undress(head: &mut ResponseHeader) -> Result<()> {
    let hops = hops(&head.headers);
    hops.iter().for_each(|name| drop(head.remove_header(name)));
    let lengths = head.headers.get_all(header::CONTENT_LENGTH);
    let often = lengths.iter().count() > 1 || lengths.iter().any(|value| value.as_bytes().contains(&b','));
    if head.status == 204 {
        // Who goes by them waits for what does not come (RFC 9110 §8.6, RFC 9112 §6.1).
        head.remove_header(&header::CONTENT_LENGTH);
        head.remove_header(&header::TRANSFER_ENCODING);
    } else if let (true, Some(value)) = (often, lengths.iter().next()) {
        // pingora has seen to it that they are the same; to say one is what is left (RFC 9110 §8.6).
        let one = value.as_bytes().split(|b| *b == b',').next().unwrap_or_default().trim_ascii().to_vec();
        head.insert_header(header::CONTENT_LENGTH, one)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_without_a_port() {
        for (field, name) in [
            ("Mail.Example.ORG", "mail.example.org"),
            ("mail.example.org:8443", "mail.example.org"),
            ("mail.example.org.", "mail.example.org"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("192.0.2.1:80", "192.0.2.1"),
        ] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.insert_header("Host", field).unwrap();
            assert_eq!(host(&head), name);
        }
    }

    #[test]
    fn a_client_is_told_of_as_rfc_7239_says() {
        let of = |ip: &str| forwarded(ip.parse().unwrap(), "https", "a.test:8443");
        assert_eq!(of("192.0.2.1"), "for=192.0.2.1;proto=https;host=\"a.test:8443\"");
        assert_eq!(of("2001:db8::1"), "for=\"[2001:db8::1]\";proto=https;host=\"a.test:8443\"");
    }
}
