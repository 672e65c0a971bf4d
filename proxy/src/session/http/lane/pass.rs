//! An answer that is passed on as it comes, from the one server that gives it.
//!
//! Rule: what has begun is finished where it began, or visibly cut.

use http::header;
use http_body_util::BodyExt;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::super::{conn::Conn, front, hold, request::Request};
use super::{Found, gone, question};
use crate::session::registry::Order;

/// Passes it on to its end.
pub(super) async fn pass(request: &mut Request, session: &mut Session, found: Found) -> Result<()> {
    let Found { line: _line, answer } = found;
    let mut head = question::head(&answer)?;
    let mut body = answer.into_body();
    let bodyless = session.req_header().method == "HEAD" || matches!(head.status.as_u16(), 204 | 304);
    if !bodyless && !request.conn.two && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header("Transfer-Encoding", "chunked")?;
    }
    front::dress(&request.conn, request, &mut head)?;
    if let Some(flight) = &request.flight {
        flight.answered(true);
    }
    session.write_response_header(Box::new(head), bodyless).await?;
    if bodyless {
        return Ok(());
    }
    loop {
        let piece = tokio::select! {
            piece = body.frame() => piece,
            () = hold::gone(session) => return Err(gone()),
            () = told_to_leave(&request.conn) => return left(request),
        };
        match piece {
            None => break,
            Some(Err(_)) => return Err(cut("the server is lost")),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    tokio::select! {
                        written = session.write_response_body(Some(data), false) => written?,
                        // A client that does not read keeps nobody at a pool.
                        () = told_to_leave(&request.conn) => return left(request),
                    }
                }
            }
        }
    }
    session.write_response_body(None, true).await
}

fn left(request: &Request) -> Result<()> {
    request.conn.lost_a_read();
    Err(cut("the pool is left"))
}

fn cut(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, why).into_up()
}

/// Resolves when nothing may stay where it is.
async fn told_to_leave(conn: &Conn) {
    loop {
        let moved = conn.moved.notified();
        let mut moved = std::pin::pin!(moved);
        moved.as_mut().enable();
        if conn.entry.handle.order().1 == Order::Leave && !conn.admitted() {
            return;
        }
        moved.await;
    }
}
