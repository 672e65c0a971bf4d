//! On what it was measured.
//!
//! Rule: figures of different machines are never compared; so each report says which one it was.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::options::Plan;

pub(crate) async fn describe(plan: &Plan) -> Result<Value> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let mut versions = Map::new();
    for contender in &plan.contenders {
        versions.insert(contender.name.clone(), contender.version().await?.into());
    }
    Ok(json!({
        "cpu": model.map_or("", |(_, model)| model),
        "cores": std::thread::available_parallelism()?.get(),
        "kernel": read("/proc/sys/kernel/osrelease").trim_end(),
        "load_before": read("/proc/loadavg").trim_end(),
        "versions": versions,
    }))
}
