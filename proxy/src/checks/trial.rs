//! APPEND, STORE and EXPUNGE in a mailbox of a probe account: what shows whether a pool can be written to.
//!
//! Rule: an OK counts only with its effect, and a refusal only if it may come from a fence; a full or missing
//! mailbox refuses writes too.

use std::io;

use tokio::io::{AsyncBufRead, AsyncWrite};

use crate::{
    checks::{
        Answer,
        mailbox::{Access, Failure, Mailbox, Selected, code},
        server::{Dial, NoEntry, enter},
    },
    config::Account,
    session::imap::open::OpenError,
};

/// Refusals that a server without any fence gives as well.
const NOT_A_FENCE: [&str; 4] = ["OVERQUOTA", "LIMIT", "TRYCREATE", "NONEXISTENT"];

/// What a write came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    /// It took effect.
    Done(&'static str),
    /// The server refused it.
    Refused {
        /// In which words.
        said: String,
        /// Whether it ended the connection with that.
        closed: bool,
    },
    /// It may have taken effect or not.
    Unclear(String),
}

impl Write {
    /// The answer where a write must succeed.
    pub(super) fn wanted(self) -> Answer {
        match self {
            Self::Done(_) => Answer::Pass,
            Self::Refused { said, .. } => Answer::Fail(said),
            Self::Unclear(why) => Answer::Unknown(why),
        }
    }

    /// The answer where it was only a means to see something else.
    pub(super) fn unclear(self) -> Answer {
        match self {
            Self::Done(what) => Answer::Unknown(what.to_owned()),
            Self::Refused { said: why, .. } | Self::Unclear(why) => Answer::Unknown(why),
        }
    }

    /// The answer where a write must be refused.
    pub(super) fn unwanted(self) -> Answer {
        match self {
            Self::Done(what) => Answer::Fail(format!("{what} was answered OK")),
            Self::Refused { .. } => Answer::Pass,
            Self::Unclear(why) => Answer::Unknown(why),
        }
    }

    /// Whether it was refused in a session that goes on.
    fn leaves_open(&self) -> bool {
        matches!(self, Self::Refused { closed: false, .. })
    }

    /// The same with what was said before it.
    fn after(self, before: &str) -> Self {
        let both = |said| format!("{before}; {said}");
        match self {
            Self::Done(_) => self,
            Self::Refused { said, closed } => Self::Refused { said: both(said), closed },
            Self::Unclear(why) => Self::Unclear(both(why)),
        }
    }

    /// What `failure` of the command `what` means.
    pub(super) fn failed(what: &str, failure: &Failure) -> Self {
        let said = format!("{what}: {failure}");
        match failure {
            Failure::No(text) | Failure::Bad(text) if NOT_A_FENCE.contains(&&*code(text)) => {
                Self::Unclear(said)
            }
            Failure::No(_) | Failure::Bad(_) => Self::Refused { said, closed: false },
            Failure::Bye { committed: false, .. } => Self::Refused { said, closed: true },
            Failure::Bye { .. } | Failure::Eof { .. } | Failure::Timeout | Failure::Nonsense(_) => {
                Self::Unclear(said)
            }
        }
    }
}

/// What was left in a mailbox that could be written to.
#[derive(Debug, Clone)]
pub(super) struct Bait {
    /// The mailbox.
    folder: String,
    /// A message in it that is flagged.
    flagged: String,
}

/// Shows that all three writes take effect: in the mailbox `name`, emptied before, with one flagged message
/// left in it. The positive control.
pub(super) async fn succeed<S>(mailbox: &mut Mailbox<S>, name: &str) -> Result<Bait, Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let (folder, selected) = open(mailbox, name, Access::Write).await?;
    if selected.read_only {
        return Err(Write::Refused { said: format!("{folder} was selected read-only"), closed: false });
    }
    if selected.exists > 0 {
        empty(mailbox).await?;
    }
    let flagged = append(mailbox, &folder, &nonce()).await?;
    let stored = did("STORE", mailbox.store(&flagged, "+FLAGS (\\Flagged)").await)?;
    effect("STORE", stored.flagged())?;
    doom(mailbox, &folder).await?;
    let expunged = did("EXPUNGE", mailbox.expunge().await)?;
    effect("EXPUNGE", expunged.expunged())?;
    Ok(Bait { folder, flagged })
}

/// Leaves a message that the next EXPUNGE would remove, so that one that is allowed shows.
pub(super) async fn lay<S>(mailbox: &mut Mailbox<S>, bait: &Bait) -> Result<(), Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    doom(mailbox, &bait.folder).await
}

/// Tries the writes, each of which must be refused, in a session that has the mailbox selected.
pub(super) async fn attempt<S>(mailbox: &mut Mailbox<S>, bait: &Bait) -> Write
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let appended = attempt_append(mailbox, &bait.folder).await;
    if !appended.leaves_open() {
        return appended;
    }
    let stored = match mailbox.store(&bait.flagged, "-FLAGS (\\Flagged)").await {
        Ok(done) => accepted("STORE", done.flagged()),
        Err(failure) => Write::failed("STORE", &failure),
    };
    if !stored.leaves_open() {
        return stored;
    }
    match mailbox.expunge().await {
        Ok(done) => accepted("EXPUNGE", done.expunged()),
        Err(failure) => Write::failed("EXPUNGE", &failure),
    }
}

