//! Servers that sessions could not reach: counted, told to the log now and then, and named as long as it lasts.
//!
//! Rule: only what sessions tried is known. Where nobody has tried for a while nothing is said, and as long as every
//! server is reached this costs one load.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::World;
use crate::{config::Protocol, topology::PoolId};

/// Between two log lines on the same server.
const AGAIN: Duration = Duration::from_secs(10);
/// After so long without another try nobody knows.
const STALE: Duration = Duration::from_secs(60);

type Server = (PoolId, Protocol, String);

/// The servers that could not be reached when they were last tried.
#[derive(Debug, Default)]
pub struct Unreachable {
    any: AtomicBool,
    servers: Mutex<BTreeMap<Server, Since>>,
}

#[derive(Debug)]
struct Since {
    begun: Instant,
    last: Instant,
    told: Instant,
    /// Tries since it was told.
    tries: u64,
    why: String,
}

impl Unreachable {
    /// One more try in vain. How many there were since the log was told, where it is to be told again.
    fn failed(&self, server: Server, why: String, now: Instant) -> Option<u64> {
        let mut servers = self.servers();
        self.any.store(true, Ordering::Relaxed);
        let Some(since) = servers.get_mut(&server).filter(|since| now < since.last + STALE) else {
            servers.insert(server, Since { begun: now, last: now, told: now, tries: 0, why });
            return Some(1);
        };
        (since.last, since.why) = (now, why);
        since.tries += 1;
        if now < since.told + AGAIN {
            return None;
        }
        since.told = now;
        Some(std::mem::take(&mut since.tries))
    }

    /// It answers. Whether it did not before.
    fn reached(&self, server: &Server) -> bool {
        let mut servers = self.servers();
        let was = servers.remove(server).is_some();
        self.any.store(!servers.is_empty(), Ordering::Relaxed);
        was
    }

    /// Those of a pool: protocol, server, since when, and why.
    fn of(&self, pool: PoolId, now: Instant) -> Vec<String> {
        let servers = self.servers();
        let known = servers.iter().filter(|((of, ..), since)| *of == pool && now < since.last + STALE);
        let line = |((_, protocol, server), since): (&Server, &Since)| {
            let seconds = now.saturating_duration_since(since.begun).as_secs();
            format!("{} {server}: {} (for {seconds} s)", protocol.name(), since.why)
        };
        known.map(line).collect()
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<Server, Since>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// A session has tried a server, and this is why it could not be reached.
    pub fn tried(&self, pool: PoolId, protocol: Protocol, server: &str, failed: Option<&dyn Display>) {
        if failed.is_none() && !self.unreachable.any.load(Ordering::Relaxed) {
            return;
        }
        let topology = self.topology.load();
        let (name, word, key) =
            (&topology.pool(pool).name, protocol.name(), (pool, protocol, server.to_owned()));
        let Some(failed) = failed else {
            if self.unreachable.reached(&key) {
                tracing::info!(pool = name, protocol = word, server, "a server is reached again");
            }
            return;
        };
        self.metrics.dial_failed(name, word);
        // Most say of whom they speak.
        let why = failed.to_string();
        let why = why.strip_prefix(&format!("{server}: ")).unwrap_or(&why).to_owned();
        if let Some(tries) = self.unreachable.failed(key, why.clone(), Instant::now()) {
            tracing::warn!(pool = name, protocol = word, server, tries, "a server cannot be reached: {why}");
        }
    }

    /// Servers of the pool that serves which cannot be reached now, and why.
    pub fn not_reached(&self) -> Vec<String> {
        if !self.unreachable.any.load(Ordering::Relaxed) {
            return vec![];
        }
        self.unreachable.of(self.topology.load().active, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imap(server: &str) -> Server {
        (PoolId(0), Protocol::Imap, server.to_owned())
    }

    #[test]
    fn a_server_is_told_of_now_and_then_and_named_until_it_answers() {
        let (servers, begin) = (Unreachable::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(servers.failed(imap("a:143"), "refused".into(), at(0)), Some(1));
        assert_eq!(servers.failed(imap("b:143"), "refused".into(), at(0)), Some(1), "each for itself");
        assert_eq!(servers.failed(imap("a:143"), "refused".into(), at(3)), None);
        assert_eq!(servers.failed(imap("a:143"), "no route".into(), at(12)), Some(2));
        assert_eq!(
            servers.of(PoolId(0), at(14)),
            ["imap a:143: no route (for 14 s)", "imap b:143: refused (for 14 s)"]
        );
        assert!(servers.of(PoolId(1), at(14)).is_empty(), "of another pool");
        assert!(servers.reached(&imap("a:143")) && !servers.reached(&imap("a:143")));
        assert_eq!(servers.of(PoolId(0), at(14)).len(), 1);
        assert!(servers.of(PoolId(0), at(60)).is_empty(), "nobody has tried for a minute");
        assert_eq!(servers.failed(imap("b:143"), "refused".into(), at(70)), Some(1), "it begins anew");
        assert_eq!(servers.of(PoolId(0), at(70)), ["imap b:143: refused (for 0 s)"]);
    }
}
