//! Our TLS against rustls' buffered connections, which others have used for years, over real sockets.

use std::{sync::Arc, time::Duration};

use bascule_certs::testing::Authority;
use rustls::{RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::net::stream::Leg;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authority = Authority::new();
    let leaf = authority.issue(&["localhost"]);
    let chain = vec![CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    dialled.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (dialled, accepted)
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Our server with a buffered client.
async fn ours_serves(
    version: &'static SupportedProtocolVersion,
) -> (Leg, tokio_rustls::client::TlsStream<TcpStream>) {
    let (server, client) = configs(version);
    let (dialled, accepted) = sockets().await;
    let theirs = tokio::spawn(async move { TlsConnector::from(client).connect(localhost(), dialled).await });
    let ours = Secure::accept(accepted, server).await.unwrap();
    let mut ours = Leg::tls(ours);
    // A server's last flight goes with its first words.
    ours.write_all(b"greeting").await.unwrap();
    ours.flush().await.unwrap();
    let mut theirs = theirs.await.unwrap().unwrap();
    let mut greeting = [0; 8];
    theirs.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"greeting");
    (ours, theirs)
}

/// Our client with a buffered server.
async fn ours_dials(
    version: &'static SupportedProtocolVersion,
) -> (Leg, tokio_rustls::server::TlsStream<TcpStream>) {
    let (server, client) = configs(version);
    let (dialled, accepted) = sockets().await;
    let theirs = tokio::spawn(async move { TlsAcceptor::from(server).accept(accepted).await });
    let ours = Secure::connect(dialled, client, localhost()).await.unwrap();
    (Leg::tls(ours), theirs.await.unwrap().unwrap())
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Writes `bytes` in pieces of all sizes, and ends.
fn writes(mut to: impl AsyncWrite + Unpin + Send + 'static, bytes: Vec<u8>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = fastrand::usize(1..=100_000).min(rest.len());
            to.write_all(&rest[..n]).await.unwrap();
            to.flush().await.unwrap();
            rest = &rest[n..];
        }
        to.shutdown().await.unwrap();
    })
}

async fn reads(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).await.unwrap();
    all
}

/// Everything arrives, both ways at once, and both ends are seen.
async fn exchange(ours: Leg, theirs: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (up, down) = (noise(3_000_000), noise(2_000_001));
    let (our_half, our_write) = tokio::io::split(ours);
    let (their_half, their_write) = tokio::io::split(theirs);
    let writers = [writes(our_write, up.clone()), writes(their_write, down.clone())];
    let received = tokio::spawn(reads(their_half));
    assert!(reads(our_half).await == down);
    assert!(received.await.unwrap() == up);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn bytes_arrive_as_a_server() {
    for version in VERSIONS {
        let (ours, theirs) = ours_serves(version).await;
        exchange(ours, theirs).await;
    }
}

#[tokio::test]
async fn bytes_arrive_as_a_client() {
    for version in VERSIONS {
        let (ours, theirs) = ours_dials(version).await;
        exchange(ours, theirs).await;
    }
}

#[tokio::test]
async fn keys_may_be_updated_by_the_peer() {
    let (mut ours, mut theirs) = ours_serves(&version::TLS13).await;
    for round in 0..5usize {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        let sent = noise(1000 + round);
        theirs.write_all(&sent).await.unwrap();
        theirs.flush().await.unwrap();
        let mut seen = vec![0; sent.len()];
        ours.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, sent);
        ours.write_all(&seen).await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, sent);
    }
}

/// A relay that passes one byte at a time.
fn trickle(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
) {
    tokio::spawn(async move {
        while let Ok(byte) = from.read_u8().await {
            if to.write_u8(byte).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}

#[tokio::test]
async fn one_byte_at_a_time() {
    for version in VERSIONS {
        let (server, client) = configs(version);
        let (dialled, middle_1) = sockets().await;
        let (middle_2, accepted) = sockets().await;
        let ((r1, w1), (r2, w2)) = (middle_1.into_split(), middle_2.into_split());
        trickle(r1, w2);
        trickle(r2, w1);
        let serving = tokio::spawn(Secure::accept(accepted, server));
        let client = tokio::spawn(Secure::connect(dialled, client, localhost()));
        let mut server = Leg::tls(serving.await.unwrap().unwrap());
        let sent = noise(40_000);
        server.write_all(&sent).await.unwrap();
        server.flush().await.unwrap();
        let mut client = Leg::tls(client.await.unwrap().unwrap());
        let mut seen = vec![0; sent.len()];
        client.read_exact(&mut seen).await.unwrap();
        assert!(seen == sent);
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    for version in VERSIONS {
        let (mut ours, theirs) = ours_serves(version).await;
        drop(theirs.into_inner().0);
        assert_eq!(ours.fill_buf().await.unwrap(), b"");
        assert_eq!(ours.fill_buf().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn nonsense_is_refused_with_an_alert() {
    let (server, _) = configs(&version::TLS13);
    let (mut dialled, accepted) = sockets().await;
    let serving = tokio::spawn(Secure::accept(accepted, server));
    dialled.write_all(b"a1 CAPABILITY\r\n").await.unwrap();
    let error = serving.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let mut alert = Vec::new();
    dialled.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert.first(), Some(&21), "a record of the type alert");
}

#[tokio::test]
async fn a_changed_record_ends_the_stream_with_an_error() {
    let (server, client) = configs(&version::TLS13);
    let (dialled, accepted) = sockets().await;
    let client = tokio::spawn(Secure::connect(dialled, client, localhost()));
    let server = Secure::accept(accepted, server).await.unwrap();
    let mut client = client.await.unwrap().unwrap();
    // A record that nobody encrypted.
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.extend(noise(40));
    client.tcp.write_all(&forged).await.unwrap();
    let mut server = Leg::tls(server);
    assert_eq!(server.fill_buf().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// A reader that does not read costs what the socket did not take of one write, and no more.
#[tokio::test]
async fn a_full_socket_pushes_back() {
    let (mut ours, mut theirs) = ours_serves(&version::TLS13).await;
    let piece = noise(PLAIN);
    let mut sent = 0;
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(300), ours.write(&piece)).await {
        sent += n.unwrap();
        let Leg::Tls(secure) = &ours else { panic!("TLS") };
        assert!(secure.output.len() <= CIPHER);
    }
    let reading = tokio::spawn(async move {
        let mut seen = vec![0; sent];
        theirs.read_exact(&mut seen).await.unwrap();
        seen
    });
    ours.flush().await.unwrap();
    let seen = reading.await.unwrap();
    assert!(seen.chunks(piece.len()).all(|chunk| chunk == &piece[..chunk.len()]));
}

/// Design §8: an idle session has no buffers.
#[tokio::test]
async fn an_idle_connection_holds_no_buffers() {
    let (mut ours, mut theirs) = ours_serves(&version::TLS13).await;
    theirs.write_all(b"a line\r\n").await.unwrap();
    theirs.flush().await.unwrap();
    let mut line = [0; 8];
    ours.read_exact(&mut line).await.unwrap();
    ours.write_all(b"an answer\r\n").await.unwrap();
    ours.flush().await.unwrap();
    let Leg::Tls(secure) = &ours else { panic!("TLS") };
    assert!(secure.input.is_empty() && secure.plain.is_empty());
    assert_eq!(secure.output.capacity(), 0);
    assert!(size_of::<Secure>() <= 192, "{}", size_of::<Secure>());
}
