//! One platform: a listener on a store, and what can be done to it while it runs.
//!
//! Rule: every call that changes what is possible has taken effect when it returns.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{
    accounts::Account,
    connection::Connection,
    http::Web,
    knobs::{Fence, Posture, Reaction, Reactions},
    smtp::{self, Accepted, Door, Post, Queue, Session},
    store::Store,
    transcript::{Attendance, Counters, Records, Transcript},
};
use crate::process;

/// How connections are protected.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// Not at all.
    #[default]
    Off,
    /// On STARTTLS.
    Starttls(Arc<ServerConfig>),
    /// Before the greeting.
    Implicit(Arc<ServerConfig>),
}

/// How a platform begins.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens for IMAP; port 0 finds a free one. The doors for mail are at the same address.
    pub listen: SocketAddr,
    /// The doors for mail; `None`: there are none.
    pub smtp: Option<smtp::Options>,
    /// The text of its greeting.
    pub greeting: String,
    /// What CAPABILITY shows; `AUTH=PLAIN` and `STARTTLS` come and go by themselves.
    pub capabilities: Vec<String>,
    /// How connections are protected.
    pub tls: Tls,
    /// Writes wait for [`Platform::promote`].
    pub standby: bool,
    /// Logins wait for it too.
    pub standby_refuses_logins: bool,
    /// A user who may log in as others with SASL PLAIN's authzid.
    pub master: Option<String>,
    /// The authzid is accepted and ignored: everybody sees the master's mail.
    pub ignores_authzid: bool,
    /// Mailboxes that nobody may change: SELECT opens them as EXAMINE does.
    pub read_only: Vec<String>,
    /// Keep every byte that arrives.
    pub transcripts: bool,
    /// Where logins and their ends are noted.
    pub attendance: Attendance,
}

impl Default for Options {
    fn default() -> Self {
        let capabilities =
            "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE UIDPLUS MOVE UNSELECT ESEARCH MULTIAPPEND";
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            smtp: None,
            greeting: "ready".into(),
            capabilities: capabilities.split(' ').map(String::from).collect(),
            tls: Tls::Off,
            standby: false,
            standby_refuses_logins: false,
            master: None,
            ignores_authzid: false,
            read_only: Vec::new(),
            transcripts: false,
            attendance: Attendance::default(),
        }
    }
}

/// Said to every connection, at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) line: Arc<str>,
    pub(super) close: bool,
}

/// What the connections of a platform share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    options: RwLock<Arc<Options>>,
    posture: RwLock<Posture>,
    reactions: Mutex<Reactions>,
    pub(super) said: watch::Sender<Said>,
    /// How often all connections were cut; a connection ends when it rises.
    pub(super) cuts: watch::Sender<u64>,
    pub(super) records: Arc<Records>,
    pub(super) post: Post,
    connections: watch::Sender<usize>,
}

