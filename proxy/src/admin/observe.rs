//! The port for monitoring: `/metrics`, `/healthz`, `/readyz`.
//!
//! Rule: it only reads, and says nothing about any user.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::admin::appliance::{Appliance, Life};

/// Answers for ever.
pub async fn serve<A: Appliance>(listener: TcpListener, appliance: Arc<A>, life: watch::Receiver<Life>) {
    if let Err(error) = axum::serve(listener, router(appliance, life)).await {
        tracing::error!(%error, "monitoring port failed");
    }
}

fn router<A: Appliance>(appliance: Arc<A>, life: watch::Receiver<Life>) -> Router {
    let ready = move |State(appliance): State<Arc<A>>| async move { readyz(&*appliance, *life.borrow()) };
    Router::new()
        .route("/metrics", get(metrics::<A>))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(appliance)
}

async fn metrics<A: Appliance>(State(appliance): State<Arc<A>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], appliance.metrics()).into_response()
}

/// 200 when clients can be served, otherwise 503 and why.
fn readyz<A: Appliance>(appliance: &A, life: Life) -> (StatusCode, String) {
    let ready = match life {
        Life::Starting => Err("starting".to_owned()),
        Life::Stopping => Err("stopping".to_owned()),
        Life::Serving => appliance.ready(),
    };
    match ready {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
