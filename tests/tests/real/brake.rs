//! A cable that stops carrying what a client says, where the test wants it to.
//!
//! Rule: not a byte is changed, none is lost, and what the server says passes at any time.

use std::net::{Ipv4Addr, SocketAddr};

use bascule_tests::fake::Stall;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Where the client is stopped.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    /// Before the line that begins so.
    Before(&'static str),
    /// After so many bytes.
    After(usize),
}

/// A door that leads to a server, for one client.
pub(super) struct Brake {
    pub(super) door: SocketAddr,
    stall: Stall,
}

impl Brake {
    /// Leads to `to`, which sees the client at `from`.
    pub(super) async fn new(to: SocketAddr, from: Ipv4Addr, stop: Stop) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let stall = Stall::default();
        let stalls = stall.clone();
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            // An error is the end of one of the two, and the other one hears of it.
            let _ = carry(client, to, from, stop, &stalls).await;
        });
        Self { door, stall }
    }

    /// Waits until the client is stopped.
    pub(super) async fn reached(&self) {
        self.stall.reached(1).await;
    }

    /// Lets it go on.
    pub(super) fn release(&self) {
        self.stall.release();
    }
}

async fn carry(
    mut client: TcpStream,
    to: SocketAddr,
    from: Ipv4Addr,
    stop: Stop,
    stall: &Stall,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut server = socket.connect(to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = async {
        let (mut said, mut sent) = (Vec::new(), 0);
        while from_client.read_buf(&mut said).await? > 0 {
            if let Some(at) = place(&said, stop) {
                to_server.write_all(&said[sent..at]).await?;
                stall.wait().await;
                to_server.write_all(&said[at..]).await?;
                tokio::io::copy(&mut from_client, &mut to_server).await?;
                break;
            }
            // A line that is not whole may be the one.
            let whole = match stop {
                Stop::After(_) => said.len(),
                Stop::Before(_) => said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
            };
            to_server.write_all(&said[sent..whole.max(sent)]).await?;
            sent = whole.max(sent);
        }
        to_server.shutdown().await
    };
    let back = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(there, back).map(drop)
}

/// The first byte that is not carried any more.
fn place(said: &[u8], stop: Stop) -> Option<usize> {
    match stop {
        Stop::After(bytes) => (said.len() > bytes).then_some(bytes),
        Stop::Before(line) => {
            let line = [b"\r\n", line.as_bytes()].concat();
            said.windows(line.len()).position(|window| window.eq_ignore_ascii_case(&line)).map(|at| at + 2)
        }
    }
}
