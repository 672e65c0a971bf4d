//! One account: its mailboxes behind one lock.
//!
//! Rule: a change is applied and logged under the same lock, so that replicas see the order that readers saw.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use super::store::{Feeds, Mailbox, Mailboxes, Message, Op};

/// One account.
#[derive(Debug)]
pub(super) struct Account {
    user: Arc<str>,
    validity: u32,
    mailboxes: Mutex<Mailboxes>,
    feeds: Arc<Feeds>,
}

impl Account {
    pub(super) fn new(user: &str, validity: u32, feeds: Arc<Feeds>) -> Self {
        let mut mailboxes = Mailboxes::default();
        mailboxes.apply(Op::Create { mailbox: "INBOX".into(), validity });
        mailboxes.apply(Op::Subscribe { mailbox: "INBOX".into(), on: true });
        Self { user: user.into(), validity, mailboxes: Mutex::new(mailboxes), feeds }
    }

    pub(super) fn edit(&self) -> Edit<'_> {
        Edit { account: self, mailboxes: self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    pub(super) fn apply(&self, op: Op) {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner).apply(op);
    }
}

/// An account while nobody else reads or writes it.
pub(super) struct Edit<'a> {
    account: &'a Account,
    mailboxes: MutexGuard<'a, Mailboxes>,
}

impl Edit<'_> {
    pub(super) fn mailbox(&self, name: &str) -> Option<&Mailbox> {
        self.mailboxes.all.get(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.mailboxes.all.keys().cloned().collect()
    }

    pub(super) fn subscribed(&self, name: &str) -> bool {
        self.mailboxes.subscribed.contains(name)
    }

    pub(super) fn bodies(&self) -> Vec<Arc<[u8]>> {
        self.mailboxes.all.values().flat_map(|b| b.messages.iter().map(|m| m.body.clone())).collect()
    }

    pub(super) fn commit(&mut self, op: Op) {
        self.account.feeds.log(&self.account.user, &op);
        self.mailboxes.apply(op);
    }

    /// Adds a message; its UID, or `None` where there is no such mailbox.
    pub(super) fn append(
        &mut self,
        mailbox: &str,
        flags: BTreeSet<String>,
        date: Option<i64>,
        body: Arc<[u8]>,
    ) -> Option<u32> {
        let uid = self.mailbox(mailbox)?.next;
        let date = date.unwrap_or_else(now);
        self.commit(Op::Append {
            mailbox: mailbox.into(),
            message: Message { uid, flags, date, body, changed: 0 },
        });
        Some(uid)
    }

    pub(super) fn expunge(&mut self, mailbox: &str, uid: u32) -> bool {
        let there = self.mailbox(mailbox).is_some_and(|b| b.message(uid).is_some());
        if there {
            self.commit(Op::Expunge { mailbox: mailbox.into(), uid });
        }
        there
    }

    pub(super) fn expunge_all(&mut self, mailbox: &str, uids: Vec<u32>) {
        for uid in uids {
            self.expunge(mailbox, uid);
        }
    }

    /// A UIDVALIDITY for a new mailbox: above every one that this account has.
    pub(super) fn fresh_validity(&self) -> u32 {
        self.mailboxes.all.values().map(|b| b.validity + 1).max().unwrap_or(self.account.validity)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}
