//! What all connections of HTTP share: pingora's proxies, and the bounds on what is held.
//!
//! Rule: a thread has a proxy of its own, so that a kept backend connection stays on the thread that opened it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use pingora_core::server::configuration::ServerConf;
use pingora_core::{apps::HttpServerOptions, protocols::http::v2::server::default_h2_options};
use pingora_proxy::http_proxy;
use thread_local::ThreadLocal;
use tokio::sync::{Semaphore, watch};

use super::{
    Proxy,
    cookie::Key,
    credentials::Credentials,
    direct::Kept,
    gateway::Gateway,
    lane::Open,
    line::{Line, To},
    peer::Authorities,
    people::People,
    places::Places,
    servers::Servers,
};
use crate::{
    config::{Config, HttpBalance, HttpLimits},
    net::lot::Lot,
    session::World,
    topology::Epoch,
};
use anyhow::Context as _;

/// Of one stream of HTTP/2, in which a body waits unread (RFC 9113 §6.5.2, the initial value).
const WINDOW: u32 = 65_535;
/// RFC 9113 §6.9.1
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
/// Backend connections that a thread keeps.
const KEPT: usize = 512;
/// What pingora reads for authorities of its own: every peer brings its own, and it panics over the system's.
const NOTHING: &str = "/dev/null";
/// The time bounds how often a request is tried, not the number.
const TRIES: usize = 10_000;

/// What all connections of HTTP share.
pub struct Shared {
    proxies: ThreadLocal<Proxy>,
    kept: ThreadLocal<Arc<Kept>>,
    /// Connections of clients that ask for nothing.
    lots: ThreadLocal<Arc<Lot>>,
    /// What pingora looks at to know of an end: connections of one request at a time are ended by us.
    pub(super) stays: watch::Receiver<bool>,
    requests: AtomicUsize,
    bytes: AtomicUsize,
    pub(super) authorities: Authorities,
    /// How many streams may ask a pool at once that has just taken over.
    pub(super) turns: Semaphore,
    /// Streams that are open.
    pub(super) streams: Open,
    pub(super) people: People,
    pub(super) servers: Servers,
    pub(super) places: Places,
    pub(super) credentials: Credentials,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            proxies: ThreadLocal::new(),
            kept: ThreadLocal::new(),
            lots: ThreadLocal::new(),
            stays: watch::Sender::new(false).subscribe(),
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            authorities: Authorities::default(),
            turns: Semaphore::new(1),
            streams: Open::default(),
            servers: Servers::default(),
            credentials: Credentials::default(),
            people: People::default(),
            places: Places::default(),
        }
    }
}

impl Shared {
    /// For the services of a configuration. A wrong file is found here.
    pub fn new(config: &Config) -> Result<Self, bascule_certs::CertError> {
        Ok(Self {
            authorities: Authorities::new(config)?,
            people: People::new(config),
            places: Places::new(config),
            turns: Semaphore::new(config.cutover.restore_concurrency),
            ..Self::default()
        })
    }

    /// Resolves when every stream that found its server before this epoch has left it, or found another.
    pub async fn none_behind(&self, epoch: Epoch) {
        self.streams.none_before(epoch).await;
    }

    /// How many sessions of people there are with a service whose cookie is configured.
    pub fn people(&self, service: &str) -> usize {
        self.people.count(service, Instant::now())
    }

    /// The same, with the key of cookies, where a service has some.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let mut shared = Self::new(config)?;
        let mut services = config.pools.iter().flat_map(|pool| pool.http.values());
        if services.any(|service| service.balance == HttpBalance::Own) {
            let key = Key::of(&config.server.state_dir).context("the key of cookies")?;
            shared.servers = Servers::with(Some(key));
        }
        Ok(shared)
    }

    /// A connection of our own, which nobody counts.
    pub async fn line(&self, to: To<'_>) -> std::io::Result<Line> {
        Line::open(to, &self.authorities).await
    }

    /// This thread's.
    pub(super) fn proxy(&self, world: &World) -> Proxy {
        self.proxies.get_or(|| Arc::new(build(&world.config))).clone()
    }

    /// This thread's connections to servers.
    pub(super) fn kept(&self) -> &Arc<Kept> {
        self.kept.get_or_default()
    }

    /// Where this thread parks connections.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn lot(&self) -> std::io::Result<&Arc<Lot>> {
        self.lots.get_or_try(Lot::open)
    }

    /// How many connections are parked.
    pub fn parked(&self) -> usize {
        self.lots.iter().map(|lot| lot.len()).sum()
    }

    /// Closes connections that were parked for too long, or `all`.
    pub fn sweep(&self, now: Instant, all: bool) -> usize {
        self.lots.iter().map(|lot| lot.sweep(now, all)).sum()
    }

    /// A place for a held request that takes so many bytes; otherwise the limit that is reached.
    pub(super) fn hold(&self, bytes: usize, limits: &HttpLimits) -> Result<Place<'_>, &'static str> {
        let place = Place { shared: self, bytes };
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match () {
            () if requests > limits.held_requests => Err("http_held_requests"),
            () if all > limits.held_bytes => Err("http_held_bytes"),
            () => Ok(place),
        }
    }
}

/// Room for one held request.
#[derive(Debug)]
pub(super) struct Place<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.requests.fetch_sub(1, Ordering::Relaxed);
        self.shared.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn build(config: &Config) -> pingora_proxy::HttpProxy<Gateway> {
    let conf = ServerConf {
        threads: 1,
        max_retries: TRIES,
        upstream_keepalive_pool_size: KEPT,
        ca_file: Some(NOTHING.to_owned()),
        ..ServerConf::default()
    };
    let mut proxy = http_proxy(&Arc::new(conf), Gateway);
    let limits = &config.limits.http;
    let mut h2 = default_h2_options();
    h2.max_concurrent_streams(limits.streams);
    // A body that waits at the gate is not read. It must not take the window of an upload beside it, which the drain
    // waits for; the windows of all streams fit into the connection's.
    h2.initial_connection_window_size(limits.streams.saturating_mul(WINDOW).min(LARGEST_WINDOW));
    h2.max_header_list_size(u32::try_from(limits.header_size).unwrap_or(u32::MAX));
    proxy.h2_options = Some(h2);
    let mut options = HttpServerOptions::default();
    // Ours says GOAWAY first.
    options.h2_idle_timeout = Some(limits.idle * 2);
    proxy.server_options = Some(options);
    proxy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_in_count_and_bytes_and_given_back() {
        let shared = Shared::default();
        let limits = HttpLimits { held_requests: 2, held_bytes: 100, ..HttpLimits::default() };
        let one = shared.hold(60, &limits).unwrap();
        assert_eq!(shared.hold(60, &limits).err(), Some("http_held_bytes"));
        let two = shared.hold(40, &limits).unwrap();
        assert_eq!(shared.hold(0, &limits).err(), Some("http_held_requests"));
        drop((one, two));
        assert_eq!(shared.requests.load(Ordering::Relaxed) + shared.bytes.load(Ordering::Relaxed), 0);
    }
}
