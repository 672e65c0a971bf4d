//! What the proxy answers itself.
//!
//! Rule: never 500, 401 or 404, which programs take for the platform's own word; "come back" only where nothing can have
//! happened, or where to do it again comes to the same.

use bascule_protocols::http::{busy::retry_after, framing::Refused};
use bytes::Bytes;
use http::header;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::timeout;

use super::{conn::Conn, front};

/// The least that a client is asked to wait.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// A body that is rather read than its connection lost.
const SHORT: u64 = 64 * 1024;
/// How long that may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Answers with a line of text.
pub(super) async fn say(
    session: &mut Session,
    status: u16,
    text: &str,
    fields: &[(&'static str, String)],
) -> Result<()> {
    let body = format!("{text}\n");
    let mut head = ResponseHeader::build(status, Some(4 + fields.len()))?;
    head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
    head.insert_header("Content-Length", body.len().to_string())?;
    head.insert_header("Cache-Control", "no-store")?;
    for (name, value) in fields {
        head.insert_header(*name, value)?;
    }
    if let Some(conn) = Conn::of(session) {
        front::hsts(&conn, &mut head)?;
    }
    let bodyless = session.req_header().method == "HEAD";
    session.write_response_header(Box::new(head), bodyless).await?;
    if !bodyless {
        session.write_response_body(Some(Bytes::from(body)), true).await?;
    }
    Ok(())
}

/// 503: nothing happened or to do it again comes to the same, and the client may say it again.
pub(super) async fn busy(session: &mut Session) -> Result<()> {
    let after = retry_after(RETRY_AFTER, fastrand::u32(..));
    say(session, 503, "Busy, please try again", &[("Retry-After", after.to_string())]).await
}

/// 429: the client is to ask less often. Nothing happened.
pub(super) async fn too_often(session: &mut Session, conn: &Conn, limit: &'static str) -> Result<()> {
    conn.world().metrics.limits_hit.count(limit);
    conn.world().metrics.http_requests.count("limited");
    take_rest(session).await;
    let after = retry_after(RETRY_AFTER, fastrand::u32(..));
    say(session, 429, "Too many requests, please try again", &[("Retry-After", after.to_string())]).await
}

/// Reads a short body that nobody wants, so that its connection can be kept.
pub(super) async fn take_rest(session: &mut Session) {
    let head = session.req_header();
    let short = front::length(head).is_some_and(|length| length <= SHORT);
    if short && !head.headers.contains_key(header::EXPECT) {
        let _ = timeout(PATIENCE, session.as_mut().drain_request_body()).await;
    }
}

/// 502: the server is gone that was to answer, and nobody knows what it did.
pub(super) async fn unknown(session: &mut Session) -> Result<()> {
    say(session, 502, "No answer: it is not known whether this was carried out", &[]).await
}

/// A request that is not as it must be; the connection ends with it.
pub(super) async fn refuse(session: &mut Session, conn: &Conn, status: u16, why: &'static str) -> Result<()> {
    conn.world().metrics.http_refused.count(why);
    session.as_mut().set_keepalive(None);
    say(session, status, why, &[]).await
}

/// Two parsers might read it differently.
pub(super) async fn refuse_framing(session: &mut Session, conn: &Conn, why: Refused) -> Result<()> {
    refuse(session, conn, why.status(), why.name()).await
}
