//! Closed loops: on each connection the next operation begins when the last has ended.
//!
//! Rule: every operation that is begun within the time is finished and counted, so that the work of the measured
//! process and the count belong together.

use anyhow::Result;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

use crate::{
    Caller, Closed,
    wire::{Target, Wire},
};

/// Operations of each connection before anything is counted.
const WARM: usize = 20;
/// Read buffer of a connection: a few replies, or a TLS record.
const SMALL: usize = 4 * 1024;
const RECORD: usize = 16 * 1024;

#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    pub(crate) ready: usize,
}

#[derive(Debug, Default, Serialize)]
struct Done {
    operations: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) async fn noop(target: &Target, closed: Closed, caller: Caller) -> Result<()> {
    let wires = sessions(target, closed, SMALL).await?;
    repeat(wires, b"NOOP", closed.seconds, caller).await
}

pub(crate) async fn fetch(target: &Target, closed: Closed, kilobytes: u32, caller: Caller) -> Result<()> {
    let wires = sessions(target, closed, RECORD).await?;
    repeat(wires, format!("FETCH {kilobytes} (BODY.PEEK[])").as_bytes(), closed.seconds, caller).await
}

/// One session per connection, each of its own user.
pub(crate) async fn sessions(target: &Target, closed: Closed, buffer: usize) -> Result<Vec<Wire>> {
    let mut wires = Vec::with_capacity(closed.connections);
    for user in 0..closed.connections {
        wires.push(target.session(user, buffer).await?);
    }
    Ok(wires)
}

async fn repeat(mut wires: Vec<Wire>, command: &[u8], time: Duration, mut caller: Caller) -> Result<()> {
    for wire in &mut wires {
        wire.command(command).await?;
        wire.take_received();
    }
    caller.told(&Ready { ready: wires.len() }).await?;
    let (start, until) = (Instant::now(), Instant::now() + time);
    let mut tasks = JoinSet::new();
    for mut wire in wires {
        let command = command.to_vec();
        tasks.spawn(async move {
            let mut operations = 0;
            while Instant::now() < until {
                wire.command(&command).await?;
                operations += 1;
            }
            anyhow::Ok((operations, wire.take_received(), Some(wire)))
        });
    }
    finish(tasks, start, &mut caller).await
}

pub(crate) async fn login(target: &Target, closed: Closed, mut caller: Caller) -> Result<()> {
    async fn once(target: &Target, user: usize) -> Result<()> {
        let mut wire = target.connect(SMALL).await?;
        wire.login(user).await?;
        wire.logout().await
    }
    for user in 0..WARM {
        once(target, user).await?;
    }
    caller.told(&Ready { ready: closed.connections }).await?;
    let (start, until) = (Instant::now(), Instant::now() + closed.seconds);
    let mut tasks = JoinSet::new();
    for user in 0..closed.connections {
        let target = target.clone();
        tasks.spawn(async move {
            let mut operations = 0;
            while Instant::now() < until {
                once(&target, user).await?;
                operations += 1;
            }
            anyhow::Ok((operations, 0, None::<Wire>))
        });
    }
    finish(tasks, start, &mut caller).await
}

/// Adds up what the tasks did. The connections stay until the caller has read the clocks.
pub(crate) async fn finish<W: Send + 'static>(
    mut tasks: JoinSet<Result<(u64, u64, Option<W>)>>,
    start: Instant,
    caller: &mut Caller,
) -> Result<()> {
    let (mut done, mut wires) = (Done::default(), Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (operations, bytes, wire) = task??;
        done.operations += operations;
        done.bytes += bytes;
        wires.push(wire);
    }
    done.seconds = start.elapsed().as_secs_f64();
    caller.told(&done).await
}
