//! One connection of a web server.
//!
//! Rule: requests in their order; what a test said about one happens to it and to no other.

use std::io;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::{
    At, Shared,
    message::{Head, Pieces},
    streams,
};

/// A connection that a fault has ended.
fn dropped() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// `more`: what the heads that were seen get besides.
pub(super) async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: S,
    number: u64,
    more: &str,
) -> io::Result<()> {
    let mut io = BufReader::new(stream);
    while let Some(head) = Head::read(&mut io).await? {
        let seen = shared.begin(number, &format!("{}{more}", head.text));
        let fault = shared.faults_of(&head.target);
        if let Some(At::Head) = fault {
            return Err(dropped());
        }
        if head.field("upgrade").is_some() {
            shared.note(seen, 0, false);
            return streams::echo(shared, io, seen, fault.as_ref()).await;
        }
        if head.field("expect").is_some() {
            io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = body(shared, &mut io, &head, seen, fault.as_ref()).await?;
        shared.note(seen, body.len(), true);
        match &fault {
            Some(At::Whole) => return Err(dropped()),
            Some(At::Stall(stall)) => stall.wait().await,
            _ => {}
        }
        let asked = head.field("accept") == Some("text/event-stream") || head.target.contains("unasked");
        if asked && !matches!(fault, Some(At::NoEvents)) {
            return streams::events(shared, io, &head, fault.as_ref()).await;
        }
        let (status, fields, said) = match &fault {
            Some(At::Say(status, fields)) => (*status, (*fields).to_owned(), shared.name.into()),
            _ => shared.carry_out(&head, body),
        };
        match &fault {
            Some(At::Done) => return Err(dropped()),
            Some(At::Withhold(stall)) => stall.wait().await,
            _ => {}
        }
        let length =
            if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", said.len()) };
        let mut answer = format!("HTTP/1.1 {status} Said\r\n{length}{fields}\r\n").into_bytes();
        if head.method != "HEAD" {
            answer.extend(said);
        }
        say(&mut io, &answer, fault.as_ref()).await?;
    }
    Ok(())
}

async fn body(
    shared: &Shared,
    io: &mut (impl AsyncBufRead + Unpin),
    head: &Head,
    seen: usize,
    fault: Option<&At>,
) -> io::Result<Vec<u8>> {
    let mut pieces = Pieces::new(head.framing()?);
    let mut body = Vec::new();
    loop {
        let piece = pieces.next(io).await?;
        if piece.is_empty() {
            return Ok(body);
        }
        body.extend(piece);
        shared.note(seen, body.len(), false);
        if let Some(At::Body(count)) = fault
            && body.len() >= *count
        {
            return Err(dropped());
        }
    }
}

async fn say(io: &mut (impl AsyncWrite + Unpin), answer: &[u8], fault: Option<&At>) -> io::Result<()> {
    match fault {
        Some(At::Answer(count)) => {
            io.write_all(&answer[..answer.len().min(*count)]).await?;
            Err(dropped())
        }
        Some(At::Pause(count, stall)) => {
            let (first, rest) = answer.split_at(answer.len().min(*count));
            io.write_all(first).await?;
            stall.wait().await;
            io.write_all(rest).await
        }
        _ => io.write_all(answer).await,
    }?;
    io.flush().await
}
