//! Our answers to pingora's questions about a request, in the order in which it asks them.
//!
//! Rule: nothing is decided here that a test could not ask elsewhere; each answer is a call.

use async_trait::async_trait;
use bascule_protocols::http::{
    framing::{self, Head, Version},
    replay::{AtGate, Body, Check, Next, Sent},
};
use bytes::Bytes;
use http::header;
use pingora_core::{modules::http::HttpModules, protocols::Digest, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::{
    again, answer,
    conn::Conn,
    dial::Wire,
    direct,
    flight::Flight,
    front, hold,
    hold::Stop,
    lane, loss, peer,
    request::{Ctx, Request},
};

/// A draft's "partial POST replay": a server that ends gives a request back. Nobody asked it to.
const HANDED_BACK: u16 = 379;

/// Where pingora asks.
#[derive(Debug)]
pub(super) struct Gateway;

fn internal(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, why)
}

/// Ends this try; [`loss::lost`] says what comes after it.
fn give_up(request: &mut Request, verdict: Option<Next>, why: &'static str) -> Box<Error> {
    request.verdict = verdict;
    Error::explain(ErrorType::ConnectionClosed, why).into_up()
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    /// None: pingora's own one would compress.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// True: it was answered here.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let conn = Conn::of(session).ok_or_else(|| internal("a connection of nobody"))?;
        if let Err(refused) = check(session) {
            answer::refuse_framing(session, &conn, refused).await?;
            return Ok(true);
        }
        let whole = front::too_large(session, &conn).await? || front::too_many(session, &conn).await?;
        if whole || front::here(session, &conn).await? {
            return Ok(true);
        }
        let head = session.req_header();
        let path = framing::path_of(super::request::target(head));
        let listener = &conn.door.listener.http;
        let Some(route) = listener.route(&front::host(head), path) else {
            conn.world().metrics.http_requests.count("misdirected");
            answer::say(session, 421, "Not served here", &[]).await?;
            return Ok(true);
        };
        let long_poll = route.long_poll;
        let has_body = !session.as_mut().is_body_empty();
        // Who takes nothing for so long is not there.
        session.as_mut().set_write_timeout(Some(conn.limits().idle));
        let request = Request::new(conn.clone(), session.req_header(), route, has_body);
        if front::too_many_of_one(session, &request).await? {
            return Ok(true);
        }
        let taken = lane::take(ctx.request.insert(request), session, long_poll).await?;
        Ok(taken || direct::take(ctx, session).await?)
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        first_wait(ctx.request.as_mut().ok_or_else(homeless)?, session).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let request = ctx.request.as_mut().ok_or_else(homeless)?;
        wait(request, session).await?;
        let topology = request.conn.world().topology.load();
        let way = peer::way(request, &topology, session.req_header());
        way.and_then(|way| peer::peer(request, &way)).ok_or_else(|| nowhere(request))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        error: Box<Error>,
    ) -> Box<Error> {
        loss::no_connection(ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if let (Some(request), Some(wire)) = (&mut ctx.request, Wire::below(digest)) {
            if let Some(flight) = &request.flight {
                flight.over(wire.clone());
            }
            request.wire = Some(wire);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let empty = session.as_mut().is_body_empty() || front::length(session.req_header()) == Some(0);
        send(ctx.request.as_mut().ok_or_else(homeless)?, session.req_header(), upstream, empty)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some(request) = &mut ctx.request else { return Ok(()) };
        if session.as_ref().was_upgraded() || request.sent == Sent::All {
            return Ok(());
        }
        request.body = session.as_ref().body_bytes_read() as u64;
        if request.open.is_late() {
            return Err(Error::explain(ErrorType::HTTPStatus(408), "the body takes too long").into_down());
        }
        if request.body > request.conn.limits().body_size {
            request.conn.world().metrics.limits_hit.count("http_body_size");
            return Err(Error::explain(ErrorType::HTTPStatus(413), "the body is too long").into_down());
        }
        // To a server of HTTP/1.1 a body is whole with its last byte, however late the client's stream ends.
        let end = end || front::length(session.req_header()) == Some(request.body);
        if end {
            request.open.whole();
        }
        pass_on(request, session, end, body.as_ref().map_or(0, Bytes::len))
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some(request) = &mut ctx.request else { return Ok(()) };
        if head.status.is_informational() && head.status != 101 {
            return Ok(());
        }
        heard(request, session, head).await
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<std::time::Duration>> {
        let Some(request) = &mut ctx.request else { return Ok(None) };
        piece(request, body, end).map(|()| None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.request.as_ref().map_or(Ok(()), |request| dress(request, session, head))
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Ctx,
        _reused: bool,
    ) -> Box<Error> {
        loss::lost(ctx, session, error)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        loss::end(ctx, session, error).await
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        if let (Some(request), None) = (ctx.request.as_ref().filter(|request| !request.busy), error) {
            let world = request.conn.world();
            world.metrics.http_requests.count("answered");
            world.metrics.commands.inc();
        }
        ctx.request = None;
    }

    /// What becomes of a lost server is logged where it is decided.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        _error: &Error,
        _context: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

fn homeless() -> Box<Error> {
    internal("a request without a route")
}

/// The pool that serves has no such service.
pub(super) fn nowhere(request: &mut Request) -> Box<Error> {
    give_up(request, Some(Next::Busy), "the pool has no such service")
}

/// The first wait at the gate: here a request that waits too long costs its client no connection. False: it was answered.
pub(super) async fn first_wait(request: &mut Request, session: &mut Session) -> Result<bool> {
    match hold::pass(request, session).await {
        Ok(()) => Ok(true),
        Err(Stop::Gone) => Err(gone()),
        Err(Stop::Busy(limit)) => {
            let metrics = &request.conn.world().metrics;
            metrics.limits_hit.count(limit);
            request.refuse();
            answer::take_rest(session).await;
            request.open.whole();
            answer::busy(session).await?;
            Ok(false)
        }
    }
}

/// Every later one.
pub(super) async fn wait(request: &mut Request, session: &mut Session) -> Result<()> {
    match hold::pass(request, session).await {
        Ok(()) => Ok(()),
        Err(Stop::Gone) => Err(gone()),
        Err(Stop::Busy(limit)) => {
            request.conn.world().metrics.limits_hit.count(limit);
            Err(give_up(request, Some(Next::Busy), "it waited too long"))
        }
    }
}

fn gone() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "gone while it waited").into_down()
}

/// The last moment before a request's head is sent: a request without a body (`empty`) is whole with it.
pub(super) fn send(
    request: &mut Request,
    head: &RequestHeader,
    said: &mut RequestHeader,
    empty: bool,
) -> Result<()> {
    front::introduce(head, said, request)?;
    let may = if empty { request.commit() } else { request.begin_body(front::length(head)) };
    if may {
        return Ok(());
    }
    request.sent = Sent::Nothing;
    Err(give_up(request, None, "the gate shut before it was sent"))
}

/// A server's final answer has begun.
pub(super) async fn heard(request: &mut Request, session: &Session, head: &mut ResponseHeader) -> Result<()> {
    if head.status == 101 {
        // What follows would be out of reach of the gate. WebSockets have a lane.
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "nobody asked for it").into_up());
    }
    let kept = !session.as_ref().retry_buffer_truncated();
    request.open_ended = !is_framed(head);
    answered(request, session.req_header(), kept, head)?;
    if request.check.doubts(head.status.as_u16()) {
        again::settle(request, session, head).await?;
    }
    request.check = Check::None;
    if let Some(flight) = &request.flight {
        flight.answered(request.sent == Sent::All);
    }
    Ok(())
}

