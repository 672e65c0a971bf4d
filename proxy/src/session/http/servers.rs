//! Which server of a service serves a request.
//!
//! Rule: a client stays with its server as long as that can be reached; when a server comes or goes, only its own
//! clients move.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::header;
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    cookie::{self, Key},
    request::{Request, target},
    slots::Slots,
};
use crate::{
    config::{HttpBalance, HttpService},
    topology::{Epoch, PoolId},
};

/// A server that could not be reached is asked again after this long, if another one is there.
const REST: Duration = Duration::from_secs(5);

/// What is known of all servers.
#[derive(Debug, Default)]
pub(super) struct Servers {
    resting: Mutex<HashMap<(PoolId, String, usize), Instant>>,
    /// How many those are: mostly none, which is seen without a lock.
    count: AtomicUsize,
    /// Which server gave out a session of its own.
    learnt: Slots,
    /// `None`: no service has cookies of ours.
    key: Option<Key>,
}

/// The server of one try.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// Its place in the service's list.
    pub(super) at: usize,
    /// How long the list is.
    pub(super) of: usize,
    /// `host:port`
    pub(super) server: String,
    /// The cookie that the client is to come back with.
    pub(super) cookie: Option<String>,
}

impl Servers {
    /// With the key for cookies of ours.
    pub(super) fn with(key: Option<Key>) -> Self {
        Self { key, ..Self::default() }
    }

    /// Chooses for a request that is in flight to this pool.
    pub(super) fn choose(
        &self,
        request: &Request,
        service: &HttpService,
        (pool, epoch): (PoolId, Epoch),
        head: &RequestHeader,
    ) -> Chosen {
        let name = &request.service;
        let client = request.conn.entry.handle.peer;
        let wanted = match &service.balance {
            HttpBalance::Own => self.key.as_ref().and_then(|key| {
                key.server(cookie::of(head, &cookie::name(name))?, epoch, name, &service.servers)
            }),
            HttpBalance::Cookie(session) => {
                let value = cookie::of(head, session);
                value.and_then(|value| self.learnt.get(hash(&(epoch, name, value)))).map(usize::from)
            }
            HttpBalance::Address | HttpBalance::Identity | HttpBalance::Header(_) => None,
        };
        let free = |at: usize| at < service.servers.len() && !request.avoided.contains(&at);
        let awake = |at: usize| free(at) && !self.rests(pool, name, at);
        let key = || key(service, client, head);
        let among = || {
            let wanted = wanted.filter(|at| awake(*at));
            wanted.or_else(|| best(service, &key(), awake)).or_else(|| best(service, &key(), free))
        };
        let at = if service.servers.len() > 1 { among().unwrap_or(0) } else { 0 };
        let server = service.servers[at].clone();
        let give = service.balance == HttpBalance::Own && wanted != Some(at);
        let cookie = self.key.as_ref().filter(|_| give).map(|key| key.value(epoch, name, &server));
        Chosen { at, of: service.servers.len(), server, cookie }
    }

    /// An answer may give out a session that only its own server knows.
    pub(super) fn learn(
        &self,
        service: &HttpService,
        name: &str,
        epoch: Epoch,
        at: usize,
        head: &ResponseHeader,
    ) {
        let HttpBalance::Cookie(session) = &service.balance else { return };
        for field in head.headers.get_all(header::SET_COOKIE) {
            if let (Some(value), Ok(at)) = (cookie::set(field.as_bytes(), session), u16::try_from(at)) {
                self.learnt.put(hash(&(epoch, name, value)), at);
            }
        }
    }

    /// A server could not be reached.
    pub(super) fn unreachable(&self, pool: PoolId, service: &str, at: usize) {
        let mut resting = self.resting();
        resting.retain(|_, until| *until > Instant::now());
        resting.insert((pool, service.to_owned(), at), Instant::now() + REST);
        self.count.store(resting.len(), Ordering::Relaxed);
    }

