//! NOOPs at constant intervals, whatever the answers do.
//!
//! Rule: the latency of an operation counts from the moment at which it should have been sent, so that a stall
//! counts for everything that it delays.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Caller, Closed, closed,
    wire::{Target, Wire},
};

#[derive(Debug, Serialize)]
struct Latency {
    operations: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

pub(crate) async fn run(target: &Target, closed: Closed, rate: u32, mut caller: Caller) -> Result<()> {
    let wires = closed::sessions(target, closed, 4096).await?;
    caller.told(&serde_json::json!({ "ready": wires.len() })).await?;
    let mut tasks = JoinSet::new();
    let queues: Vec<_> = wires
        .into_iter()
        .map(|wire| {
            let (queue, orders) = mpsc::unbounded_channel();
            tasks.spawn(work(wire, orders));
            queue
        })
        .collect();
    let pacer = thread::spawn(move || send(&queues, Duration::from_secs(1) / rate, closed.seconds));
    let (mut all, mut wires) = (Histogram::<u64>::new(3)?, Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (one, wire) = task??;
        all.add(&one)?;
        wires.push(wire);
    }
    if let Ok(sent) = pacer.join() {
        sent?;
    }
    caller
        .told(&Latency {
            operations: all.len(),
            p50_ns: all.value_at_quantile(0.5),
            p99_ns: all.value_at_quantile(0.99),
            max_ns: all.max(),
        })
        .await
}

/// Gives the orders in turn, from a thread of its own: the runtime's timers know milliseconds only.
fn send(queues: &[mpsc::UnboundedSender<Instant>], interval: Duration, time: Duration) -> Result<()> {
    // A sleep may otherwise end 50 µs late.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let (start, mut due) = (Instant::now(), interval);
    for queue in queues.iter().cycle() {
        if due > time {
            break;
        }
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        queue.send(start + due).context("a connection has ended")?;
        due += interval;
    }
    Ok(())
}

async fn work(
    mut wire: Wire,
    mut orders: mpsc::UnboundedReceiver<Instant>,
) -> Result<(Histogram<u64>, Wire)> {
    let mut latencies = Histogram::new(3)?;
    while let Some(due) = orders.recv().await {
        wire.command(b"NOOP").await?;
        latencies.record(u64::try_from(due.elapsed().as_nanos())?)?;
    }
    Ok((latencies, wire))
}
