//! How pingora gets to the server of a request.
//!
//! Rule: a kept connection serves requests of its own epoch, service and server only.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bascule_certs::CertError;
use pingora_core::{
    protocols::tls::CaType,
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
    utils::tls::{WrappedX509, parse_x509},
};
use pingora_http::RequestHeader;
use rustls::ClientConfig;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    conn::Conn,
    credentials::are_of_connection,
    dial::Dialer,
    front,
    request::{KEPT, Request},
};
use crate::{
    config::{Config, HttpService, HttpVersion, ServiceTls},
    topology::Topology,
};

/// A kept connection is closed by us before servers close it: most give five seconds and more.
pub(super) const KEPT_IDLE: std::time::Duration = std::time::Duration::from_secs(4);
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
        let config = bascule_certs::client_config(ca)?;
        let speaking = |name: &[u8]| {
            let mut config = ClientConfig::clone(&config);
            config.alpn_protocols = vec![name.to_vec()];
            Arc::new(config)
        };
        Ok(Self { wrapped: wrapped(ca)?, configs: [speaking(b"http/1.1"), speaking(b"h2")] })
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

/// Where this try goes.
pub(super) struct Way<'a> {
    pub(super) service: &'a HttpService,
    /// Of its epoch, service, server, and whoever may use its connection.
    pub(super) key: u64,
    /// The client and the address that it came to, for a PROXY header.
    from: Option<(SocketAddr, SocketAddr)>,
}

impl Way<'_> {
    /// Who dials it; `None`: the request is with no pool.
    pub(super) fn dialer(&self, request: &Request) -> Option<Dialer> {
        Some(Dialer {
            server: request.chosen.as_ref()?.server.clone(),
            limit: self.service.dial_timeout,
            from: self.from,
            conn: request.conn.clone(),
            epoch: request.epoch()?,
        })
    }
}

/// The way of this try; `None`: the active pool has no such service.
pub(super) fn way<'a>(
    request: &mut Request,
    topology: &'a Topology,
    head: &RequestHeader,
) -> Option<Way<'a>> {
    let flight = request.flight.as_ref()?;
    let service = topology.pool(flight.pool).http.get(&request.service)?;
    let shared = &request.conn.world().http;
    let chosen = shared.servers.choose(request, service, (flight.pool, flight.epoch), head);
    let from = request.from(service);
    let key = (flight.epoch, flight.pool, &request.service, &chosen.server, from.map(|from| from.0));
    let alone = match alone(request, service, head) {
        true => Some(flight.number()),
        false => is_bound(&request.conn, head).then(|| (request.conn.entry.handle.id.0, u64::MAX)),
    };
    let key = hash(&(key, alone));
    request.chosen = Some(chosen);
    Some(Way { service, key, from })
}

/// Whether servers know the client by its connection, from this request on or since an earlier one. All that comes over it
/// takes one way then, pingora's, and so one connection: a handshake begins without a body and ends with one.
pub(super) fn is_bound(conn: &Conn, head: &RequestHeader) -> bool {
    if are_of_connection(head) {
        conn.bound.store(true, Ordering::Relaxed);
    }
    conn.bound.load(Ordering::Relaxed)
}

/// The same as pingora takes it.
pub(super) fn peer(request: &Request, way: &Way<'_>) -> Option<Box<HttpPeer>> {
    let service = way.service;
    let name = match &service.tls {
        ServiceTls::None => None,
        ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify) => Some(verify.name.clone()),
    };
    // The address is only a name here: the dialer resolves the server's own.
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut peer = Box::new(HttpPeer::new(nowhere, name.is_some(), name.unwrap_or_default()));
    peer.group_key = way.key;
    let options = &mut peer.options;
    let authorities = &request.conn.world().http.authorities;
    options.ca =
        authority_of(&service.tls).and_then(|ca| authorities.0.get(ca).map(|one| one.wrapped.clone()));
    match service.version {
        HttpVersion::One => options.set_http_version(1, 1),
        HttpVersion::Two => options.set_http_version(2, 2),
    }
    options.max_h2_streams = STREAMS;
    // WebSockets have a lane; what else wants another protocol would be out of reach of the gate.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    options.connection_timeout = Some(service.dial_timeout);
    options.total_connection_timeout = Some(service.dial_timeout);
    options.read_timeout = Some(service.silence);
    options.write_timeout = Some(service.silence);
    options.idle_timeout = Some(KEPT_IDLE);
    options.custom_l4 = Some(Arc::new(way.dialer(request)?));
    Some(peer)
}

/// A body that may grow too long to be kept may have to be cut off: over HTTP/2 no other request is to go with it.
fn alone(request: &Request, service: &HttpService, head: &RequestHeader) -> bool {
    let long = front::length(head).is_none_or(|length| length > KEPT);
    service.version == HttpVersion::Two && request.has_body && long
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
