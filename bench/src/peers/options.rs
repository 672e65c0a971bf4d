//! The command line, and what it comes to.
//!
//! Rule: a number that a measurement depends on stands here and in the JSON.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::{
    beside_us,
    contender::{Contender, Kind},
    leg::{Leg, Speech},
};

/// bascule beside HAProxy and nginx: the same backend, the same load, the same run, in turns.
///
/// Prints a table and writes a JSON file. The last line of output is one JSON object with each figure and its
/// ratio to the best peer. Exits 1 if something could not be measured.
#[derive(Debug, Parser)]
#[command(name = "bench/peers")]
pub(crate) struct Args {
    /// Two minutes: short rounds, few sessions
    #[arg(long)]
    quick: bool,
    /// Only these measurements [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Topic>,
    /// Only these proxies [default: all]
    #[arg(long, value_delimiter = ',')]
    proxies: Vec<Product>,
    /// Client side and backend side [default: all; with --quick those with TLS]
    #[arg(long, value_delimiter = ',')]
    legs: Vec<Leg>,
    /// A build of bascule, PATH or NAME=PATH; repeatable, to compare builds [default: the one built with this]
    #[arg(long, value_name = "[NAME=]PATH")]
    bascule: Vec<String>,
    /// A line of bascule's `[limits]`, such as `upload_memory = "2MiB"`; repeatable
    #[arg(long, value_name = "LINE")]
    limit: Vec<String>,
    /// Rounds of each measurement; sessions in IDLE have at most three [default: 5, quick 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of one measurement in seconds [default: 3, quick 0.7]
    #[arg(long)]
    seconds: Option<f64>,
    /// Sessions in IDLE [default: 1000,4000,9000, quick 1000]
    #[arg(long, value_delimiter = ',')]
    idle: Vec<usize>,
    /// Silent connections of the edges; slow ones are a thirtieth [default: 9800, quick 1500]
    #[arg(long)]
    crowd: Option<usize>,
    /// Where all values are written
    #[arg(long, default_value = "target/peers.json")]
    pub(crate) json: PathBuf,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topic {
    /// CPU per NOOP round trip
    Noop,
    /// CPU per GB of FETCH
    Fetch,
    /// CPU per login and logout
    Login,
    /// Latency added to a NOOP
    Latency,
    /// CPU per message by SMTP
    Mail,
    /// CPU per request by HTTP
    Web,
    /// Memory per kept connection of HTTP
    Kept,
    /// Memory per session in IDLE
    Idle,
    /// Silent and slow connections
    Edges,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Product {
    Bascule,
    Haproxy,
    Nginx,
    Pingora,
}

/// What is to be done.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    #[serde(skip)]
    pub(crate) topics: Vec<Topic>,
    #[serde(skip)]
    pub(crate) legs: Vec<Leg>,
    #[serde(skip)]
    pub(crate) contenders: Vec<Contender>,
    /// Further lines of bascule's `[limits]`.
    pub(crate) limits: Vec<String>,
    pub(crate) rounds: usize,
    /// Rounds of what needs fresh processes and many sessions.
    pub(crate) idle_rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) idle: Vec<usize>,
    /// Connections of the edges that say nothing, and that are slow.
    pub(crate) silent: usize,
    pub(crate) slow: usize,
    /// Connections of the closed loops.
    pub(crate) noop_connections: usize,
    pub(crate) fetch_connections: usize,
    pub(crate) login_connections: usize,
    pub(crate) mail_connections: usize,
    pub(crate) web_connections: usize,
    /// Eight requests at once on each.
    pub(crate) two_connections: usize,
    /// NOOPs per second, on so many connections, whose latency is measured.
    pub(crate) rate: u32,
    pub(crate) paced_connections: usize,
}

impl Args {
    pub(crate) fn plan(&self) -> Result<Plan> {
        let or = |given: &[_], all: &[_]| if given.is_empty() { all.to_vec() } else { given.to_vec() };
        let legs: &[Leg] = if self.quick { &[Leg::TlsPlain, Leg::TlsTls] } else { &Leg::ALL };
        let rounds = self.rounds.unwrap_or(if self.quick { 2 } else { 5 });
        let silent = self.crowd.unwrap_or(if self.quick { 1500 } else { 9800 });
        let idle: &[usize] = if self.quick { &[1000] } else { &[1000, 4000, 9000] };
        Ok(Plan {
            topics: if self.only.is_empty() { Topic::value_variants().to_vec() } else { self.only.clone() },
            legs: if self.legs.is_empty() { legs.to_vec() } else { self.legs.clone() },
            contenders: self.contenders()?,
            limits: self.limit.clone(),
            rounds,
            idle_rounds: if self.quick { 1 } else { rounds.min(3) },
            seconds: self.seconds.unwrap_or(if self.quick { 0.7 } else { 3.0 }),
            idle: or(&self.idle, idle),
            silent,
            slow: (silent / 30).max(1),
            noop_connections: 64,
            fetch_connections: 16,
            login_connections: 16,
            mail_connections: 16,
            web_connections: 32,
            two_connections: 4,
            rate: 2000,
            paced_connections: 64,
        })
    }

    fn contenders(&self) -> Result<Vec<Contender>> {
        let wanted = |product| self.proxies.is_empty() || self.proxies.contains(&product);
        let mut all = Vec::new();
        if wanted(Product::Bascule) {
            for text in &self.bascule {
                let (name, path) = text.split_once('=').unwrap_or(("bascule", text));
                all.push(Contender {
                    name: name.to_owned(),
                    kind: Kind::Bascule(path.into()),
                    limits: self.limit.join("\n"),
                });
            }
            if self.bascule.is_empty() {
                all.push(Contender {
                    name: "bascule".to_owned(),
                    kind: Kind::Bascule(beside_us("bascule")?),
                    limits: self.limit.join("\n"),
                });
            }
        }
        for (product, name, kind) in [
            (Product::Haproxy, "haproxy", Kind::Haproxy),
            (Product::Nginx, "nginx", Kind::Nginx),
            (Product::Pingora, "pingora", Kind::Pingora(beside_us("bascule-pingora")?)),
        ] {
            if wanted(product) {
                all.push(Contender { name: name.to_owned(), kind, limits: String::new() });
            }
        }
        Ok(all)
    }
}

impl Plan {
    pub(crate) fn has(&self, topic: Topic) -> bool {
        self.topics.contains(&topic)
    }

    /// Those that can serve a leg.
    pub(crate) fn able(&self, leg: Leg, speech: Speech) -> Vec<&Contender> {
        self.contenders.iter().filter(|contender| contender.refuses(leg, speech).is_none()).collect()
    }
}
