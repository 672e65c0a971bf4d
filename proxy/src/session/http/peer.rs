//! Which server serves a request, and how pingora gets there.
//!
//! Rule: a kept connection serves requests of its own epoch, service and server only.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bascule_certs::CertError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pingora_core::{
    protocols::tls::CaType,
    upstreams::peer::HttpPeer,
    utils::tls::{WrappedX509, parse_x509},
};
use pingora_http::RequestHeader;
use rustls::ClientConfig;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    dial::Dialer,
    request::{Request, target},
};
use crate::{
    config::{Config, HttpAddress, HttpBalance, HttpService, HttpVersion, ServiceTls},
    topology::Topology,
};

/// A kept connection is closed by us before servers close it: most give five seconds and more.
const KEPT_IDLE: std::time::Duration = std::time::Duration::from_secs(4);
/// Requests of one HTTP/2 connection to a server at once.
const STREAMS: usize = 64;

/// Authorities of services, as pingora wants them; those of no file are the system's.
#[derive(Default)]
pub(super) struct Authorities(BTreeMap<Option<PathBuf>, Authority>);

/// One file's, or the system's.
struct Authority {
    wrapped: Arc<CaType>,
    /// For connections of our own: HTTP/1.1, and HTTP/2.
    configs: [Arc<ClientConfig>; 2],
}

impl Authorities {
    pub(super) fn new(config: &Config) -> Result<Self, CertError> {
        let services = config.pools.iter().flat_map(|pool| pool.http.values());
        let mut all = BTreeMap::new();
        for service in services {
            let Some(ca) = authority_of(&service.tls) else { continue };
            if !all.contains_key(ca) {
                all.insert(ca.clone(), Authority::new(ca.as_deref())?);
            }
        }
        Ok(Self(all))
    }

    /// For a connection of our own to a service; `None`: it is clear text.
    pub(super) fn config(&self, tls: &ServiceTls, version: HttpVersion) -> Option<Arc<ClientConfig>> {
        let [one, two] = &self.0.get(authority_of(tls)?)?.configs;
        Some(if version == HttpVersion::Two { two } else { one }.clone())
    }
}

impl Authority {
    fn new(ca: Option<&Path>) -> Result<Self, CertError> {
        let one = bascule_certs::client_config(ca)?;
        let mut two = ClientConfig::clone(&one);
        two.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { wrapped: wrapped(ca)?, configs: [one, Arc::new(two)] })
    }
}

/// Where the authorities of a leg are from; `None`: it is clear text.
fn authority_of(tls: &ServiceTls) -> Option<&Option<PathBuf>> {
    match tls {
        ServiceTls::None => None,
        ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify) => Some(&verify.ca),
    }
}

/// pingora parses them once more, with another crate, and panics on what that one does not take: nothing such gets there.
fn wrapped(ca: Option<&Path>) -> Result<Arc<CaType>, CertError> {
    let mut all = bascule_certs::authorities(ca)?;
    all.retain(|der| X509Certificate::from_der(der).is_ok());
    if let (true, Some(path)) = (all.is_empty(), ca) {
        return Err(CertError::NoCertificate { path: path.to_owned() });
    }
    Ok(all.into_iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect())
}

/// The peer for this try; `None`: the active pool has no such service.
pub(super) fn choose(request: &Request, topology: &Topology, head: &RequestHeader) -> Option<Box<HttpPeer>> {
    let flight = request.flight.as_ref()?;
    let service = topology.pool(flight.pool).http.get(&request.service)?;
    let handle = &request.conn.entry.handle;
    let server = server(service, handle.peer, head);
    let proxied = service.client_address == HttpAddress::ProxyV2;
    let (name, authority) = match &service.tls {
        ServiceTls::None => (None, None),
        ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify) => {
            let authorities = &request.conn.world().http.authorities.0;
            (Some(verify.name.clone()), authorities.get(&verify.ca).map(|one| one.wrapped.clone()))
        }
    };
    // The address is only a name here: the dialer resolves the server's own.
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut peer = Box::new(HttpPeer::new(nowhere, name.is_some(), name.unwrap_or_default()));
    let client = proxied.then_some(handle.peer);
    peer.group_key = hash(&(flight.epoch, flight.pool, &request.service, server, client));
    let options = &mut peer.options;
    options.ca = authority;
    match service.version {
        HttpVersion::One => options.set_http_version(1, 1),
        HttpVersion::Two => options.set_http_version(2, 2),
    }
    options.max_h2_streams = STREAMS;
    options.connection_timeout = Some(service.dial_timeout);
    options.total_connection_timeout = Some(service.dial_timeout);
    options.read_timeout = Some(service.silence);
    options.write_timeout = Some(service.silence);
    options.idle_timeout = Some(KEPT_IDLE);
    options.custom_l4 = Some(Arc::new(Dialer {
        server: server.to_owned(),
        limit: service.dial_timeout,
        header: client.map(|client| (client, request.conn.local.unwrap_or(client))),
        conn: request.conn.clone(),
        epoch: flight.epoch,
    }));
    Some(peer)
}

/// The server for a request of this client.
pub(super) fn server<'a>(service: &'a HttpService, client: SocketAddr, head: &RequestHeader) -> &'a str {
    &service.servers[pick(service, &key(service, client, head))]
}

/// Rendezvous hashing: when a server comes or goes, only its own clients move.
fn pick(service: &HttpService, key: &[u8]) -> usize {
    let weight = |server: &String| hash(&(server, key));
    let best = service.servers.iter().enumerate().max_by_key(|(_, server)| weight(server));
    best.map_or(0, |(at, _)| at)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// By what requests belong together.
fn key(service: &HttpService, client: SocketAddr, head: &RequestHeader) -> Vec<u8> {
    let found = match &service.balance {
        HttpBalance::Address => None,
        HttpBalance::Identity => identity(head),
        HttpBalance::Cookie(name) => cookie(head, name),
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
    let credentials = head.headers.get("authorization").and_then(|value| basic(value.as_bytes()));
    credentials.or_else(|| {
        let pair = target(head).split(['?', '&']).skip(1).find_map(|pair| pair.strip_prefix("User="));
        pair.map(|name| name.to_ascii_lowercase().into_bytes())
    })
}

fn cookie(head: &RequestHeader, name: &str) -> Option<Vec<u8>> {
    let all = head.headers.get_all("cookie").iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let mut pairs = all.filter_map(|pair| pair.trim_ascii().split_at_checked(name.len()));
    pairs
        .find_map(|(own, rest)| (own == name.as_bytes()).then(|| rest.strip_prefix(b"="))?)
        .map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    fn service(balance: HttpBalance) -> HttpService {
        HttpService {
            servers: (1..=5).map(|n| format!("web{n}.test:80")).collect(),
            tls: ServiceTls::None,
            version: HttpVersion::One,
            client_address: HttpAddress::Headers,
            balance,
            dial_timeout: defaults::DIAL_TIMEOUT,
            silence: defaults::HTTP_SILENCE,
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
        let of = |service: &HttpService, key: &str| service.servers[pick(service, key.as_bytes())].clone();
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
}