impl Shared {
    /// The posture, held: a fence waits until whoever looks at it has finished writing.
    pub(super) fn posture(&self) -> RwLockReadGuard<'_, Posture> {
        self.posture.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_posture(&self, change: impl FnOnce(&mut Posture)) {
        change(&mut self.posture.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn options(&self) -> Arc<Options> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the test wants to happen at the first of these that it named.
    pub(super) fn reaction(&self, verbs: &[&str]) -> Reaction {
        self.reactions.lock().unwrap_or_else(PoisonError::into_inner).take(verbs)
    }

    /// Whose account these credentials open; `authzid` is empty or whom the master wants to be.
    pub(super) fn sign_in(
        &self,
        options: &Options,
        authzid: &str,
        authcid: &str,
        password: &str,
    ) -> Result<(String, Arc<Account>), Denied> {
        if !self.posture().logins() {
            return Err(Denied::Unavailable);
        }
        let master = options.master.as_deref() == Some(authcid);
        let user = match authzid {
            "" => authcid,
            _ if master && options.ignores_authzid => authcid,
            _ if authzid == authcid || master => authzid,
            _ => return Err(Denied::NotMaster),
        };
        let account = self.store.account(user).filter(|_| self.store.password_is(password));
        account.map(|account| (user.to_owned(), account)).ok_or(Denied::Unknown)
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nobody is, now.
    Unavailable,
    /// Only the master may be somebody else.
    NotMaster,
    /// No such account, or another password.
    Unknown,
}

/// A door that is open.
#[derive(Debug)]
struct Listening {
    task: JoinHandle<()>,
    /// The task's, to shut it for everybody.
    socket: io::Result<OwnedFd>,
}

/// A platform that listens; it ends when dropped.
#[derive(Debug)]
pub struct Platform {
    shared: Arc<Shared>,
    addresses: BTreeMap<Door, SocketAddr>,
    /// Empty while it does not listen.
    listeners: Mutex<Vec<Listening>>,
    /// They stop and come back with it.
    webs: Mutex<Vec<Web>>,
}

impl Platform {
    /// Listens on this store.
    pub async fn start(store: Arc<Store>, options: Options) -> io::Result<Self> {
        let mut listeners = vec![(Door::Imap, TcpListener::bind(options.listen).await?)];
        for door in options.smtp.iter().flat_map(|_| Door::MAIL) {
            listeners.push((door, TcpListener::bind((options.listen.ip(), 0)).await?));
        }
        let mut addresses = BTreeMap::new();
        for (door, listener) in &listeners {
            addresses.insert(*door, listener.local_addr()?);
        }
        let posture = Posture {
            standby: options.standby,
            standby_refuses_logins: options.standby_refuses_logins,
            ..Posture::default()
        };
        let shared = Arc::new(Shared {
            store,
            records: Arc::new(Records::new(options.transcripts, options.attendance.clone())),
            options: RwLock::new(Arc::new(options)),
            posture: RwLock::new(posture),
            reactions: Mutex::default(),
            said: watch::Sender::default(),
            cuts: watch::Sender::default(),
            post: Post::default(),
            connections: watch::Sender::default(),
        });
        let platform = Self { shared, addresses, listeners: Mutex::default(), webs: Mutex::default() };
        platform.open(listeners);
        Ok(platform)
    }

    fn open(&self, listeners: Vec<(Door, TcpListener)>) {
        let listening = |(door, listener): (Door, TcpListener)| {
            let socket = listener.as_fd().try_clone_to_owned();
            Listening { task: tokio::spawn(accept(listener, door, self.shared.clone())), socket }
        };
        self.listeners().extend(listeners.into_iter().map(listening));
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listening>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens for IMAP; the same after a stop.
    pub fn address(&self) -> SocketAddr {
        self.addresses[&Door::Imap]
    }

    /// Where it listens for this; `None` if it was not asked to.
    pub fn door(&self, door: Door) -> Option<SocketAddr> {
        self.addresses.get(&door).copied()
    }

    /// A web server that belongs to it: it writes when the platform does, and listens when it does.
    pub async fn beside(&self, web: &Web) {
        web.belongs_to(self.shared.clone());
        self.webs.lock().unwrap_or_else(PoisonError::into_inner).push(web.clone());
        if self.listeners().is_empty() {
            web.stop().await;
        }
    }

    fn webs(&self) -> Vec<Web> {
        self.webs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it is now.
    pub fn options(&self) -> Arc<Options> {
        self.shared.options()
    }

    /// Its store.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Makes it unable to write, or able again. The fence holds when this returns, leaks aside.
    pub async fn fence(&self, fence: Fence) -> io::Result<()> {
        self.shared.set_posture(|p| p.fence = fence);
        if fence == Fence::Stop {
            self.stop().await;
            return Ok(());
        }
        self.resume().await?;
        self.deliver();
        Ok(())
    }

    /// Open sessions write through the fence from now on; a stop leaves them alive.
    pub fn leak(&self, leaky: bool) {
        self.shared.set_posture(|p| p.leaky = leaky);
    }

    /// Able to write, its fence aside.
    pub fn promote(&self) {
        self.shared.set_posture(|p| p.standby = false);
        self.deliver();
    }

    /// Unable to write until promoted.
    pub fn demote(&self) {
        self.shared.set_posture(|p| p.standby = true);
    }

    /// Stops listening and ends every connection, unless it leaks; all are gone when this returns.
    pub async fn stop(&self) {
        let listeners = std::mem::take(&mut *self.listeners());
        for Listening { task, socket } in listeners {
            task.abort();
            // It was aborted; what matters is that its socket is closed.
            let _ = task.await;
            socket.iter().for_each(process::hang_up);
        }
        let leaky = self.shared.posture().leaky;
        for web in self.webs() {
            web.stops().await;
        }
        if !leaky {
            self.cut();
            self.connections(0).await;
        }
    }

    /// Stops as if the machine had died; what is in its queue comes back with [`Platform::resume`], or does not.
    pub async fn die(&self, queue: Queue) {
        self.stop().await;
        if queue == Queue::Lost {
            self.shared.post.lose();
        }
    }

    /// Listens again on the same ports; nothing if it does.
    pub async fn resume(&self) -> io::Result<()> {
        if !self.listeners().is_empty() {
            return Ok(());
        }
        self.webs().iter().for_each(Web::serve);
        let mut listeners = Vec::new();
        for (door, address) in &self.addresses {
            listeners.push((*door, process::listen_again(*address).await?));
        }
        self.open(listeners);
        self.deliver();
        Ok(())
    }

    /// What was accepted stays in the queue from now on; or is delivered, as it is at first.
    pub fn hold_queue(&self, held: bool) {
        self.shared.post.hold(held);
        self.deliver();
    }

    fn deliver(&self) {
        if !self.listeners().is_empty() {
            let posture = self.shared.posture();
            self.shared.post.deliver(*posture, &self.shared.store);
        }
    }

    /// Mail that was accepted and is not delivered yet.
    pub fn queue(&self) -> Vec<Arc<Accepted>> {
        self.shared.post.queue()
    }

    /// Mail that was accepted since it began, in order.
    pub fn accepted(&self) -> Vec<Arc<Accepted>> {
        self.shared.post.accepted()
    }

    /// Forgets what [`Platform::accepted`] has told, for tests that are long.
    pub fn forget(&self) {
        self.shared.post.forget();
    }

    /// Ends every connection without a word and goes on listening.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|n| *n += 1);
    }

    /// Sends a line to every connection that waits for a command, and closes it where asked.
    pub fn say(&self, line: &str, close: bool) {
        self.shared.said.send_replace(Said { line: format!("{line}\r\n").into(), close });
    }

    /// What happens at this verb from now on; `*` is every verb.
    ///
    /// The doors for mail also know `GREETING`, `BODY` (with [`Reaction::at`]) and `DOT`, the end of a message by DATA or
    /// BDAT; `RELAY MAIL`, `SUBMISSION DOT`, … are for one door; `RCPT anna@example.org` is for one recipient, and so in
    /// LMTP is `DOT anna@example.org`. A refusal there is a whole reply: `451 4.3.0 later`.
    pub fn react(&self, verb: &str, reaction: Reaction) {
        self.shared.reactions.lock().unwrap_or_else(PoisonError::into_inner).set(verb, reaction);
    }

    /// Every verb is answered as usual again.
    pub fn calm(&self) {
        self.shared.reactions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Changes greeting or capabilities for connections that begin from now on.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Options)) {
        change(Arc::make_mut(&mut self.shared.options.write().unwrap_or_else(PoisonError::into_inner)));
    }

    /// What it counted.
    pub fn counters(&self) -> Counters {
        self.shared.records.counters()
    }

    /// How many logins have succeeded.
    pub fn logins(&self) -> usize {
        self.shared.records.logins()
    }

    /// What arrived on every connection; empty unless asked for in the options.
    pub fn transcripts(&self) -> Vec<Transcript> {
        self.shared.records.transcripts()
    }

    /// Resolves when so many connections are open.
    pub async fn connections(&self, count: usize) {
        // The sender is our own field, so the channel cannot close.
        let _ = self.shared.connections.subscribe().wait_for(|open| *open == count).await;
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.listeners().iter().for_each(|listening| listening.task.abort());
        self.shared.cuts.send_modify(|n| *n += 1);
    }
}

async fn accept(listener: TcpListener, door: Door, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: the next connection that ends frees one.
            tokio::task::yield_now().await;
            continue;
        };
        let shared = shared.clone();
        let mut cuts = shared.cuts.subscribe();
        shared.connections.send_modify(|n| *n += 1);
        tokio::spawn(async move {
            let open = Open(shared);
            tokio::select! {
                () = serve(stream, door, &open.0) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// One open connection, as [`Platform::cut`] counts them.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.send_modify(|n| *n -= 1);
    }
}

async fn serve(stream: TcpStream, door: Door, shared: &Arc<Shared>) {
    // Latency is all that is lost where it cannot be set.
    let _ = stream.set_nodelay(true);
    // An error is the client's end or a fault that was asked for; either way the connection is over.
    let _ = match door {
        Door::Imap => Connection::run(stream, shared.clone()).await,
        Door::Relay | Door::Submission | Door::Lmtp => Session::run(stream, door, shared.clone()).await,
    };
}
