//! IMAP as a way to write into a pool.
//!
//! Rule: only probe accounts are used, and only a mailbox of their own.

use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWrite};

use crate::{
    checks::{
        Answer,
        canary::{Entrance, Tried},
        mailbox::Mailbox,
        server::{Dial, enter},
        trial::{self, Bait, Write},
    },
    config::Account,
};

/// The mailbox of the canaries; whatever is in it is theirs.
const FOLDER: &str = "bascule-canary";

/// A session with the mailbox of the canaries selected.
#[derive(Debug)]
pub(super) struct Reader<S> {
    mailbox: Mailbox<S>,
    bait: Bait,
}

/// What fresh sessions are opened with.
#[derive(Debug)]
pub(super) struct ByImap<'a, D> {
    pub(super) dial: &'a D,
    pub(super) account: &'a Account,
    pub(super) server: &'a str,
    /// What an open canary left; without it only an APPEND is tried.
    pub(super) bait: Option<Bait>,
}

/// The positive control: what is to be refused later succeeds now.
pub(super) async fn release<D: Dial>(dial: &D, account: &Account) -> Result<Reader<D::Stream>, String> {
    let mut mailbox = enter(dial, account).await.map_err(|why| why.to_string())?;
    let control = async {
        let bait = trial::succeed(&mut mailbox, FOLDER).await?;
        trial::lay(&mut mailbox, &bait).await?;
        Ok::<_, Write>(bait)
    };
    let bait = control.await.map_err(|write| write.wanted().to_string())?;
    Ok(Reader { mailbox, bait })
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Reader<S> {
    /// What it left.
    pub(super) fn bait(&self) -> &Bait {
        &self.bait
    }

    /// Takes away what it left, where it still can, and logs out.
    pub(super) async fn close(mut self) {
        // On a pool that is fenced this is refused, and the next canary takes it away.
        let _ = trial::empty(&mut self.mailbox).await;
        self.mailbox.logout().await;
    }
}

impl<S: AsyncBufRead + AsyncWrite + Unpin + Send> Tried for Reader<S> {
    async fn ended(&mut self, wait: Duration) -> bool {
        self.mailbox.ended(wait).await
    }

    async fn attempt(mut self) -> (Write, Option<Self>) {
        let write = trial::attempt(&mut self.mailbox, &self.bait).await;
        (write, Some(self))
    }
}

impl<D: Dial> Entrance for ByImap<'_, D> {
    type Session = Reader<D::Stream>;

    fn server(&self) -> &str {
        self.server
    }

    async fn afresh(&self) -> Answer {
        trial::afresh(self.dial, self.account, self.bait.as_ref()).await
    }
}
