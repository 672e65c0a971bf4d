//! What a client sends: lines and literals into commands with arguments.
//!
//! Rule: strict where the proxy has promised: line ends are CRLF, and a byte of slack is an error that shows.

use std::{io, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{platform::Tls, transcript::Recorder};
use crate::Stream;

/// The longest line without its literals.
const LINE: usize = 1 << 20;
/// The longest literal, and the longest message.
pub(super) const LITERAL: usize = 256 << 20;

/// One argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arg {
    /// As it stands, with what its brackets contain.
    Atom(String),
    /// In quotation marks, which are taken off.
    Quoted(Vec<u8>),
    /// A literal.
    Literal(Vec<u8>),
    /// In parentheses.
    List(Vec<Self>),
}

impl Arg {
    /// An astring.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Atom(s) => s.clone(),
            Self::Quoted(bytes) | Self::Literal(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::List(_) => String::new(),
        }
    }

    /// The items of a list; a single item counts as a list of one.
    pub(super) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            Self::Atom(_) | Self::Quoted(_) | Self::Literal(_) => std::slice::from_ref(self),
        }
    }
}

/// One whole command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) tag: String,
    /// Upper case; for UID with the word that follows.
    pub(super) verb: String,
    pub(super) args: Vec<Arg>,
}

/// Part of a command: a line without its end or literal marker, and the literal that the marker announced.
struct Part {
    line: Vec<u8>,
    literal: Option<Vec<u8>>,
}

/// The receiving side of a connection. Nothing is lost when a caller stops waiting for a line.
pub(super) struct Wire {
    pub(super) io: BufReader<Box<dyn Stream>>,
    line: Vec<u8>,
    pub(super) recorder: Recorder,
}

impl Wire {
    /// Takes a connection over, inside TLS where that comes first; whether it does.
    pub(super) async fn accept(stream: TcpStream, tls: &Tls, recorder: Recorder) -> io::Result<(Self, bool)> {
        let (stream, secure): (Box<dyn Stream>, bool) = match tls {
            Tls::Implicit(config) => {
                (Box::new(TlsAcceptor::from(config.clone()).accept(stream).await?), true)
            }
            Tls::Starttls(_) | Tls::Off => (Box::new(stream), false),
        };
        Ok((Self { io: BufReader::with_capacity(1024, stream), line: Vec::new(), recorder }, secure))
    }

    /// TLS from here on.
    pub(super) async fn secure(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        if !self.io.buffer().is_empty() {
            self.recorder.violation("bytes behind STARTTLS");
        }
        let nothing: Box<dyn Stream> = Box::new(tokio::io::empty());
        let plain = std::mem::replace(&mut self.io, BufReader::new(nothing)).into_inner();
        let secure = TlsAcceptor::from(config).accept(plain).await?;
        self.io = BufReader::with_capacity(1024, Box::new(secure));
        Ok(())
    }

