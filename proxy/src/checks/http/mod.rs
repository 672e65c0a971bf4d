//! Proofs by HTTP: every server of every service of a pool as a way to write into it, and what a person's session there
//! is worth on the other pool.
//!
//! Rule: a service of which nobody says how it is written to is not known to be fenced.

mod ask;
pub mod portable;
mod put;

pub(super) use self::put::{ByHttp, Put};
use self::{
    ask::{At, Talk},
    portable::Look,
};
use crate::{
    checks::Answer,
    config::{Account, Config, HttpWrites, Pool},
    session::World,
    topology::PoolId,
};

/// The services of a pool by servers that no other pool has as well: those that its fence is to stop.
pub(super) fn by_http<'a>(
    world: &'a World,
    pool: PoolId,
    account: &Account,
) -> Result<Vec<(String, ByHttp<'a>)>, String> {
    let config = world.topology.load().pool(pool).clone();
    let mut ways = Vec::new();
    for (name, service) in &config.http {
        let path = match &service.proof.writes {
            HttpWrites::At(path) => Some(path.clone()),
            HttpWrites::None => None,
            HttpWrites::Unsaid => return Err(unsaid(&config.name, name)),
        };
        for server in own(&world.config, &config, name) {
            let host = host(&world.config, name);
            let (service, account, path) = (service.clone(), account.clone(), path.clone());
            let http = &world.http;
            ways.push((format!("http {name}"), ByHttp { http, service, server, host, account, path }));
        }
    }
    Ok(ways)
}

/// Whether every server of every service lets itself be connected to.
pub(super) async fn answers(world: &World, pool: PoolId) -> Vec<(String, Look)> {
    let config = world.topology.load().pool(pool).clone();
    let mut looks = Vec::new();
    for (name, service) in &config.http {
        let host = &*host(&world.config, name);
        for server in &service.servers {
            let look = match Talk::open(At { http: &world.http, service, server, host }).await {
                Ok(_) => Look::Good(format!("{server} answers")),
                Err(error) => Look::Bad(Answer::Unknown(format!("{server}: {error}"))),
            };
            looks.push((format!("http {name}"), look));
        }
    }
    looks
}

/// What is to be done about a service without a probe.
pub fn unsaid(pool: &str, service: &str) -> String {
    format!(
        "nothing shows that a fence stops it: name a path in pool.{pool}.http.{service}.probe that every probe account \
         may PUT, GET and DELETE, or write probe = \"none\" if the service stores nothing by itself"
    )
}

/// The servers of a service that are of this pool alone.
pub fn own(config: &Config, pool: &Pool, service: &str) -> Vec<String> {
    let others = || config.pools.iter().filter(|other| other.name != pool.name);
    let has =
        |other: &Pool, server: &String| other.http.values().any(|service| service.servers.contains(server));
    let servers = pool.http.get(service).map_or(&[][..], |service| &service.servers);
    servers.iter().filter(|server| !others().any(|other| has(other, server))).cloned().collect()
}

/// Under which name clients reach a service.
fn host(config: &Config, service: &str) -> String {
    let mut routes = config.listeners.values().flat_map(|listener| &listener.http.routes);
    let host = routes.find_map(|route| route.host.clone().filter(|_| route.service == service));
    host.unwrap_or_else(|| config.server.hostname.clone())
}
