//! What becomes of a request whose server was lost.
//!
//! Rule: the policy decides; here it is carried out, and counted.

use std::time::Duration;

use bascule_protocols::http::{
    framing::Refused,
    replay::{Next, Received, Sent},
};
use http::header;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use super::{
    answer,
    edge::Edge,
    request::{Ctx, Request, received},
};
use crate::config::Protocol;

/// How long a client whose connection ends may take for the last of it.
const LONGEST: Duration = Duration::from_secs(5);

/// No connection: not a byte was sent. Tried again until the request's time is up.
pub(super) fn no_connection(ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    let Some(request) = &mut ctx.request else { return error };
    tracing::debug!(service = request.service, %error, "no connection");
    match &error.context {
        Some(why) => tried(request, Some(&why.as_str())),
        None => tried(request, Some(&error)),
    }
    let others = unreachable(request);
    request.over();
    if !others {
        request.back_off(false);
    }
    request.conn.world().metrics.http_again.count("dial");
    error.set_retry(true);
    error
}

/// What came of trying the server that was chosen.
pub(super) fn tried(request: &Request, failed: Option<&dyn std::fmt::Display>) {
    let (Some(flight), Some(chosen)) = (&request.flight, &request.chosen) else { return };
    // A gate that shuts says nothing about a server.
    if failed.is_none() || flight.admitted() {
        request.conn.world().tried(flight.pool, Protocol::Http, &chosen.server, failed);
    }
}

/// A server could not be reached. True: there are others, that were not asked yet.
pub(super) fn unreachable(request: &mut Request) -> bool {
    let (Some(flight), Some(chosen)) = (&request.flight, &request.chosen) else { return false };
    // A gate that shuts says nothing about a server; neither does being the only one.
    if !flight.admitted() || chosen.of < 2 {
        return false;
    }
    let servers = &request.conn.world().http.servers;
    servers.unreachable(flight.pool, &request.service, chosen.at);
    request.avoided.push(chosen.at);
    if request.avoided.len() < chosen.of {
        return true;
    }
    request.avoided.clear();
    false
}

/// A server of HTTP/2 has not looked at the request: it refused the stream, or went before it (RFC 9113 §8.7, §6.8).
fn never_looked_at(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // Streams up to the last number that GOAWAY names do not end with it.
        error.is_remote() && (refused || error.is_go_away())
    })
}

/// The connection was lost, or the gate shut before the last byte.
pub(super) fn lost(ctx: &mut Ctx, session: &Session, mut error: Box<Error>) -> Box<Error> {
    let Some(request) = &mut ctx.request else { return error };
    if error.esource() == &ErrorSource::Downstream {
        request.over();
        error.set_retry(false);
        return error;
    }
    let wire = request.wire.clone();
    let cut = wire.is_some_and(|wire| wire.is_cut());
    if never_looked_at(&error) {
        request.sent = Sent::Nothing;
    }
    let gate = cut || request.flight.as_ref().is_some_and(|flight| !flight.admitted());
    let next = request.verdict.take().unwrap_or_else(|| request.lost(session, gate));
    tracing::debug!(service = request.service, %error, ?next, "the server is lost");
    let again = matches!(next, Next::Again(_));
    if again {
        request.back_off(true);
        request.conn.world().metrics.http_again.count(if cut { "gate" } else { "lost" });
    } else {
        if cut && next == Next::Cut {
            request.conn.lost_a_read();
        }
        request.verdict = Some(next);
    }
    // Only now: its connection has done what it was told to when its last request is over.
    request.over();
    error.set_retry(again);
    error
}

/// The request's end without an answer of a server.
pub(super) async fn end(ctx: &mut Ctx, session: &mut Session, error: &Error) -> FailToProxy {
    let begun = received(session) == Received::Begun;
    let downstream = error.esource() == &ErrorSource::Downstream;
    let next = ctx.request.as_mut().map(|request| verdict(request, downstream, begun));
    // pingora keeps no connection whose request had no answer of a server, and the client is to know.
    session.as_mut().set_keepalive(None);
    let (code, said) = match next {
        _ if !begun && matches!(error.etype(), ErrorType::HTTPStatus(413)) => {
            (413, answer::say(session, 413, "The body is too long", &[]).await)
        }
        _ if !begun && matches!(error.etype(), ErrorType::HTTPStatus(408)) => {
            (408, answer::say(session, 408, "The body took too long", &[]).await)
        }
        // What pingora does not like about a head, although it is framed well.
        _ if !begun && downstream && error.etype() == &ErrorType::InvalidHTTPHeader => {
            (400, answer::say(session, 400, "field", &[]).await)
        }
        _ if !begun && refused(session).is_some() => {
            let why = refused(session).map_or("", Refused::name);
            (400, answer::say(session, 400, why, &[]).await)
        }
        Some(Next::Busy | Next::Again(_)) => (503, answer::busy(session).await),
        Some(Next::Unknown) => (502, answer::unknown(session).await),
        Some(Next::Cut) if begun && !downstream => {
            flush(session).await;
            (0, Ok(()))
        }
        Some(Next::Cut) => (0, Ok(())),
        // pingora's own complaint about the request.
        None if !begun && downstream => (400, session.respond_error(400).await.map(drop)),
        None => (0, Ok(())),
    };
    if said.is_ok() && code != 0 {
        drain(session).await;
    }
    FailToProxy { error_code: code, can_reuse_downstream: false }
}

/// Why the rest of the request's body was not let by.
fn refused(session: &Session) -> Option<Refused> {
    session.as_ref().stream()?.as_any().downcast_ref::<Edge>()?.refused()
}

fn verdict(request: &mut Request, downstream: bool, begun: bool) -> Next {
    let next = match request.verdict.take() {
        _ if begun || downstream => Next::Cut,
        Some(next) => next,
        None => Next::Busy,
    };
    let outcome = match next {
        Next::Busy | Next::Again(_) => "busy",
        Next::Unknown => "unknown",
        Next::Cut if downstream => "gone",
        Next::Cut => "cut",
    };
    request.conn.world().metrics.http_requests.count(outcome);
    next
}

/// What has come of an answer whose length is known is kept back until there is more of it. A client whose kept connection
/// ends without a word says its request again by itself, whatever it is (RFC 9112 §9.3.1 allows less).
async fn flush(session: &mut Session) {
    let sized = |head: &ResponseHeader| head.headers.contains_key(header::CONTENT_LENGTH);
    if session.as_ref().as_http1().is_some() && session.as_ref().response_written().is_some_and(sized) {
        let _ = tokio::time::timeout(LONGEST, session.as_mut().shutdown()).await;
    }
}

/// A client that is still sending would lose the answer with its connection.
async fn drain(session: &mut Session) {
    let _ = tokio::time::timeout(LONGEST, session.as_mut().drain_request_body()).await;
}
