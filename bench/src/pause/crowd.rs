//! The clients of a measurement: half of them in IDLE, the others busy.
//!
//! Rule: a client never helps the proxy: no retry, no patience with a refusal, and a connection that ends or breaks
//! the protocol counts as lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bascule_tests::{
    bascule::Bascule,
    client::{self, Client, Reply, Security, Status},
    fake::apart::Apart,
    ledger::{Fate, Ledger},
};
use hdrhistogram::Histogram;
use rustls_pki_types::ServerName;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// Sessions of one user see each other's mail, so users are either idle or busy.
pub(crate) const SESSIONS_PER_USER: usize = 5;
/// Handshakes and logins under way at once while the clients come in.
const AT_ONCE: usize = 64;

/// What the busy half asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many commands a second in all, however many sessions there are.
    Steady(u32),
    /// Every busy session always has a command under way or held.
    Always,
}

impl Load {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Steady(rate) => format!("{rate}/s"),
            Self::Always => "always".into(),
        }
    }
}

/// What the busy half felt since it was last asked.
#[derive(Debug, Clone)]
pub(crate) struct Felt {
    /// From the first byte of a command to its tagged answer, microseconds.
    pub(crate) waits: Histogram<u64>,
    /// Connections that ended, refusals, and whatever broke the protocol.
    pub(crate) wrong: Vec<String>,
}

impl Felt {
    fn new() -> Self {
        let waits = Histogram::new_with_bounds(1, 120_000_000, 3);
        Self {
            waits: waits.unwrap_or_else(|_| unreachable!("two minutes at three digits are legal")),
            wrong: Vec::new(),
        }
    }
}

/// Everybody.
#[derive(Debug)]
pub(crate) struct Crowd {
    idle: Vec<Client>,
    busy: JoinSet<()>,
    shared: Arc<Shared>,
    leave: watch::Sender<bool>,
    pace: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    felt: Mutex<Felt>,
    /// One permit, one command; closed: as many as one likes.
    tickets: Semaphore,
}

/// What became of the sessions in IDLE.
#[derive(Debug, Default)]
pub(crate) struct Idlers {
    pub(crate) kept: usize,
    /// Bytes that they heard between `+ idling` and the answer to DONE.
    pub(crate) heard: u64,
    pub(crate) wrong: Vec<String>,
}

/// The user of a session: users with an even number are idle.
fn user(session: usize) -> String {
    format!("user{}", session / SESSIONS_PER_USER + 1)
}

fn idles(session: usize) -> bool {
    (session / SESSIONS_PER_USER).is_multiple_of(2)
}

impl Crowd {
    /// Everybody comes in; returns when all are logged in, have their INBOX selected, and half of them idle.
    pub(crate) async fn gather(proxy: &Bascule, sessions: usize) -> Result<Self> {
        let trust = client::trusting(&proxy.authority.pem())?;
        let security = Security::Tls(trust, ServerName::try_from(Bascule::HOST)?);
        let (address, door) = (proxy.imaps(), Arc::new(Semaphore::new(AT_ONCE)));
        let mut coming = JoinSet::new();
        for session in 0..sessions {
            let (security, door) = (security.clone(), door.clone());
            coming.spawn(async move {
                let _one = door.acquire_owned().await?;
                let client = enter(address, security, session).await;
                anyhow::Ok((session, client.with_context(|| format!("{} cannot come in", user(session)))?))
            });
        }
        let (leave, leaving) = watch::channel(false);
        let felt = Mutex::new(Felt::new());
        let shared = Arc::new(Shared { ledger: Ledger::default(), felt, tickets: Semaphore::new(0) });
        let (mut idle, mut busy) = (Vec::new(), JoinSet::new());
        while let Some(came) = coming.join_next().await {
            let (session, client) = came??;
            if idles(session) {
                idle.push(client);
            } else {
                let one = Busy { shared: shared.clone(), client, leaving: leaving.clone(), count: session };
                busy.spawn(one.live());
            }
        }
        Ok(Self { idle, busy, shared, leave, pace: None })
    }

