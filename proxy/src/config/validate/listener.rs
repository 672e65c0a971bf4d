//! `[server]`, `[tls]` and `[listener]`: what clients meet.
//!
//! Rule: no two sockets of the configuration claim the same address and port.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use bascule_certs::CertError;
use rustls_pki_types::DnsName;
use serde_spanned::Spanned;

use super::{http, mail, table::Table};
use crate::config::{Certificate, ConfigError, Listener, ListenerTls, Network, Protocol, Relay, Server, raw};

const THREADS: u16 = 1024;

pub(super) fn server(table: &Table<'_>, raw: &raw::Server) -> Result<Server, ConfigError> {
    let state_dir = raw.state_dir.get_ref();
    if !state_dir.is_absolute() {
        let what = format!("`{}` is not an absolute path", state_dir.display());
        let instead = "write the whole path, such as \"/var/lib/bascule\": the journal must never depend on where \
                       the proxy was started";
        return Err(table.refuse("state_dir", raw.state_dir.span(), what, instead));
    }
    if let Some(threads) = raw.threads.as_ref().filter(|threads| *threads.get_ref() > THREADS) {
        let what = format!("{} threads are too many", threads.get_ref());
        return Err(table.refuse(
            "threads",
            threads.span(),
            what,
            format!("write 0 (one per core) to {THREADS}"),
        ));
    }
    let hostname = table.plain("hostname", &raw.hostname)?;
    if DnsName::try_from(hostname.as_str()).is_err() {
        let what = format!("`{hostname}` is not a host name");
        let instead = "write the name by which clients know this proxy, such as \"mail.example.org\"";
        return Err(table.refuse("hostname", raw.hostname.span(), what, instead));
    }
    Ok(Server {
        hostname,
        state_dir: state_dir.clone(),
        observe: raw.observe.as_ref().map(|text| address(table, "observe", text)).transpose()?,
        threads: raw.threads.as_ref().map_or(0, |threads| usize::from(*threads.get_ref())),
    })
}

pub(super) fn certificates(
    root: &Table<'_>,
    raw: &raw::Tls,
) -> Result<BTreeMap<String, Certificate>, ConfigError> {
    let one = |(name, raw): (&String, &Spanned<raw::Certificate>)| {
        let table = root.table(&format!("tls.certificate.{name}"), raw.span());
        let raw = raw.get_ref();
        let (cert, key) = (table.file("cert", &raw.cert)?, table.file("key", &raw.key)?);
        let source = bascule_certs::Source { name: name.clone(), cert: cert.clone(), key: key.clone() };
        if let Err(error) = bascule_certs::Store::load([source]) {
            let of_key =
                matches!(error, CertError::NoKey { .. } | CertError::Key { .. } | CertError::Mismatch { .. });
            let (at, which) = if of_key { (&raw.key, "key") } else { (&raw.cert, "cert") };
            let instead = "write the paths of two PEM files that belong together: the chain and its key";
            return Err(table.refuse(which, at.span(), error.to_string(), instead));
        }
        Ok((name.clone(), Certificate { cert, key }))
    };
    raw.certificate.iter().map(one).collect()
}

pub(super) fn listeners(
    root: &Table<'_>,
    raw: &raw::File,
) -> Result<BTreeMap<String, Listener>, ConfigError> {
    if raw.listener.is_empty() {
        let instead = "add one, such as [listener.imaps] with protocol = \"imap\", bind = [\"[::]:993\"], \
                       tls = \"implicit\"";
        return Err(root.refuse_all("no listener is configured", instead));
    }
    let mut taken = Vec::new();
    if let Some(text) = &raw.server.get_ref().observe {
        claim(root, "server.observe", text, address(root, "server.observe", text)?, &mut taken)?;
    }
    let mut listeners = BTreeMap::new();
    for (name, raw_listener) in &raw.listener {
        let table = root.table(&format!("listener.{name}"), raw_listener.span());
        let listener = listener(&table, name, raw_listener.get_ref(), raw)?;
        for (text, bind) in raw_listener.get_ref().bind.get_ref().iter().zip(&listener.bind) {
            claim(root, &format!("listener.{name}.bind"), text, *bind, &mut taken)?;
        }
        listeners.insert(name.clone(), listener);
    }
    Ok(listeners)
}

