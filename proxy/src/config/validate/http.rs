//! What HTTP adds: routes of a listener, services of a pool, limits.
//!
//! Rule: a request that has a route has a server in every pool, or a cutover would turn it away.

use std::time::Duration;

use bascule_protocols::http::queue::Priority;
use rustls_pki_types::DnsName;
use serde_spanned::Spanned;

use super::{
    mail::rates,
    pool::{host, service_tls},
    table::{Table, span},
    web,
};
use crate::config::{
    ConfigError, Cutover, HttpAddress, HttpBalance, HttpLimits, HttpListener, HttpService, HttpVersion,
    ListenerTls, Protocol, Route, ServiceTls, defaults, error::nearest, raw,
};

const PRIORITIES: [(&str, Priority); 3] =
    [("interactive", Priority::Interactive), ("sync", Priority::Sync), ("background", Priority::Background)];

/// Less than a day is forgotten before it is of use.
const SHORTEST_HSTS: Duration = Duration::from_secs(86_400);

pub(super) fn listener(
    table: &Table<'_>,
    raw: &raw::Listener,
    protocol: Protocol,
    tls: ListenerTls,
    pools: &raw::Named<raw::Pool>,
) -> Result<HttpListener, ConfigError> {
    if protocol != Protocol::Http {
        return only_http(table, raw).map(|()| HttpListener::default());
    }
    if tls == ListenerTls::Starttls {
        let what = "HTTP has no STARTTLS";
        return Err(table.refuse("tls", raw.tls.span(), what, "write \"none\" or \"implicit\""));
    }
    let redirect = table.word_or("redirect", &raw.redirect, false, &[("https", true)], &[])?;
    if redirect && tls != ListenerTls::None {
        let what = "it would lead to itself";
        return Err(table.refuse("redirect", table.place(&raw.redirect), what, "leave it out"));
    }
    let routes = raw.routes.iter().flat_map(|list| list.get_ref());
    let routes: Vec<Route> = routes.map(|raw| route(table, raw, pools)).collect::<Result<_, _>>()?;
    if redirect && !routes.is_empty() {
        let what = "every request is answered with a redirect, and none has a route";
        return Err(table.refuse(
            "routes",
            table.place(&raw.routes),
            what,
            "leave out `routes` or `redirect`",
        ));
    }
    if !redirect && routes.is_empty() {
        let what = "no request has a route";
        let instead = "add routes = [{ path = \"/\", service = \"webmail\" }], or redirect = \"https\"";
        return Err(table.refuse("routes", table.place(&raw.routes), what, instead));
    }
    distinct(table, raw, &routes)?;
    let rates = rates(table, raw, protocol)?;
    Ok(HttpListener { routes, redirect, hsts: hsts(table, raw, tls)?, rates, acme: acme(table, raw)? })
}

/// Keys that would do nothing elsewhere.
fn only_http(table: &Table<'_>, raw: &raw::Listener) -> Result<(), ConfigError> {
    let keys = [
        ("routes", raw.routes.as_ref().map(Spanned::span)),
        ("redirect", raw.redirect.as_ref().map(Spanned::span)),
        ("hsts", raw.hsts.as_ref().map(Spanned::span)),
        ("acme", raw.acme.as_ref().map(Spanned::span)),
    ];
    match keys.into_iter().find_map(|(key, at)| Some((key, at?))) {
        None => Ok(()),
        Some((key, at)) => {
            let instead = "leave it out, or write protocol = \"http\"";
            Err(table.refuse(key, at, "it is for listeners of HTTP", instead))
        }
    }
}

fn hsts(table: &Table<'_>, raw: &raw::Listener, tls: ListenerTls) -> Result<Option<Duration>, ConfigError> {
    let Some(written) = &raw.hsts else { return Ok(None) };
    if tls == ListenerTls::None {
        let what = "browsers believe it only where it came with TLS (RFC 6797)";
        return Err(table.refuse(
            "hsts",
            written.span(),
            what,
            "write it to the listener with tls = \"implicit\"",
        ));
    }
    let time = table.time("hsts", &raw.hsts, SHORTEST_HSTS)?;
    if time < SHORTEST_HSTS {
        let what = format!("{} is forgotten before it is of use", span(time));
        return Err(table.refuse("hsts", written.span(), what, "write \"1d\" or more, such as \"365d\""));
    }
    Ok(Some(time))
}

fn acme(table: &Table<'_>, raw: &raw::Listener) -> Result<Option<std::path::PathBuf>, ConfigError> {
    let Some(written) = &raw.acme else { return Ok(None) };
    let path = table.path(written.get_ref());
    if path.is_dir() {
        return Ok(Some(path));
    }
    let what = format!("{} is not a folder", path.display());
    let instead = "write the folder that your ACME client writes its challenges to";
    Err(table.refuse("acme", written.span(), what, instead))
}

