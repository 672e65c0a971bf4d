//! What was accepted: on its way to mailboxes, or waiting in the queue.
//!
//! Rule: a message is accepted under the lock that a fence takes, so that nothing is accepted after it was engaged; a
//! queue delivers only where the platform may write.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Door, Peer};
use crate::fake::{knobs::Posture, store::Store};

/// A message for which the sender was answered 250 (in LMTP: one recipient's share of it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Where it came in.
    pub door: Door,
    /// From whom, as far as that is known.
    pub peer: Peer,
    /// MAIL's path.
    pub from: String,
    /// RCPT's paths.
    pub recipients: Vec<String>,
    /// The accounts that it is for; recipients elsewhere have none.
    pub(super) users: Vec<String>,
    /// As it arrived, dots taken off.
    pub body: Arc<[u8]>,
}

/// What becomes of the queue when a platform dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// It comes back with the platform, and is delivered then.
    Kept,
    /// It is gone.
    Lost,
}

/// The post of one platform.
#[derive(Debug, Default)]
pub(in crate::fake) struct Post {
    sorting: Mutex<Sorting>,
}

#[derive(Debug, Default)]
struct Sorting {
    held: bool,
    queue: VecDeque<Arc<Accepted>>,
    accepted: Vec<Arc<Accepted>>,
}

impl Post {
    /// Takes a message in and delivers the queue if it is not held. The caller holds the posture, which lets it write.
    pub(super) fn accept(&self, message: Accepted, posture: Posture, store: &Store) {
        self.change(|s| {
            let message = Arc::new(message);
            s.accepted.push(message.clone());
            s.queue.push_back(message);
        });
        self.deliver(posture, store);
    }

    /// Puts one recipient's share into the mailbox at once, past the queue. False if there is no such mailbox.
    pub(super) fn drop_off(&self, message: Accepted, store: &Store) -> bool {
        let delivered = message.users.iter().all(|user| put(store, user, &message.body));
        self.change(|s| s.accepted.push(Arc::new(message)));
        delivered
    }

    /// Delivers what waits, if it may be.
    pub(in crate::fake) fn deliver(&self, posture: Posture, store: &Store) {
        if !posture.writes() {
            return;
        }
        // Under one lock, so that two who deliver at once do not deliver the same.
        self.change(|s| {
            while !s.held
                && let Some(message) = s.queue.pop_front()
            {
                for user in &message.users {
                    put(store, user, &message.body);
                }
            }
        });
    }

    /// From now on what is accepted stays in the queue, or does not.
    pub(in crate::fake) fn hold(&self, held: bool) {
        self.change(|s| s.held = held);
    }

    /// The queue is gone.
    pub(in crate::fake) fn lose(&self) {
        self.change(|s| s.queue.clear());
    }

    pub(in crate::fake) fn queue(&self) -> Vec<Arc<Accepted>> {
        self.change(|s| s.queue.iter().cloned().collect())
    }

    pub(in crate::fake) fn accepted(&self) -> Vec<Arc<Accepted>> {
        self.change(|s| s.accepted.clone())
    }

    pub(in crate::fake) fn forget(&self) {
        self.change(|s| s.accepted.clear());
    }

    fn change<T>(&self, change: impl FnOnce(&mut Sorting) -> T) -> T {
        change(&mut self.sorting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn put(store: &Store, user: &str, body: &Arc<[u8]>) -> bool {
    let append = |account: Arc<crate::fake::accounts::Account>| {
        account.edit().append("INBOX", BTreeSet::new(), None, body.clone())
    };
    store.account(user).and_then(append).is_some()
}
