//! TLS over a TCP stream, client or server side, on rustls' unbuffered connections.
//!
//! Rule: an idle connection holds its keys and nothing else. Records are decrypted from, and encrypted into,
//! buffers that belong to the thread; what is kept is half a record that came, and what the socket did not take.
//!
//! Why not `tokio-rustls`: its buffered connections keep a 4 KiB buffer for input once they have read
//! (rustls 0.23), half of what an idle session needs, read 4 KiB at a time and write one record at a time.

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use rustls_pki_types::ServerName;
use tokio::{io::AsyncWrite, net::TcpStream};

use crate::net::{buffer::Buffer, stream::poll_fill};

/// Plain bytes encrypted at once: as much as is read at once.
const PLAIN: usize = crate::net::buffer::READ;
/// Room for them as records, for an alert, a ticket or a key update before them.
const CIPHER: usize = PLAIN + 4096;
/// Pending bytes below this are joined with the next ones instead of being written alone.
const JOIN: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CIPHER].into_boxed_slice());
}

/// A TLS connection.
#[derive(Debug)]
pub struct Secure {
    tcp: TcpStream,
    side: Side,
    /// Ciphertext that is not a whole record yet.
    input: Buffer,
    /// Decrypted and not yet consumed.
    plain: Buffer,
    /// Ciphertext that the socket has not taken; `sent` bytes of it have gone.
    output: Vec<u8>,
    sent: usize,
    reading: Reading,
    closing: bool,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// Keys are shown to nobody.
impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Client(_) => "Client",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// close_notify, or the end of the stream: many mail clients close without close_notify.
    Ended,
}

/// What to encrypt once the connection may send.
#[derive(Clone, Copy)]
enum Write<'a> {
    Nothing,
    Data(&'a [u8]),
    Close,
}

/// What one look at the connection came to.
enum Turn {
    /// Something was done; look again.
    Again,
    /// Nothing more without more input.
    Wants,
    /// So many bytes of ciphertext were made.
    Made(usize),
    /// The peer has ended its side.
    Ended,
}

