//! The lane of what outlives a server: streams of events, long polls, WebSockets. A client of our own asks for them, on a
//! connection for each, behind the same gate.
//!
//! Rule: they leave a pool when it is left, and never before; no drain, attach or limit of held requests counts them.

mod events;
mod find;
mod open;
mod pass;
mod question;
mod socket;
mod source;

use bascule_protocols::http::lane::{Asked, Lane, by_body};
use http::{HeaderName, Method, header};
use hyper::{Response, body::Incoming};
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{Error, ErrorType, OrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

pub(super) use self::open::{Open, Stream};
use self::{question::Question, source::Source};
use super::{
    answer, front, gateway,
    hold::{self, Stop},
    line::{Line, keep_alive},
    peer,
    request::{KEPT, Request, target},
};

/// Of MAPI over HTTP (MS-OXCMAPIHTTP §2.2.3.3.1).
const REQUEST_TYPE: HeaderName = HeaderName::from_static("x-requesttype");

/// A server's answer, and the connection on which it comes.
struct Found {
    line: Line,
    answer: Response<Incoming>,
}

/// Serves a request that has a lane. False: it has none, and its body is where it was or is kept.
pub(super) async fn take(request: &mut Request, session: &mut Session, long_poll: bool) -> Result<bool> {
    let bodyless = session.as_mut().is_body_empty();
    let head = session.req_header();
    let Some(asked) = asked(head, long_poll, bodyless) else { return Ok(false) };
    let lane = match asked.lane() {
        None if asked.may_wait() => by_body(&body(request, session).await?),
        lane => lane,
    };
    let Some(lane) = lane else { return Ok(false) };
    if lane != Lane::Socket && peer::is_bound(&request.conn, session.req_header()) {
        // On a connection of its own it would be nobody's.
        (request.policy.read_only, request.lasting) = (true, lane == Lane::Poll);
        return Ok(false);
    }
    // Boxed, so that other requests do not carry its room.
    Box::pin(serve(request, session, lane)).await?;
    Ok(true)
}

/// Whether an answer of the direct way begins a stream of events, which its head did not ask for: curl sends no Accept.
pub(super) fn is_unannounced(session: &Session, answer: &ResponseHeader) -> bool {
    session.req_header().method == Method::GET && events::is_readable(answer.status, &answer.headers)
}

/// Goes on with such a stream as if it had been asked for.
pub(super) async fn adopt(
    request: &mut Request,
    session: &mut Session,
    mut head: Box<ResponseHeader>,
    line: HttpSession,
) -> Result<()> {
    gateway::answered(request, session.req_header(), true, &head)?;
    front::undress(&mut head)?;
    if let (Some(flight), Some(wire)) = (&request.flight, request.wire.take()) {
        flight.by_itself();
        keep_alive(&*wire).or_err(ErrorType::SocketError, "keepalive")?;
    }
    request.stream = Some(Stream::open(request, Lane::Events));
    request.place = None;
    let question = Question::new(session.req_header(), bytes::Bytes::new(), Lane::Events);
    events::serve(request, session, question, *head, Source::adopted(line)).await
}

/// What is known of a head; `None`: its body cannot be kept, or it is HTTP/1.0, which has no end of a stream.
fn asked(head: &RequestHeader, poll: bool, bodyless: bool) -> Option<Asked<'_>> {
    let field = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    (is_small(head, bodyless) && head.version > http::Version::HTTP_10).then(|| Asked {
        method: head.method.as_str(),
        target: target(head),
        accept: field(header::ACCEPT),
        upgrade: field(header::UPGRADE),
        request_type: field(REQUEST_TYPE),
        poll,
    })
}

/// Whether its body is small enough to be kept, and comes without being asked for.
fn is_small(head: &RequestHeader, bodyless: bool) -> bool {
    let framed = head.headers.contains_key(header::TRANSFER_ENCODING);
    !framed
        && !head.headers.contains_key(header::EXPECT)
        && front::length(head).map_or(bodyless, |length| length <= KEPT)
}

/// Reads the whole body. It is kept besides, for whoever serves the request in the end.
async fn body(request: &mut Request, session: &mut Session) -> Result<bytes::Bytes> {
    let session = session.as_mut();
    if session.is_body_empty() {
        return Ok(bytes::Bytes::new());
    }
    session.enable_retry_buffering();
    session.drain_request_body().await.map_err(Error::into_down)?;
    request.open.whole();
    if session.retry_buffer_truncated() {
        return Err(Error::explain(ErrorType::HTTPStatus(413), "more than was announced").into_down());
    }
    Ok(session.get_retry_buffer().unwrap_or_default())
}

async fn serve(request: &mut Request, session: &mut Session, lane: Lane) -> Result<()> {
    // What is known to be read does not count as a write, whatever its method says.
    request.policy.read_only = true;
    // What is asked for as a stream may be answered at once: until it is one, it takes its place.
    request.lasting = lane == Lane::Poll;
    match hold::pass(request, session).await {
        Ok(()) => {}
        Err(stop) => return give_up(request, session, stop).await,
    }
    request.stream = Some(Stream::open(request, lane));
    let body = body(request, session).await?;
    let question = Question::new(session.req_header(), body, lane);
    let found = tokio::select! {
        found = find::find(request, &question) => found,
        () = hold::gone(session) => Err(Stop::Gone),
    };
    let found = match found {
        Ok(found) => found,
        Err(stop) => return give_up(request, session, stop).await,
    };
    request.stream_moved();
    match lane {
        Lane::Events if events::is_readable(found.answer.status(), found.answer.headers()) => {
            request.place = None;
            let head = question::head(&found.answer)?;
            events::serve(request, session, question, head, found.into()).await
        }
        Lane::Socket if found.answer.status() == 101 => {
            request.place = None;
            socket::serve(request, session, found).await
        }
        Lane::Events | Lane::Poll | Lane::Socket => pass::pass(request, session, found).await,
    }
}

/// Nobody answers it.
async fn give_up(request: &mut Request, session: &mut Session, stop: Stop) -> Result<()> {
    match stop {
        Stop::Gone => Err(gone()),
        Stop::Busy(limit) => {
            let metrics = &request.conn.world().metrics;
            if !request.conn.is_closing() {
                metrics.limits_hit.count(limit);
            }
            request.refuse();
            request.over();
            answer::take_rest(session).await;
            request.open.whole();
            answer::busy(session).await
        }
    }
}

fn gone() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the client has gone").into_down()
}
