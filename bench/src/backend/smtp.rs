//! One SMTP connection.
//!
//! Rule: mail for example.org is taken and forgotten, all other mail is refused: it is no open relay.

use std::io;

use memchr::memmem::Finder;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};

/// What follows a line end where a message ends.
const END: &[u8] = b"\r\n.\r\n";
const HELLO: &str = "250-backend.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
                     250-ENHANCEDSTATUSCODES\r\n250 CHUNKING";

/// Serves until QUIT or the end of the connection.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    let mut out = b"220 backend.test ESMTP\r\n".to_vec();
    let mut line = Vec::new();
    loop {
        // Replies to what came together leave together.
        if !stream.buffer().contains(&b'\n') {
            stream.get_mut().write_all(&out).await?;
            stream.get_mut().flush().await?;
            out.clear();
        }
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(line.trim_ascii_end()).to_ascii_uppercase();
        let reply = match text.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" | "HELO" => HELLO,
            "RCPT" if !text.contains("@EXAMPLE.ORG>") => "554 5.7.1 relay access denied",
            "MAIL" | "RCPT" | "RSET" | "NOOP" => "250 2.0.0 Ok",
            "DATA" => {
                out.extend_from_slice(b"354 go on\r\n");
                stream.get_mut().write_all(&out).await?;
                stream.get_mut().flush().await?;
                out.clear();
                content(&mut stream).await?;
                "250 2.0.0 taken"
            }
            "QUIT" => {
                out.extend_from_slice(b"221 2.0.0 bye\r\n");
                stream.get_mut().write_all(&out).await?;
                return stream.get_mut().shutdown().await;
            }
            _ => "502 5.5.1 unknown",
        };
        out.extend_from_slice(reply.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads a message to its final dot.
async fn content(stream: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<()> {
    let finder = Finder::new(END);
    // What may be the beginning of the end; a message begins on a line of its own.
    let mut last = b"\r\n".to_vec();
    loop {
        let input = stream.fill_buf().await?;
        if input.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seam = [&last, &input[..input.len().min(END.len() - 1)]].concat();
        let end = match finder.find(&seam) {
            Some(at) => Some(at + END.len() - last.len()),
            None => finder.find(input).map(|at| at + END.len()),
        };
        let taken = end.unwrap_or(input.len());
        let keep = [&last, &input[..taken]].concat();
        last = keep[keep.len().saturating_sub(END.len() - 1)..].to_vec();
        stream.consume(taken);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn messages_end_where_they_end_however_they_arrive() {
        let said =
            b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@elsewhere.test>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n\
                     a\r\n..\r\n.b\r\n\n.\r\n.c\r\n.\r\nDATA\r\n.\r\nQUIT\r\n";
        for piece in [1, 2, 7, said.len()] {
            let (client, server) = tokio::io::duplex(1 << 16);
            let (mut from, mut to) = tokio::io::split(client);
            let served = tokio::spawn(serve(server));
            for piece in said.chunks(piece) {
                to.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut heard = String::new();
            from.read_to_string(&mut heard).await.unwrap();
            served.await.unwrap().unwrap();
            let codes: Vec<&str> =
                heard.lines().filter(|line| line.as_bytes()[3] == b' ').map(|l| &l[..3]).collect();
            assert_eq!(
                codes,
                ["220", "250", "250", "554", "250", "354", "250", "354", "250", "221"],
                "{heard}"
            );
        }
    }
}
