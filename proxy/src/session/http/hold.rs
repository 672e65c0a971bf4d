//! The wait at a shut gate, and for a server that cannot be had.
//!
//! Rule: bounded in count, bytes and time, and nobody waits for a client that has gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pingora_proxy::Session;
use tokio::time::sleep_until;

use super::{conn::Conn, edge::Edge, request::Request};

/// How often a client is looked after that has not sent all of its body: the end of its side lies behind it, unread.
const LOOK: Duration = Duration::from_millis(500);

/// Why a request waits no longer, and goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client has gone.
    Gone,
    /// It is told to come back, by the limit that is reached.
    Busy(&'static str),
}

/// Puts the request among those in flight, as soon as that may be.
pub(super) async fn pass(request: &mut Request, session: &mut Session) -> Result<(), Stop> {
    if request.flight.is_some() {
        return Ok(());
    }
    let conn = request.conn.clone();
    if request.not_before.is_none() && request.take_off() {
        return Ok(());
    }
    let world = conn.world().clone();
    let bytes = size(session) + usize::try_from(request.body).unwrap_or(usize::MAX).min(64 * 1024);
    let _place = world.http.hold(bytes, conn.limits()).map_err(Stop::Busy)?;
    let since = Instant::now();
    world.metrics.held_commands.inc();
    let waited = wait(&conn, request, session).await;
    world.metrics.held_commands.dec();
    world.metrics.held(world.holds.record(since, Instant::now()));
    waited
}

async fn wait(conn: &Arc<Conn>, request: &mut Request, session: &mut Session) -> Result<(), Stop> {
    let _waiting = conn.wait();
    let until = request.deadline();
    let mut gone = std::pin::pin!(gone(session));
    loop {
        let moved = conn.moved.notified();
        let mut moved = std::pin::pin!(moved);
        moved.as_mut().enable();
        let now = Instant::now();
        if now >= until {
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
            () = &mut gone => return Err(Stop::Gone),
        }
    }
}

/// Resolves when the client has gone.
pub(super) async fn gone(session: &mut Session) {
    let session = session.as_mut();
    if let Some(closed) = session.watch_h2_stream_close() {
        let _ = closed.await;
        return;
    }
    if session.is_body_done() || session.is_body_empty() {
        // It answers only with an error: there is nothing more to read.
        while session.read_body_or_idle(true).await.is_ok() {}
        return;
    }
    loop {
        let edge = session.stream().and_then(|stream| stream.as_any().downcast_ref::<Edge>());
        if edge.is_none_or(Edge::is_gone) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Bytes of the head.
fn size(session: &Session) -> usize {
    let head = session.req_header();
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    fields.sum::<usize>() + head.raw_path().len()
}
