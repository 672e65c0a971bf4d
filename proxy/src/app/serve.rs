//! `bascule serve`: from the configuration to open listeners, and back.
//!
//! Rule: nothing is listened on before the journal says which pool is active and the recovery is over.
//!
//! Two planes, so that saturated relays never starve the switch and a hung check never stalls a session:
//! the data plane serves clients; the control plane has the cutover, the API and the signals.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::{runtime::Builder, sync::watch};

use crate::{
    admin::{
        api,
        appliance::{Life, Process},
        observe, socket,
    },
    app::{
        capabilities, listen,
        local::{self, Failed},
        plane::Plane,
        process, relays, reload,
        stop::{Signals, wind_down},
    },
    checks::note,
    config::Config,
    cutover::{
        Control,
        journal::{self, Journal, Recovered},
    },
    gate::Gate,
    net::{spool::Spool, tls::Connectors},
    session::{World, http, relays::Relays},
    telemetry::{LogFormat, Logs, Metrics},
    topology::{Current, Topology},
};

type Certificates = Option<Arc<bascule_certs::Store>>;

/// Runs until it is told to end.
pub(super) fn serve(path: &Path, log: LogFormat) -> Result<(), Failed> {
    let logs = Logs::begin(log).map_err(anyhow::Error::msg)?;
    process::forbid_core_dumps();
    let config = Arc::new(Config::load(path)?);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "starting");
    run(config, &logs)?;
    Ok(())
}

fn run(config: Arc<Config>, logs: &Logs) -> anyhow::Result<()> {
    let dir = &config.server.state_dir;
    process::check_state_dir(dir)?;
    process::raise_open_files(config.limits.connections);
    let certificates = local::certificates(&config)?;
    let (journal, recovered) = journal::open(dir, &config)?;
    // With the journal's lock, and before anything that it might undo is touched.
    note::end_left_behind(dir);
    let data = Plane::start(config.server.threads)?;
    let control = Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build();
    let control = control.context("the runtime could not be started")?;
    let world = Arc::new(world(config.clone(), &recovered)?);
    world.metrics.watch_logs(logs);
    let result = control.block_on(operate(world, journal, recovered, certificates, &data));
    // Whatever still runs has had its time.
    drop(data);
    control.shutdown_background();
    result
}

fn world(config: Arc<Config>, recovered: &Recovered) -> anyhow::Result<World> {
    let metrics = Arc::new(Metrics::new());
    metrics.prepare(&config);
    let topology =
        Topology { pools: config.pools.clone().into(), active: recovered.active, epoch: recovered.epoch };
    Ok(World {
        gate: Gate::new(topology.epoch),
        topology: Current::new(topology),
        slots: Arc::new(tokio::sync::Semaphore::new(config.limits.connections)),
        registry: Arc::default(),
        pinned: ArcSwap::from_pointee(None),
        said: Default::default(),
        keywords: Default::default(),
        relays: Relays::new(config.pools.len()),
        names: Default::default(),
        delivered: Arc::default(),
        connectors: Connectors::new(&config.pools)?,
        http: http::Shared::open(&config)?,
        holds: Default::default(),
        unreachable: Default::default(),
        spool: Spool::new(&config.server.state_dir, config.limits.spool, config.limits.spool_memory)
            .context("the spool cannot be made")?,
        metrics,
        config,
    })
}

async fn operate(
    world: Arc<World>,
    journal: Journal,
    recovered: Recovered,
    certificates: Certificates,
    data: &Plane,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let life = watch::Sender::new(Life::Starting);
    let control = Control::new(world.clone(), journal, recovered);
    let process = Arc::new(Process { world: world.clone(), control: control.clone() });

    let api = socket::bind(&world.config.server.state_dir.join(socket::NAME)).await?;
    tokio::spawn(api::serve(api, process.clone(), life.subscribe()));
    if let Some(address) = world.config.server.observe {
        let port = listen::bind(address, "server")?;
        tokio::spawn(observe::serve(port, process.clone(), life.subscribe()));
    }

    capabilities::load(&world);
    tokio::select! {
        () = control.recover() => {}
        () = signals.end() => return Ok(()),
    }
    tokio::spawn(capabilities::learn(world.clone()));
    tokio::spawn(relays::watch(world.clone()));
    let (stop, stopped) = watch::channel(false);
    listen::open(&world, certificates.clone(), data, &stopped)?;
    life.send_replace(Life::Serving);
    let topology = world.topology.load();
    tracing::info!(active = topology.active().name, epoch = topology.epoch.0, "serving");

    let reloads = Arc::new(tokio::sync::Mutex::new(()));
    let reload = || {
        let (world, certificates, turn) = (world.clone(), certificates.clone(), reloads.clone());
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            reload::reload(&world, certificates.as_deref()).await;
        });
    };
    signals.end_or_reload(reload).await;
    life.send_replace(Life::Stopping);
    stop.send_replace(true);
    tokio::select! {
        () = wind_down(&*process, &world.registry, world.config.limits.shutdown) => {}
        () = signals.end() => tracing::warn!("told to end a second time"),
    }
    Ok(())
}
