//! From the file as written to types that the rest of the program may rely on.
//!
//! Rule: everything is checked once, here; the first mistake is reported and nothing is used.

mod cutover;
mod http;
mod listener;
mod mail;
mod pool;
mod table;
mod web;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde_spanned::Spanned;
use table::{Table, bytes, span};

use super::{
    Config, ConfigError, Cutover, Limits, Listener, Protocol, Storage, defaults, error::Source, raw,
};

pub(super) fn config(source: &Source, raw: &raw::File) -> Result<Config, ConfigError> {
    let root = Table::new(source, "", 0..0);
    names(&root, raw)?;
    let pool_names: Vec<&str> = raw.pool.keys().map(String::as_str).collect();
    let server = listener::server(&root.table("server", raw.server.span()), raw.server.get_ref())?;
    let certificates = listener::certificates(&root, &raw.tls)?;
    let listeners = listener::listeners(&root, raw)?;
    let pools = pool::pools(&root, &raw.pool)?;
    loops(&root, raw, &listeners)?;
    stores(&root, raw, pools[0].contract.storage)?;
    let none = raw::Cutover::default();
    let table = root.table("cutover", root.place(&raw.cutover));
    let raw_cutover = raw.cutover.as_ref().map_or(&none, Spanned::get_ref);
    let cutover = cutover::cutover(&table, raw_cutover, &pool_names)?;
    let none = raw::Limits::default();
    let table = root.table("limits", root.place(&raw.limits));
    let raw_limits = raw.limits.as_ref().map_or(&none, Spanned::get_ref);
    let limits = limits(&table, raw_limits)?;
    ceilings(&root, raw_limits, raw_cutover, &limits, &cutover)?;
    let serves_http = listeners.values().any(|listener| listener.protocol == Protocol::Http);
    keepalive(&table, raw_limits, &limits, serves_http)?;
    if serves_http {
        http::holds(&root, raw_limits, raw_cutover, &limits.http, &cutover)?;
    }
    Ok(Config { path: source.path.clone(), server, certificates, listeners, pools, cutover, limits })
}

/// What this proxy sends to itself goes round until every place is taken.
fn loops(
    root: &Table<'_>,
    raw: &raw::File,
    listeners: &BTreeMap<String, Listener>,
) -> Result<(), ConfigError> {
    let own = |server: SocketAddr| {
        let (ip, port) = (server.ip().to_canonical(), server.port());
        let here = |bind: &SocketAddr| {
            let other = bind.ip().to_canonical();
            bind.port() == port && (other == ip || (other.is_unspecified() && ip.is_loopback()))
        };
        listeners.values().find(|listener| listener.bind.iter().any(here))
    };
    for (name, pool) in &raw.pool {
        for (service, servers) in pool.get_ref().servers() {
            for written in servers {
                let Ok(server) = written.get_ref().parse() else { continue };
                let Some(listener) = own(server) else { continue };
                let what = format!("{server} is this proxy's own listener {}", listener.name);
                let key = format!("pool.{name}.{service}.servers");
                return Err(root.refuse(
                    &key,
                    written.span(),
                    what,
                    "write the address of the pool's server",
                ));
            }
        }
    }
    Ok(())
}

/// Which servers two pools may both name.
fn stores(root: &Table<'_>, raw: &raw::File, storage: Storage) -> Result<(), ConfigError> {
    for (name, pool) in &raw.pool {
        for (other, theirs) in raw.pool.iter().take_while(|(other, _)| *other != name) {
            apart(root, [(name, pool.get_ref()), (other, theirs.get_ref())], storage)?;
        }
    }
    Ok(())
}

/// A server with a store is of one pool: no fence could stop it for one and leave it to the other. Who stores nothing may
/// serve both (a smart host, a webmail), and so may LMTP and HTTP servers on the one store under them. Of a service both
/// pools have all servers or none: proofs leave out what both have, and nobody would miss one of several there.
fn apart(
    root: &Table<'_>,
    [(name, pool), (other, theirs)]: [(&String, &raw::Pool); 2],
    storage: Storage,
) -> Result<(), ConfigError> {
    for (service, servers) in pool.servers() {
        let others = theirs.servers().find(|(named, _)| *named == service);
        let others = others.map_or_else(BTreeSet::new, |(_, servers)| places(servers));
        let shared = servers.iter().find(|written| others.contains(&place(written.get_ref())));
        let Some(written) = shared else { continue };
        let instead = if [pool, theirs].iter().any(|pool| stored(pool, &service, storage)) {
            "write an address of its own for each pool (two versions on one machine: two ports); a fence stops one of them \
             and leaves the other"
        } else if places(servers) != others {
            "name the same servers in both pools, or none of them in both: what both have is left out of every proof"
        } else {
            continue;
        };
        let what = format!("{} is the server of pool {other} as well", written.get_ref());
        return Err(root.refuse(&format!("pool.{name}.{service}.servers"), written.span(), what, instead));
    }
    Ok(())
}

