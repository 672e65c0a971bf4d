//! What one session knows of its selected mailbox, and how it is told what changed.
//!
//! Rule: message numbers change only when EXPUNGE was sent; what is gone and not yet told keeps its number.

use std::{collections::BTreeSet, io::Write};

use tokio::sync::watch;

use super::{
    store::{Mailbox, Message},
    wire::Set,
};

/// A selected mailbox as its session sees it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) read_only: bool,
    /// By message number, from 1.
    pub(super) uids: Vec<u32>,
    /// `\Recent` for this session.
    pub(super) recent: BTreeSet<u32>,
    /// The last change that was told.
    pub(super) changed: u64,
    pub(super) changes: watch::Receiver<u64>,
    next: u32,
}

impl View {
    pub(super) fn new(name: &str, mailbox: &Mailbox, read_only: bool) -> Self {
        let uids: Vec<u32> = mailbox.messages.iter().map(|m| m.uid).collect();
        Self {
            name: name.into(),
            read_only,
            recent: uids.iter().copied().filter(|u| *u >= mailbox.first_recent).collect(),
            uids,
            changed: mailbox.changed(),
            changes: mailbox.change.subscribe(),
            next: mailbox.next,
        }
    }

    /// Tells what changed; EXPUNGE only where it is allowed.
    pub(super) fn sync(&mut self, mailbox: &Mailbox, expunge: bool, out: &mut Vec<u8>) {
        let ghosts = self.uids.len() > mailbox.messages.len();
        if mailbox.changed() == self.changed && !(ghosts && expunge) {
            return;
        }
        if expunge {
            self.tell_expunged(mailbox, out);
        }
        let known = self.next;
        let fresh: Vec<u32> = mailbox.messages.iter().map(|m| m.uid).filter(|u| *u >= known).collect();
        if !fresh.is_empty() {
            self.uids.extend(&fresh);
            self.recent.extend(&fresh);
            line(out, &format!("* {} EXISTS", self.uids.len()));
            line(out, &format!("* {} RECENT", self.recent.len()));
        }
        let altered = mailbox.messages.iter().filter(|m| m.changed > self.changed && m.uid < known);
        for message in altered {
            if let Ok(slot) = self.uids.binary_search(&message.uid) {
                line(out, &format!("* {} FETCH (FLAGS ({}))", slot + 1, self.flags(message)));
            }
        }
        self.changed = mailbox.changed();
        self.next = mailbox.next;
    }

    /// From the end, so that no number changes before it was used.
    fn tell_expunged(&mut self, mailbox: &Mailbox, out: &mut Vec<u8>) {
        for slot in (0..self.uids.len()).rev() {
            if mailbox.message(self.uids[slot]).is_none() {
                self.recent.remove(&self.uids.remove(slot));
                line(out, &format!("* {} EXPUNGE", slot + 1));
            }
        }
    }

    /// The slots that a set names; `None` where it is malformed or names a number that is not there.
    pub(super) fn resolve(&self, set: &str, by_uid: bool) -> Option<Vec<usize>> {
        let count = u32::try_from(self.uids.len()).ok()?;
        let last = if by_uid { self.uids.last().copied().unwrap_or(1) } else { count };
        let set = Set::parse(set, last)?;
        if !by_uid && set.max() > count {
            return None;
        }
        let number =
            |slot: usize| if by_uid { self.uids[slot] } else { u32::try_from(slot + 1).unwrap_or(u32::MAX) };
        Some((0..self.uids.len()).filter(|slot| set.contains(number(*slot))).collect())
    }

    /// A message's flags as this session is shown them.
    pub(super) fn flags(&self, message: &Message) -> String {
        let mut flags: Vec<&str> = message.flags.iter().map(String::as_str).collect();
        if self.recent.contains(&message.uid) {
            flags.push("\\Recent");
        }
        flags.join(" ")
    }
}

/// Appends one line of an answer.
pub(super) fn line(out: &mut Vec<u8>, text: &str) {
    // Writing into memory cannot fail.
    let _ = write!(out, "{text}\r\n");
}
