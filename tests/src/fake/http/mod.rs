//! A web server in memory: what was posted to it is an effect, what was put is a resource, and it breaks where a test says.
//!
//! Rule: an effect happens when the request is whole, and before its answer; servers on one shelf are one platform's store.

mod desk;
mod message;
mod serve;
mod shelf;
mod speech;
mod streams;

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

pub use self::{
    desk::Desk,
    shelf::{Effect, Shelf},
    speech::Speech,
};
use self::{message::Head, shelf::Said};
use super::{Stall, platform};
use crate::process;

/// Where a server breaks: it drops the connection.
#[derive(Debug, Clone)]
pub enum At {
    /// A request's head has come. Over HTTP/2 it refuses the stream.
    Head,
    /// So many bytes of its body have come.
    Body(usize),
    /// The request is whole and was not carried out.
    Whole,
    /// It was carried out.
    Done,
    /// So many bytes of the answer, head and body, were sent.
    Answer(usize),
    /// Nothing breaks: it says this, with these fields, and does nothing.
    Say(u16, &'static str),
    /// Nothing breaks: it waits, before it carries the request out.
    Stall(Stall),
    /// Nothing breaks: it waits with the answer.
    Withhold(Stall),
    /// Nothing breaks: it waits once so many bytes of the answer, of every event or of what comes back were sent.
    Pause(usize, Stall),
    /// Nothing breaks: there are no events here.
    NoEvents,
}

/// What happens to requests whose target contains `path`, so many times.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Part of a request's target.
    pub path: &'static str,
    /// Where.
    pub at: At,
    /// How often.
    pub times: usize,
}

/// One request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The number of its connection.
    pub connection: u64,
    /// Its head, as it came.
    pub head: String,
    /// Bytes of its body.
    pub body: usize,
    /// Whether it came to its end.
    pub whole: bool,
}

impl Seen {
    fn is_proof(&self) -> bool {
        self.head.to_ascii_lowercase().contains("user-agent: bascule\r\n")
    }
}

/// One server.
#[derive(Debug, Clone)]
pub struct Web {
    address: SocketAddr,
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: &'static str,
    speech: Speech,
    pub(super) shelf: Arc<Shelf>,
    pub(super) desk: Desk,
    platform: OnceLock<Arc<platform::Shared>>,
    leaky: AtomicBool,
    forgets: AtomicBool,
    faults: Mutex<Vec<Fault>>,
    seen: Mutex<Vec<Seen>>,
    news: watch::Sender<()>,
    connections: AtomicU64,
    listening: watch::Sender<bool>,
    /// Raised: every connection ends. Odd: nobody is let in.
    cuts: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Web {
    /// A server of this name.
    pub async fn start(
        name: &'static str,
        listen: SocketAddr,
        shelf: Arc<Shelf>,
        speech: Speech,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let shared = Arc::new(Shared {
            name,
            speech,
            shelf,
            desk: Desk::default(),
            platform: OnceLock::new(),
            leaky: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
            faults: Mutex::default(),
            seen: Mutex::default(),
            news: watch::Sender::new(()),
            connections: AtomicU64::new(0),
            listening: watch::Sender::new(true),
            cuts: watch::Sender::new(0),
        });
        let web = Self { address: listener.local_addr()?, shared: shared.clone() };
        tokio::spawn(shared.accept(listener, web.address));
        Ok(web)
    }

    /// Its platform says whether it may write.
    pub(super) fn belongs_to(&self, platform: Arc<platform::Shared>) {
        assert!(self.shared.platform.set(platform).is_ok(), "it has a platform");
    }

    /// It writes and listens whatever its platform says.
    pub fn leak(&self) {
        self.shared.leaky.store(true, Ordering::Relaxed);
    }

    /// It no longer remembers what came: there will be much of it.
    pub fn forget(&self) {
        self.shared.forgets.store(true, Ordering::Relaxed);
    }

    /// Its platform stops.
    pub(super) async fn stops(&self) {
        if !self.shared.leaky.load(Ordering::Relaxed) {
            self.stop().await;
        }
    }

    /// Where people log in.
    pub fn desk(&self) -> &Desk {
        &self.shared.desk
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this happens, before what was said earlier.
    pub fn fault(&self, path: &'static str, at: At, times: usize) {
        lock(&self.shared.faults).insert(0, Fault { path, at, times });
    }

    /// A request whose target contains `path` waits before it is carried out.
    pub fn stall(&self, path: &'static str) -> Stall {
        let stall = Stall::default();
        self.fault(path, At::Stall(stall.clone()), usize::MAX);
        stall
    }

    /// Every connection ends, and nobody listens until [`Self::serve`]; both has happened when this returns.
    pub async fn stop(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts |= 1);
        let _ = self.shared.listening.subscribe().wait_for(|listening| !listening).await;
    }

    /// It is there again.
    pub fn serve(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts = (*cuts | 1) + 1);
    }

