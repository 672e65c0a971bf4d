//! DATA and BDAT: the bytes of a message, and the moment at which it is accepted.
//!
//! Rule: only CRLF.CRLF ends DATA and only its count ends a chunk; a message that did not arrive whole never was.

use std::io;

use memchr::memchr;
use tokio::io::AsyncBufReadExt;

use super::{
    Accepted, Door,
    commands::{Recipient, Transaction},
    session::Session,
};
use crate::fake::{knobs::Reaction, wire::LITERAL};

pub(super) const FENCED: &str = "451 4.3.2 not able to do this now";

impl Session {
    pub(super) async fn data(&mut self, reaction: &Reaction) -> io::Result<()> {
        let refusal = match &self.transaction {
            t if t.chunks.is_some() || t.binary => {
                self.violation("DATA where only BDAT is allowed");
                Some("503 5.5.1 BDAT")
            }
            t if !t.asked => {
                self.violation("DATA at the wrong time");
                Some("503 5.5.1 RCPT first")
            }
            t if !t.open() => Some("503 5.5.1 MAIL first"),
            t if t.recipients.is_empty() && self.door == Door::Lmtp => Some("503 5.5.1 no recipients"),
            t if t.recipients.is_empty() => Some("554 5.5.1 no recipients"),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return self.answer(refusal, reaction).await;
        }
        if self.early().await {
            self.violation("content before the 354");
        }
        self.answer("354 go on", reaction).await?;
        let body = self.dotted().await?;
        self.complete(body).await
    }

