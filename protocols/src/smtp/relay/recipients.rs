//! Who has a message already: LMTP answers each recipient, so each can be told apart (RFC 2033 §4.2).
//!
//! Rule: the client hears one reply per accepted recipient, in the order of its RCPTs, whoever gives it.

use super::{Line, Relay, Role, Transaction, What};
use crate::smtp::{
    command::{self, Path},
    reply::Class,
};

impl Line {
    pub(super) fn is_accepted(&self) -> bool {
        self.given == Some(Class::Done)
    }

    /// The address of a MAIL or RCPT line.
    fn address(&self) -> &[u8] {
        // The same look as when it was taken: without one every recipient would be the same to who asks what was delivered.
        let text = command::text(&self.bytes).unwrap_or_default();
        let arguments = command::command(text).arguments;
        let path = Path::read(arguments, b"TO:").or_else(|_| Path::read(arguments, b"FROM:"));
        path.map_or(b"", |path| path.address)
    }
}

impl Transaction {
    /// Accepted recipients whose final reply the client has not, by their place among all.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (usize, &Line)> {
        let accepted = self.rcpts.iter().enumerate().filter(|(_, rcpt)| rcpt.is_accepted());
        accepted.skip(self.answered)
    }

    /// Those of them that a backend is to deliver to.
    pub(super) fn undelivered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.unanswered().filter(|(_, rcpt)| !rcpt.delivered)
    }

    /// The backend's next final reply is here. Returns how many recipients before that one have the message already.
    pub(super) fn answer_next(&mut self) -> usize {
        let before = self.unanswered().take_while(|(_, rcpt)| rcpt.delivered).count();
        self.answered += before + 1;
        before
    }
}

impl Relay {
    /// LMTP: the name of the message under way where it came from, and its sender; between messages the name of the
    /// next one.
    pub fn ident(&self) -> Option<(&str, &[u8])> {
        match &self.transaction {
            Some(transaction) => Some((transaction.ident.as_deref()?, transaction.mail.address())),
            None => Some((self.ident.as_deref()?, b"")),
        }
    }

    /// Recipients to whom the message is still to be delivered, with their place among all.
    pub fn recipients(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let transaction = self.transaction.iter();
        transaction.flat_map(|t| t.undelivered().map(|(at, rcpt)| (at, rcpt.address())))
    }

    /// LMTP: the recipient whose final reply comes next.
    pub fn next_recipient(&self) -> Option<&[u8]> {
        match self.flight.front()?.what {
            What::End { .. } if self.role == Role::Lmtp => {
                self.recipients().next().map(|(_, address)| address)
            }
            What::End { .. }
            | What::Forward
            | What::Mail
            | What::Rcpt(_)
            | What::Data
            | What::Chunk { .. }
            | What::Reset => None,
        }
    }

    /// The recipients at these places have the message already. A backend that was told of them must be given up.
    pub fn delivered_before(&mut self, places: &[usize]) {
        let rcpts = self.transaction.iter_mut().flat_map(|t| t.rcpts.iter_mut().enumerate());
        rcpts.filter(|(at, _)| places.contains(at)).for_each(|(_, rcpt)| rcpt.delivered = true);
    }

    /// XFORWARD is said before MAIL; its reply is nobody's but ours.
    pub fn introduce(&mut self) {
        self.await_reply(What::Forward, None);
    }
}
