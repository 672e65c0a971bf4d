//! The content of a message: kept until it is answered, and streamed to the backend that has asked for it.
//!
//! Rule: bodies up to `upload_memory` stay in memory, larger ones go to a file as they come; only one for which the spool
//! has no room ends with the backend that it was begun at.

use bascule_protocols::smtp::relay::AMBIGUOUS;

use super::relay::{Backend, End, Session};
use crate::{
    net::{buffer, spool::Body},
    session::door::Door,
};

/// Content that leaves with what comes after it, its end perhaps; more of it is worth a write of its own.
const SMALL: usize = 4 * 1024;

impl Session {
    /// Sends the backend what was kept and it has not been sent.
    pub(super) fn stream(&mut self) -> Result<(), End> {
        loop {
            let (Some(backend), Some(kept)) = (&mut self.backend, &self.kept) else { return Ok(()) };
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

    /// Whether the backend has all of the content.
    pub(super) fn streamed(&self) -> bool {
        self.backend.as_ref().is_some_and(|b| b.streamed.is_some_and(|at| at >= self.content))
    }

    /// The message is over.
    pub(super) fn drop_content(&mut self) {
        self.content = 0;
        (self.digest, self.claimed) = (None, None);
        self.kept = Some(Body::new(self.door.world.spool.clone()));
        if let Some(backend) = &mut self.backend {
            backend.streamed = None;
        }
    }

    /// Whether the message under way can be said to another backend.
    pub(super) fn content_is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// A message whose content is gone with its backend.
    pub(super) fn lose_content(&mut self) {
        self.world().metrics.messages.count("not_kept");
        let now = self.relay.refuse_content(AMBIGUOUS);
        self.say(&now);
        self.drop_content();
    }
}

/// Content of the client: kept, and passed on where the backend has everything before it. An error is what the client
/// is told at the end of its message.
pub(super) fn receive(
    kept: &mut Option<Body>,
    backend: &mut Option<Backend>,
    door: &Door,
    bytes: &[u8],
) -> Result<(), &'static [u8]> {
    let limits = &door.world.config.limits;
    let before = kept.as_ref().map(Body::len);
    if let Some(Err(error)) = kept.as_mut().map(|body| body.push(bytes, limits.upload_memory)) {
        tracing::warn!(%error, "a message is not kept: it ends with its server");
        door.world.metrics.limits_hit.count("spool");
        *kept = None;
    }
    let Some(backend) = backend else {
        return if kept.is_some() { Ok(()) } else { Err(b"452 4.3.1 Not enough room now\r\n") };
    };
    match (backend.streamed, before) {
        // It has everything before these bytes.
        (Some(at), Some(len)) if at == len => {}
        (Some(_), None) => {}
        // It has not asked yet, or what was kept goes first.
        (None, _) | (Some(_), Some(_)) => {
            return if kept.is_some() { Ok(()) } else { Err(b"452 4.3.1 Not enough room now\r\n") };
        }
    }
    backend.streamed = backend.streamed.map(|at| at + bytes.len() as u64);
    if bytes.len() < SMALL {
        backend.out.keep(bytes);
    } else {
        // A failed backend is found by the next read.
        let _ = backend.out.push(&mut backend.leg, bytes);
    }
    Ok(())
}
