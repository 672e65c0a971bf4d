//! The measurements, each of one proxy, once.
//!
//! Rule: the clocks are read while the load stands still, before its first operation and after its last.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    clocks::Processes,
    contender::Running,
    load::{Door, Load},
};

/// What a closed loop did.
#[derive(Debug, Deserialize)]
struct Done {
    operations: u64,
    bytes: u64,
}

/// CPU time for work.
#[derive(Debug)]
pub(crate) struct Cost {
    cpu: Duration,
    operations: u64,
    bytes: u64,
}

/// Latency of NOOPs at constant intervals.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Latency {
    operations: u64,
    p50_ns: u64,
    p99_ns: u64,
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

impl Latency {
    /// p50 and p99, microseconds.
    pub(crate) fn micros(self) -> [f64; 2] {
        [self.p50_ns, self.p99_ns].map(|ns| ns as f64 / 1e3)
    }
}

/// Lets a closed loop run.
pub(crate) async fn cost(proxy: &Running<'_>, work: &str) -> Result<Cost> {
    let mut load = Load::start(&proxy.door, work).await?;
    let processes = proxy.processes()?;
    let before = processes.cpu()?;
    let Done { operations, bytes } = load.go().await?;
    let cpu = processes.cpu()? - before;
    load.end().await?;
    Ok(Cost { cpu, operations, bytes })
}

/// What NOOPs at constant intervals feel, and CPU microseconds for each: many wake the proxy up for themselves alone.
pub(crate) async fn paced(proxy: &Running<'_>, work: &str) -> Result<(Latency, f64)> {
    let mut load = Load::start(&proxy.door, work).await?;
    let processes = proxy.processes()?;
    let before = processes.cpu()?;
    let latency: Latency = load.go().await?;
    let cost = Cost { cpu: processes.cpu()? - before, operations: latency.operations, bytes: 0 };
    load.end().await?;
    Ok((latency, cost.micros_each()))
}

/// Lets NOOPs go at constant intervals.
pub(crate) async fn latency(door: &Door<'_>, work: &str) -> Result<Latency> {
    let mut load = Load::start(door, work).await?;
    let latency = load.go().await?;
    load.end().await?;
    Ok(latency)
}

/// Private memory for each connection on which nothing happens, bytes, at each step.
pub(crate) async fn idle(proxy: &Running<'_>, kind: &str, steps: &[usize]) -> Result<Vec<f64>> {
    let list: Vec<String> = steps.iter().map(usize::to_string).collect();
    let mut load = Load::start(&proxy.door, &format!("{kind} --steps {}", list.join(","))).await?;
    let processes = proxy.processes()?;
    let before = settled(&processes).await?;
    let mut found = Vec::new();
    for &step in steps {
        let _: Value = load.go().await?;
        found.push(each(before, settled(&processes).await?, step));
    }
    // Whether all of them still are sessions.
    let _: Value = load.go().await?;
    load.end().await?;
    Ok(found)
}

/// What misbehaving connections do to a proxy.
#[derive(Debug)]
pub(crate) struct Harm {
    /// Private memory for each of them, bytes.
    pub(crate) memory: f64,
    /// What other sessions feel, without them and with them.
    pub(crate) alone: Latency,
    pub(crate) meanwhile: Latency,
    /// How many of them the proxy left, of all.
    pub(crate) left: f64,
}

#[derive(Debug, Deserialize)]
struct Left {
    left: usize,
}

/// Measures healthy sessions alone, then beside `count` connections of a bad habit.
pub(crate) async fn edge(proxy: &Running<'_>, habit: &str, count: usize, healthy: &str) -> Result<Harm> {
    let alone = latency(&proxy.door, healthy).await?;
    let mut healthy = Load::start(&proxy.door, healthy).await?;
    let mut crowd = Load::start(&proxy.door, &format!("edge --habit {habit} --connections {count}")).await?;
    let processes = proxy.processes()?;
    let before = settled(&processes).await?;
    let _: Value = crowd.go().await?;
    let during = settled(&processes).await?;
    let meanwhile = healthy.go().await?;
    let after = processes.memory()?;
    let Left { left } = crowd.go().await?;
    healthy.end().await?;
    crowd.end().await?;
    let memory = each(before, during.max(after), count);
    Ok(Harm { memory, alone, meanwhile, left: left as f64 / count as f64 })
}

fn each(before: u64, now: u64, count: usize) -> f64 {
    (now as f64 - before as f64) / count as f64
}

/// The memory once it has stayed the same, to 64 kB, for six seconds (a proxy may tidy up later), or after thirty.
async fn settled(processes: &Processes) -> Result<u64> {
    let (mut last, mut same) = (processes.memory()?, 0);
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = processes.memory()?;
        if now.abs_diff(last) > 64 << 10 {
            (last, same) = (now, 0);
        }
        same += 1;
        if same > 24 {
            return Ok(now);
        }
    }
    Ok(last)
}
