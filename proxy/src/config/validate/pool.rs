//! `[pool]`: the mail platforms and what they declare about themselves.
//!
//! Rule: a contract that contradicts itself is refused here, so that no later part has to guess.

use std::{path::PathBuf, sync::Arc};

use rustls_pki_types::ServerName;
use serde_spanned::Spanned;

use super::table::Table;
use crate::config::{
    Account, ClientAddress, ConfigError, Contract, Fence, FenceKind, Pool, Protocol, Restore, Reverse,
    Service, ServiceTls, StandbyLogin, Storage, Verify, defaults, raw,
};

/// A pool's number is a byte in the gate's words.
const POOLS: usize = 255;

pub(super) fn pools(root: &Table<'_>, raw: &raw::Named<raw::Pool>) -> Result<Vec<Arc<Pool>>, ConfigError> {
    if raw.is_empty() || raw.len() > POOLS {
        let what = format!("{} pools are configured", raw.len());
        return Err(root.refuse_all(what, format!("add 1 to {POOLS} tables [pool.NAME]")));
    }
    let mut pools: Vec<Arc<Pool>> = Vec::new();
    for (name, raw) in raw {
        let table = root.table(&format!("pool.{name}"), raw.span());
        let pool = pool(&table, name, raw.get_ref())?;
        if let Some(other) = pools.first().filter(|other| other.contract.storage != pool.contract.storage) {
            let what = format!("pools {} and {name} do not agree about their storage", other.name);
            let instead = "write \"shared\" for all pools (one store under them) or \"replicated\" for all (a store each)";
            let at = raw.get_ref().contract.get_ref().storage.span();
            return Err(table.refuse("contract.storage", at, what, instead));
        }
        pools.push(Arc::new(pool));
    }
    Ok(pools)
}

fn pool(table: &Table<'_>, name: &str, raw: &raw::Pool) -> Result<Pool, ConfigError> {
    let contract = contract(table, name, raw)?;
    let probes = probes(table, &raw.probe)?;
    reachable(table, raw, &probes)?;
    let capabilities = raw.capabilities.as_ref().map(|list| capabilities(table, list)).transpose()?;
    if capabilities.is_none() && probes.is_empty() {
        let what = "the pool has neither probe accounts nor capabilities: what it can do is unknown";
        let instead = "add probe = [{ user = …, password_file = … }] (two of them, for the identity proof)";
        return Err(table.refuse_all(what, instead));
    }
    let service = |protocol: Protocol, raw: &Spanned<raw::Service>| {
        service(&table.table(protocol.name(), raw.span()), raw.get_ref(), protocol)
    };
    let imap = service(Protocol::Imap, &raw.imap)?;
    let smtp = raw.smtp.as_ref().map(|raw| service(Protocol::Smtp, raw)).transpose()?;
    let submission = raw.submission.as_ref().map(|raw| service(Protocol::Submission, raw)).transpose()?;
    let lmtp = raw.lmtp.as_ref().map(|raw| service(Protocol::Lmtp, raw)).transpose()?;
    let promote = raw.promote.as_ref().map(|promote| {
        let run = &promote.get_ref().run;
        table.table("promote.run", run.span()).hook(run.get_ref())
    });
    let fence =
        raw.fence.as_ref().map(|raw| fence(&table.table("fence", raw.span()), raw.get_ref())).transpose()?;
    if contract.fence_keeps_reads && fence.as_ref().is_some_and(|fence| fence.kind == FenceKind::Stop) {
        let at = table.place(&raw.contract.get_ref().fence_keeps_reads);
        let what = "a fence that stops the service (fence.kind = \"stop\") cannot keep reads";
        return Err(table.refuse("contract.fence_keeps_reads", at, what, "write false, or leave it out"));
    }
    Ok(Pool {
        name: name.to_owned(),
        contract,
        probes,
        imap,
        smtp,
        submission,
        lmtp,
        http: super::http::services(table, &raw.http)?,
        capabilities,
        promote: promote.transpose()?,
        fence,
    })
}

