//! Programs that people send and test mail with, from the distribution's packages.
//!
//! Rule: nothing but a command line; what they make of the answers is theirs, and is handed on as it is.

use std::{net::SocketAddr, process::Stdio};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    process::Child,
    time::{Duration, sleep},
};

use crate::process;

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    /// 0 when all was accepted.
    pub code: i32,
    /// All that it wrote; swaks writes the dialogue.
    pub output: String,
}

/// swaks sends one message: a dialogue as a person would have it.
pub async fn swaks(server: SocketAddr, from: &str, to: &str, message: &[u8], more: &[&str]) -> Result<Ran> {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let arguments = [
        "--server",
        &host,
        "--port",
        &port,
        "--helo",
        "swaks.test",
        "--from",
        from,
        "--to",
        to,
        "--data",
        "-",
    ];
    // It ends what it is given with a line end of its own.
    let message = message.strip_suffix(b"\r\n").unwrap_or(message);
    run("swaks", &[&arguments, more].concat(), message).await
}

/// msmtp sends one message, with this name and password if there are any.
pub async fn msmtp(
    server: SocketAddr,
    from: &str,
    to: &[&str],
    message: &[u8],
    login: Option<[&str; 2]>,
) -> Result<Ran> {
    let mut arguments = vec![
        "--file=/dev/null".to_owned(),
        format!("--host={}", server.ip()),
        format!("--port={}", server.port()),
        format!("--from={from}"),
        "--domain=msmtp.test".to_owned(),
    ];
    if let Some([user, password]) = login {
        let auth =
            ["--auth=plain".into(), format!("--user={user}"), format!("--passwordeval=echo {password}")];
        arguments.extend(auth);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(to.iter().copied()).collect();
    run("msmtp", &arguments, message).await
}

/// Postfix's load generator sends so many messages over so many sessions at once.
pub async fn smtp_source(server: SocketAddr, messages: usize, sessions: usize, more: &[&str]) -> Result<Ran> {
    let (messages, sessions, server) = (messages.to_string(), sessions.to_string(), server.to_string());
    let arguments = ["-m", &messages, "-s", &sessions];
    run("/usr/sbin/smtp-source", &[&arguments, more, &[&server]].concat(), b"").await
}

/// Postfix's server that takes everything and keeps nothing; ends when dropped.
#[derive(Debug)]
pub struct Sink(#[expect(dead_code, reason = "ends when dropped")] Child);

impl Sink {
    /// Listens here; `-L` among the arguments makes it LMTP.
    pub async fn start(at: SocketAddr, more: &[&str]) -> Result<Self> {
        let address = at.to_string();
        // As root it wants to know whom to become.
        let arguments = [&["-u", "nobody"], more, &[&address, "128"]].concat();
        let mut child = process::tied("/usr/sbin/smtp-sink").args(arguments).spawn()?;
        while TcpStream::connect(at).await.is_err() {
            ensure!(child.try_wait()?.is_none(), "smtp-sink ended");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self(child))
    }
}

async fn run(program: &str, arguments: &[&str], input: &[u8]) -> Result<Ran> {
    let mut command = process::tied(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| program.to_owned())?;
    let mut stdin = child.stdin.take().context("no input")?;
    let feed = async {
        // A program that ends without reading all of it has its reasons, which are in its output.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    let output = output?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Ran { code: output.status.code().unwrap_or(-1), output: String::from_utf8_lossy(&text).into_owned() })
}
