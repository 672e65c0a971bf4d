//! The way to an answer: at the gate, to a server, and again if it is lost.
//!
//! Rule: as often as needed until time is up, which begins anew only when the pool was left for another.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_protocols::http::lane::Lane;
use tokio::time::{sleep_until, timeout};

use super::super::{
    conn::Conn,
    flight::Flight,
    gateway,
    hold::Stop,
    line::{Line, To},
    loss,
    request::Request,
};
use super::{Found, Question, question};

/// A pool that has just taken over is not asked by everybody at once: after so long without an answer the next one may.
const TURN: Duration = Duration::from_millis(200);

/// The answer of a server of the pool that serves.
pub(super) async fn find(request: &mut Request, question: &Question) -> Result<Found, Stop> {
    loop {
        place(request).await?;
        let Some(epoch) = request.epoch() else { continue };
        let conn = request.conn.clone();
        tokio::select! {
            found = ask(request, question) => match found {
                Ok(found) => return Ok(found),
                Err(Why::Left) => left(request, question),
                Err(why) => lost(request, why)?,
            },
            () = conn.leaves(epoch) => left(request, question),
        }
    }
}

/// Its pool was left before it had an answer.
fn left(request: &mut Request, question: &Question) {
    request.begin_again();
    if question.lane() == Lane::Poll {
        request.conn.world().metrics.http_streams.count("polls_again");
    }
}

/// Why there is no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// No server could be reached.
    Dial,
    /// It went without an answer.
    Lost,
    /// The gate shut before it was asked.
    Gate,
    /// The pool that is being left could not look any more.
    Left,
    /// It does not know yet what its predecessor knew, or handed the request back.
    Doubted,
}

/// Counts it, and settles when the next try may begin.
fn lost(request: &mut Request, why: Why) -> Result<(), Stop> {
    tracing::debug!(service = request.service, ?why, "no answer");
    let others = why == Why::Dial && loss::unreachable(request);
    let again = &request.conn.world().metrics.http_again;
    match why {
        Why::Dial => again.count("dial"),
        Why::Lost => again.count("lost"),
        Why::Gate => again.count("gate"),
        // Counted where it was seen.
        Why::Left | Why::Doubted => {}
    }
    if why == Why::Lost {
        request.waits_anew(false);
    }
    request.over();
    match why {
        Why::Lost if request.outlived_enough() => return Err(Stop::Busy("http_hold")),
        Why::Gate | Why::Left => {}
        Why::Dial if others => {}
        // It has settled that itself.
        Why::Doubted if request.not_before.is_some() => {}
        Why::Dial | Why::Lost | Why::Doubted => request.back_off(why == Why::Lost),
    }
    Ok(())
}

/// Waits for a place among those in flight, without taking one from requests that somebody waits for.
async fn place(request: &mut Request) -> Result<(), Stop> {
    if request.flight.is_some() {
        return Ok(());
    }
    let conn = request.conn.clone();
    let _adrift = conn.adrift();
    let until = request.deadline();
    loop {
        let moved = conn.moved.notified();
        let mut moved = std::pin::pin!(moved);
        moved.as_mut().enable();
        let now = Instant::now();
        if now >= until || conn.is_closing() {
            return Err(Stop::Busy("http_hold"));
        }
        request.not_before = request.not_before.filter(|at| now < *at);
        if request.not_before.is_none() && request.take_off() {
            return Ok(());
        }
        let next = request.not_before.map_or(until, |at| at.min(until));
        tokio::select! {
            () = &mut moved => {}
            () = sleep_until(next.into()) => {}
        }
    }
}

async fn ask(request: &mut Request, question: &Question) -> Result<Found, Why> {
    let conn: Arc<Conn> = request.conn.clone();
    let shared = &conn.world().http;
    let topology = conn.world().topology.load();
    let at = request.flight.as_ref().map(|flight| (flight.pool, flight.epoch)).ok_or(Why::Gate)?;
    let service = topology.pool(at.0).http.get(&request.service).ok_or(Why::Dial)?;
    let turn = match request.moved {
        true => Some(shared.turns.acquire().await.map_err(|_| Why::Dial)?),
        false => None,
    };
    let chosen = shared.servers.choose(request, service, at, question.head());
    let (from, version) = (request.from(service), question.version(service.version));
    let server = &request.chosen.insert(chosen).server;
    let opening = Line::open(To { service, server, from, version }, &shared.authorities);
    let limit = service.dial_timeout;
    let opened = timeout(limit, opening).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}")))
    });
    let mut line = opened.map_err(|error| {
        tracing::debug!(service = request.service, %error, "no connection");
        loss::tried(request, Some(&error));
        Why::Dial
    })?;
    let said = question.said(request, service).map_err(|_| Why::Lost)?;
    if !request.commit() {
        return Err(Why::Gate);
    }
    if question.lane() == Lane::Poll {
        // It has its place; whenever the answer comes, nobody waits for it.
        request.stream_moved();
    }
    let answer = {
        let mut asking = std::pin::pin!(timeout(service.silence, line.ask(said)));
        let soon = timeout(TURN, &mut asking).await;
        drop(turn);
        match soon {
            Ok(answer) => answer,
            Err(_) => asking.await,
        }
    };
    let answer = answer.map_err(|_| Why::Lost)?.map_err(|_| Why::Lost)?;
    let head = question::head(&answer).map_err(|_| Why::Lost)?;
    // A pool that can no longer write may say that it cannot look either: the next one is asked.
    let fault = head.status.is_client_error() || head.status.is_server_error();
    if fault && question.lane() == Lane::Poll && !request.flight.as_ref().is_some_and(Flight::admitted) {
        return Err(Why::Left);
    }
    if gateway::answered(request, question.head(), true, &head).is_err() {
        request.verdict = None;
        return Err(Why::Doubted);
    }
    Ok(Found { line, answer })
}
