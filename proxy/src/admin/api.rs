//! The control API: HTTP with JSON over the Unix socket in `state_dir`.
//!
//! Rule: whatever changes something runs in a task of its own, so that a caller who hangs up cancels nothing,
//! and leaves an audit line with the caller's credentials.
//!
//! ```text
//! GET  /v1/status                    Status
//! GET  /v1/plan?to=POOL              Plan
//! POST /v1/cutover {to}              202 {id}
//! GET  /v1/cutover/watch             Status, one JSON line at every change
//! POST /v1/abort {reason}            {}
//! POST /v1/adopt {pool, reason}      {}
//! GET  /v1/sessions                  [SessionRow]
//! GET  /v1/report                    Report
//! refused: 400, 404, 409 with {why: [...], instead}
//! ```

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::watch};

use crate::{
    admin::{
        appliance::{Appliance, Life},
        socket::Peer,
    },
    cutover::types::{Refusal, Status},
};

/// Body of `POST /v1/cutover` and query of `GET /v1/plan`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    /// The pool that is to serve.
    pub to: String,
}

/// Answer of `POST /v1/cutover`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Started {
    /// The cutover's number.
    pub id: u64,
}

/// Body of `POST /v1/abort`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Abort {
    /// Stands in the report and the log.
    pub reason: String,
}

/// Body of `POST /v1/adopt`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Adopt {
    /// The pool that serves from now on.
    pub pool: String,
    /// Stands in the journal.
    pub reason: String,
}

/// Answers on the socket for ever.
pub async fn serve<A: Appliance>(listener: UnixListener, appliance: Arc<A>, life: watch::Receiver<Life>) {
    let service = router(appliance, life).into_make_service_with_connect_info::<Peer>();
    match axum::serve(listener, service).await {
        Ok(()) => tracing::info!("control API closed"),
        Err(error) => tracing::error!(%error, "control API failed"),
    }
}

#[derive(Debug)]
struct Shared<A> {
    appliance: Arc<A>,
    life: watch::Receiver<Life>,
}

// By hand: a derive would ask that the appliance itself can be copied.
impl<A> Clone for Shared<A> {
    fn clone(&self) -> Self {
        Self { appliance: self.appliance.clone(), life: self.life.clone() }
    }
}

fn router<A: Appliance>(appliance: Arc<A>, life: watch::Receiver<Life>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<A>))
        .route("/v1/plan", get(plan::<A>))
        .route("/v1/cutover", post(start::<A>))
        .route("/v1/cutover/watch", get(follow::<A>))
        .route("/v1/abort", post(abort::<A>))
        .route("/v1/adopt", post(adopt::<A>))
        .route("/v1/sessions", get(sessions::<A>))
        .route("/v1/report", get(report::<A>))
        .fallback(async || Failure(StatusCode::NOT_FOUND, Refusal::new("there is no such path", "")))
        .method_not_allowed_fallback(async || {
            Failure(StatusCode::METHOD_NOT_ALLOWED, Refusal::new("this path has another method", ""))
        })
        .with_state(Shared { appliance, life })
}

/// A refusal with its HTTP status.
#[derive(Debug)]
struct Failure(StatusCode, Refusal);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(StatusCode::CONFLICT, refusal)
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, Refusal::new(rejection.body_text(), ""))
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, Refusal::new(rejection.body_text(), ""))
    }
}

async fn status<A: Appliance>(State(shared): State<Shared<A>>) -> Response {
    Json(shared.appliance.status()).into_response()
}

async fn plan<A: Appliance>(
    State(shared): State<Shared<A>>,
    target: Result<Query<Target>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(Target { to }) = target?;
    Ok(Json(shared.appliance.plan(&to).await?).into_response())
}

async fn start<A: Appliance>(
    State(shared): State<Shared<A>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    target: Result<Json<Target>, JsonRejection>,
) -> Result<Response, Failure> {
    let Json(Target { to }) = target?;
    let result = match *shared.life.borrow() {
        Life::Serving => None,
        Life::Starting => {
            Some(Refusal::new("bascule is still starting", "wait until `bascule status` says idle"))
        }
        Life::Stopping => Some(Refusal::new("bascule is stopping", "")),
    };
    let result = match result {
        Some(refusal) => Err(refusal),
        None => {
            let (appliance, to) = (shared.appliance, to.clone());
            detached(async move { appliance.start(&to).await }).await
        }
    };
    audit(peer, "cutover start", &to, "", &result);
    Ok((StatusCode::ACCEPTED, Json(Started { id: result? })).into_response())
}

async fn abort<A: Appliance>(
    State(shared): State<Shared<A>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<Abort>, JsonRejection>,
) -> Result<Response, Failure> {
    let Json(Abort { reason }) = body?;
    let (appliance, why) = (shared.appliance, reason.clone());
    let result = detached(async move { appliance.abort(&why).await }).await;
    audit(peer, "cutover abort", "", &reason, &result);
    Ok(Json(result.map(|()| serde_json::json!({}))?).into_response())
}

async fn adopt<A: Appliance>(
    State(shared): State<Shared<A>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<Adopt>, JsonRejection>,
) -> Result<Response, Failure> {
    let Json(Adopt { pool, reason }) = body?;
    let (appliance, to, why) = (shared.appliance, pool.clone(), reason.clone());
    let result = detached(async move { appliance.adopt(&to, &why).await }).await;
    audit(peer, "cutover adopt", &pool, &reason, &result);
    Ok(Json(result.map(|()| serde_json::json!({}))?).into_response())
}

async fn sessions<A: Appliance>(State(shared): State<Shared<A>>) -> Response {
    Json(shared.appliance.sessions()).into_response()
}

async fn report<A: Appliance>(State(shared): State<Shared<A>>) -> Result<Response, Failure> {
    let none = || Failure(StatusCode::NOT_FOUND, Refusal::new("there has been no cutover yet", ""));
    Ok(Json(shared.appliance.report().ok_or_else(none)?).into_response())
}

async fn follow<A: Appliance>(State(shared): State<Shared<A>>) -> Response {
    let mut changes = shared.appliance.watch();
    changes.mark_changed();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines::of(changes))).into_response()
}

/// Runs to its end also when the caller has hung up.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let lost = |_| Refusal::new("an internal error ended the request: the log says more", "bascule status");
    tokio::spawn(work).await.map_err(lost)?
}

fn audit<T>(peer: Peer, action: &str, pool: &str, reason: &str, result: &Result<T, Refusal>) {
    let outcome = result.as_ref().map_or_else(ToString::to_string, |_| "accepted".to_owned());
    let (uid, pid) = (peer.uid, peer.pid);
    tracing::info!(target: "bascule::audit", uid, pid, action, pool, reason, outcome, "operator");
}

/// A response body that gives one JSON line at every change of the status.
struct Lines(Pin<Box<dyn Future<Output = Option<Line>> + Send>>);

/// One line, and where the next one comes from.
type Line = (Bytes, watch::Receiver<Status>);

impl Lines {
    fn of(mut changes: watch::Receiver<Status>) -> Self {
        Self(Box::pin(async move {
            changes.changed().await.ok()?;
            let mut line = serde_json::to_vec(&*changes.borrow_and_update()).ok()?;
            line.push(b'\n');
            Some((line.into(), changes))
        }))
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((line, changes)) = ready!(self.0.as_mut().poll(cx)) else { return Poll::Ready(None) };
        *self = Self::of(changes);
        Poll::Ready(Some(Ok(Frame::data(line))))
    }
}