    /// Content up to the final dot, dots taken off.
    async fn dotted(&mut self) -> io::Result<Vec<u8>> {
        let mut fault = Fault::new(self.shared.reaction(&["BODY"]));
        let (mut body, mut line) = (Vec::new(), Vec::new());
        let discards = self.options().discards;
        loop {
            if let Some(reaction) = fault.due() {
                self.suffer(&reaction).await?;
            }
            let chunk = self.wire.io.fill_buf().await?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let chunk = &chunk[..fault.allow(chunk.len())];
            let end = memchr(b'\n', chunk);
            let taken = end.map_or(chunk.len(), |at| at + 1);
            line.extend_from_slice(&chunk[..taken]);
            self.wire.recorder.received(&chunk[..taken]);
            self.wire.io.consume(taken);
            fault.seen += taken;
            if end.is_none() {
                continue;
            }
            if line == b".\r\n" {
                return Ok(body);
            }
            self.take_line(&line, &mut body);
            line.clear();
            if discards {
                body.clear();
            }
            if body.len() > LITERAL {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        }
    }

    fn take_line(&self, line: &[u8], body: &mut Vec<u8>) {
        let text = line.strip_suffix(b"\r\n");
        if text.is_none() {
            self.violation("a bare LF in content");
        }
        let text = text.unwrap_or(line);
        if memchr(b'\r', text).is_some() {
            self.violation("a bare CR in content");
        }
        match line.strip_prefix(b".") {
            Some(rest) => {
                if !rest.starts_with(b".") {
                    self.violation("a dot that was not doubled");
                }
                body.extend_from_slice(rest);
            }
            None => body.extend_from_slice(line),
        }
    }

    pub(super) async fn bdat(&mut self, args: &str, reaction: &Reaction) -> io::Result<()> {
        let mut words = args.split_whitespace();
        let size = words.next().and_then(|w| w.parse::<usize>().ok()).filter(|size| *size <= LITERAL);
        let last = words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST"));
        let Some(size) = size else {
            self.violation(&format!("BDAT {args}"));
            self.answer("501 5.5.4 how much?", reaction).await?;
            return Err(io::ErrorKind::InvalidData.into());
        };
        let chunk = self.counted(size).await?;
        let t = &mut self.transaction;
        let refusal = match &reaction.refuse {
            Some(refusal) => Some(refusal.as_str()),
            None if t.recipients.is_empty() || !t.open() => Some("503 5.5.1 no recipients"),
            None => None,
        };
        if let Some(refusal) = refusal {
            let right = t.asked && self.options().shows("CHUNKING");
            if !right {
                self.violation("BDAT at the wrong time");
            }
            self.transaction =
                Transaction { tried: true, asked: true, failed: !last, ..Transaction::default() };
            return self.answer(refusal, reaction).await;
        }
        t.chunks.get_or_insert_default().extend_from_slice(&chunk);
        if last {
            let body = t.chunks.take().unwrap_or_default();
            return self.complete(body).await;
        }
        self.answer(&format!("250 2.0.0 {size} octets"), reaction).await
    }

    async fn counted(&mut self, size: usize) -> io::Result<Vec<u8>> {
        let mut fault = Fault::new(self.shared.reaction(&["BODY"]));
        let mut chunk = Vec::with_capacity(size);
        loop {
            if let Some(reaction) = fault.due() {
                self.suffer(&reaction).await?;
            }
            if chunk.len() == size {
                return Ok(chunk);
            }
            let bytes = self.wire.io.fill_buf().await?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = fault.allow(bytes.len()).min(size - chunk.len());
            chunk.extend_from_slice(&bytes[..taken]);
            self.wire.recorder.received(&bytes[..taken]);
            self.wire.io.consume(taken);
            fault.seen += taken;
        }
    }

    /// The message is whole: its replies, one, or in LMTP one for each recipient.
    async fn complete(&mut self, body: Vec<u8>) -> io::Result<()> {
        let transaction = std::mem::take(&mut self.transaction);
        let from = transaction.from.unwrap_or_default();
        let body: std::sync::Arc<[u8]> = body.into();
        let shares: Vec<Vec<Recipient>> = match self.door {
            Door::Lmtp => transaction.recipients.into_iter().map(|r| vec![r]).collect(),
            Door::Imap | Door::Relay | Door::Submission => vec![transaction.recipients],
        };
        for share in shares {
            let whom = if self.door == Door::Lmtp { share.first().map(|r| r.address.clone()) } else { None };
            self.wire.recorder.command(&format!("{} DOT", self.door.name()));
            let reaction = self.react("DOT", &whom.unwrap_or_default()).await?;
            let message = Accepted {
                door: self.door,
                peer: self.peer.clone(),
                from: from.clone(),
                recipients: share.iter().map(|r| r.address.clone()).collect(),
                users: share.into_iter().filter_map(|r| r.user).collect(),
                body: body.clone(),
            };
            let reply = reaction.refuse.clone().unwrap_or_else(|| self.accept(message));
            self.answer(&reply, &reaction).await?;
        }
        self.peer.xforward.clear();
        Ok(())
    }

    /// The commit point. The posture is held until the message is where it belongs.
    fn accept(&self, message: Accepted) -> String {
        let posture = self.shared.posture();
        if !posture.writes() {
            return FENCED.into();
        }
        if message.body.len() > self.options().size {
            return "552 5.3.4 too large".into();
        }
        if self.door == Door::Lmtp {
            let delivered = self.shared.post.drop_off(message, &self.shared.store);
            return if delivered { "250 2.0.0 delivered" } else { "450 4.2.0 no mailbox" }.into();
        }
        self.shared.post.accept(message, *posture, &self.shared.store);
        "250 2.0.0 queued".into()
    }
}

/// What the test wants to happen at a byte of a body.
struct Fault {
    reaction: Reaction,
    at: Option<usize>,
    seen: usize,
}

impl Fault {
    fn new(reaction: Reaction) -> Self {
        Self { at: reaction.at, reaction, seen: 0 }
    }

    /// Once, when so many bytes were read.
    fn due(&mut self) -> Option<Reaction> {
        self.at.filter(|at| *at <= self.seen)?;
        self.at = None;
        Some(self.reaction.clone())
    }

    /// How many of `len` bytes may be read before it is due.
    fn allow(&self, len: usize) -> usize {
        self.at.map_or(len, |at| len.min(at - self.seen))
    }
}
