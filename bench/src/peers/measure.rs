//! The measurements, each of one proxy for one time.
//!
//! Rule: the clocks are read while the load stands still, before its first operation and after its last.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    clocks::Processes,
    load::{Door, Load},
};

/// What a closed loop did.
#[derive(Debug, Deserialize)]
struct Done {
    operations: u64,
    bytes: u64,
    seconds: f64,
}

/// CPU time for work.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

impl Cost {
    /// Microseconds for an operation.
    pub(crate) fn micros_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations as f64
    }

    /// Seconds for a gigabyte.
    pub(crate) fn seconds_per_gigabyte(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.bytes as f64
    }
}

/// Lets a closed loop run.
pub(crate) async fn cost(door: &Door<'_>, processes: &Processes, work: &str) -> Result<Cost> {
    let mut load = Load::start(door, work).await?;
    let before = processes.cpu()?;
    let Done { operations, bytes, seconds } = load.go().await?;
    let cpu = processes.cpu()? - before;
    load.end().await?;
    Ok(Cost { cpu, operations, bytes, seconds })
}

/// Private memory for each session in IDLE, bytes, at each step.
pub(crate) async fn idle(door: &Door<'_>, processes: &Processes, steps: &[usize]) -> Result<Vec<f64>> {
    let list: Vec<String> = steps.iter().map(usize::to_string).collect();
    let mut load = Load::start(door, &format!("idle --steps {}", list.join(","))).await?;
    let before = settled(processes).await?;
    let mut found = Vec::new();
    for &step in steps {
        let _: Value = load.go().await?;
        found.push((settled(processes).await? as f64 - before as f64) / step as f64);
    }
    let _alive: Value = load.go().await?;
    load.end().await?;
    Ok(found)
}

/// The memory once it no longer changes.
async fn settled(processes: &Processes) -> Result<u64> {
    let mut last = processes.memory()?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = processes.memory()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}
