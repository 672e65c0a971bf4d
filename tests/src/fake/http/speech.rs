//! How a web server is spoken to.
//!
//! Rule: whatever comes before the requests, and whatever they come in, they are the same requests.

use std::{io, net::IpAddr, sync::Arc};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{At, Shared, message::Head, serve};

/// How a web server is spoken to.
#[derive(Debug, Clone, Default)]
pub enum Speech {
    /// HTTP/1.1
    #[default]
    One,
    /// HTTP/2 from the first byte; what breaks there is `Head` and `Done`, and what waits `Stall`.
    Two,
    /// The same; the first connection ends with GOAWAY before it looks at any request.
    TwoAway,
    /// HTTP/1.1 after a PROXY header, whose address stands in the heads that were seen.
    Proxied,
    /// HTTP/1.1 over TLS; the heads that were seen tell of a resumed session.
    Tls(Arc<ServerConfig>),
}

impl Shared {
    pub(super) async fn speak(self: &Arc<Self>, mut tcp: TcpStream, number: u64) -> io::Result<()> {
        match &self.speech {
            Speech::One => serve::connection(self, tcp, number, "").await,
            Speech::TwoAway if number == 0 => away(tcp).await,
            Speech::Two | Speech::TwoAway => two(self, tcp, number).await,
            Speech::Proxied => {
                let client = proxied(&mut tcp).await?;
                serve::connection(self, tcp, number, &format!("X-Proxied: {client}\r\n")).await
            }
            Speech::Tls(config) => {
                let tls = TlsAcceptor::from(config.clone()).accept(tcp).await?;
                let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                let note = if resumed { "X-Resumed: yes\r\n" } else { "" };
                serve::connection(self, tls, number, note).await
            }
        }
    }
}

/// Reads a PROXY header, version 2, of IPv4.
async fn proxied(tcp: &mut TcpStream) -> io::Result<IpAddr> {
    let mut header = [0; 28];
    tcp.read_exact(&mut header).await?;
    if !header.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(IpAddr::from([header[16], header[17], header[18], header[19]]))
}

async fn two(shared: &Arc<Shared>, tcp: TcpStream, number: u64) -> io::Result<()> {
    let mut connection = h2::server::handshake(tcp).await.map_err(io::Error::other)?;
    while let Some(asked) = connection.accept().await {
        let (request, respond) = asked.map_err(io::Error::other)?;
        tokio::spawn(answer(shared.clone(), number, request, respond));
    }
    Ok(())
}

async fn answer(
    shared: Arc<Shared>,
    number: u64,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let method = request.method().to_string();
    let mut text = format!("{method} {target} HTTP/2\r\n");
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let seen = shared.begin(number, &text);
    let fault = shared.faults_of(&target);
    if let Some(At::Head) = fault {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return Ok(());
    }
    let (mut incoming, mut body) = (request.into_body(), Vec::new());
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        incoming.flow_control().release_capacity(piece.len())?;
        body.extend(piece);
        shared.note(seen, body.len(), false);
    }
    shared.note(seen, body.len(), true);
    if let Some(At::Stall(stall)) = &fault {
        stall.wait().await;
    }
    let head = Head { method, target, text };
    let (status, fields, said) = shared.carry_out(&head, body);
    if let Some(At::Done) = fault {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    let mut answer = Response::builder().status(status);
    for (name, value) in fields.lines().filter_map(|line| line.split_once(": ")) {
        answer = answer.header(name, value);
    }
    let answer = answer.body(()).unwrap_or_default();
    // The connection sends it as its window allows.
    respond.send_response(answer, said.is_empty())?.send_data(said.into(), true)
}

/// Reads frames of HTTP/2; whatever is asked for, the last stream that was looked at is none.
async fn away(mut tcp: TcpStream) -> io::Result<()> {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const GO_AWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    const HEADERS: u8 = 1;
    tcp.read_exact(&mut [0; 24]).await?;
    tcp.write_all(SETTINGS).await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let mut rest = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        tcp.read_exact(&mut rest).await?;
        if head[3] == HEADERS {
            tcp.write_all(GO_AWAY).await?;
        }
    }
}