    /// The busy half begins.
    pub(crate) fn begin(&mut self, load: Load) {
        match load {
            Load::Always => self.shared.tickets.close(),
            Load::Steady(rate) => {
                let shared = self.shared.clone();
                self.pace = Some(tokio::spawn(async move {
                    let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
                    // What was missed is made up for: the rate is what was asked for.
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                    loop {
                        ticks.tick().await;
                        shared.tickets.add_permits(1);
                    }
                }));
            }
        }
    }

    /// What the busy half felt since this was last asked.
    pub(crate) fn felt(&self) -> Felt {
        std::mem::replace(&mut *self.shared.felt(), Felt::new())
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// How many busy sessions have not ended.
    pub(crate) fn busy(&mut self) -> usize {
        while self.busy.try_join_next().is_some() {}
        self.busy.len()
    }

    /// The busy half finishes what it has begun, and leaves.
    pub(crate) async fn finish(&mut self) {
        if let Some(pace) = self.pace.take() {
            pace.abort();
        }
        self.leave.send_replace(true);
        self.shared.tickets.close();
        while self.busy.join_next().await.is_some() {}
    }

    /// Every session in IDLE says DONE, and what it heard is counted.
    pub(crate) async fn rouse(&mut self) -> Idlers {
        let mut idlers = Idlers::default();
        for client in &mut self.idle {
            match client.done().await {
                Ok(reply) => {
                    let answer = format!("{} {} {}\r\n", reply.tag, "OK", reply.text);
                    idlers.heard += (client.transcript().len() - answer.len()) as u64;
                    idlers.kept += 1;
                }
                Err(error) => idlers.wrong.push(format!("in IDLE: {error}")),
            }
        }
        idlers
    }
}

impl Shared {
    fn felt(&self) -> std::sync::MutexGuard<'_, Felt> {
        self.felt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn enter(address: std::net::SocketAddr, security: Security, session: usize) -> Result<Client> {
    let mut client = Client::connect(address, security).await?;
    client.login(&user(session), Apart::PASSWORD).await?.ok()?;
    client.select("INBOX").await?.ok()?;
    if idles(session) {
        let refused = client.idle().await?;
        ensure!(refused.is_none(), "IDLE: {refused:?}");
        client.keep_transcript();
    }
    Ok(client)
}

/// One busy session.
struct Busy {
    shared: Arc<Shared>,
    client: Client,
    leaving: watch::Receiver<bool>,
    count: usize,
}

impl Busy {
    async fn live(mut self) {
        while !*self.leaving.borrow_and_update() {
            if let Ok(ticket) = self.shared.tickets.acquire().await {
                ticket.forget();
            } else if *self.leaving.borrow_and_update() {
                break;
            }
            let begun = Instant::now();
            let done = self.act().await;
            let waited = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            let mut felt = self.shared.felt();
            felt.waits.saturating_record(waited.max(1));
            match done {
                Ok(reply) if reply.status == Status::Ok => {}
                Ok(reply) => felt.wrong.push(format!("refused: {}", reply.text)),
                Err(error) => return felt.wrong.push(error.to_string()),
            }
        }
    }

    /// Mostly polling, some reading, a few writes: one command in fifty is an APPEND, so that a mailbox stays
    /// small.
    async fn act(&mut self) -> client::Result<Reply> {
        self.count += 1;
        match self.count % 50 {
            0 => self.append().await,
            n if n % 10 == 1 => self.client.command("UID STORE 3 +FLAGS.SILENT (\\Flagged)").await,
            n if n % 5 == 2 => self.client.command("UID FETCH 5 (FLAGS BODY.PEEK[])").await,
            _ => self.client.command("NOOP").await,
        }
    }

    async fn append(&mut self) -> client::Result<Reply> {
        let (id, message) = self.shared.ledger.message(300);
        let tag = self.client.start_append("INBOX", &message).await?;
        let reply = self.client.finish(&tag).await?;
        let fate = if reply.status == Status::Ok { Fate::Acknowledged } else { Fate::Refused };
        self.shared.ledger.settle(&id, fate);
        Ok(reply)
    }
}
