//! Commands with literals: kept whole so that they can be sent to any backend, or streamed to the one that is
//! there while they are kept.
//!
//! Rule: the line end after the last literal is the commit point and stays with us until the gate says yes;
//! before it nothing has happened anywhere (RFC 3501 §7.4.1, RFC 3502), so an unfinished upload may move.

use std::sync::Arc;

use bascule_protocols::imap::{capability::Capabilities, command::Verb, relay::Sent, tag::Tag};

use crate::net::spool::{Body, Spool, SpoolError};

/// A command with its literals, as it came.
#[derive(Debug)]
pub(super) struct Whole {
    /// Line without its marker, literal size, whether it is `~{n}`.
    segments: Vec<(Vec<u8>, u64, bool)>,
    body: Body,
    last: Vec<u8>,
}

impl Whole {
    pub(super) fn new(spool: &Arc<Spool>) -> Self {
        Self { segments: Vec::new(), body: Body::new(spool.clone()), last: Vec::new() }
    }

    pub(super) fn segment(&mut self, line: &[u8], size: u64, binary: bool) {
        self.segments.push((line.to_vec(), size, binary));
    }

    pub(super) fn push(&mut self, bytes: &[u8], memory: usize) -> Result<(), SpoolError> {
        self.body.push(bytes, memory)
    }

    /// The line after the last literal.
    pub(super) fn finish(&mut self, last: &[u8]) {
        self.last = last.to_vec();
    }

    /// Bytes of literals announced so far.
    pub(super) fn announced(&self) -> u64 {
        self.segments.iter().fold(0u64, |n, s| n.saturating_add(s.1))
    }

    /// Bytes of literals received.
    pub(super) fn received(&self) -> u64 {
        self.body.len()
    }

    /// What the queue's byte budget counts: lines. Bodies have budgets of their own.
    pub(super) fn memory(&self) -> usize {
        self.segments.iter().map(|s| s.0.len()).sum::<usize>() + self.last.len()
    }

    /// The command as one slice with its literals in place, for commands that are small.
    pub(super) fn flat(&self) -> std::io::Result<Vec<u8>> {
        let (mut out, mut at) = (Vec::new(), 0);
        for (line, size, _) in &self.segments {
            out.extend_from_slice(line);
            out.extend_from_slice(format!("{{{size}}}\r\n").as_bytes());
            let mut literal = vec![0; usize::try_from(*size).unwrap_or(0)];
            let mut filled = 0;
            while filled < literal.len() {
                match self.body.read(at, &mut literal[filled..])? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    n => {
                        filled += n;
                        at += n as u64;
                    }
                }
            }
            out.extend_from_slice(&literal);
        }
        out.extend_from_slice(&self.last);
        Ok(out)
    }
}

/// A command with literals that is being received.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) tag: Tag,
    pub(super) verb: Verb,
    /// `None`: it outgrew what is kept outside of a cutover.
    pub(super) kept: Option<Whole>,
    pub(super) path: Path,
    /// Literal bytes announced and received, for people.
    pub(super) progress: (u64, u64),
}

/// Where its bytes go while they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// To the backend of this generation, and kept. `answered`: it was refused before its end; the rest only
    /// keeps the backend in step.
    Streaming { generation: u64, answered: bool },
    /// Only kept; sent when it is whole.
    Kept,
}

/// How the backend wants a literal of this size: true for `{n}` and a `+`.
pub(super) fn must_wait(capabilities: &Capabilities, size: u64) -> bool {
    !(capabilities.has(b"LITERAL+") || capabilities.has(b"LITERAL-") && size <= 4096)
}

/// The end of a line that announces a literal.
pub(super) fn marker(size: u64, wait: bool, binary: bool) -> String {
    format!("{}{{{size}{}}}\r\n", if binary { "~" } else { "" }, if wait { "" } else { "+" })
}

/// A whole command on its way to the backend.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) sent: Sent,
    pub(super) whole: Whole,
    pub(super) since: Option<std::time::Instant>,
    pub(super) arrived: std::time::Instant,
    stage: Stage,
    /// Bytes of the body sent so far.
    at: u64,
    /// The backend refused it before its end; the rest only keeps the backend in step.
    pub(super) answered: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Line(usize),
    Wait(usize),
    Literal(usize, u64),
}

/// What is to be done next for a [`Sending`].
#[derive(Debug)]
pub(super) enum Piece {
    /// Send these bytes; `true`: and then wait for `+`.
    Bytes(Vec<u8>, bool),
    /// `+` has not come.
    Wait,
    /// Only the commit is missing: this line, without its end.
    Commit(Vec<u8>),
}

impl Sending {
    pub(super) fn new(
        sent: Sent,
        whole: Whole,
        since: Option<std::time::Instant>,
        arrived: std::time::Instant,
    ) -> Self {
        Self { sent, whole, since, arrived, stage: Stage::Line(0), at: 0, answered: false }
    }

    /// Whether it waits for `+`: nothing of its literal was sent.
    pub(super) fn waits(&self) -> bool {
        matches!(self.stage, Stage::Wait(_))
    }

    /// `+` came.
    pub(super) fn go(&mut self) {
        if let Stage::Wait(segment) = self.stage {
            self.stage = Stage::Literal(segment, self.whole.segments[segment].1);
        }
    }

    /// The next piece. A file that cannot be read ends the command.
    pub(super) fn next(&mut self, capabilities: &Capabilities) -> std::io::Result<Piece> {
        match self.stage {
            Stage::Line(i) => {
                let Some((line, size, binary)) = self.whole.segments.get(i) else {
                    return Ok(Piece::Commit(self.whole.last.clone()));
                };
                let wait = must_wait(capabilities, *size);
                let mut bytes = line.clone();
                bytes.extend_from_slice(marker(*size, wait, *binary).as_bytes());
                self.stage = if wait { Stage::Wait(i) } else { Stage::Literal(i, *size) };
                Ok(Piece::Bytes(bytes, wait))
            }
            Stage::Wait(_) => Ok(Piece::Wait),
            Stage::Literal(i, 0) => {
                self.stage = Stage::Line(i + 1);
                self.next(capabilities)
            }
            Stage::Literal(i, left) => {
                let mut bytes = vec![0; usize::try_from(left.min(64 * 1024)).unwrap_or(64 * 1024)];
                let n = self.whole.body.read(self.at, &mut bytes)?;
                if n == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                bytes.truncate(n);
                self.at += n as u64;
                self.stage = Stage::Literal(i, left - n as u64);
                Ok(Piece::Bytes(bytes, false))
            }
        }
    }
}
