//! What a test may turn while a platform runs: fences, answers out of the ordinary, stalls.
//!
//! Rule: nothing here depends on a clock where an event will do; a [`Stall`] ends when it is released.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, watch};

/// Being unable to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// Able to write, if promoted.
    #[default]
    Off,
    /// Logins succeed and reads go on; every write is answered `NO [UNAVAILABLE]`.
    ReadOnly,
    /// Logins are answered `NO [UNAVAILABLE]` too.
    Refuse,
    /// Nobody listens, every connection has ended.
    Stop,
}

/// Which writes and logins a platform admits now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Posture {
    pub(super) fence: Fence,
    /// Sessions that are open still write through the fence.
    pub(super) leaky: bool,
    /// Not promoted.
    pub(super) standby: bool,
    pub(super) standby_refuses_logins: bool,
}

impl Posture {
    pub(super) fn writes(self) -> bool {
        !self.standby && (self.fence == Fence::Off || self.leaky)
    }

    pub(super) fn logins(self) -> bool {
        self.fence != Fence::Refuse && !(self.standby && self.standby_refuses_logins)
    }
}

/// What happens at one verb instead of, or besides, the usual.
#[derive(Debug, Clone, Default)]
pub struct Reaction {
    /// Waits before the command is executed.
    pub delay: Duration,
    /// Waits, before the command is executed, until the test says so.
    pub stall: Option<Stall>,
    /// Bytes sent before the command is executed: an unknown tag, an untagged line, garbage.
    pub raw: Option<String>,
    /// Answers this after the tag and executes nothing: `NO [AUTHENTICATIONFAILED] no`.
    pub refuse: Option<String>,
    /// Executes, and keeps the answer back until the test says so.
    pub withhold: Option<Stall>,
    /// Executes, sends only so many bytes of the answer and drops the connection.
    pub cut: Option<usize>,
    /// Drops the connection without executing.
    pub drop: bool,
    /// At `BODY`: happens when so many bytes of a message or chunk were read.
    pub at: Option<usize>,
    /// Pending EXPUNGEs are told even where the protocol forbids it.
    pub illegal_expunge: bool,
    /// So many pass as usual before it happens.
    pub skip: u32,
    /// How often it happens; `None`: until told otherwise.
    pub times: Option<u32>,
}

impl Reaction {
    /// Waits as long as it says.
    pub(super) async fn wait(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        if let Some(stall) = &self.stall {
            stall.wait().await;
        }
    }
}

/// A point at which connections wait for a test.
#[derive(Debug, Clone)]
pub struct Stall {
    waiting: Arc<watch::Sender<usize>>,
    permits: Arc<Semaphore>,
}

impl Default for Stall {
    fn default() -> Self {
        Self { waiting: Arc::new(watch::Sender::new(0)), permits: Arc::new(Semaphore::new(0)) }
    }
}

impl Stall {
    /// Resolves when so many commands have come as far as here.
    pub async fn reached(&self, count: usize) {
        // The sender is our own field, so the channel cannot close.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting >= count).await;
    }

    /// Lets everyone go on, also those who come later.
    pub fn release(&self) {
        self.permits.close();
    }

    /// Comes as far as here, and waits until it is released.
    pub async fn wait(&self) {
        self.waiting.send_modify(|n| *n += 1);
        // Closing is how a stall is released.
        let _ = self.permits.acquire().await;
    }
}

/// Reactions by verb; `*` is every verb.
#[derive(Debug, Default)]
pub(super) struct Reactions(HashMap<String, Reaction>);

impl Reactions {
    pub(super) fn set(&mut self, verb: &str, reaction: Reaction) {
        self.0.insert(verb.to_ascii_uppercase(), reaction);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What happens now at the first of these that is set; counts it.
    pub(super) fn take(&mut self, verbs: &[&str]) -> Reaction {
        let key = { verbs.iter() }.map(|v| v.to_ascii_uppercase()).find(|v| self.0.contains_key(v));
        let Some(reaction) = self.0.get_mut(key.as_deref().unwrap_or("*")) else {
            return Reaction::default();
        };
        if let Some(left) = reaction.skip.checked_sub(1) {
            reaction.skip = left;
            return Reaction::default();
        }
        match &mut reaction.times {
            Some(0) => Reaction::default(),
            Some(n) => {
                *n -= 1;
                reaction.clone()
            }
            None => reaction.clone(),
        }
    }
}
