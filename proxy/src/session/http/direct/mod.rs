//! The direct way of a request that is whole with its head, to a server of HTTP/1.1: most requests are such. pingora's
//! proxy has room for bodies that go both ways at once (two channels, four loops, a task for each kept connection); a
//! request that needs none of it takes three quarters of the time on pingora's parsers alone (bench/README).
//!
//! Rule: what pingora's proxy would ask is asked here too, of the same functions and in the same order; a request that
//! is not plain is left to it.

mod kept;
mod server;

use std::{future::poll_fn, task::Poll, time::Duration};

use http::{HeaderName, HeaderValue, Version, header};
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{Error, ErrorType, OrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

pub(super) use self::kept::Kept;
use self::server::Server;
use super::{
    front, gateway, hold, lane, loss, peer,
    request::{Ctx, Request},
};
use crate::config::HttpVersion;

/// An answer of so many bytes comes with its head.
const SMALL: usize = 4096;

/// Why a try failed.
enum Failed {
    /// No server could be reached.
    Dial(Box<Error>),
    /// Anything after that.
    Lost(Box<Error>),
    /// There is nowhere to go, or the stream that came has ended.
    Over(Box<Error>),
}

/// What a try came to.
#[derive(PartialEq, Eq)]
enum Came {
    Answered,
    /// The pool that serves now speaks HTTP/2.
    Elsewhere,
}

/// Serves a plain request. False: pingora's proxy is to, from where it is now.
pub(super) async fn take(ctx: &mut Ctx, session: &mut Session) -> Result<bool> {
    let Some(request) = &mut ctx.request else { return Ok(false) };
    let head = session.req_header();
    if !is_plain(head) || peer::is_bound(&request.conn, head) || !session.as_mut().is_body_empty() {
        return Ok(false);
    }
    if !gateway::first_wait(request, session).await? {
        return Ok(true);
    }
    loop {
        let Some(request) = &mut ctx.request else { return Ok(false) };
        gateway::wait(request, session).await?;
        let error = match one(request, session).await {
            Ok(came) => return Ok(came == Came::Answered),
            Err(Failed::Dial(error)) => loss::no_connection(ctx, error),
            Err(Failed::Lost(error)) => loss::lost(ctx, session, error),
            Err(Failed::Over(error)) => error,
        };
        if !error.retry() {
            return Err(error);
        }
    }
}

/// Whether a head asks for nothing but an answer.
fn is_plain(head: &RequestHeader) -> bool {
    let kept = |value: &HeaderValue| {
        ["keep-alive", "close"].iter().any(|word| value.as_bytes().eq_ignore_ascii_case(word.as_bytes()))
    };
    let plain = |(name, value): (&HeaderName, &HeaderValue)| match name.as_str() {
        "connection" => kept(value),
        "expect"
        | "http2-settings"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "trailer"
        | "transfer-encoding"
        | "upgrade" => false,
        _ => true,
    };
    head.version > Version::HTTP_10 && head.raw_path().starts_with(b"/") && head.headers.iter().all(plain)
}

/// One try.
async fn one(request: &mut Request, session: &mut Session) -> Result<Came, Failed> {
    // Before a kept connection is looked at: its server may close it at any time.
    others_first().await;
    let Some((key, mut line)) = reach(request, session).await? else { return Ok(Came::Elsewhere) };
    ask(request, session, &mut line).await.map_err(Failed::Lost)?;
    let head = begun(request, session, &mut line).await.map_err(Failed::Lost)?;
    if lane::is_unannounced(session, &head) {
        // Boxed, so that other requests do not carry its room.
        Box::pin(lane::adopt(request, session, head, line)).await.map_err(Failed::Over)?;
        return Ok(Came::Answered);
    }
    answer(request, session, &mut line, head).await.map_err(Failed::Lost)?;
    line.respect_keepalive();
    let time = line.resp_header().map_or(Duration::ZERO, kept::time);
    if let Some(Ok(server)) = line.reuse().await.map(|stream| stream.into_any().downcast()) {
        request.conn.world().http.kept().put(key, server, time);
    }
    Ok(Came::Answered)
}

/// A connection for this try, and whose requests it may serve after it. `None`: HTTP/2 is spoken there.
async fn reach(request: &mut Request, session: &Session) -> Result<Option<(u64, HttpSession)>, Failed> {
    let conn = request.conn.clone();
    let topology = conn.world().topology.load();
    let Some(way) = peer::way(request, &topology, session.req_header()) else {
        return Err(Failed::Over(gateway::nowhere(request)));
    };
    if way.service.version == HttpVersion::Two {
        return Ok(None);
    }
    let server = match conn.world().http.kept().take(way.key) {
        Some(server) => server,
        None => Box::new(Server::dial(request, &way).await.map_err(Failed::Dial)?),
    };
    let wire = server.wire();
    if let Some(flight) = &request.flight {
        flight.over(wire.clone());
    }
    request.wire = Some(wire);
    let mut line = HttpSession::new(server);
    (line.read_timeout, line.write_timeout) = (Some(way.service.silence), Some(way.service.silence));
    Ok(Some((way.key, line)))
}

/// Sends the request, if the gate lets it.
async fn ask(request: &mut Request, session: &Session, line: &mut HttpSession) -> Result<()> {
    let head = session.req_header();
    let mut said = Box::new(head.clone());
    said.set_version(Version::HTTP_11);
    for name in [header::CONNECTION, header::TE, front::KEEP_ALIVE] {
        said.remove_header(&name);
    }
    if head.version == Version::HTTP_2 {
        let host = HeaderValue::from_str(front::authority(head));
        said.insert_header(header::HOST, host.or_err(ErrorType::InvalidHTTPHeader, "host")?)?;
    }
    gateway::send(request, head, &mut said, true)?;
    line.write_request_header(said).await.map_err(Error::into_up)?;
    Ok(())
}

/// The head of the final answer; others are passed on.
async fn begun(
    request: &Request,
    session: &mut Session,
    line: &mut HttpSession,
) -> Result<Box<ResponseHeader>> {
    let mut head = heard(session, line).await?;
    while head.status.is_informational() && head.status != 101 {
        gateway::dress(request, session, &mut head)?;
        session.write_response_header(head, false).await.map_err(Error::into_down)?;
        head = heard(session, line).await?;
    }
    Ok(head)
}

/// Passes the answer on to its end.
async fn answer(
    request: &mut Request,
    session: &mut Session,
    line: &mut HttpSession,
    mut head: Box<ResponseHeader>,
) -> Result<()> {
    gateway::heard(request, session, &mut head).await?;
    // RFC 9112 §2.6: the version is that of whoever speaks.
    head.set_version(Version::HTTP_11);
    let whole = session.req_header().method == "HEAD" || matches!(head.status.as_u16(), 204 | 304);
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    if !whole && !framed.iter().any(|name| head.headers.contains_key(name)) {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    gateway::dress(request, session, &mut head)?;
    if whole || is_small(&head) {
        others_first().await;
    }
    session.write_response_header(head, whole).await.map_err(Error::into_down)?;
    body(request, session, line).await
}

/// Whether all of an answer has come with its head, as far as one can tell: what is longer is best passed on while the
/// processor has it at hand.
fn is_small(head: &ResponseHeader) -> bool {
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length.is_some_and(|length: usize| length <= SMALL)
}

/// Lets those go first for whom something has come. What all have to say then leaves in one go, and who waits for it is woken
/// up once, not for each (bench/README); Redis answers its clients like that.
async fn others_first() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn body(request: &mut Request, session: &mut Session, line: &mut HttpSession) -> Result<()> {
    while !line.is_body_done() {
        let mut piece = tokio::select! {
            biased;
            piece = line.read_body_bytes() => piece.map_err(Error::into_up)?,
            () = hold::gone(session) => return Err(gone()),
        };
        let end = line.is_body_done();
        gateway::piece(request, &mut piece, end)?;
        session.write_response_body(piece, end).await.map_err(Error::into_down)?;
    }
    Ok(())
}

/// The next head that the server sends.
async fn heard(session: &mut Session, line: &mut HttpSession) -> Result<Box<ResponseHeader>> {
    tokio::select! {
        biased;
        head = line.read_resp_header_parts() => head.map_err(Error::into_up),
        () = hold::gone(session) => Err(gone()),
    }
}

fn gone() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the client has gone").into_down()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_more_than_an_answer_is_not_plain() {
        let head = |target: &str, fields: &[(&'static str, &str)]| {
            let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            fields.iter().for_each(|(name, value)| head.append_header(*name, *value).map(drop).unwrap());
            is_plain(&head)
        };
        assert!(head("/", &[("Host", "a.test"), ("Connection", "Keep-Alive"), ("TE", "trailers")]));
        assert!(head("/a?b", &[("Connection", "close")]));
        for (target, fields) in [
            ("http://a.test/", [("Host", "a.test")]),
            ("/", [("Connection", "keep-alive, x-forwarded-for")]),
            ("/", [("Connection", "upgrade")]),
            ("/", [("Upgrade", "h2c")]),
            ("/", [("Expect", "100-continue")]),
            ("/", [("Proxy-Authorization", "Basic x")]),
            ("/", [("Transfer-Encoding", "chunked")]),
        ] {
            assert!(!head(target, &fields), "{target} {fields:?}");
        }
        let mut old = RequestHeader::build("GET", b"/", None).unwrap();
        old.set_version(Version::HTTP_10);
        assert!(!is_plain(&old));
    }
}
