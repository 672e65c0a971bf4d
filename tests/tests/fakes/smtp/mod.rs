//! SMTP, submission and LMTP on in-memory platforms.
//!
//! Rule: three witnesses for every message: what the client was told, what the platforms accepted, and the mailboxes
//! of the platform that serves; the client's own judge sees everything in between.

mod cutover;
mod dialogue;
mod different;
mod down;
mod ends;
mod gate;
mod killed;
mod limits;
mod load;
mod passing;
mod pieces;
mod proofs;
mod raw;
mod scenarios;
mod smuggling;

use std::sync::Arc;

use bascule_tests::{
    client::Security,
    fake::smtp::{Accepted, Door},
    ledger::{self, Verdict},
    smtp::{Client, Dialect},
};

use super::rig::{PASSWORD, Plan, Rig};

const FROM: &str = "someone@example.net";
const ALICE: &str = "alice@example.org";
const BOB: &str = "bob@example.org";
const CAROL: &str = "carol@example.org";
/// Nobody has this address.
const NOBODY: &str = "nobody@example.org";
const USERS: &[&str] = &[ALICE, BOB, CAROL];

fn dialect(door: Door) -> Dialect {
    if door == Door::Lmtp { Dialect::Lmtp } else { Dialect::Smtp }
}

impl Rig {
    /// A client that is about to send: logged in where one must.
    async fn mailer(&self, door: Door) -> Client {
        match door {
            Door::Lmtp => Client::ready(self.proxy.lmtp(), Security::Plain, Dialect::Lmtp).await.unwrap(),
            Door::Submission => {
                let security = self.proxy.tls().unwrap();
                let mut client =
                    Client::ready(self.proxy.submissions(), security, Dialect::Smtp).await.unwrap();
                client.auth_plain(ALICE, PASSWORD, true).await.unwrap().ok().unwrap();
                client
            }
            Door::Imap | Door::Relay => {
                Client::ready(self.proxy.smtp(), Security::Plain, Dialect::Smtp).await.unwrap()
            }
        }
    }

    /// Whether a client of the relay is turned away before the greeting.
    async fn greets_nobody(&self) -> bool {
        Client::connect(self.proxy.smtp(), Security::Plain, Dialect::Smtp).await.is_err()
    }

    /// Waits until this stands in the log.
    async fn logs(&self, line: &str) {
        let seen = async {
            while !self.proxy.log().contains(line) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let seen = tokio::time::timeout(std::time::Duration::from_secs(60), seen).await;
        assert!(seen.is_ok(), "{line}\n{}", self.proxy.log());
    }

    /// Sends a new message, notes what came of it, and returns whether all was accepted.
    async fn mail(&self, client: &mut Client, to: &[&str], size: usize) -> bool {
        let (id, message) = self.ledger.mail(size, to);
        let sent = client.send(FROM, to, &message).await.unwrap();
        self.ledger.record(&id, to, &sent);
        sent.accepted()
    }

    /// What both platforms accepted from clients, in this order; proofs and canaries write to the probes.
    fn accepted(&self) -> [Vec<Arc<Accepted>>; 2] {
        let client = |m: &Arc<Accepted>| !m.recipients.iter().any(|to| to.starts_with("probe"));
        [self.old_pool(), self.new_pool()].map(|p| p.accepted().into_iter().filter(client).collect())
    }

    /// How often the message of this id was accepted for a recipient, on both platforms.
    fn copies(&self, id: &str, to: &str) -> usize {
        let of =
            |m: &&Arc<Accepted>| ledger::id_of(&m.body) == Some(id) && m.recipients.iter().any(|r| r == to);
        self.accepted().iter().flatten().filter(of).count()
    }

    /// What was acknowledged was accepted once, on one platform, and is in each mailbox of the one that serves once and
    /// unchanged; and nothing broke the protocol towards either.
    async fn delivered(&self) -> Verdict {
        let shares = |message: Arc<Accepted>| {
            let to = message.recipients.clone();
            to.into_iter().map(move |to| (to, message.body.clone())).collect::<Vec<_>>()
        };
        let accepted = self.ledger.judge_mail(self.accepted().into_iter().flatten().flat_map(shares));
        let serving = self.pair.platform(&self.active().await).unwrap();
        let verdict = self.ledger.judge_mail(serving.store().mail());
        assert!(verdict.clean() && accepted.clean(), "in mailboxes: {verdict:?}, accepted: {accepted:?}");
        for platform in [self.old_pool(), self.new_pool()] {
            assert_eq!(platform.counters().violations, Vec::<String>::new());
        }
        verdict
    }

    /// The same, and every client was told.
    async fn all_told(&self) -> Verdict {
        let verdict = self.delivered().await;
        assert_eq!(verdict.unknown, 0, "{verdict:?}");
        verdict
    }
}
