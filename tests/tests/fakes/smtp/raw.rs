//! Dialogues as bytes, for clients that no oracle would let through.
//!
//! Rule: a connection is read to its end, and all that is heard must be replies.

use std::{net::SocketAddr, time::Duration};

use bascule_tests::fake::smtp::Door;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::Rig;

/// What is sent first: how far a client can be.
pub(super) const STATES: [&str; 8] = [
    "",
    "HELLO me\r\n",
    "HELLO me\r\nMAIL FROM:<a@example.net>\r\n",
    "HELLO me\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<alice@example.org>\r\n",
    "HELLO me\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\ntext",
    "HELLO me\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\ntext\r\n.\r\n",
    "HELLO me\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<alice@example.org>\r\nBDAT 40\r\ntext",
    "HELLO me\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<alice@example.org>\r\nBDAT 4\r\ntext",
];

pub(super) fn violations(rig: &Rig) -> Vec<String> {
    [rig.old_pool(), rig.new_pool()].iter().flat_map(|p| p.counters().violations).collect()
}

/// Hears the greeting, sends these pieces, and reads to the end of the connection.
pub(super) async fn converse(to: SocketAddr, pieces: impl Iterator<Item = &[u8]>) -> Vec<u8> {
    let (reader, mut writer) = TcpStream::connect(to).await.unwrap().into_split();
    let mut reader = BufReader::new(reader);
    let mut heard = Vec::new();
    reader.read_until(b'\n', &mut heard).await.unwrap();
    let heard = tokio::spawn(async move {
        // A connection that is reset has said enough.
        let _ = reader.read_to_end(&mut heard).await;
        heard
    });
    for piece in pieces {
        // Whoever was told that the connection ends need not say the rest.
        if writer.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = writer.shutdown().await;
    timeout(Duration::from_secs(60), heard).await.expect("an end").unwrap()
}

/// The codes of all replies, each line of which must be one; what is said of TLS that was asked for is left out.
pub(super) fn codes(heard: &[u8]) -> Vec<u16> {
    let begins = b"220 2.0.0 Begin TLS\r\n";
    let tls = heard.windows(begins.len()).position(|window| window == begins);
    let text = std::str::from_utf8(tls.map_or(heard, |at| &heard[..at + begins.len()])).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert!(lines.iter().all(|line| line.ends_with("\r\n") && line.as_bytes()[3] != b'\r'), "{text}");
    lines.iter().filter(|line| line.as_bytes()[3] == b' ').map(|line| line[..3].parse().unwrap()).collect()
}

pub(super) fn door(rig: &Rig, door: Door) -> SocketAddr {
    if door == Door::Lmtp { rig.proxy.lmtp() } else { rig.proxy.smtp() }
}
