//! One IMAP connection of a client that costs little.
//!
//! Rule: it looks at nothing but line ends, literals' sizes and the tag that it waits for.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

/// The name in the certificate of every proxy that is measured.
pub(crate) const HOST: &str = bascule_tests::bascule::Bascule::HOST;

/// Where connections go, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Bytes to a server, plain or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Target {
    /// `protocols`: what TLS is to settle on (ALPN).
    pub(crate) fn new(address: SocketAddr, ca: Option<&Path>, protocols: &[&[u8]]) -> Result<Self> {
        let tls = ca.map(|ca| tls(ca, protocols).with_context(|| ca.display().to_string())).transpose()?;
        Ok(Self { address, tls: tls.map(Arc::new) })
    }

    /// A TCP connection; `window` bounds what the kernel takes before it is read.
    pub(crate) async fn dial(&self, window: Option<u32>) -> Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(window) = window {
            socket.set_recv_buffer_size(window)?;
        }
        let tcp = socket.connect(self.address).await.context("dial")?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// With the handshake, if there is one.
    pub(crate) async fn stream(&self, tcp: TcpStream) -> Result<Box<dyn Stream>> {
        let Some(config) = &self.tls else { return Ok(Box::new(tcp)) };
        let connector = TlsConnector::from(config.clone());
        Ok(Box::new(connector.connect(ServerName::try_from(HOST)?, tcp).await.context("handshake")?))
    }

    /// Handshake and greeting.
    pub(crate) async fn secure(&self, tcp: TcpStream, buffer: usize) -> Result<Wire> {
        let mut wire = Wire {
            stream: BufReader::with_capacity(buffer, self.stream(tcp).await?),
            line: Vec::new(),
            out: Vec::new(),
            tag: 0,
            received: 0,
        };
        wire.line().await.context("greeting")?;
        ensure!(wire.line.starts_with(b"* OK"), "greeting: {}", wire.text());
        Ok(wire)
    }

    /// A connection that was greeted, with so many bytes of buffer.
    pub(crate) async fn connect(&self, buffer: usize) -> Result<Wire> {
        self.secure(self.dial(None).await?, buffer).await
    }

    /// A session of this user with INBOX selected.
    pub(crate) async fn session(&self, user: usize, buffer: usize) -> Result<Wire> {
        let mut wire = self.connect(buffer).await?;
        wire.login(user).await?;
        wire.command(b"SELECT INBOX").await?;
        Ok(wire)
    }
}

/// TLS 1.3 with X25519 and AES-128-GCM, so that every proxy does the same work, and no resumption.
fn tls(ca: &Path, protocols: &[&[u8]]) -> Result<ClientConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// A connection.
pub(crate) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    line: Vec<u8>,
    out: Vec<u8>,
    tag: u64,
    /// Bytes of literals that arrived.
    received: u64,
}

impl Wire {
    pub(crate) async fn login(&mut self, user: usize) -> Result<()> {
        self.command(format!("LOGIN user{user} secret").as_bytes()).await
    }

    /// LOGOUT, and the end of the connection.
    pub(crate) async fn logout(mut self) -> Result<()> {
        self.command(b"LOGOUT").await?;
        match self.line().await {
            // Not every server says close_notify.
            Err(_) => Ok(()),
            Ok(()) => bail!("more after LOGOUT: {}", self.text()),
        }
    }

    /// One command and its reply, which must be OK.
    pub(crate) async fn command(&mut self, command: &[u8]) -> Result<()> {
        self.send(command).await?;
        self.reply().await.with_context(|| String::from_utf8_lossy(command).into_owned())
    }

    pub(crate) async fn send(&mut self, command: &[u8]) -> Result<()> {
        self.tag += 1;
        self.out.clear();
        write!(self.out, "t{} ", self.tag)?;
        self.out.extend_from_slice(command);
        self.out.extend_from_slice(b"\r\n");
        let stream = self.stream.get_mut();
        stream.write_all(&self.out).await?;
        Ok(stream.flush().await?)
    }

    /// Bytes as they are.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    /// The reply to the last command.
    pub(crate) async fn reply(&mut self) -> Result<()> {
        loop {
            self.line().await?;
            if let Some(status) = self.tagged() {
                ensure!(status.starts_with(b"OK"), "{}", self.text());
                return Ok(());
            }
            while let Some(size) = literal(&self.line) {
                self.skip(size).await?;
                self.line().await?;
            }
        }
    }

    /// Waits for the server's `+`.
    pub(crate) async fn go_ahead(&mut self) -> Result<()> {
        loop {
            self.line().await?;
            if self.line.starts_with(b"+") {
                return Ok(());
            }
            ensure!(self.tagged().is_none(), "{}", self.text());
        }
    }

    /// Bytes of literals since the last call.
    pub(crate) fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// The stream itself, for those who misuse it.
    pub(crate) fn stream(&mut self) -> &mut BufReader<Box<dyn Stream>> {
        &mut self.stream
    }

    /// What stands behind our tag in a tagged reply.
    fn tagged(&self) -> Option<&[u8]> {
        let rest = self.line.strip_prefix(b"t")?;
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let tag: u64 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        rest[digits..].strip_prefix(b" ").filter(|_| tag == self.tag)
    }

    async fn line(&mut self) -> Result<()> {
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line).await?;
        if !self.line.ends_with(b"\n") {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    async fn skip(&mut self, mut size: u64) -> Result<()> {
        self.received += size;
        while size > 0 {
            let here = self.stream.fill_buf().await?.len();
            ensure!(here > 0, "the connection ended in a literal");
            let taken = usize::try_from(size).map_or(here, |size| size.min(here));
            self.stream.consume(taken);
            size -= taken as u64;
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.line).trim_end().to_owned()
    }
}

/// The size of the literal that a line announces.
fn literal(line: &[u8]) -> Option<u64> {
    let text = line.strip_suffix(b"}\r\n")?;
    let open = text.iter().rposition(|b| *b == b'{')?;
    std::str::from_utf8(&text[open + 1..]).ok()?.parse().ok()
}