fn route(
    table: &Table<'_>,
    raw: &Spanned<raw::Route>,
    pools: &raw::Named<raw::Pool>,
) -> Result<Route, ConfigError> {
    let table = table.table("routes", raw.span());
    let raw = raw.get_ref();
    let path = table.plain("path", &raw.path)?;
    if !path.starts_with('/')
        || path.contains(['?', '#', '%'])
        || path.split('/').any(|s| s == "." || s == "..")
    {
        let instead = "write the beginning of the path in whole segments, such as \"/\" or \"/dav\"";
        return Err(table.refuse("path", raw.path.span(), format!("`{path}` is not a path"), instead));
    }
    let host = raw.host.as_ref().map(|host| host_name(&table, host)).transpose()?;
    let service = raw.service.get_ref();
    if let Some((pool, _)) = pools.iter().find(|(_, pool)| !pool.get_ref().http.contains_key(service)) {
        let what = format!("pool {pool} has no service `{service}`");
        let instead = format!("add [pool.{pool}.http.{service}] with `servers` and `tls`");
        return Err(table.refuse("service", raw.service.span(), what, instead));
    }
    let priority =
        raw.priority.as_ref().map(|word| table.word("priority", word, &PRIORITIES, &[])).transpose()?;
    let long_poll = raw.long_poll.unwrap_or(false);
    Ok(Route { host, path, service: service.clone(), priority, long_poll })
}

fn host_name(table: &Table<'_>, written: &Spanned<String>) -> Result<String, ConfigError> {
    let host = written.get_ref().trim_end_matches('.').to_ascii_lowercase();
    if DnsName::try_from(host.as_str()).is_ok() || host.parse::<std::net::IpAddr>().is_ok() {
        return Ok(host);
    }
    let what = format!("`{}` is not a host name", written.get_ref());
    Err(table.refuse(
        "host",
        written.span(),
        what,
        "write a name without a port, such as \"dav.example.org\"",
    ))
}

fn distinct(table: &Table<'_>, raw: &raw::Listener, routes: &[Route]) -> Result<(), ConfigError> {
    let place = |route: &Route| (route.host.clone(), route.path.trim_end_matches('/').to_owned());
    for (at, route) in routes.iter().enumerate() {
        if routes[..at].iter().any(|other| place(other) == place(route)) {
            let what = format!("`{}` has two routes", route.path);
            return Err(table.refuse("routes", table.place(&raw.routes), what, "leave one of them"));
        }
    }
    Ok(())
}

pub(super) fn services(
    pool: &Table<'_>,
    raw: &raw::Named<raw::HttpService>,
) -> Result<std::collections::BTreeMap<String, HttpService>, ConfigError> {
    let one = |(name, raw): (&String, &Spanned<raw::HttpService>)| {
        Ok((name.clone(), service(&pool.table(&format!("http.{name}"), raw.span()), raw.get_ref())?))
    };
    raw.iter().map(one).collect()
}

fn service(table: &Table<'_>, raw: &raw::HttpService) -> Result<HttpService, ConfigError> {
    let servers = raw.servers.get_ref();
    let Some(first) = servers.first() else {
        let instead = "write one or more, such as [\"web1.v4.internal:80\"]";
        return Err(table.refuse("servers", raw.servers.span(), "no server is listed", instead));
    };
    let hosts: Vec<&str> = servers.iter().map(|server| host(table, server)).collect::<Result<_, _>>()?;
    let tls = service_tls(&table.table("tls", raw.tls.span()), raw.tls.get_ref(), first, hosts[0])?;
    if let ServiceTls::Starttls(_) = tls {
        let at = raw.tls.get_ref().mode.span();
        return Err(table.refuse("tls.mode", at, "HTTP has no STARTTLS", "write \"none\" or \"implicit\""));
    }
    let versions = [("1.1", HttpVersion::One), ("2", HttpVersion::Two)];
    let addresses =
        [("headers", HttpAddress::Headers), ("proxy-v2", HttpAddress::ProxyV2), ("none", HttpAddress::None)];
    let concurrency = match &raw.concurrency {
        Some(_) => Some(table.count("concurrency", &raw.concurrency, 0)?),
        None => None,
    };
    if let (Some(at), None) = (&raw.queue, concurrency) {
        let what = "nobody waits where as many are served as come";
        return Err(table.refuse("queue", at.span(), what, "add `concurrency`, or leave it out"));
    }
    let queue = raw.queue.as_ref().map_or_else(
        || concurrency.unwrap_or(0).saturating_mul(defaults::HTTP_QUEUE),
        |queue| *queue.get_ref(),
    );
    Ok(HttpService {
        servers: servers.iter().map(|server| server.get_ref().clone()).collect(),
        tls,
        version: table.word_or("version", &raw.version, HttpVersion::One, &versions, &["3"])?,
        client_address: table.word_or(
            "client_address",
            &raw.client_address,
            HttpAddress::Headers,
            &addresses,
            &[],
        )?,
        balance: raw.balance.as_ref().map_or(Ok(HttpBalance::Address), |word| balance(table, word))?,
        concurrency,
        queue,
        dial_timeout: table.time("dial_timeout", &raw.dial_timeout, defaults::DIAL_TIMEOUT)?,
        silence: table.time("silence", &raw.silence, defaults::HTTP_SILENCE)?,
        proof: web::proof(table, raw)?,
    })
}

