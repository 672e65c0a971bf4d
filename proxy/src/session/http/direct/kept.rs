//! Connections to servers that are kept between requests, one collection for each thread.
//!
//! Rule: the one that was used last is used next, and each is closed before its server would.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pingora_http::ResponseHeader;
use tokio::time::sleep_until;

use super::{
    super::{front::KEEP_ALIVE, peer::KEPT_IDLE},
    server::Server,
};

/// So many are kept; the one that was used least recently goes.
const MOST: usize = 512;

/// Connections that nobody uses.
#[derive(Debug, Default)]
pub(in super::super) struct Kept(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// In the order in which they came back.
    idle: VecDeque<Idle>,
    /// Somebody closes those that have been idle for too long.
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    /// Of whose requests it serves more ([`super::peer::Way::key`]).
    key: u64,
    until: Instant,
    server: Box<Server>,
}

/// How long the connection of this answer is kept: a second less than its server says.
pub(super) fn time(head: &ResponseHeader) -> Duration {
    let said = head.headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok());
    let seconds = said.and_then(|said| {
        let mut pairs = said.split(',').filter_map(|pair| pair.split_once('='));
        let (_, time) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
        time.trim().parse::<u64>().ok()
    });
    seconds.map_or(KEPT_IDLE, |seconds| KEPT_IDLE.min(Duration::from_secs(seconds.saturating_sub(1))))
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is still good for requests of this key.
    pub(super) fn take(&self, key: u64) -> Option<Box<Server>> {
        loop {
            let mut all = self.lock();
            let at = all.idle.iter().rposition(|one| one.key == key)?;
            let one = all.idle.remove(at)?;
            drop(all);
            let mut server = one.server;
            if Instant::now() < one.until && server.is_quiet() {
                return Some(server);
            }
        }
    }

    /// Keeps one whose answer was whole, for so long.
    pub(super) fn put(self: &Arc<Self>, key: u64, server: Box<Server>, time: Duration) {
        if time.is_zero() {
            return;
        }
        let mut all = self.lock();
        all.idle.push_back(Idle { key, until: Instant::now() + time, server });
        let surplus = if all.idle.len() > MOST { all.idle.pop_front() } else { None };
        let alone = !std::mem::replace(&mut all.swept, true);
        drop((all, surplus));
        if alone {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes those that have been idle for too long, until there is none.
    async fn sweep(self: Arc<Self>) {
        while let Some(due) = self.close_old(Instant::now()) {
            sleep_until(due.into()).await;
        }
    }

    /// When the next one is due; `None`: there is none, and nobody sweeps from now on.
    fn close_old(&self, now: Instant) -> Option<Instant> {
        let mut all = self.lock();
        let (closed, left): (VecDeque<Idle>, _) =
            std::mem::take(&mut all.idle).into_iter().partition(|one| one.until <= now);
        all.idle = left;
        let due = all.idle.iter().map(|one| one.until).min();
        all.swept = due.is_some();
        drop(all);
        drop(closed);
        due
    }
}

#[cfg(test)]
mod tests {
    use pingora_core::protocols::UniqueID as _;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (Box<Server>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Box::new(Server::of(ours)), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_last_one_of_its_key_is_used_first_and_none_that_its_server_closed() {
        let kept = Arc::new(Kept::default());
        let [(one, _one), (two, _two), (three, closed)] = [pair().await, pair().await, pair().await];
        let ids = [one.id(), two.id()];
        drop(closed);
        three.ended().await;
        kept.put(1, one, KEPT_IDLE);
        kept.put(2, two, KEPT_IDLE);
        kept.put(1, three, KEPT_IDLE);
        assert_eq!(kept.take(1).map(|server| server.id()), Some(ids[0]));
        assert!(kept.take(3).is_none());
        assert_eq!(kept.take(2).map(|server| server.id()), Some(ids[1]));
        assert!(kept.take(1).is_none());
    }

    #[tokio::test]
    async fn what_has_been_idle_for_too_long_is_closed() {
        let kept = Arc::new(Kept::default());
        let [(one, mut server), (two, _two)] = [pair().await, pair().await];
        kept.put(1, two, KEPT_IDLE);
        let between = Instant::now() + KEPT_IDLE / 2;
        kept.put(1, one, KEPT_IDLE / 4);
        assert!(kept.close_old(between).is_some_and(|due| due > between));
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(kept.close_old(Instant::now() + KEPT_IDLE), None);
        assert!(kept.take(1).is_none());
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_less_than_its_server_says() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        assert_eq!(time(&head), KEPT_IDLE);
        for (said, seconds) in [
            ("timeout=3, max=100", 2),
            ("max=100, Timeout = 3", 2),
            ("timeout=1", 0),
            ("timeout=0", 0),
            ("timeout=60", KEPT_IDLE.as_secs()),
            ("timeout=soon", KEPT_IDLE.as_secs()),
        ] {
            head.insert_header("Keep-Alive", said).unwrap();
            assert_eq!(time(&head), Duration::from_secs(seconds), "{said}");
        }
        let kept = Arc::new(Kept::default());
        let (one, _server) = pair().await;
        kept.put(1, one, Duration::ZERO);
        assert!(kept.take(1).is_none() && kept.lock().idle.is_empty());
    }

    #[tokio::test]
    async fn of_too_many_the_one_that_was_used_least_recently_goes() {
        let kept = Arc::new(Kept::default());
        let mut others = Vec::new();
        for key in 0..=MOST as u64 {
            let (server, other) = pair().await;
            kept.put(key, server, KEPT_IDLE);
            others.push(other);
        }
        assert!(kept.take(0).is_none());
        assert!(kept.take(1).is_some());
    }
}