/// Whether a fresh login is refused, or the writes after it. Without a bait only APPEND is tried, to INBOX,
/// which no server lacks.
pub(super) async fn afresh<D: Dial>(dial: &D, account: &Account, bait: Option<&Bait>) -> Answer {
    let answer = match enter(dial, account).await {
        Ok(mut mailbox) => {
            let write = match bait {
                Some(bait) => attempt_selecting(&mut mailbox, bait).await,
                None => attempt_append(&mut mailbox, "INBOX").await,
            };
            mailbox.logout().await;
            write.unwanted()
        }
        Err(NoEntry::Login { failure: Failure::Bye { .. }, .. }) => Answer::Pass,
        Err(NoEntry::Login { failure, .. }) => Write::failed("LOGIN", &failure).unwanted(),
        Err(NoEntry::Dial(OpenError::Dial { error, .. }))
            if error.kind() == io::ErrorKind::ConnectionRefused =>
        {
            Answer::Pass
        }
        Err(NoEntry::Dial(error)) => Answer::Unknown(error.to_string()),
    };
    answer.named("fresh login")
}

/// A mailbox that cannot be selected for writing is refused to STORE and EXPUNGE already.
async fn attempt_selecting<S>(mailbox: &mut Mailbox<S>, bait: &Bait) -> Write
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    match mailbox.open(&bait.folder, Access::Write).await {
        Ok(Selected { read_only: false, .. }) => return attempt(mailbox, bait).await,
        Ok(Selected { read_only: true, .. }) => {}
        Err(failure) => {
            let selected = Write::failed("SELECT", &failure);
            if !selected.leaves_open() {
                return selected;
            }
        }
    }
    attempt_append(mailbox, &bait.folder).await
}

/// Opens the mailbox of this name, in the account's own namespace if it must be there; for writing it is
/// created if missing.
pub(super) async fn open<S>(
    mailbox: &mut Mailbox<S>,
    name: &str,
    access: Access,
) -> Result<(String, Selected), Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let refusal = match open_as(mailbox, name, access).await {
        Ok(selected) => return Ok((name.to_owned(), selected)),
        Err(refusal) => refusal,
    };
    let folder = format!("{}{name}", mailbox.prefix().await.unwrap_or_default());
    if folder == name {
        return Err(refusal);
    }
    let selected = open_as(mailbox, &folder, access).await?;
    Ok((folder, selected))
}

async fn open_as<S>(mailbox: &mut Mailbox<S>, folder: &str, access: Access) -> Result<Selected, Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let what = format!("SELECT {folder}");
    let opened = match mailbox.open(folder, access).await {
        Err(Failure::No(why)) if access == Access::Write => {
            // A server that has the mailbox and cannot open it tells the reason here and not there.
            let created = did("CREATE", mailbox.create(folder).await);
            created.map_err(|refusal| refusal.after(&format!("{what}: NO {why}")))?;
            mailbox.open(folder, access).await
        }
        opened => opened,
    };
    did(&what, opened)
}

/// Removes every message of the selected mailbox, which is ours alone.
pub(super) async fn empty<S>(mailbox: &mut Mailbox<S>) -> Result<(), Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    did("STORE", mailbox.store("1:*", "+FLAGS.SILENT (\\Deleted)").await)?;
    did("EXPUNGE", mailbox.expunge().await).map(drop)
}

/// Appends a message that can be searched for by `nonce`; its UID.
pub(super) async fn append<S>(mailbox: &mut Mailbox<S>, folder: &str, nonce: &str) -> Result<String, Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    if let Some(uid) = did("APPEND", mailbox.append(folder, &message(nonce)).await)? {
        return Ok(uid.to_string());
    }
    let found = did("SEARCH", mailbox.search("Message-ID", nonce).await)?;
    let missing = || Write::Unclear("APPEND: OK, but the message is not found".to_owned());
    found.last().map(u32::to_string).ok_or_else(missing)
}

/// What makes one message of ours different from every other.
pub(super) fn nonce() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

fn message(nonce: &str) -> String {
    format!(
        "From: bascule <bascule@localhost>\r\nSubject: bascule probe\r\nMessage-ID: <{nonce}@bascule>\r\n\r\n\
         Written to see whether this mailbox can be written to. It may be deleted.\r\n"
    )
}

async fn attempt_append<S>(mailbox: &mut Mailbox<S>, folder: &str) -> Write
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    match mailbox.append(folder, &message(&nonce())).await {
        Ok(_) => Write::Done("APPEND"),
        Err(failure) => Write::failed("APPEND", &failure),
    }
}

async fn doom<S>(mailbox: &mut Mailbox<S>, folder: &str) -> Result<(), Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let doomed = append(mailbox, folder, &nonce()).await?;
    did("STORE", mailbox.store(&doomed, "+FLAGS.SILENT (\\Deleted)").await).map(drop)
}

fn did<T>(what: &str, result: Result<T, Failure>) -> Result<T, Write> {
    result.map_err(|failure| Write::failed(what, &failure))
}

fn effect(what: &str, seen: bool) -> Result<(), Write> {
    if seen { Ok(()) } else { Err(Write::Unclear(format!("{what}: OK, but without effect"))) }
}

fn accepted(what: &'static str, seen: bool) -> Write {
    effect(what, seen).err().unwrap_or(Write::Done(what))
}