fn balance(table: &Table<'_>, written: &Spanned<String>) -> Result<HttpBalance, ConfigError> {
    let name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match written.get_ref().split_once(':') {
        Some(("cookie", cookie)) if name(cookie) => Ok(HttpBalance::Cookie(cookie.to_owned())),
        Some(("header", header)) if name(header) => Ok(HttpBalance::Header(header.to_ascii_lowercase())),
        Some(_) => {
            let what = format!("`{}` is not allowed", written.get_ref());
            Err(table.refuse("balance", written.span(), what, "write \"cookie:NAME\" or \"header:NAME\""))
        }
        None => {
            let words = [
                ("address", HttpBalance::Address),
                ("identity", HttpBalance::Identity),
                ("cookie", HttpBalance::Own),
            ];
            if let Some((_, meaning)) = words.iter().find(|(word, _)| word == written.get_ref()) {
                return Ok(meaning.clone());
            }
            let known = ["address", "identity", "cookie", "cookie:NAME", "header:NAME"];
            let later = ["sticky", "random", "least", "round-robin"].contains(&written.get_ref().as_str());
            let why = if later { "not supported yet" } else { "not allowed" };
            let what = format!("`{}` is {why}", written.get_ref());
            Err(table.refuse("balance", written.span(), what, nearest(written.get_ref(), &known)))
        }
    }
}

pub(super) fn limits(
    table: &Table<'_>,
    raw: &raw::Maybe<raw::HttpLimits>,
) -> Result<HttpLimits, ConfigError> {
    let Some(raw) = raw else { return Ok(HttpLimits::default()) };
    let (table, raw) = (&table.table("http", raw.span()), raw.get_ref());
    Ok(HttpLimits {
        header: table.time("header", &raw.header, defaults::HTTP_HEADER)?,
        header_size: header_size(table, &raw.header_size)?,
        body: table.time("body", &raw.body, defaults::HTTP_BODY)?,
        body_size: table.size("body_size", &raw.body_size, defaults::HTTP_BODY_SIZE)?,
        idle: table.time("idle", &raw.idle, defaults::HTTP_IDLE)?,
        hold: table.time("hold", &raw.hold, defaults::HTTP_HOLD)?,
        held_requests: table.count("held_requests", &raw.held_requests, defaults::HTTP_HELD_REQUESTS)?,
        held_bytes: table.memory("held_bytes", &raw.held_bytes, defaults::HTTP_HELD_BYTES)?,
        streams: table.count("streams", &raw.streams, defaults::HTTP_STREAMS)?,
    })
}

/// Browsers send half a kilobyte before there is a cookie.
fn header_size(table: &Table<'_>, written: &raw::Maybe<raw::Size>) -> Result<usize, ConfigError> {
    const LEAST: usize = 1024;
    let size = table.memory("header_size", written, defaults::HTTP_HEADER_SIZE)?;
    if size >= LEAST {
        return Ok(size);
    }
    let what = format!("no request has a head of {size} bytes");
    Err(table.refuse("header_size", table.place(written), what, "write \"1KiB\" or more"))
}

/// A held request waits for the whole hold.
pub(super) fn holds(
    root: &Table<'_>,
    raw: &raw::Limits,
    raw_cutover: &raw::Cutover,
    limits: &HttpLimits,
    cutover: &Cutover,
) -> Result<(), ConfigError> {
    if limits.hold >= cutover.max_hold {
        return Ok(());
    }
    let written = raw.http.as_ref().and_then(|http| http.get_ref().hold.as_ref());
    let at = written.map_or_else(|| root.place(&raw_cutover.max_hold), Spanned::span);
    let what = format!("{} is less than cutover.max_hold, {}", span(limits.hold), span(cutover.max_hold));
    let instead = "write a longer time (a held request waits for the whole hold), or a shorter max_hold";
    Err(root.refuse("limits.http.hold", at, what, instead))
}
