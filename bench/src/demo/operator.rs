//! The operator: the plan, the cutover and its report.
//!
//! Rule: the demo does nothing that an operator could not do with the same command line.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_tests::bascule::Bascule;
use serde::Deserialize;
use serde_json::Value;

/// Longest wait for a GO.
const PATIENCE: Duration = Duration::from_secs(30);

/// What bascule says about a cutover that ended.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    from: String,
    to: String,
    outcome: String,
    reason: String,
    phases: Vec<Phase>,
    hold: Holds,
    hold_own: Holds,
    sessions: u64,
    kept: u64,
    moved: u64,
    pause_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Phase {
    name: String,
    ms: u64,
}

#[derive(Debug, Deserialize)]
struct Holds {
    count: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Report {
    pub(crate) fn went_through(&self) -> bool {
        self.outcome == "done" && self.kept == self.sessions
    }

    /// The report in four lines.
    pub(crate) fn summary(&self) -> String {
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
pub(crate) async fn plan(proxy: &Bascule, to: &str) -> Result<()> {
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
pub(crate) async fn cutover(proxy: &Bascule, to: &str) -> Result<Report> {
    let ran = proxy.cutover(to).await?;
    ensure!(ran.json.get("outcome").is_some(), "no cutover to {to}: {:#}\n{}", ran.json, ran.stderr);
    Ok(serde_json::from_value(ran.json)?)
}

/// The pool that serves.
pub(crate) async fn active(proxy: &Bascule) -> Result<String> {
    let status = proxy.status().await?;
    Ok(status["active"].as_str().context("a status names the active pool")?.to_owned())
}
