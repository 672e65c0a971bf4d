//! Two fake platforms that replicate, a proxy whose hooks ask the test, and what must be true in the end.
//!
//! Rule: hooks and checks are programs that wait for the [`Desk`]'s word, so that a test stops a cutover where it
//! wants to, before or after the hook has had its effect.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bascule_tests::{
    bascule::{Bascule, Fence, Pool, Ran, Setup},
    client::{Client, Reply, Security, Status},
    fake::{Options, Platform, Reaction, Stall, Store, control::Pair},
    ledger::{Fate, Ledger},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// Everybody's password.
const PASSWORD: &str = "secret";
/// Longer than any test; a hold that ends by itself would hide what a crash does.
const LONG: &str = "max_hold = \"40s\"\ndrain = \"10s\"\nfence = \"10s\"\nbarrier = \"10s\"\ndecide = \"5s\"\n\
                    abort_reserve = \"5s\"\nguard_passes = 1\nsoak = \"60s\"\n";

/// Platforms `old` and `new`, and a proxy that serves `old` first.
pub(crate) struct Rig {
    pub(crate) pair: Arc<Pair>,
    pub(crate) proxy: Bascule,
    pub(crate) ledger: Ledger,
    /// What the proxy is set up with.
    pub(crate) setup: Setup,
    desk: Arc<Desk>,
    _folder: TempDir,
}

/// Where a stall is, seen from the hook's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    After,
}

/// Carries the hooks' orders out, with the pauses that the test asked for.
struct Desk {
    pair: Arc<Pair>,
    stalls: Mutex<HashMap<String, (When, u32, Stall)>>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With further tables in its configuration.
    pub(crate) async fn start_with(tables: &str) -> Self {
        let mut rig = Self::lay().await;
        rig.setup.tables += tables;
        rig.proxy.configure(&rig.setup).unwrap();
        let init = rig.run(&["init", "--active", "old"]).await;
        assert_eq!(init.code, 0, "{init:?}");
        rig.proxy.serve().await.unwrap();
        rig
    }

