//! Requests of HTTP/1.1 in a closed loop, and connections that are kept without one.
//!
//! Rule: an answer is whole and 200, or the run ends.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    sync::Semaphore,
    task::JoinSet,
    time::Instant,
};

use crate::{
    Caller, Closed,
    closed::{Ready, finish},
    wire::{HOST, Stream, Target},
};

/// Read buffer of a connection.
const BUFFER: usize = 4 * 1024;
/// How often the one that goes on asks.
const TICK: Duration = Duration::from_millis(5);
/// Handshakes at once.
const PACE: usize = 16;

/// A kept connection.
pub(crate) struct Kept {
    stream: BufReader<Box<dyn Stream>>,
    line: Vec<u8>,
    body: Vec<u8>,
}

pub(crate) async fn run(target: &Target, closed: Closed, kilobytes: u32, mut caller: Caller) -> Result<()> {
    let question: Arc<[u8]> = question(kilobytes).into();
    let mut kept = Vec::with_capacity(closed.connections);
    for _ in 0..closed.connections {
        let mut one = Kept::open(target).await?;
        one.ask(&question).await?;
        kept.push(one);
    }
    caller.told(&Ready { ready: kept.len() }).await?;
    let (start, until) = (Instant::now(), Instant::now() + closed.seconds);
    let mut tasks = JoinSet::new();
    for mut one in kept {
        let question = question.clone();
        tasks.spawn(async move {
            let (mut operations, mut bytes) = (0, 0);
            while Instant::now() < until {
                bytes += one.ask(&question).await?;
                operations += 1;
            }
            anyhow::Ok((operations, bytes, Some(one)))
        });
    }
    finish(tasks, start, &mut caller).await
}

/// Beside connections that ask for nothing one goes on: an allocator gives back nothing while nothing happens.
async fn go_on(target: Target, question: Arc<[u8]>) -> Result<()> {
    let mut one = Kept::open(&target).await?;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        one.ask(&question).await?;
    }
}

/// Connections that have had an answer, and ask for nothing.
pub(crate) async fn kept(target: &Target, steps: &[usize], mut caller: Caller) -> Result<()> {
    let question: Arc<[u8]> = question(1).into();
    // What a process allocates once is not to count for the first ones.
    for _ in 0..PACE {
        Kept::open(target).await?.ask(&question).await?;
    }
    let alive = tokio::spawn(go_on(target.clone(), question.clone()));
    caller.told(&json!({ "ready": 0 })).await?;
    let (mut all, pace) = (Vec::new(), Arc::new(Semaphore::new(PACE)));
    for &step in steps {
        let mut tasks = JoinSet::new();
        for _ in all.len()..step {
            let (target, pace, question) = (target.clone(), pace.clone(), question.clone());
            tasks.spawn(async move {
                let _turn = pace.acquire().await?;
                let mut one = Kept::open(&target).await?;
                one.ask(&question).await?;
                anyhow::Ok(one)
            });
        }
        while let Some(one) = tasks.join_next().await {
            all.push(one?.with_context(|| format!("connection {} of {step}", all.len() + 1))?);
        }
        caller.told(&json!({ "kept": step })).await?;
    }
    for one in &mut all {
        one.ask(&question).await.context("a connection that was kept")?;
    }
    ensure!(!alive.is_finished(), "the connection that went on asking has ended");
    alive.abort();
    caller.told(&json!({ "alive": all.len() })).await
}

fn question(kilobytes: u32) -> Vec<u8> {
    format!("GET /{kilobytes} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

impl Kept {
    async fn open(target: &Target) -> Result<Self> {
        let stream = target.stream(target.dial(None).await?).await?;
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream), line: Vec::new(), body: Vec::new() })
    }

    /// Bytes of the body.
    async fn ask(&mut self, question: &[u8]) -> Result<u64> {
        let stream = self.stream.get_mut();
        stream.write_all(question).await?;
        stream.flush().await?;
        self.next_line().await?;
        ensure!(self.line.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&self.line));
        let mut length = None;
        while self.line != b"\r\n" {
            self.next_line().await?;
            let text = String::from_utf8_lossy(&self.line).to_ascii_lowercase();
            if let Some(value) = text.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
        }
        self.body.resize(length.context("an answer without its length")?, 0);
        self.stream.read_exact(&mut self.body).await?;
        Ok(self.body.len() as u64)
    }

    async fn next_line(&mut self) -> Result<()> {
        self.line.clear();
        ensure!(self.stream.read_until(b'\n', &mut self.line).await? > 0, "the connection was closed");
        Ok(())
    }
}
