//! Commands that wait at the gate, in the client's order.
//!
//! Rule: bounded in count and bytes (past it the client is not read), answered by a backend, by an honest
//! refusal at the ceiling, or by the farewell (D1, P5).

use std::{collections::VecDeque, time::Instant};

use bascule_protocols::imap::{relay::Sent, tag::Tag};

use super::upload::Whole;

/// One command that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sent: Sent,
    pub(super) body: Body,
    /// When it met a shut gate; `None`: it only waits for its turn behind others.
    pub(super) since: Option<Instant>,
    /// When it began to wait at all.
    pub(super) arrived: Instant,
}

/// The bytes of a held command.
#[derive(Debug)]
pub(super) enum Body {
    /// A line without literals, CRLF included.
    Line(Vec<u8>),
    /// A command with literals, kept whole.
    Whole(Whole),
    /// An upload that streamed to the backend of this generation up to its commit point. `kept` if it can be
    /// sent elsewhere.
    Streamed { generation: u64, last: Vec<u8>, kept: Option<Whole> },
}

impl Body {
    fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Whole(whole) => whole.memory(),
            Self::Streamed { last, kept, .. } => last.len() + kept.as_ref().map_or(0, Whole::memory),
        }
    }
}

/// The queue of one session.
#[derive(Debug, Default)]
pub(super) struct Queue {
    commands: VecDeque<Held>,
    bytes: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether a backend has the beginning of one of them.
    pub(super) fn streams(&self) -> bool {
        self.commands.iter().any(|held| matches!(held.body, Body::Streamed { .. }))
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, held: Held) {
        self.bytes += held.body.bytes();
        self.commands.push_back(held);
    }

    /// Back to the front: it was taken too early.
    pub(super) fn put_back(&mut self, held: Held) {
        self.bytes += held.body.bytes();
        self.commands.push_front(held);
    }

    pub(super) fn pop(&mut self) -> Option<Held> {
        let held = self.commands.pop_front()?;
        self.bytes = self.bytes.saturating_sub(held.body.bytes());
        Some(held)
    }

    /// Takes out an upload that streamed up to its commit point and was answered before it.
    pub(super) fn take_answered(&mut self, tag: &Tag) -> Option<Held> {
        let streamed = |held: &Held| held.sent.tag == *tag && matches!(held.body, Body::Streamed { .. });
        let at = self.commands.iter().position(streamed)?;
        let held = self.commands.remove(at)?;
        self.bytes = self.bytes.saturating_sub(held.body.bytes());
        Some(held)
    }

    /// The one that has waited longest.
    pub(super) fn oldest(&self) -> Option<&Held> {
        self.commands.front()
    }

    /// The gate shut while these waited for their turn. Returns how many were not marked before.
    pub(super) fn mark_held(&mut self, now: Instant) -> i64 {
        let mut newly = 0;
        for held in self.commands.iter_mut().filter(|held| held.since.is_none()) {
            held.since = Some(now);
            newly += 1;
        }
        newly
    }

    /// Streamed uploads whose backend is gone become whole ones; one that was not kept cannot be sent again.
    pub(super) fn backend_lost(&mut self) -> Result<(), ()> {
        for held in &mut self.commands {
            if let Body::Streamed { last, kept, .. } = &mut held.body {
                let Some(mut whole) = kept.take() else { return Err(()) };
                whole.finish(last);
                held.body = Body::Whole(whole);
            }
        }
        Ok(())
    }
}