    /// Everything but `init` and `serve`.
    pub(crate) async fn lay() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = [store(), store()];
        let pair = Arc::new(
            Pair::replicated(["old", "new"], stores, Duration::ZERO, Options::default()).await.unwrap(),
        );
        let socket = folder.path().join("desk");
        let desk = Arc::new(Desk { pair: pair.clone(), stalls: Mutex::default() });
        tokio::spawn(desk.clone().serve(UnixListener::bind(&socket).unwrap()));
        let setup = setup(&pair, &socket);
        let proxy = Bascule::lay(&setup).unwrap();
        Self { pair, proxy, ledger: Ledger::default(), setup, desk, _folder: folder }
    }

    pub(crate) fn platform(&self, name: &str) -> &Platform {
        self.pair.platform(name).unwrap()
    }

    /// The hook with this order waits; `guard` and `caught-up old` are the checks.
    pub(crate) fn stall(&self, order: &str, when: When) -> Stall {
        self.stall_after(0, order, when)
    }

    /// The same, but not the first times.
    pub(crate) fn stall_after(&self, times: u32, order: &str, when: When) -> Stall {
        let stall = Stall::default();
        self.desk.stalls.lock().unwrap().insert(order.into(), (when, times, stall.clone()));
        stall
    }

    /// Hooks wait no more. Those that do wait are never answered: whoever ran them is dead.
    pub(crate) fn no_stalls(&self) {
        self.desk.stalls.lock().unwrap().clear();
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.proxy.run(arguments).await.unwrap()
    }

    pub(crate) fn security(&self) -> Security {
        let trust = bascule_tests::client::trusting(&self.proxy.authority.pem()).unwrap();
        Security::Tls(trust, Bascule::HOST.try_into().unwrap())
    }

    /// Logged in through the proxy, INBOX selected.
    pub(crate) async fn client(&self, user: &str) -> Client {
        let mut client = Client::connect(self.proxy.imaps(), self.security()).await.unwrap();
        client.login(user, PASSWORD).await.unwrap().ok().unwrap();
        client.select("INBOX").await.unwrap().ok().unwrap();
        client
    }

    /// An APPEND that is answered, and entered into the ledger.
    pub(crate) async fn append(&self, client: &mut Client) -> Reply {
        let (id, message) = self.ledger.message(300);
        let reply = client.append("INBOX", &message).await.unwrap();
        let acknowledged = reply.status == Status::Ok;
        self.ledger.settle(&id, if acknowledged { Fate::Acknowledged } else { Fate::Refused });
        reply
    }

    /// An APPEND that nobody waits for: its fate stays unknown.
    pub(crate) async fn append_and_forget(&self, client: &mut Client) {
        client.start_append("INBOX", &self.ledger.message(300).1).await.unwrap();
    }

    /// A cutover to `new` that waits in Verified, the last state before the decision, until this is released.
    pub(crate) async fn cutover_to_verified(&self) -> Stall {
        let promote = self.stall("promote new", When::Before);
        let verify = Stall::default();
        let stopped = async {
            promote.reached(1).await;
            // Not earlier: the plan looks at the new pool too.
            let stall = Some(verify.clone());
            self.platform("new").react("EXAMINE", Reaction { stall, ..Reaction::default() });
            promote.release();
            verify.reached(1).await;
        };
        self.cutover_until(stopped).await;
        verify
    }

    /// Begins a cutover to `new` and returns when `there` is; the cutover goes on.
    pub(crate) async fn cutover_until(&self, there: impl Future<Output = ()>) {
        tokio::select! {
            ran = self.proxy.cutover("new") => panic!("the cutover came to an end: {ran:?}\n{}", self.proxy.log()),
            () = there => {}
        }
    }

    pub(crate) async fn status(&self) -> Value {
        self.proxy.status().await.unwrap()
    }

    pub(crate) fn journal_file(&self) -> PathBuf {
        self.proxy.state_dir().join("journal")
    }

    /// The records of the journal; whatever follows the last whole one is left out.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let bytes = std::fs::read(self.journal_file()).unwrap();
        frames(&bytes).into_iter().map(|frame| serde_json::from_slice(&frame[8..]).unwrap()).collect()
    }

    /// The records of the journal in short: `init`, `entered armed`, …
    pub(crate) fn history(&self) -> Vec<String> {
        let short = |record: Value| {
            let words = [&record["record"], &record["stage"]].map(|word| word.as_str().unwrap_or_default());
            words.join(" ").trim_end().to_owned()
        };
        self.journal().into_iter().map(short).collect()
    }

    /// This pool serves and writes, the other one refuses writes, and the ledger is clean.
    pub(crate) async fn serves(&self, pool: &str) {
        let other = if pool == "old" { "new" } else { "old" };
        let status = self.status().await;
        assert_eq!(status["active"], pool, "{status:#}");
        assert!(status["limbo"].is_null() && status["gate"] == "open", "{status:#}");
        let mut client = self.client("user2").await;
        self.append(&mut client).await.ok().unwrap();
        client.logout().await.unwrap();
        assert!(self.takes_writes(pool).await, "{pool} serves");
        assert!(!self.takes_writes(other).await, "{other} is fenced or a standby");
        self.judge(pool).await;
    }

    /// What the pool holds is what clients were told.
    pub(crate) async fn judge(&self, pool: &str) {
        for from in ["old", "new"] {
            self.pair.replication(from).unwrap().drained().await;
        }
        let verdict = self.ledger.judge(self.platform(pool).store().bodies());
        assert!(verdict.clean() && verdict.acknowledged > 0, "{verdict:?}");
        let violations: Vec<_> =
            ["old", "new"].into_iter().flat_map(|name| self.platform(name).counters().violations).collect();
        assert!(violations.is_empty(), "{violations:?}");
    }

    /// Asks the platform itself, around the proxy.
    pub(crate) async fn takes_writes(&self, pool: &str) -> bool {
        let address = self.platform(pool).address();
        let mut client = Client::connect(address, Security::Plain).await.unwrap();
        client.login("user2", PASSWORD).await.unwrap().ok().unwrap();
        client.append("INBOX", b"Subject: who writes?\r\n\r\n").await.unwrap().status == Status::Ok
    }
}