impl Secure {
    /// The server's side of a handshake.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let side = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Self::shake(tcp, Side::Server(Box::new(side))).await
    }

    /// The client's side of a handshake, with a server that must prove to be `name`.
    pub async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let side = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        Self::shake(tcp, Side::Client(Box::new(side))).await
    }

    async fn shake(tcp: TcpStream, side: Side) -> io::Result<Self> {
        let mut this = Self {
            tcp,
            side,
            input: Buffer::default(),
            plain: Buffer::default(),
            output: Vec::new(),
            sent: 0,
            reading: Reading::Open,
            closing: false,
        };
        std::future::poll_fn(|cx| this.poll_shake(cx)).await?;
        Ok(this)
    }

    fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.decrypt(cx)?;
            if !self.side.is_handshaking() {
                // The last flight of a client must go; a server's tickets go with its greeting.
                return if matches!(self.side, Side::Client(_)) {
                    self.poll_drain(cx)
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            ready!(self.poll_drain(cx))?;
            if self.reading == Reading::Ended || ready!(self.poll_input(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The protocol that was agreed on in the handshake.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Server(side) => side.alpn_protocol(),
            Side::Client(side) => side.alpn_protocol(),
        }
    }

    /// Decrypted bytes; none: the peer has ended.
    pub fn poll_fill_buf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        while self.plain.is_empty() && self.reading == Reading::Open {
            if ready!(self.poll_input(cx))? == 0 {
                self.reading = Reading::Ended;
                break;
            }
            self.decrypt(cx)?;
            // An answer to a key update, say.
            let _ = self.poll_drain(cx)?;
        }
        Poll::Ready(Ok(self.plain.bytes()))
    }

    /// `n` decrypted bytes were used.
    pub fn consume(&mut self, n: usize) {
        self.plain.consume(n);
    }

    /// The first `n` decrypted bytes, with the room that they are in.
    pub fn take(&mut self, n: usize) -> Buffer {
        self.plain.take(n)
    }

    /// Encrypts and writes; what the socket does not take is kept for [`Self::poll_flush`]. As with a plain
    /// socket, nothing is taken while the socket is full.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.output.len() - self.sent >= JOIN {
            ready!(self.poll_drain(cx))?;
        }
        ready!(self.tcp.poll_write_ready(cx))?;
        let bytes = &bytes[..bytes.len().min(PLAIN)];
        SCRATCH.with_borrow_mut(|scratch| {
            let made = self.encrypt(Write::Data(bytes), scratch)?;
            self.send(cx, &scratch[..made])
        })?;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Writes what is pending.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    /// Says close_notify and ends the sending side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.closing, true) && !self.side.is_handshaking() {
            SCRATCH.with_borrow_mut(|scratch| {
                let made = self.encrypt(Write::Close, scratch)?;
                self.send(cx, &scratch[..made])
            })?;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    // ---- the connection -------------------------------------------------------------------------------

    /// One look at the connection, with what came and has not been used.
    fn turn(&mut self, write: Write<'_>, scratch: &mut [u8]) -> io::Result<Turn> {
        let input = self.input.bytes_mut();
        let (used, turn) = match &mut self.side {
            Side::Server(side) => {
                handle(side.process_tls_records(input), &mut self.plain, &mut self.output, write, scratch)
            }
            Side::Client(side) => {
                handle(side.process_tls_records(input), &mut self.plain, &mut self.output, write, scratch)
            }
        };
        self.input.consume(used);
        turn
    }

    /// Uses up the records that came. The peer is told what is wrong with them, if something is.
    fn decrypt(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let told = loop {
            match self.turn(Write::Nothing, &mut []) {
                Ok(Turn::Again) => {}
                Ok(Turn::Wants | Turn::Made(_)) => break Ok(()),
                Ok(Turn::Ended) => self.reading = Reading::Ended,
                Err(error) => break Err(error),
            }
        };
        if told.is_err() {
            self.input = Buffer::default();
            // The alert lies ready.
            while let Ok(Turn::Again) = self.turn(Write::Nothing, &mut []) {}
            let _ = self.poll_drain(cx)?;
        }
        told
    }

    /// Makes ciphertext in `scratch`.
    fn encrypt(&mut self, write: Write<'_>, scratch: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.turn(write, scratch)? {
                Turn::Again | Turn::Ended => {}
                Turn::Made(n) => return Ok(n),
                Turn::Wants => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }

    // ---- the socket -----------------------------------------------------------------------------------

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = poll_fill(&mut self.tcp, cx, &mut self.input, usize::MAX);
        if read.is_pending() {
            self.input.rest();
        }
        read
    }

    /// Sends `bytes` behind what is pending.
    fn send(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while self.output.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut self.tcp).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => bytes = &bytes[n..],
                Poll::Pending => break,
            }
        }
        if !bytes.is_empty() {
            self.output.extend_from_slice(bytes);
            let _ = self.poll_drain(cx)?;
        }
        Ok(())
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            match ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.output[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        (self.output, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl Side {
    fn is_handshaking(&self) -> bool {
        match self {
            Self::Server(side) => side.is_handshaking(),
            Self::Client(side) => side.is_handshaking(),
        }
    }
}

/// Does what the connection's state asks for. Returns how many bytes of the input are used up.
fn handle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Buffer,
    output: &mut Vec<u8>,
    write: Write<'_>,
    scratch: &mut [u8],
) -> (usize, io::Result<Turn>) {
    let mut used = status.discard;
    let turn = match status.state {
        Err(error) => Err(invalid(error)),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    plain.push(record.payload);
                    used += record.discard;
                }
                Some(Err(error)) => break Err(invalid(error)),
                None => break Ok(Turn::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let at = output.len();
            let mut encoded = data.encode(&mut []);
            if let Err(EncodeError::InsufficientSize(size)) = &encoded {
                output.resize(at + size.required_size, 0);
                encoded = data.encode(&mut output[at..]);
            }
            encoded.map(|_| Turn::Again).map_err(io::Error::other)
        }
        // It stands in `output`, in its order.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Turn::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match write {
            Write::Nothing => Ok(Turn::Wants),
            Write::Data(bytes) => traffic.encrypt(bytes, scratch).map(Turn::Made).map_err(full),
            Write::Close => traffic.queue_close_notify(scratch).map(Turn::Made).map_err(full),
        },
        Ok(ConnectionState::BlockedHandshake) => Ok(Turn::Wants),
        Ok(ConnectionState::PeerClosed) => Ok(Turn::Ended),
        Ok(ConnectionState::Closed) => Ok(Turn::Made(0)),
        // Early data is never offered; a state that this does not know cannot be served.
        Ok(_) => Err(io::Error::other("an unknown state of TLS")),
    };
    (used, turn)
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn full(error: EncryptError) -> io::Error {
    io::Error::other(error)
}
