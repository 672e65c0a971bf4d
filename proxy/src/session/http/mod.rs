//! HTTP: pingora proxies on connections that we accepted, and asks here where a request may go.
//!
//! Rule: a request waits, not its connection; it waits before its body is read, and is sent again only where the policy
//! of `bascule_protocols::http` lets it.

mod again;
mod answer;
mod conn;
mod cookie;
mod credentials;
mod dial;
mod edge;
mod front;
mod gateway;
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
    sync::Arc,
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
        let requests = Arc::new(two::Requests(proxy));
        watched(&conn, requests.process_new(Box::new(edge), &closing)).await;
    } else {
        one_by_one(&conn, &proxy, edge).await;
    }
}

/// Requests of HTTP/1.1, one after the other. Between two of them the connection is ours again, and small.
async fn one_by_one(conn: &Arc<Conn>, proxy: &Proxy, mut edge: Edge) {
    let mut settings: Option<HttpPersistentSettings> = None;
    // Told to end while an answer was on its way: it was the last one.
    while !*conn.closing.borrow() {
        if !edge.is_ahead() && !watched(conn, poll_fn(|cx| edge.poll_some(cx))).await.unwrap_or(false) {
            return;
        }
        if !edge.begin() {
            return;
        }
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
        conn.rest(edge.is_ahead());
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
