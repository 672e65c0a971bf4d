//! Two platforms as one process, driven by lines over a Unix socket: what hooks and the demo call.
//!
//! Rule: the answer comes when the order has taken effect; its first word is the exit code of `ctl`
//! (0 yes, 2 no, 1 not understood), which is what the checks of bascule read.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{
    Options, Platform, Replication, Store,
    smtp::{Accepted, Door, Options as Mail, Queue, Trust},
};
use crate::{
    bascule::{Fence, Pool, Service, Setup},
    process,
};

/// Two platforms and what replicates between them.
#[derive(Debug)]
pub struct Pair {
    names: [String; 2],
    platforms: [Platform; 2],
    /// From the first to the second, and back; `None` where they share one store.
    replications: Option<[Replication; 2]>,
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 0 yes, 2 no, 1 not understood.
    pub code: u8,
    /// What there is to say.
    pub text: String,
}

impl Reply {
    fn yes(text: impl Into<String>) -> Self {
        Self { code: 0, text: text.into() }
    }

    fn no(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }
}

impl Pair {
    /// These two.
    pub fn new(names: [&str; 2], platforms: [Platform; 2], replications: Option<[Replication; 2]>) -> Self {
        Self { names: names.map(String::from), platforms, replications }
    }

    /// Two platforms with stores of their own that replicate both ways. The second is a standby.
    pub async fn replicated(
        names: [&str; 2],
        stores: [Arc<Store>; 2],
        lag: Duration,
        options: Options,
    ) -> io::Result<Self> {
        let [a, b] = &stores;
        let replications = [Replication::start(a, b, lag), Replication::start(b, a, lag)];
        let [first, second] = places(options);
        let platforms = [
            Platform::start(a.clone(), first).await?,
            Platform::start(b.clone(), Options { standby: true, ..second }).await?,
        ];
        Ok(Self::new(names, platforms, Some(replications)))
    }

    /// Two platforms on one store. The second does not listen until its fence is released.
    pub async fn shared(names: [&str; 2], store: Arc<Store>, options: Options) -> io::Result<Self> {
        let [first, second] = places(options);
        let platforms = [Platform::start(store.clone(), first).await?, Platform::start(store, second).await?];
        platforms[1].fence(super::Fence::Stop).await?;
        Ok(Self::new(names, platforms, None))
    }

    /// One of the two.
    pub fn platform(&self, name: &str) -> Option<&Platform> {
        self.names.iter().position(|n| n == name).map(|at| &self.platforms[at])
    }

    /// The replication out of one of the two.
    pub fn replication(&self, from: &str) -> Option<&Replication> {
        let at = self.names.iter().position(|n| n == from)?;
        self.replications.as_ref().map(|r| &r[at])
    }

    /// Executes one order.
    pub async fn obey(&self, order: &str) -> Reply {
        let order = order.trim();
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let Some(platform) = self.platform(name) else {
            return Reply {
                code: 1,
                text: format!("no platform {name:?}; there are {}", self.names.join(", ")),
            };
        };
        match verb {
            "address" => return address(platform, rest),
            "queue" => return Reply::yes(queue(platform)),
            "hold-queue" => platform.hold_queue(rest == "on"),
            "die" if rest == "kept" => platform.die(Queue::Kept).await,
            "die" if rest == "lost" => platform.die(Queue::Lost).await,
            "fence" => return fence(platform, rest).await,
            "counters" => return Reply::yes(counters(platform)),
            "logins" => return Reply::yes(platform.logins().to_string()),
            "caught-up" | "lag" | "pause" | "resume" => return self.replicate(verb, name, rest),
            "leak" => platform.leak(rest == "on"),
            "promote" => platform.promote(),
            "demote" => platform.demote(),
            "say" => platform.say(rest, false),
            "cut" => platform.cut(),
            _ => return Reply { code: 1, text: format!("no order {verb:?}") },
        }
        Reply::yes("done")
    }

    fn replicate(&self, verb: &str, from: &str, rest: &str) -> Reply {
        let Some(replication) = self.replication(from) else {
            return Reply::yes("one store: nothing to replicate");
        };
        match (verb, rest.parse().map(Duration::from_millis)) {
            ("caught-up", _) if replication.caught_up() => return Reply::yes("everything is applied"),
            ("caught-up", _) => return Reply::no(format!("{} changes behind", replication.behind())),
            ("pause", _) => replication.pause(),
            ("resume", _) => replication.resume(),
            (_, Ok(lag)) => replication.set_lag(lag),
            (_, Err(_)) => return Reply { code: 1, text: "lag is a number of milliseconds".into() },
        }
        Reply::yes("done")
    }

    /// Obeys whoever connects, for ever.
    pub async fn serve(self: Arc<Self>, socket: UnixListener) -> io::Result<()> {
        loop {
            let (stream, _) = socket.accept().await?;
            let this = self.clone();
            tokio::spawn(async move {
                // An error is the asker's end.
                let _ = this.converse(stream).await;
            });
        }
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut order = String::new();
        stream.read_line(&mut order).await?;
        let reply = self.obey(&order).await;
        stream.write_all(format!("{} {}\n", reply.code, reply.text).as_bytes()).await?;
        stream.shutdown().await
    }
}