/// A piece of its body is there.
pub(super) fn piece(request: &mut Request, body: &mut Option<Bytes>, end: bool) -> Result<()> {
    // Where only the end of the stream ends a response, a cut one would look whole.
    if end && request.open_ended && request.wire.as_ref().is_some_and(|wire| wire.is_cut()) {
        return Err(Error::explain(ErrorType::ConnectionClosed, "cut").into_up());
    }
    if request.replaced {
        *body = None;
    }
    if end && request.sent == Sent::All {
        // Its server has no more to do with it; its client may take as long as it likes.
        (request.flight, request.place) = (None, None);
    }
    Ok(())
}

/// Whether an answer's head tells where its body ends; otherwise only its connection does (RFC 9112 §6.3).
fn is_framed(head: &ResponseHeader) -> bool {
    match head.headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
        Some(codings) => {
            let last = codings.as_bytes().rsplit(|b| *b == b',').next().unwrap_or_default();
            last.trim_ascii().eq_ignore_ascii_case(b"chunked")
        }
        None => head.headers.contains_key(header::CONTENT_LENGTH),
    }
}

/// Its head as the client gets it.
pub(super) fn dress(request: &Request, session: &mut Session, head: &mut ResponseHeader) -> Result<()> {
    front::undress(head)?;
    front::dress(&request.conn, request, head)?;
    if request.conn.is_closing() {
        session.as_mut().set_keepalive(None);
    }
    Ok(())
}

