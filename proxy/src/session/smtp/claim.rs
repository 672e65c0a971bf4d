//! What a message is called, and to whom it is still to be delivered.
//!
//! Rule: who has a message already is not sent it again, and is answered as if it were.

use bascule_protocols::smtp::relay::{DELIVERED, Role};

use super::{
    address,
    delivered::{Claim, Message},
    relay::{Session, Waiting},
};
use crate::config::ClientAddress;

/// The other copy is answered first.
const BUSY: &[u8] = b"451 4.3.2 Another copy of this message is being delivered\r\n";

impl Session {
    /// The name of the message under way: its own where it has one (LMTP), else ours.
    pub(super) fn name(&self) -> String {
        match self.relay.ident() {
            Some((ident, _)) => ident.to_owned(),
            None => self.world().names.name(self.entry.handle.id.0, self.messages),
        }
    }

    /// Tells the backend the name of the message that follows, and whose it is, as far as it wants to hear it.
    pub(super) fn introduce(&mut self) {
        let Some(backend) = &self.backend else { return };
        if !backend.keywords.has("XFORWARD") {
            return;
        }
        let topology = self.world().topology.load();
        let service = topology.pool(backend.pool).service(self.door.listener.protocol);
        let client = service.is_some_and(|s| s.client_address == ClientAddress::Xforward);
        let lines = address::xforward(&backend.keywords, &self.whom(), client, &self.name());
        for line in lines {
            self.relay.introduce();
            self.tell_backend(line.as_bytes());
        }
    }

    /// Whether the message may be committed: nobody has it, and no other copy is on its way.
    pub(super) fn claim(&mut self) -> bool {
        let Some((ident, sender)) = self.relay.ident().filter(|_| self.claimed.is_none()) else {
            return true;
        };
        let digest = self.content.digest.as_ref().map_or(0, |digest| digest.value());
        let (places, recipients): (Vec<_>, Vec<_>) = self.relay.recipients().unzip();
        let message = Message { ident, sender, digest };
        match self.world().delivered.claim(message, &recipients, self.now) {
            Claim::Fresh(claimed) => {
                self.claimed = Some(claimed);
                return true;
            }
            Claim::Known(known) => {
                let known: Vec<usize> = known.iter().filter_map(|at| places.get(*at).copied()).collect();
                tracing::info!(message = ident, recipients = known.len(), "delivered before");
                self.world().metrics.messages.count("delivered_before");
                self.relay.delivered_before(&known);
                if self.relay.recipients().next().is_none() {
                    self.answer_instead(DELIVERED);
                } else {
                    // It was told of them; the next one is not.
                    self.cut_backend();
                }
            }
            Claim::Busy => self.answer_instead(BUSY),
        }
        false
    }

    /// Ends a message that waits to be committed without doing so.
    pub(super) fn answer_instead(&mut self, words: &[u8]) {
        if let Some(wait) = self.waiting.take_if(|wait| matches!(wait.what, Waiting::Commit)) {
            self.release_clock(&wait);
        }
        let owed = if self.relay.role() == Role::Lmtp { self.relay.replies_owed() } else { 1 };
        self.say(&words.repeat(owed.max(1)));
        self.relay.over();
        self.drop_content();
        // The backend stands in the middle of a message that will not end.
        self.cut_backend();
    }
}
