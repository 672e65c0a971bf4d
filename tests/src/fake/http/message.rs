//! A request as it comes.
//!
//! Rule: strict; what is not plainly framed ends the connection, so that nothing is ever read as two.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    /// As it came, without the empty line.
    pub(super) text: String,
}

/// The body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunks,
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Head {
    /// The next head; `None`: the peer has ended.
    pub(super) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut text = String::new();
        loop {
            let before = text.len();
            if from.read_line(&mut text).await? == 0 {
                return if text.is_empty() { Ok(None) } else { Err(wrong("half a head")) };
            }
            if !text.ends_with("\r\n") {
                return Err(wrong("a line without its end"));
            }
            if &text[before..] == "\r\n" {
                text.truncate(before);
                break;
            }
        }
        let mut words = text.lines().next().unwrap_or_default().split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some("HTTP/1.1"), None) => {
                Ok(Some(Self { method: method.into(), target: target.into(), text: text.clone() }))
            }
            _ => Err(wrong("not a request line")),
        }
    }

    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.text.lines().skip(1).filter_map(|line| line.split_once(':'));
        { fields }.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(super) fn framing(&self) -> io::Result<Framing> {
        match (self.field("content-length"), self.field("transfer-encoding")) {
            (Some(_), Some(_)) => Err(wrong("two lengths")),
            (Some(length), None) => length.parse().map(Framing::Length).map_err(|_| wrong("a length")),
            (None, Some("chunked")) => Ok(Framing::Chunks),
            (None, Some(_)) => Err(wrong("a coding")),
            (None, None) => Ok(Framing::Length(0)),
        }
    }
}

/// Reads pieces of a body; an empty one is its end.
pub(super) struct Pieces {
    framing: Framing,
    left: usize,
    ended: bool,
}

impl Pieces {
    pub(super) fn new(framing: Framing) -> Self {
        let left = if let Framing::Length(length) = framing { length } else { 0 };
        Self { framing, left, ended: false }
    }

    pub(super) async fn next(&mut self, from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
        if self.framing == Framing::Chunks && self.left == 0 && !self.ended {
            self.left = size(from).await?;
            self.ended = self.left == 0;
            if self.ended {
                crlf(from).await?;
            }
        }
        let mut piece = vec![0; self.left.min(8192)];
        if piece.is_empty() {
            return Ok(piece);
        }
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        self.left -= read;
        if self.framing == Framing::Chunks && self.left == 0 {
            crlf(from).await?;
        }
        Ok(piece)
    }
}

async fn size(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await?;
    line.strip_suffix("\r\n")
        .and_then(|size| usize::from_str_radix(size, 16).ok())
        .ok_or_else(|| wrong("a chunk"))
}

async fn crlf(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let mut end = [0; 2];
    from.read_exact(&mut end).await?;
    if &end == b"\r\n" { Ok(()) } else { Err(wrong("a chunk's end")) }
}
