//! The wait at a shut gate, and for a server that cannot be had.
//!
//! Rule: bounded in count, bytes and time, and nobody waits for a client that has gone.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use pingora_proxy::Session;
use tokio::time::sleep_until;

use super::{
    conn::Conn,
    edge::Edge,
    places::{Came, Place, Waiting},
    request::Request,
};

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
    if request.not_before.is_none() {
        let until = Instant::now() + conn.limits().hold;
        if go(request, pin!(gone(session)), until, false).await? {
            return Ok(());
        }
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
    // It hears of the gate; an attach waits for what waits for the gate, and not for a slow server.
    let _hears = conn.adrift();
    let mut waiting = None;
    let until = request.deadline();
    let mut gone = pin!(gone(session));
    loop {
        let mut moved = pin!(conn.moved.notified());
        moved.as_mut().enable();
        waiting = if conn.admitted() { None } else { waiting.or_else(|| Some(conn.wait())) };
        let now = Instant::now();
        if now >= until {
            return Err(Stop::Busy("http_hold"));
        }
        request.not_before = request.not_before.filter(|at| now < *at);
        if request.not_before.is_none() && go(request, gone.as_mut(), until, true).await? {
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

/// Sends it on its way, when it has a place at its service, if the gate lets it. `held`: it has waited before.
async fn go(
    request: &mut Request,
    gone: Pin<&mut impl Future<Output = ()>>,
    until: Instant,
    held: bool,
) -> Result<bool, Stop> {
    let conn = request.conn.clone();
    if !conn.admitted() {
        return Ok(false);
    }
    let pool = conn.world().topology.load().active;
    if let Some(service) = conn.world().http.places.of(pool, &request.service).filter(|_| !request.lasting) {
        request.place = Some(match service.enter(request.priority, held) {
            Came::Go(place) => place,
            Came::Full => return Err(Stop::Busy("http_queue")),
            Came::Wait(waiting) => queue(&conn, waiting, gone, until).await?,
        });
    }
    let there = request.place.as_ref().map(Place::pool);
    if request.take_off()
        && there.is_none_or(|pool| request.flight.as_ref().is_some_and(|one| one.pool == pool))
    {
        return Ok(true);
    }
    // The gate has shut meanwhile, or another pool serves.
    (request.flight, request.place) = (None, None);
    Ok(false)
}

/// Waits for a place.
async fn queue(
    conn: &Conn,
    mut waiting: Waiting,
    gone: Pin<&mut impl Future<Output = ()>>,
    until: Instant,
) -> Result<Place, Stop> {
    let queued = &conn.world().metrics.http_queued;
    queued.inc();
    let told = tokio::select! {
        place = waiting.told() => place.ok_or(Stop::Busy("http_queue")),
        () = sleep_until(until.into()) => Err(Stop::Busy("http_queue_wait")),
        () = gone => Err(Stop::Gone),
    };
    queued.dec();
    told
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
