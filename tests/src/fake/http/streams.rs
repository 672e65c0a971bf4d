//! What a web server says for as long as it is listened to: news, and what comes back on a WebSocket.
//!
//! Rule: news of a platform are numbered, and stand on its shelf: a server tells them from where its listener was. Under
//! `/jmap/` they are events as they were published, and who brings no id hears what comes from now on.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{At, Shared, message::Head};

/// Tells the news after the one that the listener has heard of, as they come.
pub(super) async fn events(
    shared: &Shared,
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    head: &Head,
    fault: Option<&At>,
) -> io::Result<()> {
    let (mut told, mut ended) = (shared.shelf.published(), [0; 1]);
    let is_push = head.target.starts_with("/jmap/");
    let from = if is_push { shared.shelf.news(0).len() } else { 0 };
    let mut heard = head.field("last-event-id").and_then(|id| id.parse().ok()).unwrap_or(from);
    let type_is = "Content-Type: text/event-stream\r\nCache-Control: no-store\r\n";
    io.write_all(format!("HTTP/1.1 200 Said\r\nTransfer-Encoding: chunked\r\n{type_is}\r\n").as_bytes())
        .await?;
    io.flush().await?;
    loop {
        for (id, text) in (heard + 1..).zip(shared.shelf.news(heard)) {
            let event = match is_push {
                true => format!("{text}\n\n"),
                false => format!(": {}\nid: {id}\ndata: {text}\n\n", shared.name),
            };
            let half = if let Some(At::Pause(count, _)) = fault { *count } else { event.len() / 2 };
            let (first, second) = event.split_at(half.min(event.len()));
            chunk(&mut io, first).await?;
            if let Some(At::Pause(_, stall)) = fault {
                stall.wait().await;
            }
            chunk(&mut io, second).await?;
            heard = id;
        }
        if shared.shelf.are_over() {
            return io.write_all(b"0\r\n\r\n").await;
        }
        tokio::select! {
            changed = told.changed() => changed.map_err(io::Error::other)?,
            // It never says more.
            read = io.read(&mut ended) => return read.map(drop),
        }
    }
}

async fn chunk(io: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    io.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await?;
    io.flush().await
}

/// What follows an upgrade comes back as it came, and is counted.
pub(super) async fn echo(
    shared: &Shared,
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    seen: usize,
    fault: Option<&At>,
) -> io::Result<()> {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    io.write_all(switch.as_bytes()).await?;
    io.flush().await?;
    let (mut bytes, mut count) = ([0; 1024], 0);
    loop {
        // A listener may have gone before it took everything.
        let read = io.read(&mut bytes).await.unwrap_or(0);
        shared.note(seen, count + read, read == 0);
        if read == 0 {
            return Ok(());
        }
        let mut said = &bytes[..read];
        if let Some(At::Pause(after, stall)) = fault
            && (count..count + read).contains(after)
        {
            let (first, rest) = said.split_at(after - count);
            io.write_all(first).await?;
            io.flush().await?;
            stall.wait().await;
            said = rest;
        }
        count += read;
        let _ = io.write_all(said).await;
        let _ = io.flush().await;
    }
}