    fn rests(&self, pool: PoolId, service: &str, at: usize) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut resting = self.resting();
        resting.retain(|_, until| *until > Instant::now());
        self.count.store(resting.len(), Ordering::Relaxed);
        resting.contains_key(&(pool, service.to_owned(), at))
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<(PoolId, String, usize), Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rendezvous hashing among those that may be asked.
fn best(service: &HttpService, key: &[u8], may: impl Fn(usize) -> bool) -> Option<usize> {
    let servers = service.servers.iter().enumerate().filter(|(at, _)| may(*at));
    servers.max_by_key(|(_, server)| hash(&(server, key))).map(|(at, _)| at)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// By what requests belong together.
fn key(service: &HttpService, client: SocketAddr, head: &RequestHeader) -> Vec<u8> {
    let found = match &service.balance {
        HttpBalance::Address | HttpBalance::Own => None,
        HttpBalance::Identity => identity(head),
        HttpBalance::Cookie(name) => cookie::of(head, name).map(<[u8]>::to_vec),
        HttpBalance::Header(name) => head.headers.get(name.as_str()).map(|value| value.as_bytes().to_vec()),
    };
    found.filter(|key| !key.is_empty()).unwrap_or_else(|| client.ip().to_canonical().to_string().into_bytes())
}

/// The name in Basic credentials, or whose phone it is in ActiveSync's query.
pub(super) fn identity(head: &RequestHeader) -> Option<Vec<u8>> {
    let basic = |value: &[u8]| {
        let (scheme, rest) = value.split_at_checked(6)?;
        let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
        let name = decoded.split(|b| *b == b':').next()?;
        scheme.eq_ignore_ascii_case(b"basic ").then(|| name.to_ascii_lowercase())
    };
    let credentials = head.headers.get(header::AUTHORIZATION).and_then(|value| basic(value.as_bytes()));
    credentials.or_else(|| {
        let pair = target(head).split(['?', '&']).skip(1).find_map(|pair| pair.strip_prefix("User="));
        pair.map(|name| name.to_ascii_lowercase().into_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HttpAddress, HttpVersion, ServiceTls, defaults};

    fn service(balance: HttpBalance) -> HttpService {
        HttpService {
            servers: (1..=5).map(|n| format!("web{n}.test:80")).collect(),
            tls: ServiceTls::None,
            version: HttpVersion::One,
            client_address: HttpAddress::Headers,
            balance,
            concurrency: None,
            queue: 0,
            dial_timeout: defaults::DIAL_TIMEOUT,
            silence: defaults::HTTP_SILENCE,
            proof: crate::config::HttpProof::default(),
        }
    }

    fn head(fields: &[(&'static str, &str)], target: &str) -> RequestHeader {
        let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn requests_belong_together_by_what_is_configured() {
        let peer: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        let by =
            |balance, head: &RequestHeader| String::from_utf8(key(&service(balance), peer, head)).unwrap();
        let plain = head(&[("cookie", "a=1; SESSION=x1; XSESSION=2"), ("x-user", "anna")], "/");
        assert_eq!(by(HttpBalance::Address, &plain), "192.0.2.1");
        assert_eq!(by(HttpBalance::Cookie("SESSION".into()), &plain), "x1");
        assert_eq!(by(HttpBalance::Cookie("SESS".into()), &plain), "192.0.2.1");
        assert_eq!(by(HttpBalance::Header("x-user".into()), &plain), "anna");
        assert_eq!(by(HttpBalance::Identity, &plain), "192.0.2.1");
        // anna@Example.org:pw
        let basic = head(&[("authorization", "Basic QW5uYUBFeGFtcGxlLm9yZzpwdw==")], "/");
        assert_eq!(by(HttpBalance::Identity, &basic), "anna@example.org");
        let phone = head(&[], "/Microsoft-Server-ActiveSync?Cmd=Ping&User=Bert");
        assert_eq!(by(HttpBalance::Identity, &phone), "bert");
    }

    #[test]
    fn clients_are_spread_and_a_server_that_goes_takes_only_its_own() {
        let all = service(HttpBalance::Address);
        let keys: Vec<String> = (0..1000).map(|n| format!("user{n}")).collect();
        let of = |service: &HttpService, key: &str| {
            service.servers[best(service, key.as_bytes(), |_| true).unwrap()].clone()
        };
        for server in &all.servers {
            let share = keys.iter().filter(|key| of(&all, key) == *server).count();
            assert!((100..300).contains(&share), "{server} has {share}");
        }
        let mut fewer = all.clone();
        let gone = fewer.servers.remove(2);
        for key in &keys {
            let before = of(&all, key);
            assert!(before == gone || of(&fewer, key) == before);
        }
    }

    #[test]
    fn a_server_that_cannot_be_reached_rests() {
        let servers = Servers::default();
        servers.unreachable(PoolId(1), "dav", 2);
        assert!(servers.rests(PoolId(1), "dav", 2));
        for (pool, name, at) in [(0, "dav", 2), (1, "web", 2), (1, "dav", 1)] {
            assert!(!servers.rests(PoolId(pool), name, at));
        }
        let all = service(HttpBalance::Address);
        let first = best(&all, b"anna", |_| true).unwrap();
        assert_ne!(best(&all, b"anna", |at| at != first), Some(first));
        assert_eq!(best(&all, b"anna", |_| false), None);
    }
}
