//! One platform: a listener on a store, and what can be done to it while it runs.
//!
//! Rule: every call that changes what is possible has taken effect when it returns.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{
    connection::Connection,
    knobs::{Fence, Posture, Reaction, Reactions},
    store::Store,
    transcript::{Attendance, Counters, Records, Transcript},
};

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
    /// Where it listens; port 0 finds a free one.
    pub listen: SocketAddr,
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
            greeting: "ready".into(),
            capabilities: capabilities.split(' ').map(String::from).collect(),
            tls: Tls::Off,
            standby: false,
            standby_refuses_logins: false,
            master: None,
            ignores_authzid: false,
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

    pub(super) fn reaction(&self, verb: &str) -> Reaction {
        self.reactions.lock().unwrap_or_else(PoisonError::into_inner).take(verb)
    }
}

/// A platform that listens; it ends when dropped.
#[derive(Debug)]
pub struct Platform {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Platform {
    /// Listens on this store.
    pub async fn start(store: Arc<Store>, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
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
            connections: watch::Sender::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { shared, address, listener: Mutex::new(Some(task)) })
    }

    /// Where it listens; the same after a stop.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its store.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Makes it unable to write, or able again. The fence holds when this returns, leaks aside.
    pub async fn fence(&self, fence: Fence) -> io::Result<()> {
        self.shared.set_posture(|p| p.fence = fence);
        if fence == Fence::Stop {
            self.stop().await
        } else {
            return self.resume().await;
        }
        Ok(())
    }

    /// Open sessions write through the fence from now on; a stop leaves them alive.
    pub fn leak(&self, leaky: bool) {
        self.shared.set_posture(|p| p.leaky = leaky);
    }

    /// Able to write, its fence aside.
    pub fn promote(&self) {
        self.shared.set_posture(|p| p.standby = false);
    }

    /// Unable to write until promoted.
    pub fn demote(&self) {
        self.shared.set_posture(|p| p.standby = true);
    }

    /// Stops listening and ends every connection, unless it leaks; all are gone when this returns.
    pub async fn stop(&self) {
        let task = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It was aborted; what matters is that its socket is closed.
            let _ = task.await;
        }
        let leaky = self.shared.posture().leaky;
        if !leaky {
            self.cut();
            self.connections(0).await;
        }
    }

    /// Listens again on the same port; nothing if it does.
    pub async fn resume(&self) -> io::Result<()> {
        if self.listener.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        let task = tokio::spawn(accept(listener, self.shared.clone()));
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
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
        if let Some(task) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.shared.cuts.send_modify(|n| *n += 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
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
                () = serve(stream, &open.0) => {}
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

async fn serve(stream: TcpStream, shared: &Arc<Shared>) {
    // Latency is all that is lost where it cannot be set.
    let _ = stream.set_nodelay(true);
    // An error is the client's end or a fault that was asked for; either way the connection is over.
    let _ = Connection::run(stream, shared.clone()).await;
}