/// A proxy in front of a pair whose orders are given by this program (`bascule-fake ctl SOCKET`). `shared`: one
/// store under both, and fences that stop the service.
pub fn setup(
    names: [&str; 2],
    addresses: [SocketAddr; 2],
    password: &str,
    ctl: &[String],
    shared: bool,
) -> Setup {
    let order = |words: &str| [ctl, &words.split(' ').map(String::from).collect::<Vec<_>>()].concat();
    let (contract, kind, fence) = if shared {
        ("storage = \"shared\", standby_login = \"no\"", "stop", "stop")
    } else {
        let contract = "storage = \"replicated\", fence_keeps_reads = true, reverse = \"replication\"";
        (contract, "refuse", "readonly")
    };
    let pool = |(name, server): (&str, SocketAddr)| Pool {
        name: name.into(),
        server,
        tls: None,
        contract,
        password: password.into(),
        // A pool that is not there cannot be asked.
        capabilities: if shared { Options::default().capabilities } else { Vec::new() },
        mail: Vec::new(),
        http: Vec::new(),
        fence: Some(Fence {
            kind,
            engage: order(&format!("fence {name} {fence}")),
            release: order(&format!("fence {name} off")),
        }),
        promote: (!shared).then(|| order(&format!("promote {name}"))),
    };
    let check = |from: &str, to: &str| {
        let exec = order(&format!("caught-up {from}"));
        format!(
            "[cutover.check.{from}]\nkind = \"exec\"\nexec = {exec:?}\nfrom = {from:?}\nto = {to:?}\n\
             as = [\"barrier\"]\n"
        )
    };
    let checks = if shared { String::new() } else { check(names[0], names[1]) + &check(names[1], names[0]) };
    Setup {
        pools: names.into_iter().zip(addresses).map(pool).collect(),
        cutover: "soak = \"100ms\"\n".into(),
        tables: checks,
        ..Setup::default()
    }
}

/// The doors for mail of a fake as services of a pool, with what it makes of the client's address; `declared` with its
/// keywords, for a pool that is not there and cannot be asked.
pub fn services(mail: &Mail, declared: bool, address: impl Fn(Door) -> Option<SocketAddr>) -> Vec<Service> {
    let client_address = match mail {
        Mail { proxy_v2: true, .. } => "proxy-v2",
        Mail { xclient: Trust::Honoured | Trust::Refused, .. } => "xclient",
        Mail { .. } => "none",
    };
    let service = |door: Door| {
        let protocol = if door == Door::Relay { "smtp" } else { door.name() };
        let mut lines = format!("client_address = {client_address:?}\n");
        if declared {
            lines += &format!("keywords = {:?}\n", mail.keywords);
        }
        Some(Service { protocol, server: address(door)?, tls: None, lines })
    };
    Door::MAIL.into_iter().filter_map(service).collect()
}

/// A stopped platform comes back to its port, which nobody may have taken meanwhile.
fn places(options: Options) -> [Options; 2] {
    let [first, second, _] = process::addresses();
    [first, second].map(|address| Options { listen: (address, 10143).into(), ..options.clone() })
}

/// Gives one order to the process behind `socket`.
pub async fn ask(socket: &Path, order: &str) -> anyhow::Result<Reply> {
    let mut stream = UnixStream::connect(socket).await.with_context(|| socket.display().to_string())?;
    stream.write_all(format!("{order}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (code, text) = answer.trim_end().split_once(' ').context("no answer")?;
    Ok(Reply { code: code.parse()?, text: text.into() })
}

async fn fence(platform: &Platform, mode: &str) -> Reply {
    let fence = match mode {
        "off" => super::Fence::Off,
        "readonly" => super::Fence::ReadOnly,
        "refuse" => super::Fence::Refuse,
        "stop" => super::Fence::Stop,
        _ => return Reply { code: 1, text: "a fence is off, readonly, refuse or stop".into() },
    };
    match platform.fence(fence).await {
        Ok(()) => Reply::yes("it holds"),
        Err(error) => Reply::no(error.to_string()),
    }
}

fn address(platform: &Platform, door: &str) -> Reply {
    let doors = [Door::Imap].into_iter().chain(Door::MAIL);
    let named = { doors }.find(|d| d.name() == door || (door.is_empty() && *d == Door::Imap));
    match named.map(|door| platform.door(door)) {
        Some(Some(address)) => Reply::yes(address.to_string()),
        Some(None) => Reply::no("it is not open"),
        None => Reply { code: 1, text: "a door is imap, relay, submission or lmtp".into() },
    }
}

/// One line of JSON for each message, as `postqueue -j` writes them.
fn queue(platform: &Platform) -> String {
    let line = |message: Arc<Accepted>| {
        let recipients: Vec<_> =
            message.recipients.iter().map(|to| serde_json::json!({ "address": to })).collect();
        let size = message.body.len();
        serde_json::json!({
            "queue_name": "active", "sender": message.from, "message_size": size, "recipients": recipients,
        })
        .to_string()
    };
    platform.queue().into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn counters(platform: &Platform) -> String {
    let c = platform.counters();
    serde_json::json!({
        "connections": c.connections, "accepted": c.accepted, "logins": c.logins, "verbs": c.verbs,
        "violations": c.violations,
    })
    .to_string()
}