/// What a final answer tells besides what it says, and whether it is one at all.
/// `kept`: it can be said again.
pub(super) fn answered(
    request: &mut Request,
    asked: &RequestHeader,
    kept: bool,
    head: &ResponseHeader,
) -> Result<()> {
    let Some((pool, epoch)) = request.flight.as_ref().map(|flight| (flight.pool, flight.epoch)) else {
        return Ok(());
    };
    loss::tried(request, None);
    let conn = request.conn.clone();
    let shared = &conn.world().http;
    let status = head.status.as_u16();
    if status == HANDED_BACK {
        return Err(give_up(request, Some(Next::Unknown), "a request that was handed back in part"));
    }
    if shared.credentials.doubtful(&request.service, asked, status, epoch, std::time::Instant::now()) {
        // It said itself that it did nothing.
        let next = if kept { Next::Again(Check::None) } else { Next::Busy };
        request.back_off(false);
        conn.world().metrics.http_again.count("unauthorized");
        return Err(give_up(request, Some(next), "credentials that were right before the cutover"));
    }
    let topology = conn.world().topology.load();
    if let (Some(service), Some(chosen)) =
        (topology.pool(pool).http.get(&request.service), request.chosen.as_ref())
    {
        shared.servers.learn(service, &request.service, epoch, chosen.at, head);
    }
    shared.people.saw(&request.service, asked, head, std::time::Instant::now());
    Ok(())
}

/// A piece of a body is about to be sent.
fn pass_on(request: &mut Request, session: &Session, end: bool, length: usize) -> Result<()> {
    let kept = if session.as_ref().retry_buffer_truncated() { Body::Lost } else { Body::Kept };
    if kept == Body::Lost && !request.unkept {
        // From here on it can only end where it began. The piece that was one too many has not been sent.
        let may = !request.policy.writes() || request.flight.as_ref().is_some_and(Flight::unkept);
        request.unkept = true;
        if !may {
            return Err(give_up(request, Some(Next::Busy), "the gate shut over a body that is not kept"));
        }
    }
    if !end {
        return Ok(());
    }
    if request.unkept && request.policy.writes() {
        // It counts as a write already.
        return match AtGate::of(Body::Lost, request.conn.draining()) {
            AtGate::Finish | AtGate::Wait => {
                request.sent = Sent::All;
                if let Some(flight) = &request.flight {
                    flight.whole();
                }
                Ok(())
            }
            AtGate::Busy => Err(give_up(request, Some(Next::Busy), "a body that is not kept came too late")),
        };
    }
    if request.commit() {
        return Ok(());
    }
    tracing::debug!(service = request.service, length, "the last byte waits at the gate");
    Err(give_up(request, None, "the gate shut before the last byte"))
}

/// What HTTP/2 brings; HTTP/1 was looked at before pingora saw it.
fn check(session: &Session) -> Result<(), framing::Refused> {
    if session.as_ref().as_http1().is_some() {
        return Ok(());
    }
    let head = session.req_header();
    let fields = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    // What a URI cannot hold is looked at as it came.
    let raw = String::from_utf8_lossy(head.raw_path());
    framing::check(Head { target: &raw, version: Version::Http2, fields }).map(drop)
}
