//! HTTP: pingora proxies on connections that we accepted, and asks here where a request may go.
//!
//! Rule: a request waits, not its connection; it waits before its body is read, and is sent again only where the policy
//! of `bascule_protocols::http` lets it.

mod again;
mod answer;
mod conn;
mod cookie;
mod credentials;
mod deadlines;
mod dial;
mod direct;
mod edge;
mod flight;
mod front;
mod gateway;
mod guards;
mod hold;
mod lane;
pub mod line;
mod loss;
mod peer;
mod people;
mod places;
mod request;
mod servers;
mod shared;
mod slots;
mod two;

use std::{
    future::{Future, poll_fn},
    net::{SocketAddr, TcpStream},
    pin::Pin,
    sync::Arc,
    time::Instant,
};

use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp},
    protocols::http::ServerSession,
};
use pingora_proxy::HttpProxy;

pub use self::shared::Shared;
use self::{conn::Conn, edge::Edge, gateway::Gateway};
use super::{door::Door, registry::Entry};
use crate::net::stream::Leg;

/// pingora with our answers to its questions.
type Proxy = Arc<HttpProxy<Gateway>>;

/// A request of HTTP/1.1 that is served.
type Serving<'a> = Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>>;

/// A connection on which nobody has asked for anything for a while.
#[derive(Debug)]
pub(super) struct Away {
    pub(super) tcp: TcpStream,
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// When it has been silent for too long.
    pub(super) until: Instant,
}

/// Serves one connection to its end, or until it is only a socket.
pub(super) async fn serve(door: Arc<Door>, client: Leg, entry: Entry) -> Option<Away> {
    let conn = Conn::new(door, entry, &client);
    let edge = Box::new(Edge::new(client, &conn));
    let proxy = conn.world().http.proxy(conn.world());
    if conn.two {
        let closing = conn.goaway();
        let requests = Arc::new(two::Requests(proxy));
        watched(&conn, requests.process_new(edge, &closing)).await;
        return None;
    }
    let edge = one_by_one(&conn, &proxy, edge).await?;
    let (tcp, peer, until) = (edge.into_tcp()?, conn.entry.handle.peer, conn.silent_until());
    Some(Away { tcp, peer, until })
}

/// Requests of HTTP/1.1, one after the other. Between two of them the connection is ours again, and small: what serving
/// one takes is made and unmade outside of this future, so that it has no room in it. Returns it where it may be parked.
async fn one_by_one(conn: &Arc<Conn>, proxy: &Proxy, mut edge: Box<Edge>) -> Option<Box<Edge>> {
    let mut settings = None;
    // Told to end while an answer was on its way: it was the last one.
    while !conn.is_closing() {
        if !edge.is_ahead() {
            match watched(conn, poll_fn(|cx| edge.poll_some(cx))).await {
                Some(true) => {}
                None if conn.is_away() => return Some(edge),
                Some(false) | None => return None,
            }
        }
        if !edge.begin() {
            return None;
        }
        let served = watched(conn, one(conn, proxy, edge, settings)).await;
        (edge, settings) = served.and_then(back)?;
        conn.rest(edge.is_ahead());
    }
    None
}

/// The next request of HTTP/1.1. `settings`: what an earlier one left.
fn one<'a>(
    conn: &'a Arc<Conn>,
    proxy: &'a Proxy,
    edge: Box<Edge>,
    settings: Option<Box<HttpPersistentSettings>>,
) -> Serving<'a> {
    let mut session = ServerSession::new_http1(edge);
    match settings {
        Some(settings) => settings.apply_to_session(&mut session),
        None => session.set_keepalive(Some(conn.limits().idle.as_secs().max(1))),
    }
    session.set_pipelining_enabled(true);
    proxy.process_new_http(session, &conn.world().http.stays)
}

/// What is left when a request was served, if its connection can serve another.
fn back(reused: Option<ReusedHttpStream>) -> Option<(Box<Edge>, Option<Box<HttpPersistentSettings>>)> {
    let (stream, settings) = reused?.consume();
    Some((stream.into_any().downcast::<Edge>().ok()?, settings.map(Box::new)))
}

/// What `served` comes to; `None`: the connection was to be closed first.
async fn watched<F: Future>(conn: &Arc<Conn>, served: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        done = served => Some(done),
        () = poll_fn(|cx| conn.poll_watch(cx)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Design §8. What would grow past these is boxed, or does not belong here.
    #[test]
    fn a_kept_connection_is_small() {
        let sizes = [
            ("the task", future_size(serve), 384),
            ("the connection", size_of::<Conn>(), 320),
            ("its edge", size_of::<Edge>(), 256),
        ];
        for (what, size, limit) in sizes {
            assert!(size <= limit, "{what} takes {size} bytes, {limit} are allowed");
        }
    }
}
