//! The PROXY header (v1 and v2) of a load balancer in front: who the client really is.
//!
//! Rule: required from trusted networks and never looked for elsewhere; read to its exact length, so that no
//! byte of the client's own is taken.

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// v2: signature, version, family, length.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest v1 line with its end, by the specification.
const V1_LONGEST: usize = 107;
/// More TLVs than anybody sends.
const V2_LONGEST: usize = 4096;

/// Reads the header. `None`: the balancer speaks for itself (LOCAL, UNKNOWN), a health check.
pub async fn read(tcp: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; V2_SIGNATURE.len()];
    tcp.read_exact(&mut header).await?;
    if header == V2_SIGNATURE {
        header.resize(16, 0);
        tcp.read_exact(&mut header[12..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > V2_LONGEST {
            return Err(invalid("longer than 4096 bytes"));
        }
        header.resize(16 + length, 0);
        tcp.read_exact(&mut header[16..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\n") {
            if header.len() == V1_LONGEST {
                return Err(invalid("v1 line without an end"));
            }
            header.push(tcp.read_u8().await?);
        }
    } else {
        return Err(invalid("none where one is required"));
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    let (parsed, _) = ProxyHeader::parse(&header, config).map_err(|error| invalid(&error.to_string()))?;
    Ok(parsed.proxied_address().map(|address| address.source))
}

/// The header, version 2, that tells a server who the client is.
pub fn header(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    let header = ProxyHeader::with_address(ProxiedAddress::stream(client, local));
    // It fails only for addresses of two families, which then go as what the client is.
    if header.encode_v2(&mut out).is_err() {
        out.clear();
        let header = ProxyHeader::with_address(ProxiedAddress::stream(client, client));
        let _ = header.encode_v2(&mut out);
    }
    out
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {why}"))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    async fn given(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        sender.write_all(bytes).await.unwrap();
        drop(sender);
        let read = read(&mut tcp).await;
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest).await;
        (read, rest)
    }

    #[tokio::test]
    async fn both_versions_are_read_to_their_end() {
        let client: SocketAddr = "203.0.113.7:50344".parse().unwrap();
        let (read, rest) = given(b"PROXY TCP4 203.0.113.7 198.51.100.2 50344 993\r\nhello").await;
        assert_eq!((read.unwrap(), &rest[..]), (Some(client), &b"hello"[..]));
        let mut v2 = V2_SIGNATURE.to_vec();
        v2.extend([0x21, 0x11, 0, 12, 203, 0, 113, 7, 198, 51, 100, 2, 0xc4, 0xa8, 3, 0xe1]);
        v2.extend(b"hello");
        let (read, rest) = given(&v2).await;
        assert_eq!((read.unwrap(), &rest[..]), (Some(client), &b"hello"[..]));
    }

    #[tokio::test]
    async fn a_health_check_has_no_client() {
        assert_eq!(given(b"PROXY UNKNOWN\r\n").await.0.unwrap(), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for bytes in [
            &b"a NOOP\r\na NOOP\r\n"[..],
            b"PROXY TCP4 x y z\r\n",
            b"PROXY",
            &[b"PROXY "[..].into(), vec![b'x'; 200]].concat(),
        ] {
            assert!(given(bytes).await.0.is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
