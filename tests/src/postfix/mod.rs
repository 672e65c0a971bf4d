//! A real Postfix beside each Dovecot of a rig: a relay, and submission with Dovecot's passwords.
//!
//! Rule: its configuration, queue and log lie in the rig's folder and go with it, and all of its processes in a namespace
//! that ends with the test, however that ends; no instance of the system is touched.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Duration, Instant, sleep},
};

use crate::{
    dovecot::{Dovecot, Pair},
    process,
};

/// A Postfix at [`Dovecot::relay`], to be dropped before the pair. Mail for `example.org` goes on by LMTP.
#[derive(Debug)]
pub struct Postfix {
    address: Ipv4Addr,
    process: Option<Child>,
    folder: PathBuf,
}

/// Where mail goes on to.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    /// Mail for `example.org`.
    pub lmtp: SocketAddr,
    /// All other mail; `None`: it stays in the queue.
    pub outbound: Option<SocketAddr>,
}

impl Postfix {
    /// Its name.
    pub const HOST: &'static str = "postfix.bascule.test";
    /// What it says to EHLO, as far as clients of a proxy may be shown it.
    pub const KEYWORDS: [&'static str; 7] =
        ["PIPELINING", "SIZE 52428800", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"];
    /// The port of [`Postfix::relay`].
    pub const RELAY: u16 = 10025;
    /// The port of [`Postfix::submission`].
    pub const SUBMISSION: u16 = 10587;

    /// Starts it beside this server of the rig, which says who may send.
    pub async fn start(pair: &Pair, beside: &Dovecot, next: Next) -> Result<Self> {
        let folder = pair.path(&format!("postfix-{}", beside.name()));
        std::fs::create_dir(&folder)?;
        let mut this = Self { address: beside.relay(), process: None, folder };
        this.lay(pair, beside, next)?;
        this.resume().await?;
        Ok(this)
    }

    fn lay(&self, pair: &Pair, beside: &Dovecot, next: Next) -> Result<()> {
        let folder = &self.folder;
        // A relay host in brackets is an address; an address that never answers keeps mail in the queue.
        let outbound = next.outbound.unwrap_or_else(|| (self.address, 1).into());
        let fill = |template: &str| {
            template
                .replace("@FOLDER@", &folder.display().to_string())
                .replace("@CERTS@", &pair.path("certs").display().to_string())
                .replace("@HOST@", Self::HOST)
                .replace("@ADDRESS@", &self.address.to_string())
                .replace("@LMTP@", &next.lmtp.to_string())
                .replace("@SASL@", &beside.sasl().to_string())
                .replace("@OUTBOUND@", &format!("[{}]:{}", outbound.ip(), outbound.port()))
        };
        for name in ["etc", "spool", "data"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::write(folder.join("etc/main.cf"), fill(include_str!("main.cf")))?;
        std::fs::write(folder.join("etc/master.cf"), fill(include_str!("master.cf")))?;
        std::fs::write(folder.join("ctl"), fill(include_str!("ctl")))?;
        std::fs::set_permissions(folder.join("ctl"), PermissionsExt::from_mode(0o755))?;
        Ok(())
    }

    /// Replaces text in its `main.cf`, which counts from its next start.
    pub fn configure(&self, text: &str, by: &str) -> Result<()> {
        let file = self.folder.join("etc/main.cf");
        let config = std::fs::read_to_string(&file)?;
        ensure!(config.contains(text), "{} does not contain {text:?}", file.display());
        Ok(std::fs::write(file, config.replace(text, by))?)
    }

    /// Closes its ports or opens them again.
    pub async fn act(&self, open: bool) -> Result<()> {
        let command = self.fence(open);
        let ran = Command::new(&command[0]).args(&command[1..]).output().await?;
        ensure!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(())
    }

    /// The command line that closes its ports, ends whoever is connected, and leaves its queue at work: a fence that
    /// holds when it returns; with `open` the one that releases it.
    pub fn fence(&self, open: bool) -> Vec<String> {
        vec![self.folder.join("ctl").display().to_string(), if open { "open" } else { "shut" }.to_owned()]
    }

    /// Starts it again with the queue that it had; nothing if it runs.
    pub async fn resume(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let console = std::fs::File::create(self.folder.join("console.log"))?;
        let etc = self.folder.join("etc");
        let script =
            format!("chown postfix {0}/data && exec postfix -c {0}/etc start-fg", self.folder.display());
        ensure!(
            Path::new("/usr/sbin/postfix").exists(),
            "needs real servers: no Postfix; `tests/run real` installs it"
        );
        let mut command = process::tied("unshare");
        command.args(["--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", &script]);
        command.env("MAIL_CONFIG", etc).stdout(console.try_clone()?).stderr(console);
        self.process = Some(command.spawn()?);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !(self.greets().await && self.note_first()?) {
            let ended = self.process.as_mut().is_some_and(|p| matches!(p.try_wait(), Ok(Some(_))));
            if ended || Instant::now() > deadline {
                bail!("Postfix does not greet:\n{}", self.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Writes down for `ctl` which process is the first of the namespace.
    fn note_first(&self) -> Result<bool> {
        let Some(first) = self.process.as_ref().and_then(first) else { return Ok(false) };
        std::fs::write(self.folder.join("first"), first.as_raw_nonzero().to_string())?;
        Ok(true)
    }

    async fn greets(&self) -> bool {
        let Ok(stream) = TcpStream::connect(self.relay()).await else { return false };
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.is_ok() && line.starts_with("220 ")
    }

    /// Ends it as if the machine had died; its queue stays. No process is left when this returns.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            end(&process);
            process.wait().await?;
        }
        Ok(())
    }

    /// Mail from other servers: clear text and STARTTLS, with the Dovecots' certificate.
    pub fn relay(&self) -> SocketAddr {
        (self.address, Self::RELAY).into()
    }

    /// Mail from users who log in: clear text and STARTTLS.
    pub fn submission(&self) -> SocketAddr {
        (self.address, Self::SUBMISSION).into()
    }

    /// The same with TLS first.
    pub fn submissions(&self) -> SocketAddr {
        (self.address, 10465).into()
    }

    /// `postqueue -j`: what waits in its queue, as JSON, one line per message.
    pub fn queue_command(&self) -> Vec<String> {
        let etc = self.folder.join("etc").display().to_string();
        ["/usr/sbin/postqueue", "-c", &etc, "-j"].map(String::from).into()
    }

    /// What waits in its queue.
    pub async fn queue(&self) -> Result<Vec<serde_json::Value>> {
        let [program, arguments @ ..] = &self.queue_command()[..] else { bail!("no program") };
        let run = Command::new(program).args(arguments).output().await?;
        ensure!(run.status.success(), "postqueue: {}", String::from_utf8_lossy(&run.stderr));
        let text = String::from_utf8(run.stdout)?;
        text.lines().map(|line| serde_json::from_str(line).context("postqueue")).collect()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let file = |name: &str| process::tail(&self.folder.join(name), 200);
        file("console.log") + &file("mail.log")
    }
}

/// The first process of the namespace.
fn first(unshare: &Child) -> Option<Pid> {
    let id = unshare.id()?;
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().and_then(Pid::from_raw)
}

/// Kills it, and with it all others. `unshare` ends when they have.
fn end(unshare: &Child) {
    if let Some(first) = first(unshare) {
        // An error means that it is gone already.
        let _ = kill_process(first, Signal::KILL);
    }
}

impl Drop for Postfix {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its servers said")]
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            end(process);
            // Nobody writes into the folder any more when the rig removes it.
            for _ in 0..200 {
                if !matches!(process.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if std::thread::panicking() {
            eprintln!("--- Postfix\n{}", self.log());
        }
    }
}