    /// What came from clients.
    pub fn seen(&self) -> Vec<Seen> {
        self.all().into_iter().filter(|seen| !seen.is_proof()).collect()
    }

    /// What the proxy asked by itself.
    pub fn proofs(&self) -> Vec<Seen> {
        self.all().into_iter().filter(Seen::is_proof).collect()
    }

    fn all(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Waits until one request whose head contains `part` is as wished.
    pub async fn seen_of(&self, part: &str, wish: impl Fn(&Seen) -> bool) {
        let mut news = self.shared.news.subscribe();
        while !self.seen().iter().any(|seen| seen.head.contains(part) && wish(seen)) {
            // The sender is our own field, so the channel cannot close.
            let _ = news.changed().await;
        }
    }

    /// How many whole requests came whose head contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.whole && seen.head.contains(part)).count()
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut cuts = self.cuts.subscribe();
        let (mut listener, mut connections) = (Some(listener), JoinSet::new());
        loop {
            let stopped = *cuts.borrow_and_update() % 2 == 1;
            if stopped {
                listener.take().iter().for_each(process::hang_up);
            } else if listener.is_none() {
                listener = process::listen_again(address).await.ok();
            }
            self.listening.send_replace(listener.is_some());
            let Some(open) = &listener else {
                if cuts.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                accepted = open.accept() => {
                    if let Ok((tcp, _)) = accepted {
                        connections.spawn(self.clone().connection(tcp, cuts.clone()));
                    }
                }
                Some(_) = connections.join_next() => {}
                _ = cuts.changed() => while connections.join_next().await.is_some() {}
            }
        }
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, mut cuts: watch::Receiver<u64>) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = tcp.set_nodelay(true);
        let socket = tcp.as_fd().try_clone_to_owned();
        tokio::select! {
            biased;
            _ = cuts.changed() => socket.iter().for_each(process::hang_up),
            _ = self.speak(tcp, number) => {}
        }
    }

    /// The answer to a request. A fence waits until what it lets through is done.
    fn carry_out(&self, head: &Head, body: Vec<u8>) -> Said {
        let reads = ["GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT"].contains(&&*head.method);
        let posture = self.platform.get().map(|platform| platform.posture());
        if !reads && !self.leaky.load(Ordering::Relaxed) && posture.is_some_and(|posture| !posture.writes()) {
            return (503, String::new(), Vec::new());
        }
        self.desk.answer(self.name, head).unwrap_or_else(|| self.shelf.carry_out(self.name, head, body))
    }

    fn begin(&self, connection: u64, head: &str) -> usize {
        if self.forgets.load(Ordering::Relaxed) {
            return usize::MAX;
        }
        let mut seen = lock(&self.seen);
        seen.push(Seen { connection, head: head.to_owned(), body: 0, whole: false });
        seen.len() - 1
    }

    fn note(&self, at: usize, body: usize, whole: bool) {
        let mut seen = lock(&self.seen);
        if let Some(seen) = seen.get_mut(at) {
            (seen.body, seen.whole) = (body, whole);
        }
        self.news.send_replace(());
    }

    /// What happens to this request.
    fn faults_of(&self, target: &str) -> Option<At> {
        let mut faults = lock(&self.faults);
        let fault = faults.iter_mut().find(|fault| fault.times > 0 && target.contains(fault.path))?;
        fault.times -= 1;
        Some(fault.at.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Security, http::Client};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_has_stopped_answers_nobody() {
        let listen = ([127, 0, 0, 1], 0).into();
        let web = Web::start("one", listen, Arc::default(), Speech::One).await.unwrap();
        for _ in 0..200 {
            let mut client = Client::connect(web.address(), Security::Plain).await.unwrap();
            // In the queue, and perhaps not yet accepted.
            let mut other = Client::connect(web.address(), Security::Plain).await.unwrap();
            assert!(client.ask("GET", "/", b"").await.unwrap().ok());
            web.stop().await;
            assert!(client.ask("GET", "/", b"").await.is_err());
            assert!(other.ask("GET", "/", b"").await.is_err());
            assert!(Client::connect(web.address(), Security::Plain).await.is_err());
            web.serve();
            web.shared.listening.subscribe().wait_for(|listening| *listening).await.unwrap();
        }
    }
}
