//! The content of a message: kept until it is answered, and streamed to the backend that has asked for it.
//!
//! Rule: bodies stay in memory as far as the spool's budget goes, larger ones go to a file as they come; only one for
//! which the spool has no room ends with the backend that it was begun at.

use bascule_protocols::smtp::relay::AMBIGUOUS;

use super::{
    delivered::Digest,
    relay::{Backend, End, Session},
};
use crate::{
    net::{
        buffer::{self, Buffer},
        spool::{Body, SpoolError},
    },
    session::door::Door,
};

/// Content that leaves with what comes after it, its end perhaps; more of it is worth a write of its own.
const SMALL: usize = 4 * 1024;
/// RFC 1870 §6.1 (3).
const TOO_LARGE: &[u8] = b"552 5.3.4 Larger than the largest message\r\n";
const NO_ROOM: &[u8] = b"452 4.3.1 Not enough room now\r\n";

impl Session {
    /// Sends the backend what was kept and it has not been sent.
    pub(super) fn stream(&mut self) -> Result<(), End> {
        loop {
            let (Some(backend), Some(kept)) = (&mut self.backend, &self.content.kept) else { return Ok(()) };
            let Some(streamed) = backend.streamed.filter(|at| *at < kept.len() && backend.out.is_empty())
            else {
                return Ok(());
            };
            let mut piece = buffer::room();
            let read = kept.read(streamed, &mut piece).unwrap_or_default();
            let pushed = backend.out.push(&mut backend.leg, &piece[..read]);
            backend.streamed = Some(streamed + read as u64);
            buffer::keep(piece);
            if read == 0 {
                return Err(End::Farewell("limit"));
            }
            if pushed.is_err() {
                return self.on_backend_end();
            }
        }
    }

    /// Whether the backend waits for what was kept.
    pub(super) fn has_to_stream(&self) -> bool {
        let kept = self.content.len().unwrap_or(0);
        self.backend.as_ref().is_some_and(|b| b.streamed.is_some_and(|at| at < kept))
    }

    /// Whether the backend has all of the content.
    pub(super) fn streamed(&self) -> bool {
        self.backend.as_ref().is_some_and(|b| b.streamed.is_some_and(|at| at >= self.content.bytes))
    }

    /// The message is over.
    pub(super) fn drop_content(&mut self) {
        self.content = Content::new(&self.door);
        self.claimed = None;
        if let Some(backend) = &mut self.backend {
            backend.streamed = None;
        }
    }

    /// Whether the message under way can be said to another backend.
    pub(super) fn content_is_kept(&self) -> bool {
        self.content.kept.is_some()
    }

    /// A message whose content is gone with its backend.
    pub(super) fn lose_content(&mut self) {
        self.world().metrics.messages.count("not_kept");
        let now = self.relay.refuse_content(AMBIGUOUS);
        self.say(&now);
        self.drop_content();
    }
}

/// The content of the message under way.
#[derive(Debug)]
pub(super) struct Content {
    /// `None`: the spool had no room for it.
    kept: Option<Body>,
    /// Bytes that came, for people and for the sum of chunks.
    pub(super) bytes: u64,
    /// Where a message that comes again must be known by it.
    pub(super) digest: Option<Box<Digest>>,
}

/// An error is what the client is told at the end of its message.
type Taken<T> = Result<T, &'static [u8]>;

impl Content {
    /// None yet.
    pub(super) fn new(door: &Door) -> Self {
        Self { kept: Some(Body::new(door.world.spool.clone())), bytes: 0, digest: None }
    }

    /// Bytes kept.
    fn len(&self) -> Option<u64> {
        self.kept.as_ref().map(Body::len)
    }

    /// Content of the client: the backend gets it where it has everything before it, and it is kept. `alone`: nothing
    /// else lies before it in its room. True: it is still to be kept, by [`Self::adopt`].
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        alone: bool,
        limit: Option<u64>,
        backend: &mut Option<Backend>,
        door: &Door,
    ) -> Taken<bool> {
        if bytes.is_empty() {
            return Ok(false);
        }
        self.bytes += bytes.len() as u64;
        if limit.is_some_and(|limit| self.bytes > limit) {
            return Err(TOO_LARGE);
        }
        if let Some(digest) = &mut self.digest {
            digest.push(bytes);
        }
        let before = self.len();
        if let Some(backend) = backend
            && backend.streamed.is_some_and(|at| before.is_none_or(|len| at == len))
        {
            backend.streamed = backend.streamed.map(|at| at + bytes.len() as u64);
            if bytes.len() < SMALL {
                backend.out.keep(bytes);
            } else {
                // A failed backend is found by the next read.
                let _ = backend.out.push(&mut backend.leg, bytes);
            }
        }
        if alone && self.kept.as_ref().is_some_and(|body| body.adopts(bytes.len())) {
            return Ok(true);
        }
        self.keep(backend.as_ref(), door, |body, small| body.push(bytes, small)).map(|()| false)
    }

    /// Keeps what was received in its room.
    pub(super) fn adopt(&mut self, room: Buffer, backend: Option<&Backend>, door: &Door) -> Taken<()> {
        self.keep(backend, door, |body, small| body.adopt(room, small))
    }

    fn keep(
        &mut self,
        backend: Option<&Backend>,
        door: &Door,
        how: impl FnOnce(&mut Body, usize) -> Result<(), SpoolError>,
    ) -> Taken<()> {
        let small = door.world.config.limits.upload_memory;
        if let Some(Err(error)) = self.kept.as_mut().map(|body| how(body, small)) {
            tracing::warn!(%error, "a message is not kept: it ends with its server");
            door.world.metrics.limits_hit.count("spool");
            self.kept = None;
        }
        // The backend that has everything goes on without.
        let streamed = backend.and_then(|backend| backend.streamed);
        if self.kept.is_some() || streamed.is_some_and(|at| at == self.bytes) { Ok(()) } else { Err(NO_ROOM) }
    }
}
