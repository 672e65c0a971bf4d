//! The two platforms of the demo, and how bascule is told about them.
//!
//! Rule: everything that differs between kinds of platforms is here; the play knows only pools.

use std::{net::SocketAddr, path::Path, process::Stdio};

use anyhow::{Context as _, Result};
use bascule_tests::{client::Security, fake::control};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// One platform.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: &'static str,
    /// Where the judge looks, around the proxy.
    pub(crate) address: SocketAddr,
    pub(crate) security: Security,
    pub(crate) password: &'static str,
    /// Its part of the configuration.
    pub(crate) config: String,
}

/// Both.
#[derive(Debug)]
pub(crate) struct Platforms {
    pub(crate) pools: [Pool; 2],
    pub(crate) users: Vec<String>,
    /// What the configuration says about cutovers between them.
    pub(crate) cutover: String,
    running: Running,
}

/// What must stay alive.
#[derive(Debug)]
enum Running {
    Fakes { socket: std::path::PathBuf, _child: Child },
}

const NAMES: [&str; 2] = ["old", "new"];

impl Platforms {
    /// Two in-memory platforms with replication both ways, in a process of their own.
    pub(crate) async fn fakes(folder: &Path, users: usize) -> Result<Self> {
        let program = beside_us("bascule-fake")?;
        let socket = folder.join("fake.sock");
        // Its input ends with us, however we end, and with that it ends too. A process group of its own: Ctrl-C
        // is for us to hear.
        let mut child = Command::new(&program)
            .args(["serve", "--users", &users.to_string(), "--password", "secret", "--socket"])
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut lines = BufReader::new(child.stdout.take().context("it has a pipe")?).lines();
        let ctl = |order: &str| {
            let words = [program.display().to_string(), "ctl".into(), socket.display().to_string()];
            let words: Vec<String> = words
                .into_iter()
                .chain(order.split(' ').map(String::from))
                .map(|w| format!("{w:?}"))
                .collect();
            format!("[{}]", words.join(", "))
        };
        let mut pool = async |name: &'static str| {
            let address = address(&mut lines).await?;
            anyhow::Ok(Pool {
                name,
                address,
                security: Security::Plain,
                password: "secret",
                config: fake(name, address, &ctl),
            })
        };
        let pools = [pool(NAMES[0]).await?, pool(NAMES[1]).await?];
        let check = |from: &str, to: &str| {
            let exec = ctl(&format!("caught-up {from}"));
            format!(
                "[cutover.check.{from}]\nkind = \"exec\"\nexec = {exec}\nfrom = \"{from}\"\nto = \"{to}\"\nas = [\"barrier\"]\n"
            )
        };
        let cutover = format!("soak = \"1s\"\n{}{}", check(NAMES[0], NAMES[1]), check(NAMES[1], NAMES[0]));
        let users = (1..=users).map(|n| format!("user{n}")).collect();
        Ok(Self { pools, users, cutover, running: Running::Fakes { socket, _child: child } })
    }

    /// The one that serves first, and the other.
    pub(crate) fn names(&self) -> [&'static str; 2] {
        [self.pools[0].name, self.pools[1].name]
    }

    pub(crate) fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|p| p.name == name)
    }

    /// What the platforms saw that breaks the protocol.
    pub(crate) async fn violations(&self) -> Result<Vec<String>> {
        let Running::Fakes { socket, .. } = &self.running;
        let mut all = Vec::new();
        for name in self.names() {
            let reply = control::ask(socket, &format!("counters {name}")).await?;
            let counters: serde_json::Value = serde_json::from_str(&reply.text)?;
            let seen = counters["violations"].as_array().context("counters have violations")?;
            all.extend(seen.iter().map(ToString::to_string));
        }
        Ok(all)
    }
}

fn fake(name: &str, address: SocketAddr, ctl: &impl Fn(&str) -> String) -> String {
    format!(
        r#"[pool.{name}]
contract = {{ storage = "replicated", fence_keeps_reads = true, reverse = "replication" }}
probe    = [{{ user = "probe1", password_file = "secret" }}, {{ user = "probe2", password_file = "secret" }}]
[pool.{name}.imap]
servers  = ["{address}"]
tls      = {{ mode = "none" }}
[pool.{name}.promote]
run      = {{ exec = {promote} }}
[pool.{name}.fence]
engage   = {{ exec = {engage} }}
release  = {{ exec = {release} }}
"#,
        promote = ctl(&format!("promote {name}")),
        engage = ctl(&format!("fence {name} readonly")),
        release = ctl(&format!("fence {name} off")),
    )
}

async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<SocketAddr> {
    let line = lines.next_line().await?.context("bascule-fake ended before it said where it listens")?;
    Ok(line.parse()?)
}

/// A program that was built together with this one.
pub(crate) fn beside_us(name: &str) -> Result<std::path::PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is not built: bench/demo builds everything", path.display());
    Ok(path)
}
