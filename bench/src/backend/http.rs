//! One HTTP/1.1 connection.
//!
//! Rule: `GET /n` is answered with n kB; a request has no body.

use std::{io, sync::LazyLock};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};

/// The longest answer.
static BODY: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'x'; 1_000_000]);

/// Serves until the connection ends.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(4 * 1024, stream);
    let (mut line, mut out) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let kilobytes = asked(&line).unwrap_or(1);
        while line != b"\r\n" {
            line.clear();
            if stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(());
            }
        }
        let body = &BODY[..(kilobytes * 1000).min(BODY.len())];
        out.clear();
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ");
        out.extend_from_slice(body.len().to_string().as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(body);
        stream.get_mut().write_all(&out).await?;
    }
}

/// n of `GET /n HTTP/1.1`
fn asked(line: &[u8]) -> Option<usize> {
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_in_the_target() {
        assert_eq!(asked(b"GET /64 HTTP/1.1\r\n"), Some(64));
        assert_eq!((asked(b"GET / HTTP/1.1\r\n"), asked(b"\r\n")), (None, None));
    }
}
