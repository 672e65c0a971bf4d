//! What becomes of a request whose server was lost.
//!
//! Rule: the policy decides; here it is carried out, and counted.

use bascule_protocols::http::replay::{Next, Received};
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::{FailToProxy, Session};

use super::{
    answer,
    request::{Ctx, Request, received},
};

/// No connection: not a byte was sent. Tried again until the request's time is up.
pub(super) fn no_connection(ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
    let Some(request) = &mut ctx.request else { return error };
    tracing::debug!(service = request.service, %error, "no connection");
    request.over();
    request.back_off(false);
    request.conn.world().metrics.http_again.count("dial");
    error.set_retry(true);
    error
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
    let next = request.verdict.take().unwrap_or_else(|| request.lost(session));
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
    let (code, said) = match next {
        _ if !begun && matches!(error.etype(), ErrorType::HTTPStatus(413)) => {
            (413, answer::say(session, 413, "The body is too long", &[]).await)
        }
        Some(Next::Busy | Next::Again(_)) => (503, answer::busy(session).await),
        Some(Next::Unknown) => (502, answer::unknown(session).await),
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

/// A client that is still sending would lose the answer with its connection.
async fn drain(session: &mut Session) {
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(5);
    let _ = tokio::time::timeout(LONGEST, session.as_mut().drain_request_body()).await;
}