fn contract(table: &Table<'_>, name: &str, pool: &raw::Pool) -> Result<Contract, ConfigError> {
    let raw = pool.contract.get_ref();
    let table = &table.table("contract", pool.contract.span());
    let storage = table.word(
        "storage",
        &raw.storage,
        &[("shared", Storage::Shared), ("replicated", Storage::Replicated)],
        &[],
    )?;
    if raw.decision.as_ref().is_some_and(|decision| decision.get_ref() == "platform") {
        let what = "a platform that elects its own leader needs another order of steps, which comes later";
        let instead = "write \"bascule\" or leave it out, and only if the platform does not switch by itself";
        return Err(table.refuse("decision", table.place(&raw.decision), what, instead));
    }
    table.word_or("decision", &raw.decision, (), &[("bascule", ())], &[])?;
    let keeps_reads = raw.fence_keeps_reads.as_ref().is_some_and(|keeps| *keeps.get_ref());
    if keeps_reads && storage == Storage::Shared {
        let what = "on shared storage no session may stay on the old pool, reading or not";
        let instead = "write false, or leave it out";
        return Err(table.refuse("fence_keeps_reads", table.place(&raw.fence_keeps_reads), what, instead));
    }
    let undone = raw.promote_reversible.as_ref().map(|undone| *undone.get_ref());
    if undone == Some(true) && pool.fence.is_none() {
        let what = "a promote is undone by the pool's own fence, and the pool has none";
        let instead = format!("add [pool.{name}.fence] with `engage` and `release`, or write false");
        return Err(table.refuse("promote_reversible", table.place(&raw.promote_reversible), what, instead));
    }
    let logins =
        [("yes", StandbyLogin::Yes), ("no", StandbyLogin::No), ("forbidden", StandbyLogin::Forbidden)];
    let reverses = [("none", Reverse::None), ("replication", Reverse::Replication)];
    Ok(Contract {
        storage,
        // Wrongly assumed it shows as a refused probe in the plan, never in a cutover.
        standby_login: table.word_or("standby_login", &raw.standby_login, StandbyLogin::Yes, &logins, &[])?,
        // Wrongly assumed the abort ends in Limbo, as it would have by declaration.
        fence_reversible: raw.fence_reversible.unwrap_or(true),
        fence_keeps_reads: keeps_reads,
        promote_reversible: undone.unwrap_or_else(|| pool.fence.is_some()),
        reverse: table.word_or("reverse", &raw.reverse, Reverse::None, &reverses, &[])?,
    })
}

fn probes(table: &Table<'_>, raw: &[Spanned<raw::Account>]) -> Result<Vec<Account>, ConfigError> {
    let mut probes: Vec<Account> = Vec::new();
    for raw in raw {
        let at = table.table("probe", raw.span());
        let mut account = at.account(&raw.get_ref().user, &raw.get_ref().password_file)?;
        if let Some(written) = &raw.get_ref().address {
            account.address = address(&at, written)?;
        }
        if probes.iter().any(|other| other.user == account.user) {
            let what = format!("`{}` stands twice", account.user);
            let instead = "name different users: one is to prove that it does not see the other's mail";
            return Err(table.refuse("probe", raw.get_ref().user.span(), what, instead));
        }
        probes.push(account);
    }
    Ok(probes)
}

fn address(table: &Table<'_>, written: &Spanned<String>) -> Result<String, ConfigError> {
    let address = table.plain("address", written)?;
    if mail_address(&address) {
        return Ok(address);
    }
    let what = format!("`{address}` is not a mail address");
    Err(table.refuse("address", written.span(), what, "write such as \"probe1@example.org\""))
}

fn mail_address(text: &str) -> bool {
    let parts = text.rsplit_once('@');
    parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty()) && !text.contains(['<', '>'])
}

