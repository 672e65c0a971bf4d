//! The clients: sessions of five habits that note everything they feel.
//!
//! Rule: a client does what mail programs do and never helps the proxy: no retry, no patience with a refusal,
//! and every lost connection counts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bascule_tests::{
    bascule::Bascule,
    client::{self, Client, Error, Reply, Security, Status},
    ledger::{Fate, Ledger},
};
use hdrhistogram::Histogram;
use rustls_pki_types::ServerName;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::platforms::Platforms;

/// Sessions of one user see each other's mail.
pub(crate) const SESSIONS_PER_USER: usize = 5;

/// What a client does all day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Habit {
    /// Waits for news.
    Idle,
    /// Asks for news.
    Poll,
    /// Reads messages, and again.
    Fetch,
    /// Stores messages.
    Append,
    /// Sets and clears flags.
    Flag,
}

impl Habit {
    pub(crate) const ALL: [Self; 5] = [Self::Idle, Self::Poll, Self::Fetch, Self::Append, Self::Flag];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Poll => "poll",
            Self::Fetch => "fetch",
            Self::Append => "append",
            Self::Flag => "flag",
        }
    }
}

/// What the clients of one habit felt.
#[derive(Debug)]
pub(crate) struct Felt {
    pub(crate) sessions: u64,
    pub(crate) commands: u64,
    pub(crate) notices: u64,
    pub(crate) disconnected: u64,
    pub(crate) refused: u64,
    /// Waits for tagged replies, microseconds.
    pub(crate) waits: Histogram<u64>,
    /// Violations of the protocol, other content than before, silence.
    pub(crate) wrong: Vec<String>,
}

impl Felt {
    fn new() -> Self {
        // Two minutes at three digits are always legal.
        let waits =
            Histogram::new_with_bounds(1, 120_000_000, 3).unwrap_or_else(|_| unreachable!("legal bounds"));
        Self { sessions: 0, commands: 0, notices: 0, disconnected: 0, refused: 0, waits, wrong: Vec::new() }
    }

    /// Whether a pause was all that anybody felt.
    pub(crate) fn unharmed(&self) -> bool {
        self.disconnected == 0 && self.refused == 0 && self.wrong.is_empty()
    }
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Audience {
    felt: HashMap<Habit, Mutex<Felt>>,
    /// When the oldest command without an answer was sent, microseconds since `began`, by session; 0 is none.
    waiting: Vec<AtomicU64>,
    began: Instant,
    ledger: Ledger,
    /// Goes up when everybody is to leave.
    leaving: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    door: Door,
}

/// Where the clients come in.
#[derive(Debug)]
struct Door {
    address: std::net::SocketAddr,
    security: Security,
    password: &'static str,
}

/// One client while it is connected.
struct Session<'a> {
    audience: &'a Audience,
    client: Client,
    number: usize,
    habit: Habit,
    /// Bodies read before, by UID.
    read: HashMap<u32, Vec<u8>>,
}

impl Audience {
    /// Everybody comes in; returns when all are logged in and have a mailbox selected.
    pub(crate) async fn gather(proxy: &Bascule, platforms: &Platforms, sessions: usize) -> Result<Arc<Self>> {
        let this = Arc::new(Self {
            felt: Habit::ALL.into_iter().map(|habit| (habit, Mutex::new(Felt::new()))).collect(),
            waiting: (0..sessions).map(|_| AtomicU64::new(0)).collect(),
            began: Instant::now(),
            ledger: Ledger::default(),
            leaving: watch::Sender::new(false),
            tasks: Mutex::default(),
            door: Door {
                address: proxy.imaps(),
                security: Security::Tls(
                    client::trusting(&proxy.authority.pem())?,
                    ServerName::try_from(Bascule::HOST)?,
                ),
                password: platforms.password,
            },
        });
        for number in 0..sessions {
            // Neighbours in number have different habits and the same mailbox.
            let habit = Habit::ALL[number % Habit::ALL.len()];
            let user = platforms.users[number / SESSIONS_PER_USER].clone();
            let session = Session::enter(&this, number, habit, &user).await;
            let client = session.map(|s| s.client).with_context(|| format!("{user} cannot come in"))?;
            this.note(habit, |felt| felt.sessions += 1);
            let task = tokio::spawn(live(this.clone(), client, number, habit, user));
            this.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        }
        Ok(this)
    }

