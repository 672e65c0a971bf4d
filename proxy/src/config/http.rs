//! What HTTP adds to the configuration.
//!
//! Rule: where a request goes is said on the listener, by host and path; what is there is said in each pool, by the
//! service's name, so that a cutover exchanges all services at once.

use std::{path::PathBuf, time::Duration};

use bascule_protocols::http::queue::Priority;

use super::{HttpProof, Rates, ServiceTls, defaults};

/// What a listener for HTTP decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpListener {
    /// Where requests go: the most particular one that fits.
    pub routes: Vec<Route>,
    /// Every request is answered with the same address under https.
    pub redirect: bool,
    /// Browsers are told to come with TLS only, for so long.
    pub hsts: Option<Duration>,
    /// `[listener.NAME.rates]`
    pub rates: Rates,
    /// The folder with the answers to ACME's http-01 challenges.
    pub acme: Option<PathBuf>,
}

/// `routes = [{ host = "…", path = "/…", service = "…", long_poll = false }]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Lower-cased, without a port; `None`: every host.
    pub host: Option<String>,
    /// Whole segments from the beginning of the path; `/` is every path.
    pub path: String,
    /// The name of a service that every pool has.
    pub service: String,
    /// How urgent its requests are; `None`: what looks like a program's is `sync`, the rest `interactive`.
    pub priority: Option<Priority>,
    /// What is read or posted there waits for its answer and changes nothing: it is asked again where a server was left.
    pub long_poll: bool,
}

impl HttpListener {
    /// Where a request goes; a route with a host goes before one without, a longer path before a shorter one.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        let fits = |route: &&Route| route.host.as_deref().is_none_or(|name| name == host) && route.has(path);
        self.routes.iter().filter(fits).max_by_key(|route| (route.host.is_some(), route.path.len()))
    }
}

impl Route {
    fn has(&self, path: &str) -> bool {
        let prefix = self.path.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            // `OPTIONS *`
            || (prefix.is_empty() && path == "*")
    }
}

/// `[pool.NAME.http.SERVICE]`
#[derive(Debug, Clone)]
pub struct HttpService {
    /// `host:port` each, resolved at every dial.
    pub servers: Vec<String>,
    /// How the leg to them is protected: not at all or from the first byte.
    pub tls: ServiceTls,
    /// What is spoken to them.
    pub version: HttpVersion,
    /// How the client's address is told.
    pub client_address: HttpAddress,
    /// Which of the servers serves whom.
    pub balance: HttpBalance,
    /// Requests at once; `None`: as many as come.
    pub concurrency: Option<usize>,
    /// So many more may wait.
    pub queue: usize,
    /// Longest dial with TLS.
    pub dial_timeout: Duration,
    /// Longest time without a byte of an answer.
    pub silence: Duration,
    /// How it is proved.
    pub proof: HttpProof,
}

/// `version = "1.1" | "2"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1
    One,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Two,
}

/// `client_address = "headers" | "proxy-v2" | "none"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAddress {
    /// In Forwarded and X-Forwarded-*.
    Headers,
    /// In a PROXY header, version 2; a connection then serves one client.
    ProxyV2,
    /// Not told.
    None,
}

/// `balance = "address" | "identity" | "cookie" | "cookie:NAME" | "header:NAME"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpBalance {
    /// By the client's address.
    Address,
    /// By the name in the credentials, by the address where there are none.
    Identity,
    /// By a cookie of the proxy's own, signed, that is good for one epoch.
    Own,
    /// By the server that set this cookie.
    Cookie(String),
    /// By this field's value.
    Header(String),
}

/// `[limits.http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// From a request's first byte to the end of its head.
    pub header: Duration,
    /// Longest head, bytes.
    pub header_size: usize,
    /// From the end of its head to the end of its body.
    pub body: Duration,
    /// Longest body.
    pub body_size: u64,
    /// A connection without a request is closed after this long.
    pub idle: Duration,
    /// Longest wait of one request at a shut gate or for a server.
    pub hold: Duration,
    /// Requests that wait at once.
    pub held_requests: usize,
    /// Bytes of them that are in memory.
    pub held_bytes: usize,
    /// Requests of one HTTP/2 connection at once.
    pub streams: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header: defaults::HTTP_HEADER,
            header_size: defaults::HTTP_HEADER_SIZE,
            body: defaults::HTTP_BODY,
            body_size: defaults::HTTP_BODY_SIZE,
            idle: defaults::HTTP_IDLE,
            hold: defaults::HTTP_HOLD,
            held_requests: defaults::HTTP_HELD_REQUESTS,
            held_bytes: defaults::HTTP_HELD_BYTES,
            streams: defaults::HTTP_STREAMS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>, path: &str, service: &str) -> Route {
        Route {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            service: service.to_owned(),
            priority: None,
            long_poll: false,
        }
    }

    #[test]
    fn the_most_particular_route_wins() {
        let listener = HttpListener {
            routes: vec![
                route(None, "/", "webmail"),
                route(None, "/dav", "dav"),
                route(None, "/dav/public/", "public"),
                route(Some("dav.test"), "/", "dav"),
            ],
            ..HttpListener::default()
        };
        for (host, path, service) in [
            ("a.test", "/", "webmail"),
            ("a.test", "/davros", "webmail"),
            ("a.test", "/dav", "dav"),
            ("a.test", "/dav/", "dav"),
            ("a.test", "/dav/public", "public"),
            ("a.test", "/dav/public/x", "public"),
            ("dav.test", "/dav/public/x", "dav"),
            ("a.test", "*", "webmail"),
        ] {
            let route = listener.route(host, path).unwrap();
            assert_eq!(route.service, service, "{host} {path}");
        }
        let only = HttpListener { routes: vec![route(None, "/dav", "dav")], ..HttpListener::default() };
        assert_eq!(only.route("a.test", "/"), None);
    }
}
