//! A stream of events that goes on from another server when its own is lost or left.
//!
//! Rule: the client gets whole events, each once and in their order, and a comment now and then while there is no server;
//! what cannot go on ends as a stream ends, and its client comes back by itself.
//!
//! A client of JMAP's push that goes on is told that what it has heard of has changed ([`Heard`]). An id of an event is of
//! the pool that gave it: there it is said again, and the server says itself what was missed (RFC 8620 §7.3); another pool
//! is asked without it. What a client cannot be told, for it has heard of nothing yet, it finds out as after any lost
//! stream: this one ends, once there is a server for the next one.

use std::time::Instant;

use bascule_protocols::http::{
    events::{self, COMMENT, Events},
    push::{Gap, Heard},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::interval_at;

use super::super::{
    front,
    hold::{self, Stop},
    request::{Request, target},
};
use super::{Found, Question, Source, find, gone};
use crate::topology::Epoch;

/// Whether an answer is a stream that can be followed.
pub(super) fn is_readable(status: StatusCode, fields: &HeaderMap) -> bool {
    let field = |name: HeaderName| fields.get(name).and_then(|value| value.to_str().ok());
    status == StatusCode::OK
        && field(header::CONTENT_TYPE).is_some_and(events::is_stream)
        && field(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"))
}

/// What became of a server.
enum Lost {
    /// It ended the stream, or the process ends.
    Ended,
    /// It is left for another pool.
    Left,
    /// It broke.
    Broken,
}

/// What a client listens to.
struct Listener {
    events: Events,
    heard: Heard,
    /// When its last id was given; `None`: it brought it along, or has none.
    id_of: Option<Epoch>,
    /// What it is told before anything else.
    first: Bytes,
}

/// Passes the stream on until its client goes, or its end comes.
pub(super) async fn serve(
    request: &mut Request,
    session: &mut Session,
    mut question: Question,
    head: ResponseHeader,
    mut source: Source,
) -> Result<()> {
    begin(request, session, head).await?;
    let mut listener = Listener::new(session, &question);
    let conn = request.conn.clone();
    let streams = &conn.world().metrics.http_streams;
    loop {
        let lost = flow(request, session, &mut listener, source).await?;
        let outcome = match lost {
            Lost::Ended => break,
            Lost::Left => "events_moved",
            Lost::Broken => "events_reopened",
        };
        if listener.events.torn() {
            break;
        }
        match outcome {
            "events_reopened" => request.broke(),
            _ => request.begin_again(),
        }
        listener.ask(&mut question);
        match reopen(request, session, &question, &mut listener, outcome).await {
            Ok(Some(again)) => source = again.into(),
            Ok(None) => {
                request.over();
                if !listener.first.is_empty() {
                    session.write_response_body(Some(listener.first), false).await?;
                }
                break;
            }
            Err(Stop::Gone) => return Err(gone()),
            Err(Stop::Busy(_)) => {
                streams.count("events_ended");
                break;
            }
        }
    }
    request.over();
    session.write_response_body(None, true).await
}

impl Listener {
    fn new(session: &Session, question: &Question) -> Self {
        let heard = Heard::at(target(session.req_header()));
        Self { events: Events::after(question.last_id()), heard, id_of: None, first: Bytes::new() }
    }

    /// What it asks of another server.
    fn ask(&self, question: &mut Question) {
        let id = self.events.last_id();
        match self.id_of {
            _ if !self.heard.is_push() => question.set_last_id(id, None),
            None => question.set_last_id(b"", None),
            of => question.set_last_id(id, of),
        }
    }

    /// It has another server. False: its stream ends all the same, after what it is told.
    fn goes_on(&mut self, request: &Request) -> bool {
        self.events.reopen();
        if self.id_of.is_some() && self.id_of == request.epoch() {
            return true;
        }
        let metrics = &request.conn.world().metrics;
        // Random, so that it is no state that the client has: neither a server's nor of an earlier gap.
        let (event, goes_on) = match self.heard.gap(&format!("bascule-{:016x}", fastrand::u64(..))) {
            Gap::Foreign => return true,
            Gap::Told(event) => (event, true),
            Gap::Last(event) => (event, false),
            Gap::Unheard => return false,
            Gap::Missed => {
                metrics.limits_hit.count("http_heard");
                return false;
            }
        };
        metrics.http_streams.count("events_told");
        self.first = event.into();
        goes_on
    }

    /// Takes what came; returns what goes on.
    fn take(&mut self, data: &[u8], epoch: Epoch) -> Bytes {
        let (was_torn, id) = (self.events.torn(), self.events.last_id().to_vec());
        let whole = self.events.feed(data);
        if id != self.events.last_id() {
            self.id_of = (!self.events.last_id().is_empty()).then_some(epoch);
        }
        if was_torn || self.events.torn() {
            self.heard.miss();
        } else {
            self.heard.listen(&whole);
        }
        whole.into()
    }
}

/// Sends the head.
async fn begin(request: &Request, session: &mut Session, mut head: ResponseHeader) -> Result<()> {
    head.remove_header(&header::CONTENT_LENGTH);
    head.remove_header(&header::TRANSFER_ENCODING);
    if !request.conn.two {
        head.insert_header("Transfer-Encoding", "chunked")?;
    }
    front::dress(&request.conn, request, &mut head)?;
    session.write_response_header(Box::new(head), false).await
}

/// Passes events on from one server.
async fn flow(
    request: &mut Request,
    session: &mut Session,
    listener: &mut Listener,
    source: Source,
) -> Result<Lost> {
    let conn = request.conn.clone();
    let Some(epoch) = request.epoch() else { return Ok(Lost::Broken) };
    let mut backend = Some(source);
    let left = || if conn.is_closing() { Lost::Ended } else { Lost::Left };
    let mut whole = std::mem::take(&mut listener.first);
    while let Some(source) = &mut backend {
        if whole.is_empty() {
            let piece = tokio::select! {
                biased;
                () = conn.leaves(epoch) => return Ok(left()),
                () = hold::gone(session) => return Err(gone()),
                piece = source.piece() => piece,
            };
            let data = match piece {
                // A server whose pool is being left ends what it carries.
                None if !conn.world().gate.admits(epoch) => return Ok(left()),
                None => return Ok(Lost::Ended),
                Some(Err(_)) => return Ok(Lost::Broken),
                Some(Ok(data)) => data,
            };
            whole = listener.take(&data, epoch);
            continue;
        }
        let mut writing =
            std::pin::pin!(session.write_response_body(Some(std::mem::take(&mut whole)), false));
        tokio::select! {
            written = &mut writing => written?,
            // A client that does not read keeps nobody at a pool.
            () = conn.leaves(epoch) => {
                backend = None;
                request.over();
                writing.await?;
            }
        }
    }
    Ok(left())
}

/// Finds another server, while the client hears that the stream is alive. `None`: it ends all the same, after what its
/// client is told.
async fn reopen(
    request: &mut Request,
    session: &mut Session,
    question: &Question,
    listener: &mut Listener,
    outcome: &'static str,
) -> Result<Option<Found>, Stop> {
    let pause = request.conn.world().config.limits.keepalive;
    let mut alive = interval_at((Instant::now() + pause).into(), pause);
    let mut seeking = std::pin::pin!(seek(request, question, listener, outcome));
    loop {
        tokio::select! {
            found = &mut seeking => return found,
            () = hold::gone(session) => return Err(Stop::Gone),
            _ = alive.tick() => {
                let comment = Some(Bytes::from_static(COMMENT));
                let mut writing = std::pin::pin!(session.write_response_body(comment, false));
                let found = tokio::select! {
                    written = &mut writing => {
                        written.map_err(|_| Stop::Gone)?;
                        continue;
                    }
                    // Its turn does not wait for a client that does not read.
                    found = &mut seeking => found,
                };
                writing.await.map_err(|_| Stop::Gone)?;
                return found;
            }
        }
    }
}

/// A stream of another server. What becomes of the client's is counted before whoever waits for that hears of it.
async fn seek(
    request: &mut Request,
    question: &Question,
    listener: &mut Listener,
    outcome: &'static str,
) -> Result<Option<Found>, Stop> {
    loop {
        let found = find::find(request, question).await?;
        match found.answer.status().as_u16() {
            _ if is_readable(found.answer.status(), found.answer.headers()) => {
                let goes_on = listener.goes_on(request);
                let streams = &request.conn.world().metrics.http_streams;
                streams.count(if goes_on { outcome } else { "events_ended" });
                request.stream_moved();
                return Ok(goes_on.then_some(found));
            }
            // It has just begun to serve.
            502..=504 => {
                request.stream_moved();
                request.over();
                request.back_off(false);
            }
            _ => return Err(Stop::Busy("http_hold")),
        }
    }
}
