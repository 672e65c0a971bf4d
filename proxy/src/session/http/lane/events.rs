//! A stream of events that goes on from another server when its own is lost or left.
//!
//! Rule: the client gets whole events, each once and in their order, and a comment now and then while there is no server;
//! what cannot go on ends as a stream ends, and its client comes back by itself.

use std::time::Instant;

use bascule_protocols::http::events::{self, COMMENT, Events};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use pingora_error::Result;
use pingora_proxy::Session;
use tokio::time::interval_at;

use super::super::{
    front,
    hold::{self, Stop},
    request::Request,
};
use super::{Found, Question, find, gone, question};

/// Whether an answer can be followed.
pub(super) fn is_stream(answer: &Response<Incoming>) -> bool {
    let field = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    answer.status() == 200
        && field("content-type").is_some_and(events::is_stream)
        && field("content-encoding").is_none_or(|coding| coding.eq_ignore_ascii_case("identity"))
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

/// Passes the stream on until its client goes, or its end comes.
pub(super) async fn serve(
    request: &mut Request,
    session: &mut Session,
    mut question: Question,
    mut found: Found,
) -> Result<()> {
    begin(request, session, &found.answer).await?;
    let mut events = Events::after(question.last_id());
    let conn = request.conn.clone();
    let streams = &conn.world().metrics.http_streams;
    loop {
        let lost = flow(request, session, &mut events, found).await?;
        let outcome = match lost {
            Lost::Ended => break,
            Lost::Left => "events_moved",
            Lost::Broken => "events_reopened",
        };
        if events.torn() {
            break;
        }
        match outcome {
            "events_reopened" => request.broke(),
            _ => request.begin_again(),
        }
        question.set_last_id(events.last_id());
        match reopen(request, session, &question).await {
            Ok(again) => found = again,
            Err(Stop::Gone) => return Err(gone()),
            Err(Stop::Busy(_)) => {
                streams.count("events_ended");
                break;
            }
        }
        streams.count(outcome);
        events.reopen();
    }
    request.over();
    session.write_response_body(None, true).await
}

/// Sends the head.
async fn begin(request: &Request, session: &mut Session, answer: &Response<Incoming>) -> Result<()> {
    let mut head = question::head(answer)?;
    head.remove_header("content-length");
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
    events: &mut Events,
    found: Found,
) -> Result<Lost> {
    let conn = request.conn.clone();
    let Some(epoch) = request.flight.as_ref().map(|flight| flight.epoch) else { return Ok(Lost::Broken) };
    let Found { line, answer } = found;
    let mut backend = Some((line, answer.into_body()));
    let left = || if *conn.closing.borrow() { Lost::Ended } else { Lost::Left };
    while let Some((_, body)) = &mut backend {
        let piece = tokio::select! {
            biased;
            () = conn.leaves(epoch) => return Ok(left()),
            () = hold::gone(session) => return Err(gone()),
            piece = body.frame() => piece,
        };
        let data = match piece {
            // A server whose pool is being left ends what it carries.
            None if !conn.world().gate.admits(epoch) => return Ok(left()),
            None => return Ok(Lost::Ended),
            Some(Err(_)) => return Ok(Lost::Broken),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let whole = Bytes::from(events.feed(&data));
        if whole.is_empty() {
            continue;
        }
        let mut writing = std::pin::pin!(session.write_response_body(Some(whole), false));
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

/// Finds another server, while the client hears that the stream is alive.
async fn reopen(request: &mut Request, session: &mut Session, question: &Question) -> Result<Found, Stop> {
    let pause = request.conn.world().config.limits.keepalive;
    let mut alive = interval_at((Instant::now() + pause).into(), pause);
    let mut seeking = std::pin::pin!(seek(request, question));
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

/// A stream of another server.
async fn seek(request: &mut Request, question: &Question) -> Result<Found, Stop> {
    loop {
        let found = find::find(request, question).await?;
        match found.answer.status().as_u16() {
            _ if is_stream(&found.answer) => return Ok(found),
            // It has just begun to serve.
            502..=504 => {
                request.over();
                request.back_off(false);
            }
            _ => return Err(Stop::Busy("http_hold")),
        }
    }
}
