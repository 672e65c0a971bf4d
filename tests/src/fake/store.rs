//! The mail of one platform: accounts, mailboxes, messages, and the stream of changes that replication reads.
//!
//! Rule: every change is an [`Op`]; a server's write and a replicated one take the same path, so that two
//! stores that saw the same ops are equal.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::{mpsc, watch};

use super::accounts::Account;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its UID.
    pub uid: u32,
    /// Flags and keywords, `\Recent` aside.
    pub flags: BTreeSet<String>,
    /// INTERNALDATE, seconds since 1970.
    pub date: i64,
    /// Header and text.
    pub body: Arc<[u8]>,
    /// The mailbox's change number when it was last changed.
    pub changed: u64,
}

/// One mailbox.
#[derive(Debug)]
pub struct Mailbox {
    /// UIDVALIDITY
    pub validity: u32,
    /// UIDNEXT
    pub next: u32,
    /// Messages from this UID on are `\Recent` for who selects next.
    pub first_recent: u32,
    /// In the order of their UIDs.
    pub messages: Vec<Message>,
    /// Raised by every change; sessions in IDLE wait for it.
    pub change: watch::Sender<u64>,
}

impl Mailbox {
    fn new(validity: u32) -> Self {
        Self { validity, next: 1, first_recent: 1, messages: Vec::new(), change: watch::Sender::new(0) }
    }

    /// The message with this UID.
    pub fn message(&self, uid: u32) -> Option<&Message> {
        self.position(uid).map(|at| &self.messages[at])
    }

    /// The number of the last change.
    pub fn changed(&self) -> u64 {
        *self.change.borrow()
    }

    fn position(&self, uid: u32) -> Option<usize> {
        self.messages.binary_search_by_key(&uid, |m| m.uid).ok()
    }
}

/// One change, complete: UIDs and UIDVALIDITY are part of it.
#[derive(Debug, Clone)]
pub enum Op {
    /// A message was added.
    Append {
        /// Where.
        mailbox: String,
        /// With its UID.
        message: Message,
    },
    /// A message has these flags now.
    Flags {
        /// Where.
        mailbox: String,
        /// Which.
        uid: u32,
        /// All of them.
        flags: BTreeSet<String>,
    },
    /// A message is gone.
    Expunge {
        /// Where.
        mailbox: String,
        /// Which.
        uid: u32,
    },
    /// A session claimed `\Recent` below this UID.
    Recent {
        /// Where.
        mailbox: String,
        /// The first UID that nobody claimed.
        first: u32,
    },
    /// A mailbox was made.
    Create {
        /// Its name.
        mailbox: String,
        /// Its UIDVALIDITY.
        validity: u32,
    },
    /// A mailbox was deleted.
    Delete {
        /// Its name.
        mailbox: String,
    },
    /// A mailbox has another name.
    Rename {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// A subscription changed.
    Subscribe {
        /// To what.
        mailbox: String,
        /// Whether it stands.
        on: bool,
    },
}

/// The mailboxes of one account.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    pub(super) all: BTreeMap<String, Mailbox>,
    pub(super) subscribed: BTreeSet<String>,
}

impl Mailboxes {
    /// Changes what `op` says; an op on what is not there has no effect.
    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Append { mailbox, mut message } => self.change(&mailbox, |b, number| {
                message.changed = number;
                b.next = b.next.max(message.uid + 1);
                let at = b.messages.partition_point(|m| m.uid < message.uid);
                b.messages.insert(at, message);
            }),
            Op::Flags { mailbox, uid, flags } => self.change(&mailbox, |b, number| {
                if let Some(at) = b.position(uid) {
                    b.messages[at].flags = flags;
                    b.messages[at].changed = number;
                }
            }),
            Op::Expunge { mailbox, uid } => self.change(&mailbox, |b, _| b.messages.retain(|m| m.uid != uid)),
            Op::Recent { mailbox, first } => {
                if let Some(b) = self.all.get_mut(&mailbox) {
                    b.first_recent = first;
                }
            }
            Op::Create { mailbox, validity } => {
                self.all.entry(mailbox).or_insert_with(|| Mailbox::new(validity));
            }
            Op::Delete { mailbox } => drop(self.all.remove(&mailbox)),
            Op::Rename { from, to } => {
                if let Some(b) = self.all.remove(&from) {
                    self.all.insert(to, b);
                }
            }
            Op::Subscribe { mailbox, on: true } => drop(self.subscribed.insert(mailbox)),
            Op::Subscribe { mailbox, on: false } => drop(self.subscribed.remove(&mailbox)),
        }
    }

    fn change(&mut self, mailbox: &str, change: impl FnOnce(&mut Mailbox, u64)) {
        if let Some(b) = self.all.get_mut(mailbox) {
            let number = b.changed() + 1;
            change(b, number);
            b.change.send_replace(number);
        }
    }
}

/// One op on its way to a replica.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) at: Instant,
    pub(super) user: Arc<str>,
    pub(super) op: Op,
}

