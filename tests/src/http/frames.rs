//! HTTP/2 frame by frame, for what no library sends.
//!
//! Rule: fields go as they are given, literally; of what comes back only the kinds of frames are told.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::client::Security;

/// Longest wait for a frame.
const PATIENCE: Duration = Duration::from_secs(90);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// What a server says about a stream, or about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// An answer has begun on this stream.
    Answer(u32),
    /// This stream is reset.
    Reset(u32),
    /// Our question whether anybody is there was answered.
    Pong,
    /// The connection takes no further stream.
    GoAway,
    /// The connection has ended.
    End,
}

/// One connection.
#[derive(Debug)]
pub struct Frames {
    tls: TlsStream<TcpStream>,
    next: u32,
}

impl Frames {
    /// Connects, and says hello.
    pub async fn connect(to: SocketAddr, security: Security) -> Result<Self> {
        let Security::Tls(config, name) = security else { bail!("HTTP/2 is spoken over TLS here") };
        let mut config = rustls::ClientConfig::clone(&config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(to).await?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let mut frames = Self { tls, next: 1 };
        frames.tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        frames.send(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// Sends a head with these fields, and the number of its stream. `end`: nothing comes after it.
    pub async fn head(&mut self, fields: &[(&[u8], &[u8])], end: bool) -> io::Result<u32> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // A literal that nobody is to remember (RFC 7541 §6.2.2).
            block.push(0);
            for text in [name, value] {
                length(&mut block, text.len());
                block.extend_from_slice(text);
            }
        }
        let (stream, flags) = (self.next, END_HEADERS | if end { END_STREAM } else { 0 });
        self.next += 2;
        self.send(HEADERS, flags, stream, &block).await?;
        Ok(stream)
    }

    /// Sends a piece of a body.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> io::Result<()> {
        self.send(DATA, if end { END_STREAM } else { 0 }, stream, bytes).await
    }

    /// Asks whether anybody is there (RFC 9113 §6.7).
    pub async fn ping(&mut self) -> io::Result<()> {
        self.send(PING, 0, 0, &[7; 8]).await
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut frame = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        frame.extend_from_slice(bytes);
        self.tls.write_all(&frame).await?;
        self.tls.flush().await
    }

    /// The next frame that says something.
    pub async fn next(&mut self) -> Frame {
        loop {
            let mut head = [0; 9];
            if timeout(PATIENCE, self.tls.read_exact(&mut head)).await.expect("a frame").is_err() {
                return Frame::End;
            }
            let mut rest = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if self.tls.read_exact(&mut rest).await.is_err() {
                return Frame::End;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match (head[3], head[4]) {
                (HEADERS, _) => return Frame::Answer(stream),
                (RESET, _) => return Frame::Reset(stream),
                (GO_AWAY, _) => return Frame::GoAway,
                // The end shows where it fails.
                (SETTINGS, 0) => drop(self.send(SETTINGS, ACK, 0, &[]).await),
                (PING, ACK) => return Frame::Pong,
                (PING, 0) => drop(self.send(PING, ACK, 0, &rest).await),
                _ => {}
            }
        }
    }
}

/// RFC 7541 §5.1, with a prefix of seven bits.
fn length(block: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    length -= 127;
    while length >= 128 {
        block.push((length % 128 + 128) as u8);
        length /= 128;
    }
    block.push(length as u8);
}