    /// One line without its CRLF; `None` at the end of the stream.
    pub(super) async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let chunk = self.io.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let taken = chunk.iter().position(|b| *b == b'\n').map_or(chunk.len(), |at| at + 1);
            self.recorder.received(&chunk[..taken]);
            self.line.extend_from_slice(&chunk[..taken]);
            self.io.consume(taken);
            if self.line.last() == Some(&b'\n') {
                break;
            }
            if self.line.len() > LINE {
                return Err(broken("a line without an end"));
            }
        }
        let mut line = std::mem::take(&mut self.line);
        line.pop();
        if line.pop() != Some(b'\r') || line.iter().any(|b| matches!(b, b'\r' | 0)) {
            self.recorder.violation(&format!("not a line with CRLF: {:?}", String::from_utf8_lossy(&line)));
            return Err(broken("a line end that is not CRLF"));
        }
        Ok(Some(line))
    }

    /// A whole command; `first` is its first line. Asks for synchronizing literals itself. What cannot be
    /// understood is its tag and the reason.
    pub(super) async fn command(&mut self, first: Vec<u8>) -> io::Result<Result<Command, (String, String)>> {
        let tag = first.split(|b| *b == b' ').next().unwrap_or_default();
        let tag = String::from_utf8_lossy(tag).into_owned();
        let mut parts = Vec::new();
        let mut line = first;
        while let Some((start, size, waits)) = literal(&line) {
            if size > LITERAL {
                return Err(broken("a literal that is too long"));
            }
            if waits {
                self.io.write_all(b"+ go ahead\r\n").await?;
                self.io.flush().await?;
            }
            let mut literal = vec![0; size];
            self.io.read_exact(&mut literal).await?;
            self.recorder.received(&literal);
            line.truncate(start);
            parts.push(Part { line, literal: Some(literal) });
            line = self.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        parts.push(Part { line, literal: None });
        Ok(parse(parts).map_err(|why| (tag, why)))
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where the marker at the end of a line begins, the size, and whether the client waits for `+`.
fn literal(line: &[u8]) -> Option<(usize, usize, bool)> {
    let inner = line.strip_suffix(b"}")?;
    let start = inner.iter().rposition(|b| *b == b'{')?;
    let digits = &inner[start + 1..];
    let (digits, waits) = digits.strip_suffix(b"+").map_or((digits, true), |d| (d, false));
    Some((start, std::str::from_utf8(digits).ok()?.parse().ok()?, waits))
}

fn parse(parts: Vec<Part>) -> Result<Command, String> {
    let mut stack = vec![Vec::new()];
    for part in parts {
        lex(&part.line, &mut stack)?;
        if let (Some(literal), Some(top)) = (part.literal, stack.last_mut()) {
            top.push(Arg::Literal(literal));
        }
    }
    let args = stack.pop().filter(|_| stack.is_empty()).ok_or("a list without an end")?;
    let mut args = args.into_iter();
    let tag = args.next().ok_or("no tag")?.text();
    let mut verb = args.next().ok_or("no command")?.text().to_ascii_uppercase();
    if verb == "UID" {
        verb = format!("UID {}", args.next().ok_or("no command")?.text().to_ascii_uppercase());
    }
    Ok(Command { tag, verb, args: args.collect() })
}

fn lex(line: &[u8], stack: &mut Vec<Vec<Arg>>) -> Result<(), String> {
    let mut rest = line;
    while let Some(&byte) = rest.first() {
        match byte {
            b' ' => rest = &rest[1..],
            b'(' => {
                stack.push(Vec::new());
                rest = &rest[1..];
            }
            b')' => {
                let list = stack.pop().filter(|_| !stack.is_empty()).ok_or("a list without a start")?;
                push(stack, Arg::List(list));
                rest = &rest[1..];
            }
            b'"' => {
                let (text, after) = quoted(&rest[1..])?;
                push(stack, Arg::Quoted(text));
                rest = after;
            }
            _ => {
                let end = atom(rest);
                push(stack, Arg::Atom(String::from_utf8_lossy(&rest[..end]).into_owned()));
                rest = &rest[end..];
            }
        }
    }
    Ok(())
}

fn push(stack: &mut [Vec<Arg>], arg: Arg) {
    if let Some(top) = stack.last_mut() {
        top.push(arg);
    }
}

fn quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut out = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => return Ok((out, &text[at + 1..])),
            b'\\' => out.push(*bytes.next().ok_or("a string without an end")?.1),
            _ => out.push(byte),
        }
    }
    Err("a string without an end".into())
}

/// The length of an atom; spaces and parentheses inside brackets belong to it (`BODY[HEADER.FIELDS (TO)]`).
fn atom(bytes: &[u8]) -> usize {
    let mut depth = 0_u32;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b' ' | b'(' | b')' if depth == 0 => return at,
            _ => {}
        }
    }
    bytes.len()
}

/// A set of message numbers or UIDs.
#[derive(Debug, Clone)]
pub(super) struct Set(Vec<(u32, u32)>);

impl Set {
    /// `1:5,7,*`; `*` is the largest number there is.
    pub(super) fn parse(text: &str, last: u32) -> Option<Self> {
        let number = |s: &str| if s == "*" { Some(last) } else { s.parse().ok().filter(|n| *n > 0) };
        let range = |part: &str| {
            let (a, b) = part.split_once(':').unwrap_or((part, part));
            let (a, b) = (number(a)?, number(b)?);
            Some((a.min(b), a.max(b)))
        };
        text.split(',').map(range).collect::<Option<_>>().map(Self)
    }

    pub(super) fn max(&self) -> u32 {
        self.0.iter().map(|(_, high)| *high).max().unwrap_or_default()
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&number))
    }
}

/// Ascending numbers as a set.
pub(super) fn format_set(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &n in numbers {
        match ranges.last_mut() {
            Some((_, high)) if *high + 1 == n => *high = n,
            _ => ranges.push((n, n)),
        }
    }
    let range = |(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}:{b}") };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// A string as a response carries it.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