/// Where the ops of a store go.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<Vec<Feed>>);

#[derive(Debug)]
struct Feed {
    to: mpsc::UnboundedSender<Logged>,
    logged: Arc<AtomicU64>,
}

impl Feeds {
    /// Counted before it is sent, so that a replica that has applied all that was counted lacks nothing.
    pub(super) fn log(&self, user: &Arc<str>, op: &Op) {
        for feed in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            feed.logged.fetch_add(1, Ordering::AcqRel);
            let _ = feed.to.send(Logged { at: Instant::now(), user: user.clone(), op: op.clone() });
        }
    }
}

/// All accounts of one platform, or of two that share their storage.
#[derive(Debug)]
pub struct Store {
    password: String,
    validity: u32,
    accounts: RwLock<HashMap<String, Arc<Account>>>,
    feeds: Arc<Feeds>,
}

impl Store {
    /// An empty store; every account in it has this password.
    pub fn new(password: &str) -> Arc<Self> {
        Self::with_validity(password, 1_700_000_000)
    }

    /// The same, with a UIDVALIDITY of its own: a replica that is none.
    pub fn with_validity(password: &str, validity: u32) -> Arc<Self> {
        Arc::new(Self {
            password: password.into(),
            validity,
            accounts: RwLock::default(),
            feeds: Arc::default(),
        })
    }

    /// Makes an account with an INBOX; nothing if it is there. Accounts are not replicated: make them on both.
    pub fn add_user(&self, user: &str) {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts
            .entry(user.to_owned())
            .or_insert_with(|| Arc::new(Account::new(user, self.validity, self.feeds.clone())));
    }

    /// The names of all accounts.
    pub fn users(&self) -> Vec<String> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Adds a message behind the servers' backs, the way a delivery does. Its UID; `None`: no such mailbox.
    pub fn deliver(&self, user: &str, mailbox: &str, body: &[u8]) -> Option<u32> {
        self.account(user)?.edit().append(mailbox, BTreeSet::new(), None, body.into())
    }

    /// Removes a message. False if it is not there.
    pub fn expunge(&self, user: &str, mailbox: &str, uid: u32) -> bool {
        self.account(user).is_some_and(|a| a.edit().expunge(mailbox, uid))
    }

    /// Adds a flag or keyword. False if the message is not there.
    pub fn flag(&self, user: &str, mailbox: &str, uid: u32, flag: &str) -> bool {
        self.account(user).is_some_and(|account| {
            let mut edit = account.edit();
            let Some(mut flags) = edit.mailbox(mailbox).and_then(|b| Some(b.message(uid)?.flags.clone()))
            else {
                return false;
            };
            flags.insert(flag.into());
            edit.commit(Op::Flags { mailbox: mailbox.into(), uid, flags });
            true
        })
    }

    /// Takes any change, legal or not; logged like every other.
    pub fn change(&self, user: &str, op: Op) {
        if let Some(account) = self.account(user) {
            account.edit().commit(op);
        }
    }

    /// What a mailbox contains; empty if it is not there.
    pub fn messages(&self, user: &str, mailbox: &str) -> Vec<Message> {
        let copy = |a: Arc<Account>| a.edit().mailbox(mailbox).map(|b| b.messages.clone());
        self.account(user).and_then(copy).unwrap_or_default()
    }

    /// The names of an account's mailboxes.
    pub fn mailboxes(&self, user: &str) -> Vec<String> {
        self.account(user).map(|a| a.edit().names()).unwrap_or_default()
    }

    /// Every body in the store, for the ledger.
    pub fn bodies(&self) -> Vec<Arc<[u8]>> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.values().flat_map(|a| a.edit().bodies()).collect()
    }

    /// Every body with its account, for the ledger of mail.
    pub fn mail(&self) -> Vec<(String, Arc<[u8]>)> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let bodies = |(user, account): (&String, &Arc<Account>)| {
            let user = user.clone();
            account.edit().bodies().into_iter().map(move |body| (user.clone(), body)).collect::<Vec<_>>()
        };
        accounts.iter().flat_map(bodies).collect()
    }

    pub(super) fn account(&self, user: &str) -> Option<Arc<Account>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
    }

    pub(super) fn password_is(&self, password: &str) -> bool {
        self.password == password
    }

    /// All ops from now on, and the count of those that were logged.
    pub(super) fn subscribe(&self) -> (mpsc::UnboundedReceiver<Logged>, Arc<AtomicU64>) {
        let (to, from) = mpsc::unbounded_channel();
        let logged = Arc::new(AtomicU64::new(0));
        let feed = Feed { to, logged: logged.clone() };
        self.feeds.0.lock().unwrap_or_else(PoisonError::into_inner).push(feed);
        (from, logged)
    }

    /// Applies a replicated op; it is not logged again.
    pub(super) fn apply(&self, logged: Logged) {
        if let Some(account) = self.account(&logged.user) {
            account.apply(logged.op);
        }
    }
}
