//! A message offered to a pool: what shows whether it takes mail.
//!
//! Rule: a refusal counts only if it may come from a fence; an unknown address and a full mailbox are refused without one.
//! Where the offer is to be refused, a server that asks for the message has taken it; it does not get it, but from LMTP,
//! whose stores refuse no earlier than at the final dot.

use std::{io, time::Duration};

use bascule_protocols::smtp::reply::{Class, Reply};
use tokio::time::sleep;

use super::{
    Post,
    line::{Line, Lost, No},
};
use crate::{
    checks::{
        Answer,
        canary::{Entrance, Tried},
        mailbox::{Access, Mailbox},
        server::{Dial, GAP, enter},
        trial::{Write, nonce},
    },
    config::{Account, Protocol},
    session::smtp::open::OpenError,
};

/// What stands in the Message-ID of each message of ours.
const MARK: &str = "canary@bascule";
/// How often a message that was delivered is looked for.
const LOOKS: u32 = 20;

/// A connection on which nothing is under way.
#[derive(Debug)]
pub(in crate::checks) struct Offer {
    line: Line,
    protocol: Protocol,
    address: String,
}

/// One mail protocol as a way to write into a pool.
#[derive(Debug)]
pub(in crate::checks) struct ByMail<'a> {
    pub(in crate::checks) post: Post<'a>,
    pub(in crate::checks) account: Account,
}

impl ByMail<'_> {
    /// A connection on which messages for the account are taken: said up to the recipient. The positive control.
    pub(in crate::checks) async fn open(&self) -> Result<Offer, Write> {
        let line = self.post.open_for(&self.account).await.map_err(|error| needed_open(&error))?;
        let (protocol, address) = (self.post.protocol, self.account.address.clone());
        let mut offer = Offer { line, protocol, address };
        offer.address().await.map_err(|(what, no)| needed(what, no))?;
        offer.line.expect("RSET").await.map_err(|no| needed("RSET", no))?;
        Ok(offer)
    }

    /// Whether mail is taken. What LMTP delivers is found by IMAP, and taken away.
    pub(in crate::checks) async fn takes<D: Dial>(&self, mailboxes: &D) -> Answer {
        let taken = async {
            let offer = self.open().await?;
            if self.post.protocol == Protocol::Lmtp {
                let id = offer.deliver().await?;
                self.find(mailboxes, &id).await?;
            } else {
                offer.line.quit().await;
            }
            Ok::<_, Write>(())
        };
        let answer = taken.await.map_or_else(Write::wanted, |()| Answer::Pass);
        answer.named(self.post.protocol.name())
    }

    /// Finds a message that was delivered, and takes it and its like away.
    async fn find<D: Dial>(&self, mailboxes: &D, id: &str) -> Result<(), Write> {
        let unseen =
            |why: String| Write::Unclear(format!("a message that LMTP delivered is not seen: {why}"));
        let mut mailbox = enter(mailboxes, &self.account).await.map_err(|why| unseen(why.to_string()))?;
        let found = async {
            for _ in 0..LOOKS {
                mailbox.open("INBOX", Access::Write).await?;
                if !mailbox.search("Message-ID", id).await?.is_empty() {
                    return sweep(&mut mailbox).await.map(|()| true);
                }
                sleep(GAP).await;
            }
            Ok(false)
        };
        let found = found.await;
        mailbox.logout().await;
        match found {
            Ok(true) => Ok(()),
            Ok(false) => Err(unseen(format!("it is not in the INBOX of {}", self.account.user))),
            Err(failure) => Err(unseen(failure.to_string())),
        }
    }
}

/// Takes away what an offer left that was to be refused, as far as that is possible.
pub(in crate::checks) async fn tidy<D: Dial>(mailboxes: &D, account: &Account) {
    if let Ok(mut mailbox) = enter(mailboxes, account).await {
        if mailbox.open("INBOX", Access::Write).await.is_ok() {
            let _ = sweep(&mut mailbox).await;
        }
        mailbox.logout().await;
    }
}

