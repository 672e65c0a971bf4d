//! The ports: bound all or none, then accepted on.
//!
//! Rule: a port that cannot be bound is named with its table, and nothing is served on the others.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    app::plane::Plane,
    config::{ListenerTls, Protocol},
    net::listener,
    session::{
        World,
        door::{self, Door},
        rates::Rates,
    },
};

/// How exact keepalives and ceilings are.
const SWEEP: Duration = Duration::from_millis(500);
/// Rates are per minute: who has done nothing for so long is nobody.
const FORGET: Duration = Duration::from_secs(60);

/// Binds every listener and serves on them, on the data plane, until `stop` says so.
pub(super) fn open(
    world: &Arc<World>,
    certificates: Option<Arc<bascule_certs::Store>>,
    data: &Plane,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    // Sockets belong to the runtime that they are made in.
    let first = data.first();
    let _data = first.enter();
    let tls = certificates.map(bascule_certs::server_config).transpose()?;
    let (mut bound, mut doors) = (Vec::new(), Vec::new());
    for config in world.config.listeners.values() {
        let name: Arc<str> = config.name.as_str().into();
        let tls = match config.tls {
            ListenerTls::None => None,
            ListenerTls::Starttls | ListenerTls::Implicit => {
                tls.clone().map(|tls| with_alpn(tls, config.protocol))
            }
        };
        let rates = if config.protocol == Protocol::Http { &config.http.rates } else { &config.smtp.rates };
        let rates = Rates::new(rates);
        let door = Arc::new(Door { listener: config.clone(), name, world: world.clone(), rates, tls });
        doors.push(door.clone());
        for &address in &config.bind {
            bound.push((bind(address, &format!("listener.{}", config.name))?, door.clone()));
        }
    }
    first.spawn(sweep(world.clone()));
    first.spawn(forget(doors));
    for (port, door) in bound {
        let metrics = world.metrics.clone();
        let full = move || metrics.limits_hit.count("connections");
        let plane = data.clone();
        let serve = move |tcp, peer, permit| {
            let door = door.clone();
            plane.serve(tcp, |tcp, counted| door::serve(door, tcp, peer, (permit, counted)));
        };
        first.spawn(listener::accept(port, world.slots.clone(), stop.clone(), full, serve));
    }
    Ok(())
}

/// What a browser may name.
fn with_alpn(tls: Arc<rustls::ServerConfig>, protocol: Protocol) -> Arc<rustls::ServerConfig> {
    if protocol != Protocol::Http {
        return tls;
    }
    let mut tls = rustls::ServerConfig::clone(&tls);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(tls)
}

/// Drops what a listener knows of clients that are gone.
async fn forget(doors: Vec<Arc<Door>>) {
    let mut ticks = tokio::time::interval(FORGET);
    loop {
        ticks.tick().await;
        doors.iter().for_each(|door| door.rates.forget());
    }
}

/// Wakes sessions whose time has come, so that none of them needs a timer of its own.
async fn sweep(world: Arc<World>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        world.registry.sweep(now);
        // Who is closed before he asks knows that nothing was lost.
        world.http.sweep(now, world.registry.is_ending());
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        world.metrics.http_parked.set(gauge(world.http.parked() as u64));
        world.metrics.uploads_spooled.set(gauge(world.spool.used()));
        world.metrics.uploads_memory.set(gauge(world.spool.in_memory()));
    }
}

/// Binds one address of a table of the configuration.
pub(super) fn bind(address: SocketAddr, table: &str) -> anyhow::Result<TcpListener> {
    let port =
        listener::bind(address).with_context(|| format!("[{table}]: {address} cannot be listened on"))?;
    tracing::info!(%address, table, "listening");
    Ok(port)
}
