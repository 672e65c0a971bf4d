//! The operator: the plan, the cutover and its report.
//!
//! Rule: nothing is done here that an operator could not do with the same command line.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_tests::bascule::Bascule;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest wait for a GO.
const PATIENCE: Duration = Duration::from_secs(30);

/// What bascule says about a cutover that ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The pool that served when it began.
    pub from: String,
    /// The pool that was to serve.
    pub to: String,
    /// `done`, `aborted`, `limbo`
    pub outcome: String,
    /// Why it ended so, where it did not go through.
    pub reason: String,
    /// The phases in order.
    pub phases: Vec<Phase>,
    /// How long commands were held.
    pub hold: Holds,
    /// The same without hooks, fences and barriers.
    pub hold_own: Holds,
    /// Sessions alive when the gate shut.
    pub sessions: u64,
    /// Of these, alive at the end.
    pub kept: u64,
    /// Of these, on the new pool.
    pub moved: u64,
    /// How long the gate was shut.
    pub pause_ms: u64,
}

/// Duration of one phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// `drain`, `fence`, …
    pub name: String,
    /// Milliseconds.
    pub ms: u64,
}

/// Percentiles of held commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holds {
    /// How many there were.
    pub count: u64,
    /// Microseconds.
    pub p50_us: u64,
    /// Microseconds.
    pub p99_us: u64,
    /// Microseconds.
    pub max_us: u64,
}

impl Report {
    /// Whether everybody was moved.
    pub fn went_through(&self) -> bool {
        self.outcome == "done" && self.kept == self.sessions
    }

    /// The report in four lines.
    pub fn summary(&self) -> String {
        let Self { from, to, outcome, sessions, kept, moved, pause_ms, .. } = self;
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
        let phases: Vec<String> = self.phases.iter().map(|p| format!("{} {} ms", p.name, p.ms)).collect();
        format!(
            "{from} → {to}: {outcome}{reason}; {kept} of {sessions} sessions kept, {moved} moved; gate shut {pause_ms} ms, \
             {held} commands held\n  hold      {hold}\n  hold_own  {own}\n  {phases}",
            held = self.hold.count,
            hold = self.hold.percentiles(),
            own = self.hold_own.percentiles(),
            phases = phases.join(", "),
        )
    }
}

impl Holds {
    fn percentiles(&self) -> String {
        let ms = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
        format!("p50 {:>10}  p99 {:>10}  max {:>10}", ms(self.p50_us), ms(self.p99_us), ms(self.max_us))
    }
}

/// Asks for the plan until it says GO: what the probes wrote has to be replicated first.
pub async fn plan(proxy: &Bascule, to: &str) -> Result<()> {
    let go = async {
        while proxy.run(&["cutover", "plan", to]).await?.code != 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, go).await {
        Ok(planned) => planned,
        Err(_) => bail!("NO-GO: {}", against(&proxy.run(&["cutover", "plan", to]).await?.json)),
    }
}

/// What speaks against a cutover, out of its plan.
fn against(plan: &Value) -> String {
    let items = plan["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let blocks = items.iter().filter(|item| item["answer"] == "fail" || item["answer"] == "unknown");
    blocks.map(|item| format!("{}: {}; ", item["name"], item["saw"])).collect()
}

/// `bascule cutover start`, to its end.
pub async fn cutover(proxy: &Bascule, to: &str) -> Result<Report> {
    let ran = proxy.cutover(to).await?;
    ensure!(ran.json.get("outcome").is_some(), "no cutover to {to}: {:#}\n{}", ran.json, ran.stderr);
    Ok(serde_json::from_value(ran.json)?)
}

/// The pool that serves.
pub async fn active(proxy: &Bascule) -> Result<String> {
    let status = proxy.status().await?;
    Ok(status["active"].as_str().context("a status names the active pool")?.to_owned())
}