/// Removes every message of ours from the selected mailbox.
async fn sweep<S>(mailbox: &mut Mailbox<S>) -> Result<(), crate::checks::mailbox::Failure>
where
    S: tokio::io::AsyncBufRead + tokio::io::AsyncWrite + Unpin,
{
    for uid in mailbox.search("Message-ID", MARK).await? {
        mailbox.store(&uid.to_string(), "+FLAGS.SILENT (\\Deleted)").await?;
    }
    mailbox.expunge().await.map(drop)
}

impl Entrance for ByMail<'_> {
    type Session = Offer;

    fn server(&self) -> &str {
        &self.post.service.server
    }

    async fn afresh(&self) -> Answer {
        let answer = match self.post.open_for(&self.account).await {
            Ok(line) => {
                let (protocol, address) = (self.post.protocol, self.account.address.clone());
                let (write, offer) = Offer { line, protocol, address }.attempt().await;
                if let Some(offer) = offer {
                    offer.line.quit().await;
                }
                write.unwanted()
            }
            Err(error) => shut(&error),
        };
        answer.named("fresh connection")
    }
}

/// What it shows of a fence that no connection came to be.
fn shut(error: &OpenError) -> Answer {
    match error {
        OpenError::Dial { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Pass,
        OpenError::Refused(_) => Answer::Pass,
        OpenError::Said(reply) => refused("EHLO", reply).unwanted(),
        OpenError::Dial { .. } | OpenError::Unavailable(_) => Answer::Unknown(error.to_string()),
    }
}

impl Tried for Offer {
    async fn ended(&mut self, wait: Duration) -> bool {
        self.line.ended(wait).await
    }

    async fn attempt(mut self) -> (Write, Option<Self>) {
        let offered = async {
            self.address().await?;
            self.line.expect("DATA").await.map_err(|no| ("DATA", no))
        };
        match offered.await {
            Ok(()) if self.protocol == Protocol::Lmtp => match self.line.give(&message(&self.id())).await {
                Ok(()) => (Write::Done("the final dot"), Some(self)),
                Err(no) => self.refused("the final dot", no).await,
            },
            // It ends here, in the middle of what would be a message.
            Ok(()) => (Write::Done("DATA"), None),
            Err((what, no)) => self.refused(what, no).await,
        }
    }
}

impl Offer {
    /// Gives it up.
    pub(in crate::checks) async fn close(self) {
        self.line.quit().await;
    }

    /// MAIL and RCPT. Nobody is written to where something goes wrong; submission wants the user's own address.
    async fn address(&mut self) -> Result<(), (&'static str, No)> {
        let from = if self.protocol == Protocol::Submission { &*self.address } else { "" };
        self.line.expect(&format!("MAIL FROM:<{from}>")).await.map_err(|no| ("MAIL", no))?;
        self.line.expect(&format!("RCPT TO:<{}>", self.address)).await.map_err(|no| ("RCPT", no))
    }

    /// A whole message; its id.
    async fn deliver(mut self) -> Result<String, Write> {
        let id = self.id();
        self.address().await.map_err(|(what, no)| needed(what, no))?;
        self.line.expect("DATA").await.map_err(|no| needed("DATA", no))?;
        self.line.give(&message(&id)).await.map_err(|no| needed("the final dot", no))?;
        self.line.quit().await;
        Ok(id)
    }

    fn id(&self) -> String {
        format!("{}.{MARK}", nonce())
    }

    /// What a refusal means, and the connection if it goes on.
    async fn refused(mut self, what: &'static str, no: No) -> (Write, Option<Self>) {
        match no {
            No::Said(reply) => {
                let write = refused(what, &reply);
                let goes_on = matches!(write, Write::Refused { closed: false, .. });
                // Refused too where nothing is allowed any more; then the next MAIL will be as well.
                let stands = goes_on && !matches!(self.line.expect("RSET").await, Err(No::Lost(_)));
                (write, stands.then_some(self))
            }
            No::Lost(lost) => (Write::Unclear(format!("{what}: {lost}")), None),
        }
    }
}

fn refused(what: &str, reply: &Reply) -> Write {
    let said = format!("{what}: {}", reply.text());
    if not_a_fence(reply) { Write::Unclear(said) } else { Write::Refused { said, closed: reply.code == 421 } }
}

/// Refusals that a server without any fence gives as well: of an address, for a full mailbox, for a size (RFC 3463).
fn not_a_fence(reply: &Reply) -> bool {
    let enhanced = reply.texts().next().unwrap_or_default().split(|b| *b == b' ').next().unwrap_or_default();
    let detail = enhanced.get(1..).unwrap_or_default();
    detail.starts_with(b".1.") || detail == b".2.2" || detail == b".3.4" || reply.code == 552
}

/// What it means where it must succeed. 4yz is what a server says that has just begun.
fn needed(what: &str, no: No) -> Write {
    match no {
        No::Said(reply) if reply.class() == Class::Never => refused(what, &reply),
        No::Said(reply) => Write::Unclear(format!("{what}: {}", reply.text())),
        No::Lost(lost @ (Lost::Ended | Lost::Late | Lost::Nonsense(_))) => {
            Write::Unclear(format!("{what}: {lost}"))
        }
    }
}

fn needed_open(error: &OpenError) -> Write {
    match error {
        OpenError::Refused(reply) => {
            Write::Refused { said: format!("the login was answered {}", reply.code), closed: false }
        }
        OpenError::Said(reply) => needed("EHLO", No::Said(reply.clone())),
        OpenError::Dial { .. } | OpenError::Unavailable(_) => Write::Unclear(error.to_string()),
    }
}

fn message(id: &str) -> String {
    format!(
        "From: bascule <bascule@localhost>\r\nSubject: bascule canary\r\nMessage-ID: <{id}>\r\n\r\n\
         Delivered to see whether mail is taken. It may be deleted.\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::{
            canary::{Canary, once, prove},
            fake::{Fake as Mailboxes, Habit, account},
            mail::fake::Fake,
        },
        config::FenceKind,
    };

    fn way(fake: &Fake, protocol: Protocol) -> ByMail<'static> {
        ByMail { post: fake.post(protocol), account: account("probe1") }
    }

    async fn canary(way: &ByMail<'_>) -> Canary<Offer> {
        Canary::new(way.open().await.unwrap())
    }

    const ALL: [Protocol; 3] = [Protocol::Smtp, Protocol::Submission, Protocol::Lmtp];

    #[tokio::test]
    async fn a_fence_refuses_at_any_command_by_every_protocol() {
        for protocol in ALL {
            for (command, reply) in [
                ("MAIL", "451 4.3.2 not now"),
                ("RCPT", "450 4.7.1 moving"),
                ("DATA", "554 5.3.2 read-only"),
                ("MAIL", "421 4.3.2 closing"),
            ] {
                let fake = Fake::start().await;
                let way = way(&fake, protocol);
                let mut canary = canary(&way).await;
                fake.says(command, reply);
                assert_eq!(
                    prove(&mut canary, FenceKind::Refuse, &way).await,
                    Answer::Pass,
                    "{protocol:?} {reply}"
                );
                assert_eq!(once(&mut canary, FenceKind::Refuse, &way, Duration::ZERO).await, Answer::Pass);
                assert!(fake.taken().is_empty());
            }
        }
    }

    #[tokio::test]
    async fn what_goes_into_a_queue_is_never_given_a_message() {
        for protocol in [Protocol::Smtp, Protocol::Submission] {
            let fake = Fake::start().await;
            let way = way(&fake, protocol);
            let mut canary = canary(&way).await;
            let answer = prove(&mut canary, FenceKind::Refuse, &way).await;
            assert_eq!(
                answer,
                Answer::Fail("the session opened before the fence: DATA was answered OK".into())
            );
            assert!(fake.taken().is_empty() && fake.heard().contains(&"DATA".into()), "{protocol:?}");
        }
    }

    #[tokio::test]
    async fn of_lmtp_only_the_final_dot_shows_a_store_that_refuses() {
        let fake = Fake::start().await;
        let way = way(&fake, Protocol::Lmtp);
        let mut canary = canary(&way).await;
        fake.says(".", "451 4.2.0 the store is read-only");
        assert_eq!(prove(&mut canary, FenceKind::Refuse, &way).await, Answer::Pass);
        assert!(fake.taken().is_empty());
        fake.mends();
        assert!(matches!(prove(&mut canary, FenceKind::Refuse, &way).await, Answer::Fail(_)));
        assert!(fake.taken().iter().all(|message| message.contains(MARK)) && !fake.taken().is_empty());
    }

    #[tokio::test]
    async fn a_fence_that_is_only_for_those_who_come_is_caught() {
        let fake = Fake::start().await;
        let way = way(&fake, Protocol::Smtp);
        let mut canary = canary(&way).await;
        fake.says("EHLO", "554 5.3.2 moved");
        let Answer::Fail(saw) = prove(&mut canary, FenceKind::Refuse, &way).await else { panic!() };
        assert!(saw.contains("opened before the fence"), "{saw}");
    }

    #[tokio::test]
    async fn refusals_for_other_reasons_are_unknown() {
        for (command, reply) in [
            ("RCPT", "550 5.1.1 no such user"),
            ("RCPT", "452 4.2.2 mailbox full"),
            ("MAIL", "552 too much"),
            ("MAIL", ""),
        ] {
            let fake = Fake::start().await;
            let way = way(&fake, Protocol::Smtp);
            let mut canary = canary(&way).await;
            fake.says(command, reply);
            let answer = prove(&mut canary, FenceKind::Refuse, &way).await;
            assert!(matches!(answer, Answer::Unknown(_)), "{reply}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_stopped_service_is_proved_by_its_end_and_refused_dials() {
        for protocol in ALL {
            let fake = Fake::start().await;
            let way = way(&fake, protocol);
            let mut canary = canary(&way).await;
            assert!(matches!(prove(&mut canary, FenceKind::Stop, &way).await, Answer::Fail(_)));
            let mut canary = Canary::new(way.open().await.unwrap());
            fake.stop().await;
            assert_eq!(prove(&mut canary, FenceKind::Stop, &way).await, Answer::Pass);
            assert_eq!(way.afresh().await, Answer::Pass, "refused dials are a refusal as well");
        }
    }

    #[tokio::test]
    async fn a_pool_takes_mail_where_every_command_up_to_the_recipient_succeeds() {
        let mailboxes = Mailboxes::new(Habit::Serves);
        for protocol in [Protocol::Smtp, Protocol::Submission] {
            let fake = Fake::start().await;
            let way = way(&fake, protocol);
            assert_eq!(way.takes(&mailboxes).await, Answer::Pass);
            assert!(fake.taken().is_empty() && fake.heard().contains(&"RSET".into()));
            let login = fake.heard().iter().any(|command| command.starts_with("AUTH PLAIN"));
            assert_eq!(login, protocol == Protocol::Submission);
            fake.says("RCPT", "550 5.1.1 no such user");
            assert!(!way.takes(&mailboxes).await.passed());
            fake.says("RCPT", "451 4.3.0 try later");
            assert!(matches!(way.takes(&mailboxes).await, Answer::Unknown(_)), "it may have just begun");
            fake.says("RCPT", "554 5.7.1 never");
            assert!(matches!(way.takes(&mailboxes).await, Answer::Fail(_)));
        }
    }

    #[tokio::test]
    async fn what_lmtp_says_to_have_delivered_must_be_seen() {
        let fake = Fake::start().await;
        let way = way(&fake, Protocol::Lmtp);
        // Nothing of what this server takes reaches those mailboxes.
        let Answer::Unknown(saw) = way.takes(&Mailboxes::new(Habit::Serves)).await else { panic!() };
        assert!(saw.starts_with("lmtp: a message that LMTP delivered is not seen"), "{saw}");
        assert_eq!(fake.taken().len(), 1);
    }

    #[test]
    fn a_password_stands_in_no_answer() {
        let echo = Reply { code: 535, bytes: b"535 5.7.8 AHByb2JlMQBwYXNz is wrong\r\n".to_vec() };
        let saw = needed_open(&OpenError::Refused(echo)).wanted().to_string();
        assert_eq!(saw, "fail: the login was answered 535");
    }
}
