//! Connections that misbehave.
//!
//! Rule: they go on until told to end. A server may end them before; how many it left is told.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Caller,
    wire::{HOST, Target, Wire},
};

/// Connections that are begun at once.
const PACE: usize = 16;
/// What a slow reader's kernel takes in advance: little, so that the rest waits at the server's side.
const WINDOW: u32 = 16 * 1024;
/// A slow reader reads this much of its message, …
const SIP: usize = 4 * 1024;
/// … a slow writer writes this much of its own, and a slow handshake goes on by one byte, …
const MORSEL: usize = 256;
/// … this often.
const PAUSE: Duration = Duration::from_millis(100);
/// Length of the message that is fetched or uploaded.
const KILOBYTES: usize = 5000;
/// Read buffer of a connection.
const BUFFER: usize = 1024;

/// How a connection misbehaves.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Habit {
    /// Says nothing after the dial
    Silent,
    /// Says nothing after the greeting
    Nameless,
    /// Sends the handshake byte by byte
    Handshake,
    /// Fetches a long message and hardly reads it
    Reader,
    /// Announces a long message and hardly sends it
    Writer,
}

/// A connection that has begun to misbehave.
enum Nuisance {
    Silent(TcpStream),
    Nameless(Wire),
    Handshake(TcpStream, Vec<u8>),
    Reader(Wire),
    Writer(Wire),
}

pub(crate) async fn run(target: &Target, habit: Habit, count: usize, mut caller: Caller) -> Result<()> {
    caller.told(&json!({ "ready": 0 })).await?;
    let (mut beginning, pace) = (JoinSet::new(), Arc::new(Semaphore::new(PACE)));
    for user in 0..count {
        let (target, pace) = (target.clone(), pace.clone());
        beginning.spawn(async move {
            let _turn = pace.acquire().await?;
            Nuisance::begin(&target, habit, user).await
        });
    }
    let mut going_on = JoinSet::new();
    while let Some(nuisance) = beginning.join_next().await {
        let nuisance = nuisance?.with_context(|| format!("connection {} of {count}", going_on.len() + 1))?;
        going_on.spawn(nuisance.go_on());
    }
    caller.told(&json!({ "begun": count })).await?;
    while going_on.try_join_next().is_some() {}
    caller.told(&json!({ "left": going_on.len() })).await
}

impl Nuisance {
    async fn begin(target: &Target, habit: Habit, user: usize) -> Result<Self> {
        match habit {
            Habit::Silent => Ok(Self::Silent(target.dial(None).await?)),
            Habit::Nameless => Ok(Self::Nameless(target.connect(BUFFER).await?)),
            Habit::Handshake => Ok(Self::Handshake(target.dial(None).await?, hello(target)?)),
            Habit::Reader => {
                let mut wire = target.secure(target.dial(Some(WINDOW)).await?, BUFFER).await?;
                wire.login(user).await?;
                wire.command(b"SELECT INBOX").await?;
                wire.send(format!("FETCH {KILOBYTES} (BODY.PEEK[])").as_bytes()).await?;
                Ok(Self::Reader(wire))
            }
            Habit::Writer => {
                let mut wire = target.connect(BUFFER).await?;
                wire.login(user).await?;
                wire.send(format!("APPEND INBOX {{{}}}", KILOBYTES * 1000).as_bytes()).await?;
                wire.go_ahead().await?;
                Ok(Self::Writer(wire))
            }
        }
    }

    /// Returns when the server has ended it, or when there is nothing left to do slowly.
    async fn go_on(self) -> Result<()> {
        match self {
            Self::Silent(tcp) => silence(&tcp).await,
            Self::Nameless(mut wire) => {
                wire.stream().fill_buf().await?;
                Ok(())
            }
            Self::Handshake(mut tcp, hello) => {
                for byte in hello {
                    tcp.write_all(&[byte]).await?;
                    sleep(PAUSE).await;
                }
                silence(&tcp).await
            }
            Self::Reader(mut wire) => {
                let mut sip = [0; SIP];
                while wire.stream().read(&mut sip).await? > 0 {
                    sleep(PAUSE).await;
                }
                Ok(())
            }
            Self::Writer(mut wire) => {
                for _ in 0..KILOBYTES * 1000 / MORSEL {
                    wire.raw(&[b'x'; MORSEL]).await?;
                    sleep(PAUSE).await;
                }
                Ok(())
            }
        }
    }
}

/// Waits for the server to say something or to hang up.
async fn silence(tcp: &TcpStream) -> Result<()> {
    Ok(tcp.readable().await?)
}

/// The first message of a handshake. To a server without TLS it is as good a riddle as any.
fn hello(target: &Target) -> Result<Vec<u8>> {
    let Some(config) = &target.tls else { return Ok(b"A".repeat(250)) };
    let mut hello = Vec::new();
    ClientConnection::new(config.clone(), ServerName::try_from(HOST)?)?.write_tls(&mut hello)?;
    Ok(hello)
}
