//! The load of the measurements: clients of IMAP, SMTP and HTTP that cost little, in a process of their own.
//!
//! Rule: what is counted was answered in full and rightly; the first wrong answer ends the run.
//!
//! It talks with who started it by lines: it says what it has (JSON), and goes on when a line arrives. So the
//! caller can read the clocks of the measured process while nothing happens.

mod closed;
mod edges;
mod hold;
mod mail;
mod paced;
mod two;
mod web;
mod wire;

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;
use tokio::sync::mpsc;

use self::wire::Target;

/// Clients for measurements, on one thread.
///
/// Says `{"ready":…}` when the connections stand, waits for a line on standard input, and says what came of it.
#[derive(Debug, Parser)]
struct Args {
    /// The server
    #[arg(long)]
    to: SocketAddr,
    /// TLS from the start, with this authority (PEM): TLS 1.3, X25519, AES-128-GCM, no resumption
    #[arg(long)]
    ca: Option<PathBuf>,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// NOOP after NOOP on every connection
    Noop(Closed),
    /// The same message again and again on every connection
    Fetch {
        #[command(flatten)]
        closed: Closed,
        /// Its length
        #[arg(long)]
        kilobytes: u32,
    },
    /// Handshake, login, logout, again and again
    Login(Closed),
    /// Message after message by SMTP on every connection
    Mail {
        #[command(flatten)]
        closed: Closed,
        /// Length of each
        #[arg(long)]
        kilobytes: u32,
    },
    /// Request after request by HTTP/1.1 on every connection
    Web {
        #[command(flatten)]
        closed: Closed,
        /// Length of each answer
        #[arg(long)]
        kilobytes: u32,
    },
    /// Request after request by HTTP/2, eight at once on every connection
    Two {
        #[command(flatten)]
        closed: Closed,
        /// Length of each answer
        #[arg(long)]
        kilobytes: u32,
    },
    /// Connections of HTTP/1.1 that are kept after an answer
    Kept {
        /// So many, then so many, …; a line on standard input leads to the next
        #[arg(long, value_delimiter = ',')]
        steps: Vec<usize>,
    },
    /// NOOPs at constant intervals; latency counts from the moment at which one should have been sent
    Paced {
        #[command(flatten)]
        closed: Closed,
        /// NOOPs per second on all connections together
        #[arg(long)]
        rate: u32,
    },
    /// Sessions in IDLE
    Idle {
        /// So many, then so many, …; a line on standard input leads to the next
        #[arg(long, value_delimiter = ',')]
        steps: Vec<usize>,
    },
    /// Connections that misbehave
    Edge {
        /// How
        #[arg(long)]
        habit: edges::Habit,
        /// So many of them
        #[arg(long)]
        connections: usize,
    },
}

/// A closed loop: the next begins when the last has ended.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Closed {
    /// At once
    #[arg(long)]
    connections: usize,
    /// For so long
    #[arg(long, value_parser = seconds)]
    seconds: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let protocols: &[&[u8]] = if matches!(args.work, Work::Two { .. }) { &[b"h2"] } else { &[] };
    let target = Target::new(args.to, args.ca.as_deref(), protocols)?;
    let caller = Caller::new();
    match args.work {
        Work::Noop(closed) => closed::noop(&target, closed, caller).await,
        Work::Fetch { closed, kilobytes } => closed::fetch(&target, closed, kilobytes, caller).await,
        Work::Login(closed) => closed::login(&target, closed, caller).await,
        Work::Mail { closed, kilobytes } => mail::run(&target, closed, kilobytes, caller).await,
        Work::Web { closed, kilobytes } => web::run(&target, closed, kilobytes, caller).await,
        Work::Two { closed, kilobytes } => two::run(&target, closed, kilobytes, caller).await,
        Work::Kept { steps } => web::kept(&target, &steps, caller).await,
        Work::Paced { closed, rate } => paced::run(&target, closed, rate, caller).await,
        Work::Idle { steps } => hold::idle(&target, &steps, caller).await,
        Work::Edge { habit, connections } => edges::run(&target, habit, connections, caller).await,
    }
}

/// Who started us.
#[derive(Debug)]
struct Caller(mpsc::UnboundedReceiver<()>);

impl Caller {
    fn new() -> Self {
        let (line, lines) = mpsc::unbounded_channel();
        // A thread of its own, because the runtime could not end while it waits for input.
        std::thread::spawn(move || {
            for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line.send(()).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// Says something and waits for the word to go on.
    async fn told(&mut self, news: &impl Serialize) -> Result<()> {
        Self::tell(news)?;
        self.0.recv().await.context("whoever started this is gone")
    }

    fn tell(news: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(news)?;
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        out.write_all(&line)?;
        Ok(out.flush()?)
    }
}
