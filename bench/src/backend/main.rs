//! The server that measurements stand on: everybody may log in by IMAP, message n is n kB long; by SMTP mail for
//! example.org is taken; by HTTP `GET /n` is answered with n kB.
//!
//! Rule: it must never be what is measured. One thread, no store, and a body is written from where it lies.

mod auth;
mod http;
mod session;
mod smtp;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use anyhow::{Context as _, Result};
use bascule_tests::process;
use clap::Parser;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A server for IMAP, SMTP and HTTP without a store, for measurements.
///
/// Says `ready` when it listens, and ends when its standard input does.
#[derive(Debug, Parser)]
struct Args {
    /// Listen here in clear text
    #[arg(long)]
    plain: SocketAddr,
    /// Listen here with TLS from the start
    #[arg(long, requires_all = ["cert", "key"])]
    tls: Option<SocketAddr>,
    /// Take mail here by SMTP, in clear text
    #[arg(long)]
    smtp: Option<SocketAddr>,
    /// Answer HTTP/1.1 here, in clear text
    #[arg(long)]
    http: Option<SocketAddr>,
    /// PEM certificate
    #[arg(long)]
    cert: Option<PathBuf>,
    /// PEM key
    #[arg(long)]
    key: Option<PathBuf>,
    /// Answer nginx's `auth_http` requests here: everybody belongs to the clear text address of the protocol
    #[arg(long)]
    auth: Option<SocketAddr>,
}

/// Connections that the kernel keeps until they are accepted; a burst of logins is not to be slowed down here.
const BACKLOG: u32 = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    LazyLock::force(&session::BODIES);
    tokio::spawn(accept(listen(args.plain)?, session::serve));
    if let (Some(address), Some(cert), Some(key)) = (args.tls, &args.cert, &args.key) {
        let acceptor = TlsAcceptor::from(Arc::new(tls(cert, key)?));
        tokio::spawn(accept(listen(address)?, move |tcp| {
            let handshake = acceptor.accept(tcp);
            async { session::serve(Box::pin(handshake).await?).await }
        }));
    }
    if let Some(address) = args.smtp {
        tokio::spawn(accept(listen(address)?, smtp::serve));
    }
    if let Some(address) = args.http {
        tokio::spawn(accept(listen(address)?, http::serve));
    }
    if let Some(address) = args.auth {
        let smtp = args.smtp.unwrap_or(args.plain);
        tokio::spawn(accept(listen(address)?, move |tcp| auth::answer(tcp, args.plain, smtp)));
    }
    writeln!(io::stdout(), "ready")?;
    process::input_ends().await;
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("{address} cannot be listened on"))
}

/// Serves every connection in a task of its own. One that fails concerns its client alone.
async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                let _ = tcp.set_nodelay(true);
                tokio::spawn(serve(tcp));
            }
            // Out of descriptors: whoever measures sees it, because the client gets no answer.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// TLS 1.3 with X25519 and AES-128-GCM, without resumption: every handshake is a full one.
fn tls(cert: &Path, key: &Path) -> Result<ServerConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