/// Proofs by mail are said to and from an address.
fn reachable(table: &Table<'_>, raw: &raw::Pool, probes: &[Account]) -> Result<(), ConfigError> {
    let services = [("smtp", &raw.smtp), ("submission", &raw.submission), ("lmtp", &raw.lmtp)];
    let Some((service, _)) = services.iter().find(|(_, service)| service.is_some()) else { return Ok(()) };
    for (probe, raw) in probes.iter().zip(&raw.probe) {
        if !mail_address(&probe.address) {
            let what =
                format!("`{}` is not a mail address, and the pool has {service} servers", probe.address);
            let instead =
                "add `address = \"…\"` beside it: where mail for this account goes, for proofs by mail";
            return Err(table.refuse("probe", raw.get_ref().user.span(), what, instead));
        }
    }
    Ok(())
}

fn capabilities(table: &Table<'_>, list: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>, ConfigError> {
    let words: Vec<String> =
        list.get_ref().iter().map(|word| table.plain("capabilities", word)).collect::<Result<_, _>>()?;
    if !words.iter().any(|word| word.eq_ignore_ascii_case("IMAP4rev1")) {
        let instead =
            "write the words of the server's CAPABILITY answer after the login, IMAP4rev1 among them";
        return Err(table.refuse("capabilities", list.span(), "IMAP4rev1 is missing", instead));
    }
    Ok(words)
}

fn fence(table: &Table<'_>, raw: &raw::Fence) -> Result<Fence, ConfigError> {
    let kinds = [("refuse", FenceKind::Refuse), ("stop", FenceKind::Stop)];
    Ok(Fence {
        engage: table.table("engage", raw.engage.span()).hook(raw.engage.get_ref())?,
        release: table.table("release", raw.release.span()).hook(raw.release.get_ref())?,
        kind: table.word_or("kind", &raw.kind, FenceKind::Refuse, &kinds, &[])?,
    })
}

fn service(table: &Table<'_>, raw: &raw::Service, protocol: Protocol) -> Result<Service, ConfigError> {
    let [server] = raw.servers.get_ref().as_slice() else {
        let what = format!("{} servers are listed; one server per pool for now", raw.servers.get_ref().len());
        let instead = "write one, such as [\"imap.v4.internal:143\"]; put a balancer in front of several, and let the fence stop all of them: its proof meets one";
        return Err(table.refuse("servers", raw.servers.span(), what, instead));
    };
    let host = host(table, server)?;
    table.word_or("balance", &raw.balance, (), &[("user", ())], &["random", "least", "round-robin"])?;
    if let (Some(at), Protocol::Smtp | Protocol::Lmtp) = (&raw.restore, protocol) {
        let what = format!("nobody logs in to a server for {}", protocol.name());
        return Err(table.refuse("restore", at.span(), what, "leave it out"));
    }
    let (addresses, later): (&[_], &[_]) = match protocol {
        Protocol::Imap => (
            &[("none", ClientAddress::None), ("id", ClientAddress::Id)],
            &["proxy-v2", "xclient", "xforward"],
        ),
        Protocol::Smtp | Protocol::Submission | Protocol::Lmtp | Protocol::Http => (
            &[
                ("none", ClientAddress::None),
                ("xclient", ClientAddress::Xclient),
                ("xforward", ClientAddress::Xforward),
                ("proxy-v2", ClientAddress::ProxyV2),
            ],
            &[],
        ),
    };
    let restore = raw.restore.as_ref().map(|raw| restore(&table.table("restore", raw.span()), raw.get_ref()));
    Ok(Service {
        server: server.get_ref().clone(),
        tls: service_tls(&table.table("tls", raw.tls.span()), raw.tls.get_ref(), server, host)?,
        restore: restore.transpose()?.unwrap_or(Restore::Client),
        client_address: table.word_or(
            "client_address",
            &raw.client_address,
            ClientAddress::None,
            addresses,
            later,
        )?,
        dial_timeout: table.time("dial_timeout", &raw.dial_timeout, defaults::DIAL_TIMEOUT)?,
        keywords: raw.keywords.as_ref().map(|list| keywords(table, list, protocol)).transpose()?,
    })
}