/// Whether a service writes to a store of its pool alone, as far as its pool says.
fn stored(pool: &raw::Pool, service: &str, storage: Storage) -> bool {
    let path = |name| {
        let probe = pool.http.get(name).and_then(|service| service.get_ref().probe.as_ref());
        probe.is_some_and(|probe| probe.get_ref() != "none")
    };
    let copied = service == "lmtp" || service.strip_prefix("http.").is_some_and(path);
    service == "imap" || (copied && storage == Storage::Replicated)
}

/// One way to write each address.
fn place(server: &str) -> String {
    match server.parse::<SocketAddr>() {
        Ok(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).to_string(),
        Err(_) => server.to_ascii_lowercase(),
    }
}

fn places(servers: &[Spanned<String>]) -> BTreeSet<String> {
    servers.iter().map(|written| place(written.get_ref())).collect()
}

/// Names go into commands, metrics and the journal.
fn names(root: &Table<'_>, raw: &raw::File) -> Result<(), ConfigError> {
    let certificates =
        raw.tls.certificate.iter().map(|(name, table)| ("tls.certificate", name, table.span()));
    let listeners = raw.listener.iter().map(|(name, table)| ("listener", name, table.span()));
    let pools = raw.pool.iter().map(|(name, table)| ("pool", name, table.span()));
    let checks = raw.cutover.iter().flat_map(|cutover| &cutover.get_ref().check);
    let checks = checks.map(|(name, table)| ("cutover.check", name, table.span()));
    let legal = |name: &str| {
        let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        word && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 64
    };
    let services = raw.pool.values().flat_map(|pool| &pool.get_ref().http);
    let services = services.map(|(name, table)| ("pool.NAME.http", name, table.span()));
    for (parent, name, at) in certificates.chain(listeners).chain(pools).chain(checks).chain(services) {
        if !legal(name) {
            let instead = "write up to 64 letters, digits, `-`, `_` and `.`, a letter or digit first";
            return Err(root.refuse(parent, at, format!("{name:?} cannot be a name"), instead));
        }
    }
    Ok(())
}

fn limits(table: &Table<'_>, raw: &raw::Limits) -> Result<Limits, ConfigError> {
    let limits = Limits {
        connections: table.count("connections", &raw.connections, defaults::CONNECTIONS)?,
        line: table.memory("line", &raw.line, defaults::LINE)?,
        command: table.memory("command", &raw.command, defaults::COMMAND)?,
        held_bytes: table.memory("held_bytes", &raw.held_bytes, defaults::HELD_BYTES)?,
        held_commands: table.count("held_commands", &raw.held_commands, defaults::HELD_COMMANDS)?,
        upload_memory: table.memory("upload_memory", &raw.upload_memory, defaults::UPLOAD_MEMORY)?,
        upload: table.size("upload", &raw.upload, defaults::UPLOAD)?,
        spool: table.size("spool", &raw.spool, defaults::SPOOL)?,
        // Zero: everything goes to files.
        spool_memory: raw.spool_memory.as_ref().map_or(defaults::SPOOL_MEMORY, |size| size.get_ref().0),
        login: table.time("login", &raw.login, defaults::LOGIN)?,
        command_ceiling: table.time("command_ceiling", &raw.command_ceiling, defaults::COMMAND_CEILING)?,
        login_ceiling: table.time("login_ceiling", &raw.login_ceiling, defaults::LOGIN_CEILING)?,
        keepalive: table.time("keepalive", &raw.keepalive, defaults::KEEPALIVE)?,
        idle_keepalive: table.time("idle_keepalive", &raw.idle_keepalive, defaults::IDLE_KEEPALIVE)?,
        autologout: table.time("autologout", &raw.autologout, defaults::AUTOLOGOUT)?,
        handshake: table.time("handshake", &raw.handshake, defaults::HANDSHAKE)?,
        failed_logins: table.count("failed_logins", &raw.failed_logins, defaults::FAILED_LOGINS)?,
        shutdown: table.time("shutdown", &raw.shutdown, defaults::SHUTDOWN)?,
        http: http::limits(table, &raw.http)?,
    };
    sizes_rise(table, raw, &limits)?;
    silence(table, raw, &limits)?;
    Ok(limits)
}

