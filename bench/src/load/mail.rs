//! Messages in a closed loop: on each connection the next begins when the last was acknowledged.
//!
//! Rule: MAIL, RCPT and DATA leave together, and the content with its dot, as fast senders do.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Caller, Closed,
    closed::{Ready, finish},
    wire::{Stream, Target},
};

const ENVELOPE: &[u8] = b"MAIL FROM:<load@example.net>\r\nRCPT TO:<user@example.org>\r\nDATA\r\n";
const KB: usize = 1000;
/// Replies are short.
const BUFFER: usize = 1024;

/// A session that has said EHLO.
pub(crate) struct Session {
    stream: BufReader<Box<dyn Stream>>,
    line: Vec<u8>,
}

pub(crate) async fn run(target: &Target, closed: Closed, kilobytes: u32, mut caller: Caller) -> Result<()> {
    let message: Arc<[u8]> = message(kilobytes as usize * KB).into();
    let mut sessions = Vec::with_capacity(closed.connections);
    for _ in 0..closed.connections {
        let mut session = Session::open(target).await?;
        // The first one step by step: nginx reads no further than RCPT before it has asked where to.
        for step in ENVELOPE.split_inclusive(|byte| *byte == b'\n') {
            session.say(step).await?;
            session.reply().await?;
        }
        session.content(&message).await?;
        sessions.push(session);
    }
    caller.told(&Ready { ready: sessions.len() }).await?;
    let (start, until) = (Instant::now(), Instant::now() + closed.seconds);
    let mut tasks = JoinSet::new();
    for mut session in sessions {
        let message = message.clone();
        tasks.spawn(async move {
            let mut operations = 0;
            while Instant::now() < until {
                session.message(&message).await?;
                operations += 1;
            }
            anyhow::Ok((operations, operations * message.len() as u64, Some(session)))
        });
    }
    finish(tasks, start, &mut caller).await
}

/// So many bytes of content with its final dot.
fn message(size: usize) -> Vec<u8> {
    let mut text = b"From: load@example.org\r\nSubject: what is measured\r\n\r\n".to_vec();
    while text.len() < size {
        text.extend_from_slice(format!("{:076}\r\n", text.len()).as_bytes());
    }
    text.truncate(size - 2);
    text.extend_from_slice(b"\r\n.\r\n");
    text
}

impl Session {
    async fn open(target: &Target) -> Result<Self> {
        let stream = target.stream(target.dial(None).await?).await?;
        let mut session = Self { stream: BufReader::with_capacity(BUFFER, stream), line: Vec::new() };
        session.reply().await.context("greeting")?;
        session.say(b"EHLO load.test\r\n").await?;
        session.reply().await?;
        Ok(session)
    }

    async fn message(&mut self, message: &[u8]) -> Result<()> {
        self.say(ENVELOPE).await?;
        for _ in 0..3 {
            self.reply().await?;
        }
        self.content(message).await
    }

    async fn content(&mut self, message: &[u8]) -> Result<()> {
        self.say(message).await?;
        self.reply().await
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    /// A whole reply, which must be 2yz or 3yz.
    async fn reply(&mut self) -> Result<()> {
        loop {
            self.line.clear();
            self.stream.read_until(b'\n', &mut self.line).await?;
            ensure!(
                matches!(self.line.first(), Some(b'2' | b'3')),
                "{:?}",
                String::from_utf8_lossy(&self.line)
            );
            if self.line.get(3) == Some(&b' ') {
                return Ok(());
            }
        }
    }
}
