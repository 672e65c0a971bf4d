//! The way to an answer: at the gate, to a server, and again if it is lost.
//!
//! Rule: as often as needed until time is up, which begins anew only when the pool was left for another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bascule_protocols::http::lane::Lane;
use tokio::time::{sleep_until, timeout};

use super::super::{conn::Conn, hold::Stop, request::Request};
use super::{
    Found, Question,
    line::{Line, To},
};

/// A pool that has just taken over is not asked by everybody at once: after so long without an answer the next one may.
const TURN: Duration = Duration::from_millis(200);

/// The answer of a server of the pool that serves.
pub(super) async fn find(request: &mut Request, question: &Question) -> Result<Found, Stop> {
    loop {
        place(request).await?;
        let Some(epoch) = request.flight.as_ref().map(|flight| flight.epoch) else { continue };
        let conn = request.conn.clone();
        tokio::select! {
            found = ask(request, question) => match found {
                Ok(found) => {
                    if let Some(stream) = &mut request.stream {
                        stream.moved(epoch);
                    }
                    return Ok(found);
                }
                Err(why) => {
                    tracing::debug!(service = request.service, ?why, "no answer");
                    request.conn.world().metrics.http_again.count(why.name());
                    request.over();
                    if why != Why::Gate {
                        request.back_off(why == Why::Lost);
                    }
                }
            },
            () = conn.leaves(epoch) => {
                request.begin_again();
                if question.lane() == Lane::Poll {
                    conn.world().metrics.http_streams.count("polls_again");
                }
            }
        }
    }
}

/// Why there is no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Dial,
    Lost,
    Gate,
}

impl Why {
    fn name(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Lost => "lost",
            Self::Gate => "gate",
        }
    }
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
        if now >= until || *conn.closing.borrow() {
            return Err(Stop::Busy("http_hold"));
        }
        request.not_before = request.not_before.filter(|at| now < *at);
        if request.not_before.is_none() {
            request.flight = conn.fly();
            if request.flight.is_some() {
                return Ok(());
            }
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
    let world = conn.world();
    let topology = world.topology.load();
    let Some(pool) = request.flight.as_ref().map(|flight| flight.pool) else { return Err(Why::Gate) };
    let Some(service) = topology.pool(pool).http.get(&request.service) else { return Err(Why::Dial) };
    let version = question.version(service.version);
    let to = To::server_of(&conn, service, question.head(), version);
    let turn = match request.moved {
        true => Some(world.http.turns.acquire().await.map_err(|_| Why::Dial)?),
        false => None,
    };
    let opened = timeout(service.dial_timeout, Line::open(to)).await;
    let mut line = opened.map_err(|_| Why::Dial)?.map_err(|error| {
        tracing::debug!(service = request.service, %error, "no connection");
        Why::Dial
    })?;
    let said = question.said(request, version).map_err(|_| Why::Lost)?;
    if !request.commit() {
        return Err(Why::Gate);
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
    Ok(Found { line, answer })
}
