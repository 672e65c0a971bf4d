//! HTTP/2 of clients: every request is a task of its own.
//!
//! Rule: a request that takes too long ends alone; its connection goes on with the others.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{ServerSession, v2::server::H2Options},
    server::ShutdownWatch,
};
use tokio::sync::Notify;

use super::Proxy;

tokio::task_local! {
    /// Told when the request of this task is to end.
    static END: Arc<Notify>;
}

/// The end of this task's request; `None`: it has its connection for itself.
pub(super) fn end() -> Option<Arc<Notify>> {
    END.try_with(Arc::clone).ok()
}

/// pingora, one request at a time.
pub(super) struct Requests(pub(super) Proxy);

#[async_trait]
impl HttpServerApp for Requests {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let end = Arc::new(Notify::new());
        let served = END.scope(end.clone(), self.0.process_new_http(session, shutdown));
        tokio::select! {
            served = served => served,
            // What is dropped resets its stream.
            () = end.notified() => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }
}
