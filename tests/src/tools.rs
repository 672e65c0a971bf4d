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

/// msmtp sends one message, with this name and password if there are any; `more` are options of its own.
pub async fn msmtp(
    server: SocketAddr,
    from: &str,
    to: &[&str],
    message: &[u8],
    login: Option<[&str; 2]>,
    more: &[&str],
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
    let arguments: Vec<&str> = { arguments.iter() }
        .map(String::as_str)
        .chain(more.iter().copied())
        .chain(std::iter::once("--"))
        .chain(to.iter().copied())
        .collect();
    run("msmtp", &arguments, message).await
}

/// curl sends one message to a URL such as `smtps://127.0.0.1:465`.
pub async fn curl(url: &str, from: &str, to: &[&str], message: &[u8], more: &[&str]) -> Result<Ran> {
    let to = to.iter().flat_map(|to| ["--mail-rcpt", *to]);
    let arguments: Vec<&str> = ["--silent", "--show-error", "--max-time", "120", "--url", url]
        .into_iter()
        .chain(["--mail-from", from, "--upload-file", "-"])
        .chain(to)
        .chain(more.iter().copied())
        .collect();
    run("curl", &arguments, message).await
}

/// Python's smtplib sends one message: `mode` is `smtp`, `starttls`, `ssl` or `lmtp`.
pub async fn smtplib(
    server: SocketAddr,
    mode: &str,
    from: &str,
    to: &[&str],
    message: &[u8],
    login: Option<[&str; 2]>,
) -> Result<Ran> {
    const PROGRAM: &str = "import smtplib, ssl, sys\n\
        mode, host, port, user, password, sender, *to = sys.argv[1:]\n\
        trust = ssl._create_unverified_context()\n\
        port = int(port)\n\
        if mode == 'ssl': server = smtplib.SMTP_SSL(host, port, 'smtplib.test', context=trust)\n\
        elif mode == 'lmtp': server = smtplib.LMTP(host, port, 'smtplib.test')\n\
        else: server = smtplib.SMTP(host, port, 'smtplib.test')\n\
        if mode == 'starttls': server.starttls(context=trust)\n\
        if user: server.login(user, password)\n\
        refused = server.sendmail(sender, to, sys.stdin.buffer.read())\n\
        assert not refused, refused\n\
        server.quit()\n";
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let [user, password] = login.unwrap_or_default();
    let arguments = ["-c", PROGRAM, mode, &host, &port, user, password, from];
    run("python3", &[&arguments, to].concat(), message).await
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

/// curl asks for this URL again and again on one connection; what it writes is the status of each answer, the length of its
/// body, and how many connections it took, a line each.
pub async fn curl_pages(url: &str, times: usize, more: &[&str]) -> Result<Ran> {
    let url = format!("{url}?[1-{times}]");
    let arguments =
        ["--silent", "--show-error", "--fail", "--insecure", "--max-time", "120", "--output", "/dev/null"];
    let format = ["--write-out", "%{http_code} %{size_download} %{num_connects}\\n", &url];
    run("curl", &[&arguments[..], more, &format].concat(), b"").await
}

/// A calendar program on Debian's library for CalDAV: it adds events until it is told to end, and writes the name of each
/// one that was taken.
pub fn caldav(url: &str, user: &str, password: &str) -> Result<Child> {
    python(include_str!("tools/caldav.py"), &[url, user, password])
}

/// One that keeps a copy of a calendar, and asks for what has changed by sync tokens. It answers each line of its input:
/// `put NAME`, `change NAME SUMMARY`, `delete NAME`, `sync` and `show`; first of all when it is ready.
pub fn calendar_copy(url: &str, user: &str, password: &str) -> Result<Child> {
    python(include_str!("tools/calendar_copy.py"), &[url, user, password])
}

fn python(program: &str, arguments: &[&str]) -> Result<Child> {
    // Not another Python that the machine may have: the libraries belong to the distribution's.
    let mut command = process::tied("/usr/bin/python3");
    let command = command.args(["-u", "-c", program]).args(arguments);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("python3 (tests/run installs it)")
}
