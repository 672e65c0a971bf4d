//! Where nginx asks whether somebody may log in, and where to.
//!
//! Rule: yes, always, to the same server of each protocol.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
};

/// Answers one request; nginx opens a connection for each.
pub(crate) async fn answer(tcp: TcpStream, imap: SocketAddr, smtp: SocketAddr) -> io::Result<()> {
    let mut stream = BufStream::with_capacity(1024, 256, tcp);
    let (mut line, mut backend) = (String::new(), imap);
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line.trim_end().eq_ignore_ascii_case("Auth-Protocol: smtp") {
            backend = smtp;
        }
    }
    let (ip, port) = (backend.ip(), backend.port());
    let answer = format!(
        "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {ip}\r\nAuth-Port: {port}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}