impl Desk {
    /// Where this order waits now, if it does.
    fn stall(&self, order: &str) -> Option<(When, Stall)> {
        let mut stalls = self.stalls.lock().unwrap();
        let (when, times, stall) = stalls.get_mut(order)?;
        if let Some(left) = times.checked_sub(1) {
            *times = left;
            return None;
        }
        Some((*when, stall.clone()))
    }

    async fn serve(self: Arc<Self>, socket: UnixListener) {
        while let Ok((stream, _)) = socket.accept().await {
            let this = self.clone();
            // An error is the end of the hook, which the proxy has killed or left behind.
            tokio::spawn(async move { this.converse(stream).await });
        }
    }

    async fn converse(&self, stream: UnixStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut order = String::new();
        stream.read_line(&mut order).await?;
        let order = order.trim();
        let stall = self.stall(order);
        if let Some((When::Before, stall)) = &stall {
            stall.wait().await;
        }
        let (code, text) = match order {
            "guard" => (0, "it may begin".into()),
            _ => {
                let reply = self.pair.obey(order).await;
                (reply.code, reply.text)
            }
        };
        if let Some((When::After, stall)) = &stall {
            stall.wait().await;
        }
        stream.write_all(format!("{code} {text}\n").as_bytes()).await
    }
}

/// The whole frames of a journal: length, checksum, JSON. Written from the format alone, not from bascule's code.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some(header) = bytes.first_chunk::<4>() {
        let size = 8 + u32::from_le_bytes(*header) as usize;
        if size == 8 || size > bytes.len() {
            break;
        }
        let (frame, rest) = bytes.split_at(size);
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn store() -> Arc<Store> {
    let store = Store::new(PASSWORD);
    for user in ["user1", "user2", "probe1", "probe2"] {
        store.add_user(user);
        store.deliver(user, "INBOX", b"Subject: welcome\r\n\r\nHello.\r\n");
    }
    store
}

fn setup(pair: &Pair, desk: &Path) -> Setup {
    let hook = |order: &str| -> Vec<String> {
        let desk = desk.display().to_string();
        let words = [env!("CARGO_BIN_EXE_bascule-fake"), "ctl", &desk].into_iter().chain(order.split(' '));
        words.map(String::from).collect()
    };
    let pool = |name: &str| Pool {
        name: name.into(),
        server: pair.platform(name).unwrap().address(),
        tls: None,
        contract: "storage = \"replicated\", standby_login = \"yes\"",
        password: PASSWORD.into(),
        capabilities: vec![],
        mail: Vec::new(),
        http: Vec::new(),
        fence: Some(Fence {
            kind: "refuse",
            engage: hook(&format!("fence {name} readonly")),
            release: hook(&format!("fence {name} off")),
        }),
        promote: Some(hook(&format!("promote {name}"))),
    };
    let check = |name: &str, from: &str, to: &str, exec: Vec<String>, role: &str| {
        format!(
            "[cutover.check.{name}]\nkind = \"exec\"\nexec = {exec:?}\nfrom = {from:?}\nto = {to:?}\nas = [{role:?}]\n"
        )
    };
    let tables = check("may_begin", "old", "new", hook("guard"), "guard")
        + &check("there", "old", "new", hook("caught-up old"), "barrier")
        + &check("back", "new", "old", hook("caught-up new"), "barrier");
    Setup { pools: vec![pool("old"), pool("new")], cutover: LONG.into(), tables, ..Setup::default() }
}
