//! What the API and the monitoring port need of the running process.
//!
//! Rule: one trait between them and the cutover, so that both are tested against a fake.

use std::{future::Future, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    config::Protocol,
    cutover::{
        Control,
        types::{Plan, Refusal, Report, Status},
    },
    gate::Phase,
    session::{World, registry::Handle, relays::Verdict},
    topology::Topology,
};

/// The running process as its operator sees it.
pub trait Appliance: Send + Sync + 'static {
    /// Where things stand now.
    fn status(&self) -> Status;
    /// The status at every change.
    fn watch(&self) -> watch::Receiver<Status>;
    /// Whether a cutover to this pool would be allowed.
    fn plan(&self, to: &str) -> impl Future<Output = Result<Plan, Refusal>> + Send;
    /// Begins a cutover; its number.
    fn start(self: &Arc<Self>, to: &str) -> impl Future<Output = Result<u64, Refusal>> + Send;
    /// From here on no cutover begins.
    fn close(&self);
    /// Sends the running cutover back.
    fn abort(&self, reason: &str) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Declares by hand which pool is active.
    fn adopt(&self, pool: &str, reason: &str) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// The last cutover's account.
    fn report(&self) -> Option<Report>;
    /// Every session.
    fn sessions(&self) -> Vec<SessionRow>;
    /// The metrics as text.
    fn metrics(&self) -> String;
    /// Whether clients can be served; otherwise why not.
    fn ready(&self) -> Result<(), String>;
}

/// The process itself.
#[derive(Debug)]
pub struct Process {
    /// What the sessions share.
    pub world: Arc<World>,
    /// The cutovers.
    pub control: Arc<Control>,
}

impl Appliance for Process {
    fn status(&self) -> Status {
        self.control.status()
    }

    fn watch(&self) -> watch::Receiver<Status> {
        self.control.watch()
    }

    async fn plan(&self, to: &str) -> Result<Plan, Refusal> {
        self.control.plan(to).await
    }

    async fn start(self: &Arc<Self>, to: &str) -> Result<u64, Refusal> {
        self.control.start(to).await
    }

    fn close(&self) {
        self.control.close();
    }

    async fn abort(&self, reason: &str) -> Result<(), Refusal> {
        self.control.abort(reason).await
    }

    async fn adopt(&self, pool: &str, reason: &str) -> Result<(), Refusal> {
        self.control.adopt(pool, reason).await
    }

    fn report(&self) -> Option<Report> {
        self.control.report()
    }

    fn sessions(&self) -> Vec<SessionRow> {
        let topology = self.world.topology.load();
        let all = self.world.registry.all();
        let mut rows: Vec<SessionRow> =
            all.iter().map(|session| SessionRow::of(session, &topology)).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    fn metrics(&self) -> String {
        let (status, metrics) = (self.status(), &self.world.metrics);
        metrics.cutover_state.set(status.state.name());
        metrics.gate_state.set(status.gate.name());
        metrics.active_pool.set(&status.active);
        metrics.epoch.set(status.epoch.0.into());
        metrics.render()
    }

    fn ready(&self) -> Result<(), String> {
        let status = self.status();
        // A listener that does not know what it may promise greets nobody.
        let active = self.world.topology.load().active;
        let mail = |protocol| {
            let speaks = match protocol {
                Protocol::Imap | Protocol::Http => true,
                Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => {
                    self.world.keywords.of(protocol).is_some()
                }
            };
            speaks && self.world.relays.of(active, protocol) != Some(Verdict::Untested)
        };
        let mail = self.world.config.listeners.values().all(|listener| mail(listener.protocol));
        let pinned = self.world.pinned.load().is_some() && mail;
        readiness(pinned, status.gate, status.limbo.as_deref())
    }
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Recovering; the listeners are not open yet.
    Starting,
    /// The listeners are open.
    Serving,
    /// Told to end; farewells are being said.
    Stopping,
}

/// Whether clients can be served, from what decides it.
pub fn readiness(pinned: bool, gate: Phase, limbo: Option<&str>) -> Result<(), String> {
    if let Some(needs) = limbo {
        return Err(format!("limbo: {needs}"));
    }
    if gate == Phase::FailStop {
        return Err("the decision's record could not be written: `bascule status` says what to do".to_owned());
    }
    if !pinned {
        return Err(
            "no pool's capabilities are known yet: a pool must answer its probe, or declare them".to_owned()
        );
    }
    Ok(())
}

/// One line of `bascule sessions list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its id.
    pub id: u64,
    /// The canonical login name; empty before the login.
    pub identity: String,
    /// The client's address.
    pub peer: String,
    /// The listener's name.
    pub listener: String,
    /// What it speaks.
    #[serde(default)]
    pub protocol: String,
    /// Seconds since it was accepted.
    pub age_s: u64,
    /// The pool that it holds a connection to.
    pub backend: Option<String>,
    /// The pool that it is being verified on.
    pub spare: Option<String>,
    /// The selected mailbox.
    pub mailbox: Option<String>,
    /// Whether the client is in IDLE.
    pub idle: bool,
    /// Commands held at the gate.
    pub held: u64,
    /// Writes sent and not yet answered.
    pub writes: u16,
    /// Other commands sent and not yet answered.
    pub reads: u16,
    /// Upload in progress: bytes received and announced.
    pub upload: Option<(u64, u64)>,
    /// Only bytes pass: it cannot move.
    pub pipe: bool,
    /// Why it cannot move.
    pub unmovable: Option<String>,
}

impl SessionRow {
    /// A session as it stands now.
    pub fn of(handle: &Handle, topology: &Topology) -> Self {
        let info = handle.info();
        let standing = handle.word.read();
        let name = |id| topology.pool(id).name.clone();
        Self {
            id: handle.id.0,
            identity: info.identity,
            peer: handle.peer.to_string(),
            listener: handle.listener.to_string(),
            protocol: handle.protocol.name().to_owned(),
            age_s: handle.since.elapsed().as_secs(),
            backend: standing.backend.map(name),
            spare: standing.spare.map(name),
            mailbox: info.mailbox,
            idle: info.idle,
            held: info.held as u64,
            writes: standing.writes,
            reads: standing.reads,
            upload: info.upload,
            pipe: info.pipe,
            unmovable: info.unmovable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_clients_can_be_served() {
        assert_eq!(readiness(true, Phase::Open, None), Ok(()));
        assert_eq!(readiness(true, Phase::Shut, None), Ok(()), "a hold is service");
        assert!(readiness(false, Phase::Open, None).unwrap_err().contains("capabilities"));
        assert!(readiness(true, Phase::FailStop, None).unwrap_err().contains("bascule status"));
        let limbo = readiness(true, Phase::Open, Some("release v4's fence")).unwrap_err();
        assert_eq!(limbo, "limbo: release v4's fence");
    }
}
