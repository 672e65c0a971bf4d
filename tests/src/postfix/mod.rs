//! A real Postfix beside the Dovecots of a rig: a relay, and submission with Dovecot's passwords.
//!
//! Rule: its configuration, queue and log lie in the rig's folder and go with it, and all of its processes in a namespace
//! that ends with the test, however that ends; no instance of the system is touched.

use std::{
    net::{Ipv4Addr, SocketAddr},
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

use crate::{dovecot::Pair, process};

/// A Postfix at [`Pair::relay`], to be dropped before the pair. Mail for `example.org` goes on by LMTP.
#[derive(Debug)]
pub struct Postfix {
    address: Ipv4Addr,
    process: Option<Child>,
    folder: PathBuf,
}

/// Where mail goes on to, and who knows the passwords.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    /// Mail for `example.org`.
    pub lmtp: SocketAddr,
    /// All other mail; `None`: it stays in the queue.
    pub outbound: Option<SocketAddr>,
    /// Who may send.
    pub sasl: SocketAddr,
}

impl Postfix {
    /// Its name.
    pub const HOST: &'static str = "postfix.bascule.test";

    /// Starts it in this rig.
    pub async fn start(pair: &Pair, next: Next) -> Result<Self> {
        let folder = pair.path("postfix");
        std::fs::create_dir(&folder)?;
        let mut this = Self { address: pair.relay, process: None, folder };
        this.lay(pair, next)?;
        this.resume().await?;
        Ok(this)
    }

    fn lay(&self, pair: &Pair, next: Next) -> Result<()> {
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
                .replace("@SASL@", &next.sasl.to_string())
                .replace("@OUTBOUND@", &format!("[{}]:{}", outbound.ip(), outbound.port()))
        };
        for name in ["etc", "spool", "data"] {
            std::fs::create_dir(folder.join(name))?;
        }
        std::fs::write(folder.join("etc/main.cf"), fill(include_str!("main.cf")))?;
        std::fs::write(folder.join("etc/master.cf"), fill(include_str!("master.cf")))?;
        Ok(())
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
        while !self.greets().await {
            let ended = self.process.as_mut().is_some_and(|p| matches!(p.try_wait(), Ok(Some(_))));
            if ended || Instant::now() > deadline {
                bail!("Postfix does not greet:\n{}", self.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
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
        (self.address, 10025).into()
    }

    /// Mail from users who log in: clear text and STARTTLS.
    pub fn submission(&self) -> SocketAddr {
        (self.address, 10587).into()
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

/// Kills the first process of the namespace, and with it all others. `unshare` ends when they have.
fn end(unshare: &Child) {
    let Some(id) = unshare.id() else { return };
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let first = children.split_whitespace().next().and_then(|c| c.parse().ok()).and_then(Pid::from_raw);
    if let Some(first) = first {
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