fn listener(
    table: &Table<'_>,
    name: &str,
    raw: &raw::Listener,
    file: &raw::File,
) -> Result<Listener, ConfigError> {
    let protocols = [Protocol::Imap, Protocol::Smtp, Protocol::Submission, Protocol::Lmtp, Protocol::Http];
    let protocols = protocols.map(|protocol| (protocol.name(), protocol));
    let protocol = table.word("protocol", &raw.protocol, &protocols, &["tcp"])?;
    served(table, raw, protocol, &file.pool)?;
    let tls = table.word(
        "tls",
        &raw.tls,
        &[
            ("none", ListenerTls::None),
            ("starttls", ListenerTls::Starttls),
            ("implicit", ListenerTls::Implicit),
        ],
        &[],
    )?;
    if tls != ListenerTls::None && file.tls.certificate.is_empty() {
        let what = format!("tls = \"{}\" needs a certificate, and none is configured", raw.tls.get_ref());
        let instead = "add [tls.certificate.default] with `cert` and `key`";
        return Err(table.refuse("tls", raw.tls.span(), what, instead));
    }
    let bind =
        raw.bind.get_ref().iter().map(|text| address(table, "bind", text)).collect::<Result<Vec<_>, _>>()?;
    if bind.is_empty() {
        let instead = "write at least one address with its port, such as [\"[::]:993\"]";
        return Err(table.refuse("bind", raw.bind.span(), "the list is empty", instead));
    }
    if protocol == Protocol::Submission && tls == ListenerTls::None {
        let what = "nobody may log in in clear text, and nobody may send without a login";
        return Err(table.refuse("tls", raw.tls.span(), what, "write \"starttls\" or \"implicit\""));
    }
    if let (Some(at), true) = (&raw.relay, protocol != Protocol::Imap) {
        let what = format!("it says nothing to a listener for {}", protocol.name());
        return Err(table.refuse("relay", at.span(), what, "leave it out"));
    }
    let relays = [("session", Relay::Session), ("pipe", Relay::Pipe)];
    let smtp = mail::listener(table, raw, protocol)?;
    let http = http::listener(table, raw, protocol, tls, &file.pool)?;
    Ok(Listener {
        name: name.to_owned(),
        protocol,
        bind,
        tls,
        proxy_trusted: raw.proxy_protocol.as_ref().map_or(Ok(Vec::new()), |raw| trusted(table, raw))?,
        relay: table.word_or("relay", &raw.relay, Relay::Session, &relays, &[])?,
        smtp,
        http,
    })
}

/// A listener leads somewhere on every pool, or a cutover would leave its clients alone.
fn served(
    table: &Table<'_>,
    raw: &raw::Listener,
    protocol: Protocol,
    pools: &raw::Named<raw::Pool>,
) -> Result<(), ConfigError> {
    let without = pools.iter().find(|(_, pool)| {
        let pool = pool.get_ref();
        match protocol {
            // Services of HTTP are named by routes.
            Protocol::Imap | Protocol::Http => false,
            Protocol::Smtp => pool.smtp.is_none(),
            Protocol::Submission => pool.submission.is_none(),
            Protocol::Lmtp => pool.lmtp.is_none(),
        }
    });
    let Some((pool, _)) = without else { return Ok(()) };
    let what = format!("pool {pool} has no servers for {}", protocol.name());
    let instead = format!("add [pool.{pool}.{}] with `servers` and `tls`", protocol.name());
    Err(table.refuse("protocol", raw.protocol.span(), what, instead))
}

fn trusted(table: &Table<'_>, raw: &raw::ProxyProtocol) -> Result<Vec<Network>, ConfigError> {
    let key = "proxy_protocol.trusted";
    if raw.trusted.get_ref().is_empty() {
        let instead = "write the networks of the balancers in front, or leave proxy_protocol out";
        return Err(table.refuse(key, raw.trusted.span(), "the list is empty", instead));
    }
    raw.trusted.get_ref().iter().map(|text| network(table, key, text)).collect()
}

pub(super) fn network(table: &Table<'_>, key: &str, text: &Spanned<String>) -> Result<Network, ConfigError> {
    let refuse = |what: String, instead: String| table.refuse(key, text.span(), what, instead);
    let written = text.get_ref();
    let (address, prefix) = written.split_once('/').map_or((&**written, None), |(a, p)| (a, Some(p)));
    let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.map_or(Some(longest), |text| text.parse().ok().filter(|_| digits(text)))?;
        (prefix <= longest).then_some(Network { address, prefix })
    });
    let Some(network) = parsed else {
        let instead = "write an address with its prefix length, such as \"10.0.0.0/8\" or \"fd00::/8\"";
        return Err(refuse(format!("`{written}` is not a network"), instead.to_owned()));
    };
    if matches!(network.address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        let what = format!("`{written}` would never match: clients of IPv4 are known by their own address");
        return Err(refuse(what, "write it as IPv4, such as \"10.0.0.0/8\"".to_owned()));
    }
    let first = network.first();
    if first != network.address {
        let what = format!("`{written}` has bits behind its prefix");
        return Err(refuse(what, format!("write \"{first}/{}\" or a longer prefix", network.prefix)));
    }
    Ok(network)
}

fn address(table: &Table<'_>, key: &str, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
    text.get_ref().parse().map_err(|_| {
        let instead = "write an IP address with its port, such as \"127.0.0.1:143\" or \"[::]:993\"";
        table.refuse(key, text.span(), format!("`{}` is not an address with a port", text.get_ref()), instead)
    })
}

/// Enters a socket among those taken. Port 0 is any free port and collides with none.
fn claim(
    root: &Table<'_>,
    key: &str,
    text: &Spanned<String>,
    address: SocketAddr,
    taken: &mut Vec<(String, SocketAddr)>,
) -> Result<(), ConfigError> {
    // `[::]` takes IPv4 as well, `0.0.0.0` only its own family.
    let covers = |a: IpAddr, b: IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    let meets = |other: &SocketAddr| {
        let (a, b) = (address.ip().to_canonical(), other.ip().to_canonical());
        let port = address.port() == other.port() && address.port() != 0;
        port && (a == b || covers(a, b) || covers(b, a))
    };
    if let Some((owner, other)) = taken.iter().find(|(_, other)| meets(other)) {
        let what = format!("{address} is taken: {owner} has {other}");
        return Err(root.refuse(key, text.span(), what, "give each its own address or port"));
    }
    taken.push((key.to_owned(), address));
    Ok(())
}
