//! HTTP: pingora proxies on connections that we accepted, and asks here where a request may go.
//!
//! Rule: a request waits, not its connection; it waits before its body is read, and is sent again only where the policy
//! of `bascule_protocols::http` lets it.

mod again;
mod answer;
mod conn;
mod dial;
mod edge;
mod front;
mod gateway;
mod hold;
mod lane;
mod loss;
mod peer;
mod request;
mod shared;

use std::{
    future::{Future, poll_fn},
    sync::{Arc, atomic::Ordering},
};

use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ServerApp},
    protocols::http::ServerSession,
};
use pingora_proxy::HttpProxy;

pub use self::shared::Shared;
use self::{conn::Conn, edge::Edge, gateway::Gateway};
use super::{door::Door, registry::Entry};
use crate::net::stream::Leg;

/// pingora with our answers to its questions.
type Proxy = Arc<HttpProxy<Gateway>>;

/// Serves one connection to its end.
pub(super) async fn serve(door: Arc<Door>, client: Leg, entry: Entry) {
    let conn = Conn::new(door, entry, &client);
    let Some(edge) = Edge::new(client, &conn) else { return };
    let proxy = conn.world().http.proxy(conn.world());
    if conn.two {
        let closing = conn.closing.subscribe();
        let served = proxy.process_new(Box::new(edge), &closing);
        watched(&conn, served).await;
    } else {
        one_by_one(&conn, &proxy, edge).await;
    }
}

/// Requests of HTTP/1.1, one after the other. Between two of them the connection is ours again, and small.
async fn one_by_one(conn: &Arc<Conn>, proxy: &Proxy, mut edge: Edge) {
    let mut settings: Option<HttpPersistentSettings> = None;
    let mut ahead = Ahead::default();
    // Told to end while an answer was on its way: it was the last one.
    while !*conn.closing.borrow() {
        if !ahead.may_be() && !watched(conn, poll_fn(|cx| edge.poll_some(cx))).await.unwrap_or(false) {
            return;
        }
        edge.begin();
        let mut session = ServerSession::new_http1(Box::new(edge));
        match settings.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(conn.limits().idle.as_secs().max(1))),
        }
        session.set_pipelining_enabled(true);
        let closing = conn.closing.subscribe();
        let served = watched(conn, Box::pin(proxy.process_new_http(session, &closing))).await;
        let Some(Some(reused)) = served else { return };
        let (stream, kept) = reused.consume();
        let Ok(back) = stream.into_any().downcast::<Edge>() else { return };
        (edge, settings) = (*back, kept);
        ahead.after(edge.begin(), conn.length.swap(u64::MAX, Ordering::Relaxed));
    }
}

/// Whether pingora read the beginning of the next request with the last one. It keeps that to itself, so that it is
/// counted: what it was given, less what the request was long.
#[derive(Debug)]
struct Ahead(Option<u64>);

impl Default for Ahead {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl Ahead {
    fn may_be(&self) -> bool {
        self.0 != Some(0)
    }

    fn after(&mut self, given: u64, length: u64) {
        self.0 = match self.0 {
            Some(before) if length != u64::MAX => Some((before + given).saturating_sub(length)),
            Some(_) | None => None,
        };
    }
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

    #[test]
    fn what_was_read_of_the_next_request_is_counted() {
        let mut ahead = Ahead::default();
        assert!(!ahead.may_be());
        ahead.after(100, 100);
        assert!(!ahead.may_be());
        ahead.after(250, 100);
        assert_eq!(ahead.0, Some(150));
        ahead.after(0, 100);
        ahead.after(10, 60);
        assert!(!ahead.may_be());
        // A body in chunks: its length on the wire is not told.
        ahead.after(100, u64::MAX);
        ahead.after(100, 100);
        assert!(ahead.may_be());
    }
}