/// How long a client may be silent, in IDLE too.
fn silence(table: &Table<'_>, raw: &raw::Limits, limits: &Limits) -> Result<(), ConfigError> {
    if limits.autologout < defaults::AUTOLOGOUT {
        let what = format!("{} is less than {}", span(limits.autologout), span(defaults::AUTOLOGOUT));
        let instead = "RFC 3501 §5.4 promises clients 30 minutes: write \"30m\" or more";
        return Err(table.refuse("autologout", table.place(&raw.autologout), what, instead));
    }
    if let Some(written) = raw.idle_keepalive.as_ref().filter(|_| limits.idle_keepalive >= limits.autologout)
    {
        // Whoever is in IDLE begins anew before that (RFC 2177), and is answered.
        let what = format!(
            "{} is not less than limits.autologout, {}",
            span(limits.idle_keepalive),
            span(limits.autologout)
        );
        return Err(table.refuse("idle_keepalive", written.span(), what, sooner(defaults::IDLE_KEEPALIVE)));
    }
    Ok(())
}

/// A limit that another one makes unreachable would be a promise that nobody keeps.
fn sizes_rise(table: &Table<'_>, raw: &raw::Limits, limits: &Limits) -> Result<(), ConfigError> {
    let memory = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    let line = ("line", memory(limits.line), table.place(&raw.line));
    let command = ("command", memory(limits.command), table.place(&raw.command));
    let held = ("held_bytes", memory(limits.held_bytes), table.place(&raw.held_bytes));
    let kept = ("upload_memory", memory(limits.upload_memory), table.place(&raw.upload_memory));
    let upload = ("upload", limits.upload, table.place(&raw.upload));
    let spool = ("spool", limits.spool, table.place(&raw.spool));
    for (small, large) in [(&line, &command), (&command, &held), (&kept, &upload), (&upload, &spool)] {
        if small.1 > large.1 {
            let what = format!("{} {} is less than {} {}", large.0, bytes(large.1), small.0, bytes(small.1));
            let instead =
                format!("write {} = \"{}\" or more, or a smaller {}", large.0, bytes(small.1), small.0);
            return Err(table.refuse(large.0, large.2.clone(), what, instead));
        }
    }
    Ok(())
}

/// What tells a client that it is not forgotten comes before its wait ends by itself.
fn keepalive(
    table: &Table<'_>,
    raw: &raw::Limits,
    limits: &Limits,
    serves_http: bool,
) -> Result<(), ConfigError> {
    let http = serves_http.then_some(("http.hold", limits.http.hold));
    let waits = [("command_ceiling", limits.command_ceiling), ("login_ceiling", limits.login_ceiling)];
    let longest = waits.into_iter().chain(http).max_by_key(|(_, wait)| *wait);
    let (Some(written), Some((key, longest))) = (&raw.keepalive, longest) else { return Ok(()) };
    if limits.keepalive < longest {
        return Ok(());
    }
    let after = span(limits.keepalive);
    let what = format!("after {after} nobody waits any more: limits.{key} is {}", span(longest));
    Err(table.refuse("keepalive", written.span(), what, sooner(defaults::KEEPALIVE)))
}

fn sooner(default: Duration) -> String {
    format!("write a shorter time, or leave it out for the default, {}", span(default))
}

/// A held command waits for the whole hold and for its turn afterwards.
fn ceilings(
    root: &Table<'_>,
    raw: &raw::Limits,
    raw_cutover: &raw::Cutover,
    limits: &Limits,
    cutover: &Cutover,
) -> Result<(), ConfigError> {
    let ceilings = [
        ("command_ceiling", limits.command_ceiling, &raw.command_ceiling),
        ("login_ceiling", limits.login_ceiling, &raw.login_ceiling),
    ];
    for (key, ceiling, written) in ceilings {
        if ceiling < cutover.max_hold {
            let at = written.as_ref().map_or_else(|| root.place(&raw_cutover.max_hold), Spanned::span);
            let what = format!("{} is less than cutover.max_hold, {}", span(ceiling), span(cutover.max_hold));
            let instead = "write a longer time (a held command waits for the whole hold and for its turn afterwards), \
                           or a shorter max_hold";
            return Err(root.refuse(&format!("limits.{key}"), at, what, instead));
        }
    }
    Ok(())
}
