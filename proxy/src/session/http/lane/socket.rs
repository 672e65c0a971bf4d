//! A WebSocket whose messages are not understood: it lives as long as its server's pool.
//!
//! Rule: at a shut gate nothing goes to the server; when the pool is left, the client is told to come back, between two
//! frames, and never by a cut.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bascule_protocols::http::frames::{self, Frames};
use bytes::{Buf, Bytes};
use http::HeaderValue;
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use tokio::{
    io::{AsyncBufRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::super::{conn::Conn, front, request::Request};
use super::{Found, gone, question};
use crate::{net::stream::Leg, topology::Epoch};

/// How long a frame may take to come to its end when its pool is left.
const FRAME: Duration = Duration::from_millis(250);
/// How long a client may take to agree that it is over.
const AGREED: Duration = Duration::from_secs(2);

/// The server's side.
struct Server {
    leg: Leg,
    /// What came with its answer.
    early: Bytes,
    /// What the client said and the server does not have yet.
    up: Bytes,
    unflushed: bool,
    /// Frames to the server, and to the client.
    ups: Frames,
    downs: Frames,
}

/// Something happened on it.
enum Event {
    /// It said something.
    Said(Bytes),
    /// It took something.
    Took,
    /// It is gone.
    Ended,
}

/// Connects both sides until one of them goes, or the pool is left.
pub(super) async fn serve(request: &mut Request, session: &mut Session, found: Found) -> Result<()> {
    let mut server = begin(request, session, found).await?;
    let conn = request.conn.clone();
    let Some(epoch) = request.flight.as_ref().map(|flight| flight.epoch) else { return Err(cut()) };
    session.as_mut().set_read_timeout(None);
    if talk(&conn, epoch, session, &mut server).await? {
        return Ok(());
    }
    let told = timeout(FRAME, finish(session, &mut server)).await;
    let between = matches!(told, Ok(Ok(()))) && server.downs.between();
    if server.ups.between() && server.up.is_empty() && !server.ups.closed() {
        let bye = frames::close(frames::AWAY, "", Some(fastrand::u32(..).to_be_bytes()));
        // It is left anyway; nobody waits for it.
        let _ = timeout(FRAME, async {
            server.leg.write_all(&bye).await?;
            server.leg.flush().await
        })
        .await;
    }
    let Server { leg, mut ups, downs, .. } = server;
    drop(leg);
    request.over();
    let streams = &conn.world().metrics.http_streams;
    if !between {
        streams.count("sockets_cut");
        return Err(cut());
    }
    if downs.closed() {
        return Ok(());
    }
    streams.count("sockets_told");
    request.stream = None;
    timeout(AGREED, tell(session, &mut ups)).await.unwrap_or(Ok(()))
}

/// Tells the client to come back, and waits for it to agree: to end before it has read that could lose it.
async fn tell(session: &mut Session, ups: &mut Frames) -> Result<()> {
    let bye = Bytes::from(frames::close(frames::RESTART, "", None));
    session.write_response_body(Some(bye), false).await?;
    while !(ups.closed() && ups.between()) {
        match session.as_mut().read_request_body().await {
            Ok(Some(bytes)) => ups.pass(&bytes),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(())
}

fn cut() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the server is lost").into_up()
}

/// Tells the client that it is one now.
async fn begin(request: &Request, session: &mut Session, found: Found) -> Result<Server> {
    let Found { line: _line, mut answer } = found;
    let upgraded = upgrade::on(&mut answer).await.map_err(|_| cut())?;
    let parts = upgraded.downcast::<TokioIo<Leg>>().map_err(|_| cut())?;
    let mut head = question::head(&answer)?;
    head.insert_header("Connection", HeaderValue::from_static("Upgrade"))?;
    head.insert_header("Upgrade", HeaderValue::from_static("websocket"))?;
    front::dress(&request.conn, request, &mut head)?;
    session.write_response_header(Box::new(head), false).await?;
    Ok(Server {
        leg: parts.io.into_inner(),
        early: parts.read_buf,
        up: Bytes::new(),
        unflushed: false,
        ups: Frames::default(),
        downs: Frames::default(),
    })
}

/// Passes everything on. True: it has come to its own end; false: the client is to be told.
async fn talk(conn: &Arc<Conn>, epoch: Epoch, session: &mut Session, server: &mut Server) -> Result<bool> {
    loop {
        let moved = conn.moved.notified();
        let mut moved = std::pin::pin!(moved);
        moved.as_mut().enable();
        let open = conn.world().gate.admits(epoch);
        let more = open && server.up.is_empty();
        tokio::select! {
            biased;
            () = conn.leaves(epoch) => return Ok(false),
            () = &mut moved, if !open => {}
            event = std::future::poll_fn(|cx| server.poll(cx, open)) => match event {
                Ok(Event::Took) => {}
                Ok(Event::Said(bytes)) => {
                    server.downs.pass(&bytes);
                    say(conn, epoch, session, bytes).await?;
                }
                Ok(Event::Ended) | Err(_) => return Ok(server.downs.closed()),
            },
            piece = session.as_mut().read_request_body(), if more => match piece {
                Ok(Some(bytes)) => {
                    server.ups.pass(&bytes);
                    server.up = bytes;
                }
                Ok(None) if server.ups.closed() => return Ok(true),
                Ok(None) | Err(_) => return Err(gone()),
            },
        }
    }
}

/// Says it to the client. One that does not read keeps nobody at a pool that is left.
async fn say(conn: &Arc<Conn>, epoch: Epoch, session: &mut Session, bytes: Bytes) -> Result<()> {
    let mut saying = std::pin::pin!(session.write_response_body(Some(bytes), false));
    tokio::select! {
        said = &mut saying => said,
        () = conn.leaves(epoch) => timeout(FRAME, saying).await.map_err(|_| gone())?,
    }
}

/// Brings the frame to its end that is on its way to the client.
async fn finish(session: &mut Session, server: &mut Server) -> Result<()> {
    while !server.downs.between() {
        match std::future::poll_fn(|cx| server.poll(cx, false)).await {
            Ok(Event::Said(mut bytes)) => {
                bytes.truncate(server.downs.finish(&bytes));
                if bytes.is_empty() {
                    return Err(cut());
                }
                session.write_response_body(Some(bytes), false).await?;
            }
            Ok(Event::Took) => {}
            Ok(Event::Ended) | Err(_) => return Err(cut()),
        }
    }
    Ok(())
}

impl Server {
    /// The next event; `open`: it may be told things.
    fn poll(&mut self, cx: &mut Context<'_>, open: bool) -> Poll<io::Result<Event>> {
        if !self.early.is_empty() {
            return Poll::Ready(Ok(Event::Said(std::mem::take(&mut self.early))));
        }
        if open && let Poll::Ready(took) = self.poll_tell(cx) {
            return Poll::Ready(took.map(|()| Event::Took));
        }
        let bytes = ready!(Pin::new(&mut self.leg).poll_fill_buf(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(Event::Ended));
        }
        let (bytes, count) = (Bytes::copy_from_slice(bytes), bytes.len());
        Pin::new(&mut self.leg).consume(count);
        Poll::Ready(Ok(Event::Said(bytes)))
    }

    /// Ready when something was told; pending where there is nothing to tell, too.
    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.up.is_empty() {
            let taken = ready!(Pin::new(&mut self.leg).poll_write(cx, &self.up))?;
            self.up.advance(taken);
            self.unflushed = true;
            return Poll::Ready(Ok(()));
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.leg).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Pending
    }
}