    /// Everybody finishes what is begun, and leaves.
    pub(crate) async fn leave(&self) {
        self.leaving.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A panic would be a mistake in the demo; it stands on the terminal already.
            let _ = task.await;
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What one habit felt.
    pub(crate) fn felt<T>(&self, habit: Habit, look: impl FnOnce(&Felt) -> T) -> T {
        look(&self.felt[&habit].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What all felt.
    pub(crate) fn total(&self) -> Felt {
        let mut total = Felt::new();
        for habit in Habit::ALL {
            self.felt(habit, |felt| {
                total.sessions += felt.sessions;
                total.commands += felt.commands;
                total.notices += felt.notices;
                total.disconnected += felt.disconnected;
                total.refused += felt.refused;
                total.waits += &felt.waits;
                total.wrong.extend(felt.wrong.iter().map(|wrong| format!("{}: {wrong}", habit.name())));
            });
        }
        total
    }

    /// How many sessions of a habit wait for an answer now, and how long the longest has waited.
    pub(crate) fn waiting(&self, habit: Habit) -> (usize, Duration) {
        let now = self.now();
        let of_habit =
            self.waiting.iter().enumerate().filter(|(n, _)| Habit::ALL[n % Habit::ALL.len()] == habit);
        let since = of_habit.map(|(_, w)| w.load(Ordering::Relaxed)).filter(|since| *since > 0);
        let waits: Vec<u64> = since.map(|since| now.saturating_sub(since)).collect();
        (waits.len(), Duration::from_micros(waits.into_iter().max().unwrap_or_default()))
    }

    fn note(&self, habit: Habit, change: impl FnOnce(&mut Felt)) {
        change(&mut self.felt[&habit].lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// One client for as long as the play lasts; comes back after a lost connection, which was counted.
async fn live(audience: Arc<Audience>, client: Client, number: usize, habit: Habit, user: String) {
    let mut leaving = audience.leaving.subscribe();
    let mut session = Session { audience: &audience, client, number, habit, read: HashMap::new() };
    while !*leaving.borrow_and_update() {
        let Err(error) = session.act(&mut leaving).await else { continue };
        audience.waiting[number].store(0, Ordering::Relaxed);
        audience.note(habit, |felt| match error {
            Error::Closed(_) => felt.disconnected += 1,
            Error::Violation(_) | Error::Silence | Error::Io(_) => felt.wrong.push(error.to_string()),
        });
        match Session::enter(&audience, number, habit, &user).await {
            Ok(back) => session = back,
            Err(error) => {
                return audience.note(habit, |felt| felt.wrong.push(format!("cannot come back: {error}")));
            }
        }
    }
    if let Err(error) = session.client.logout().await {
        audience.note(habit, |felt| felt.wrong.push(format!("at LOGOUT: {error}")));
    }
}

type Acted = Result<(), Error>;

impl<'a> Session<'a> {
    async fn enter(audience: &'a Audience, number: usize, habit: Habit, user: &str) -> Result<Self, Error> {
        let door = &audience.door;
        let mut client = Client::connect(door.address, door.security.clone()).await?;
        client.login(user, door.password).await?.ok()?;
        client.select("INBOX").await?.ok()?;
        Ok(Self { audience, client, number, habit, read: HashMap::new() })
    }

    /// One round of the habit.
    async fn act(&mut self, leaving: &mut watch::Receiver<bool>) -> Acted {
        match self.habit {
            Habit::Idle => return self.idle(leaving).await,
            Habit::Poll => self.poll().await?,
            Habit::Fetch => self.fetch().await?,
            Habit::Append => self.append().await?,
            Habit::Flag => self.flag().await?,
        }
        let rest = Duration::from_millis(fastrand::u64(50..400));
        // Silence is what is hoped for.
        let _ = timeout(rest, leaving.changed()).await;
        Ok(())
    }

    async fn idle(&mut self, leaving: &mut watch::Receiver<bool>) -> Acted {
        self.begin();
        let refused = self.client.idle().await?;
        if let Some(reply) = refused {
            self.end(Some(&reply));
            return Ok(());
        }
        self.end(None);
        let until = tokio::time::sleep(Duration::from_millis(fastrand::u64(2000..8000)));
        tokio::pin!(until);
        loop {
            tokio::select! {
                notice = self.client.notice() => {
                    notice?;
                    self.audience.note(self.habit, |felt| felt.notices += 1);
                }
                () = &mut until => break,
                _ = leaving.changed() => break,
            }
        }
        self.begin();
        let reply = self.client.done().await?;
        self.end(Some(&reply));
        Ok(())
    }

    async fn poll(&mut self) -> Acted {
        self.command("NOOP").await?;
        self.command("STATUS INBOX (MESSAGES UIDNEXT UNSEEN)").await?;
        self.command("UID SEARCH UNSEEN").await.map(drop)
    }

    /// Reads a message; what was read before must be the same.
    async fn fetch(&mut self) -> Acted {
        let Some(uid) = self.some_uid().await? else { return Ok(()) };
        self.begin();
        let body = self.client.fetch_body(uid).await?;
        self.end(None);
        let Some(body) = body else { return Ok(()) };
        if self.read.get(&uid).is_some_and(|before| *before != body) {
            self.audience.note(self.habit, |felt| felt.wrong.push(format!("UID {uid} has other content")));
        }
        self.read.insert(uid, body);
        Ok(())
    }

    async fn append(&mut self) -> Acted {
        let (id, message) = self.audience.ledger.message(fastrand::usize(200..20_000));
        self.begin();
        let reply = self.client.append("INBOX", &message).await?;
        self.end(Some(&reply));
        let fate = if reply.status == Status::Ok { Fate::Acknowledged } else { Fate::Refused };
        self.audience.ledger.settle(&id, fate);
        Ok(())
    }

    async fn flag(&mut self) -> Acted {
        let Some(uid) = self.some_uid().await? else { return Ok(()) };
        let sign = if fastrand::bool() { '+' } else { '-' };
        self.command(&format!("UID STORE {uid} {sign}FLAGS (\\Flagged)")).await.map(drop)
    }

    async fn some_uid(&mut self) -> Result<Option<u32>, Error> {
        let reply = self.command("UID SEARCH ALL").await?;
        let found = reply.lines.iter().find_map(|r| r.bare().strip_prefix("* SEARCH").map(String::from));
        let uids: Vec<u32> =
            found.unwrap_or_default().split_whitespace().filter_map(|w| w.parse().ok()).collect();
        Ok(fastrand::choice(uids))
    }

    async fn command(&mut self, line: &str) -> Result<Reply, Error> {
        self.begin();
        let reply = self.client.command(line).await?;
        self.end(Some(&reply));
        Ok(reply)
    }

    fn begin(&self) {
        self.audience.waiting[self.number].store(self.audience.now().max(1), Ordering::Relaxed);
    }

    fn end(&self, reply: Option<&Reply>) {
        let since = self.audience.waiting[self.number].swap(0, Ordering::Relaxed);
        let waited = self.audience.now().saturating_sub(since);
        let refused = reply.is_some_and(|reply| reply.status != Status::Ok);
        self.audience.note(self.habit, |felt| {
            felt.commands += 1;
            felt.waits.saturating_record(waited.max(1));
            if refused {
                felt.refused += 1;
            }
        });
    }
}