fn keywords(
    table: &Table<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
    protocol: Protocol,
) -> Result<Vec<String>, ConfigError> {
    if protocol == Protocol::Imap {
        let what = "an IMAP server has capabilities";
        return Err(table.refuse("keywords", list.span(), what, "write `capabilities` beside `contract`"));
    }
    list.get_ref().iter().map(|line| table.words("keywords", line)).collect()
}

/// The host of `host:port`, an IPv6 address without its brackets.
pub(super) fn host<'s>(table: &Table<'_>, server: &'s Spanned<String>) -> Result<&'s str, ConfigError> {
    let split = server.get_ref().rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = if host.contains(':') { bare? } else { host };
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        (digits && port.parse::<u16>().is_ok_and(|port| port != 0) && ServerName::try_from(host).is_ok())
            .then_some(host)
    });
    split.ok_or_else(|| {
        let what = format!("`{}` is not a host with a port", server.get_ref());
        let instead = "write a name or an IP address with its port, such as \"imap.v4.internal:143\" or \"[fd00::1]:143\"";
        table.refuse("servers", server.span(), what, instead)
    })
}

pub(super) fn service_tls(
    table: &Table<'_>,
    raw: &raw::ServiceTls,
    server: &Spanned<String>,
    host: &str,
) -> Result<ServiceTls, ConfigError> {
    /// What the word says; the rest stands beside it.
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        None,
        Starttls,
        Implicit,
    }
    let modes = [("none", Mode::None), ("starttls", Mode::Starttls), ("implicit", Mode::Implicit)];
    let mode = table.word("mode", &raw.mode, &modes, &[])?;
    if mode == Mode::None && (raw.ca.is_some() || raw.name.is_some()) {
        let what = format!("without TLS nobody shows a certificate for {} to check", server.get_ref());
        return Err(table.refuse(
            "mode",
            raw.mode.span(),
            what,
            "leave `ca` and `name` out, or write \"starttls\"",
        ));
    }
    let ca = raw.ca.as_ref().map(|ca| authority(table, ca)).transpose()?;
    let name = raw.name.as_ref().map_or(host, |name| name.get_ref());
    if ServerName::try_from(name).is_err() {
        let instead = "write the name that stands in the server's certificate";
        return Err(table.refuse(
            "name",
            table.place(&raw.name),
            format!("`{name}` is not a host name"),
            instead,
        ));
    }
    let verify = Verify { ca, name: name.to_owned() };
    Ok(match mode {
        Mode::None => ServiceTls::None,
        Mode::Starttls => ServiceTls::Starttls(verify),
        Mode::Implicit => ServiceTls::Implicit(verify),
    })
}

/// A file of certificates of authorities.
fn authority(table: &Table<'_>, written: &Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let path = table.file("ca", written)?;
    match bascule_certs::client_config(Some(&path)) {
        Ok(_) => Ok(path),
        Err(error) => {
            let instead = "write the PEM file of the authority that signed the server's certificate";
            Err(table.refuse("ca", written.span(), error.to_string(), instead))
        }
    }
}

fn restore(table: &Table<'_>, raw: &raw::Restore) -> Result<Restore, ConfigError> {
    let master = table.word("mode", &raw.mode, &[("client", false), ("master", true)], &["token-hook"])?;
    match (master, &raw.user, &raw.password_file) {
        (true, Some(user), Some(file)) => Ok(Restore::Master(table.account(user, file)?)),
        (false, None, None) => Ok(Restore::Client),
        (true, _, _) => {
            let what = "the master user's `user` and `password_file` are missing";
            Err(table.refuse("mode", raw.mode.span(), what, "add both"))
        }
        (false, _, _) => {
            let what = "`user` and `password_file` belong to mode \"master\"";
            Err(table.refuse("mode", raw.mode.span(), what, "leave them out, or write \"master\""))
        }
    }
}
