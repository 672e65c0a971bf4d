//! Requests of HTTP/2 in a closed loop: a few connections with several requests at once on each, as browsers have them.
//!
//! Rule: an answer is whole and 200, or the run ends.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Caller, Closed,
    closed::{Ready, finish},
    wire::{HOST, Target},
};

/// Requests at once on a connection.
const STREAMS: usize = 8;
/// As browsers have them: what an answer waits for is not to be the client.
const WINDOW: u32 = 6 << 20;

/// A connection.
#[derive(Debug, Clone)]
struct Two(SendRequest<Bytes>);

pub(crate) async fn run(target: &Target, closed: Closed, kilobytes: u32, mut caller: Caller) -> Result<()> {
    let question = format!("https://{HOST}/{kilobytes}");
    let mut all = Vec::with_capacity(closed.connections);
    for _ in 0..closed.connections {
        let mut one = Two::open(target).await?;
        one.ask(&question).await?;
        all.push(one);
    }
    caller.told(&Ready { ready: all.len() }).await?;
    let (start, until) = (Instant::now(), Instant::now() + closed.seconds);
    let mut tasks = JoinSet::new();
    for one in all.iter().flat_map(|one| std::iter::repeat_n(one, STREAMS)) {
        let (mut one, question) = (one.clone(), question.clone());
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

impl Two {
    async fn open(target: &Target) -> Result<Self> {
        let stream = target.stream(target.dial(None).await?).await?;
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (requests, connection) = builder.handshake(stream).await.context("HTTP/2")?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    /// Bytes of the body.
    async fn ask(&mut self, question: &str) -> Result<u64> {
        let request = Request::get(question).header("user-agent", "load").header("accept", "*/*").body(())?;
        let mut requests = self.0.clone().ready().await?;
        let answer = requests.send_request(request, true)?.0.await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        let (mut body, mut bytes) = (answer.into_body(), 0);
        while let Some(piece) = body.data().await {
            let length = piece?.len();
            body.flow_control().release_capacity(length)?;
            bytes += length as u64;
        }
        Ok(bytes)
    }
}
