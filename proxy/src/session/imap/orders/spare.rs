//! A connection to the pool that a cutover goes to, kept until the session moves there.
//!
//! Rule: it is good until proved otherwise: whoever uses it begins anew with a fresh one where it is not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bascule_protocols::imap::{capability::Capabilities, state::State};
use tokio::io::AsyncBufRead;

use super::super::converse::leave;
use crate::{net::stream::Leg, topology::PoolId};

/// One such connection.
#[derive(Debug)]
pub(in crate::session::imap) struct Spare {
    pub(super) pool: PoolId,
    pub(super) leg: Leg,
    pub(super) user: Option<User>,
    /// The server has said something unasked; it is read with the next dialogue.
    heard: bool,
}

/// Who is logged in on it.
#[derive(Debug)]
pub(super) struct User {
    pub(super) capabilities: Option<Capabilities>,
    /// What was enabled after the login; more cannot be once a mailbox is open (RFC 5161 §3.1).
    pub(super) enabled: Vec<Box<[u8]>>,
}

impl Spare {
    /// Greeted, nobody logged in.
    pub(super) fn dialled(pool: PoolId, leg: Leg) -> Self {
        Self { pool, leg, user: None, heard: false }
    }

    /// Logged in, told what was to be enabled, and the mailbox looked at.
    pub(super) fn logged_in(pool: PoolId, leg: Leg, user: User) -> Self {
        Self { pool, leg, user: Some(user), heard: false }
    }

    /// The pool on which the user is logged in through it.
    pub(in crate::session::imap) fn user_on(&self) -> Option<PoolId> {
        self.user.as_ref().map(|_| self.pool)
    }

    /// Whether a session in this state can go on on it.
    pub(super) fn serves(&self, pool: PoolId, state: &State) -> bool {
        self.pool == pool && self.user.as_ref().is_none_or(|user| user.enabled == state.enabled)
    }

    /// Whether the server has ended it. Only looked at while nobody uses it.
    pub(in crate::session::imap) fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        if self.heard {
            return false;
        }
        match Pin::new(&mut self.leg).poll_fill_buf(cx) {
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
                self.heard = true;
                bytes.starts_with(b"* BYE")
            }
            Poll::Ready(_) => true,
            Poll::Pending => false,
        }
    }

    /// Ends it in good order. True: it has ended.
    pub(in crate::session::imap) async fn leave(self) -> bool {
        leave(self.leg, false).await
    }
}
