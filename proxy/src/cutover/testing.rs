//! A world of two pools for tests: a configuration, an outside that follows a script, sessions that obey.
//!
//! Rule: the scripted pools know the truth, and two pools that write at once fail the test at that moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    control::Control,
    journal::{self, DecisionLog, Recovered},
    outside::{Act, Asked, Outside},
};
use crate::{
    checks::{Answer, exec::Phase, http::portable::Look, unanswered::Unanswered},
    config::{
        Account, Check, CheckKind, ClientAddress, Config, Contract, Cutover, Fence, FenceKind, Hook,
        HttpLimits, Limits, Pool, Protocol, Restore, Reverse, Secret, Server, Service, ServiceTls,
        StandbyLogin, Storage, Unmovable,
    },
    gate::{Gate, Standing},
    net::spool::Spool,
    session::{
        World,
        registry::{Entry, Order, Progress},
    },
    topology::{Current, PoolId, Topology},
};

pub(crate) const V4: PoolId = PoolId(0);
pub(super) const V5: PoolId = PoolId(1);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Pools `v4` and `v5`, both with fence and promote, on storage of this kind.
pub(crate) fn config(storage: Storage) -> Config {
    let account = |user: &str| Account {
        user: user.into(),
        address: format!("{user}@example.org"),
        password: Secret::default(),
    };
    let pool = |name: &str| Pool {
        name: name.into(),
        contract: Contract {
            storage,
            standby_login: StandbyLogin::Yes,
            fence_reversible: true,
            fence_keeps_reads: storage == Storage::Replicated,
            promote_reversible: true,
            reverse: Reverse::None,
        },
        probes: vec![account("probe1"), account("probe2")],
        imap: Service {
            server: "127.0.0.1:1".into(),
            tls: ServiceTls::None,
            restore: Restore::Client,
            client_address: ClientAddress::None,
            dial_timeout: ms(100),
            keywords: None,
        },
        smtp: None,
        submission: None,
        lmtp: None,
        http: Default::default(),
        capabilities: Some(vec!["IMAP4rev1".into()]),
        promote: Some(hook()),
        fence: Some(Fence { engage: hook(), release: hook(), kind: FenceKind::Refuse }),
    };
    let check = Check {
        name: "lag".into(),
        from: "v4".into(),
        to: "v5".into(),
        guard: true,
        barrier: true,
        hook: hook(),
        kind: CheckKind::Exec,
    };
    Config {
        path: "test.toml".into(),
        server: Server {
            hostname: "mail.test".into(),
            state_dir: "/nonexistent".into(),
            observe: None,
            threads: 1,
        },
        certificates: BTreeMap::new(),
        listeners: BTreeMap::new(),
        pools: vec![Arc::new(pool("v4")), Arc::new(pool("v5"))],
        cutover: Cutover { checks: vec![check], ..cutover() },
        limits: limits(),
    }
}

fn hook() -> Hook {
    Hook { exec: vec!["/bin/true".into()], timeout: ms(1000) }
}

fn cutover() -> Cutover {
    Cutover {
        max_hold: ms(60_000),
        drain: ms(20_000),
        fence: ms(10_000),
        barrier: ms(10_000),
        decide: ms(5_000),
        abort_reserve: ms(5_000),
        arm_timeout: ms(30_000),
        guard_passes: 2,
        guard_interval: ms(5),
        prewarm: true,
        login_rate: 10_000,
        verify_sample: 50,
        unmovable: Unmovable::Abort,
        restore_concurrency: 4,
        resume_within: ms(30_000),
        soak: ms(5),
        checks: vec![],
    }
}

fn limits() -> Limits {
    let second = ms(1000);
    Limits {
        connections: 100,
        line: 8192,
        command: 65536,
        held_bytes: 65536,
        held_commands: 16,
        upload_memory: 65536,
        upload: 1 << 20,
        spool: 1 << 24,
        spool_memory: 0,
        login: 60 * second,
        command_ceiling: 60 * second,
        login_ceiling: 45 * second,
        keepalive: 8 * second,
        idle_keepalive: 120 * second,
        autologout: 1800 * second,
        handshake: 10 * second,
        failed_logins: 3,
        shutdown: second,
        http: HttpLimits::default(),
    }
}

/// What an asking does instead of what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Twist {
    /// Nothing happens, and it says so.
    Fails,
    /// It happens, and nobody learns it.
    HappensUnknown,
    /// It says that it happened, and nothing did.
    Lies,
    /// It never answers, and nothing happens.
    Hangs,
    /// It happens and never answers.
    HappensAndHangs,
    /// It happens, and whoever asked panics.
    HappensAndPanics,
}

/// Two pools outside.
#[derive(Debug, Default)]
pub(super) struct Script {
    truth: Mutex<Truth>,
    /// Told at every asking.
    pub(super) asked: Notify,
}

#[derive(Debug, Default)]
struct Truth {
    fenced: [bool; 2],
    promoted: [bool; 2],
    /// Everything that was asked, in order.
    log: Vec<String>,
    /// Askings by name that go wrong: after so many that go right, so many times.
    twists: BTreeMap<String, (usize, Twist, usize)>,
}

impl Truth {
    fn writes(&self, pool: PoolId) -> bool {
        let i = usize::from(pool.0);
        self.promoted[i] && !self.fenced[i]
    }
}

impl Script {
    /// v4 writes; v5 is a standby behind its fence.
    pub(super) fn new() -> Arc<Self> {
        let script = Self::default();
        let mut truth = script.truth.lock().unwrap();
        (truth.fenced, truth.promoted) = ([false, true], [true, false]);
        drop(truth);
        Arc::new(script)
    }

    /// The asking of this name goes wrong once `skip` of them went right.
    pub(super) fn twist(&self, name: &str, skip: usize, twist: Twist, times: usize) {
        self.truth.lock().unwrap().twists.insert(name.into(), (skip, twist, times));
    }

    /// All askings go right from now on.
    pub(super) fn untwist(&self) {
        self.truth.lock().unwrap().twists.clear();
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.truth.lock().unwrap().log.clone()
    }

    pub(super) fn writes(&self, pool: PoolId) -> bool {
        self.truth.lock().unwrap().writes(pool)
    }

    /// Somebody fences a pool by hand.
    pub(super) fn fence_by_hand(&self, pool: PoolId) {
        self.truth.lock().unwrap().fenced[usize::from(pool.0)] = true;
    }

    /// Resolves when this was asked so often.
    pub(super) async fn until_asked(&self, name: &str, times: usize) {
        while self.log().iter().filter(|line| *line == name).count() < times {
            self.asked.notified().await;
        }
    }

    async fn ask(
        &self,
        name: String,
        change: impl FnOnce(&mut Truth),
        answer: impl FnOnce(&Truth) -> Answer,
    ) -> Answer {
        let twist = {
            let mut truth = self.truth.lock().unwrap();
            truth.log.push(name.clone());
            let twist = match truth.twists.get_mut(&name) {
                Some((skip @ 1.., ..)) => {
                    *skip -= 1;
                    None
                }
                Some((0, twist, times @ 1..)) => {
                    *times -= 1;
                    Some(twist.clone())
                }
                Some(_) | None => None,
            };
            if !matches!(twist, Some(Twist::Fails | Twist::Lies | Twist::Hangs)) {
                change(&mut truth);
            }
            assert!(!(truth.writes(V4) && truth.writes(V5)), "both pools write after {name}");
            twist
        };
        self.asked.notify_one();
        match twist {
            Some(Twist::Fails) => Answer::Fail(format!("{name} failed")),
            Some(Twist::HappensUnknown) => Answer::Unknown(format!("{name} said nothing")),
            Some(Twist::Lies) => Answer::Pass,
            Some(Twist::Hangs | Twist::HappensAndHangs) => std::future::pending().await,
            Some(Twist::HappensAndPanics) => panic!("{name} is a mistake"),
            None => answer(&self.truth.lock().unwrap()),
        }
    }

    async fn seen(&self, name: String, good: impl FnOnce(&Truth) -> bool) -> Answer {
        let saw = name.clone();
        let answer = |truth: &Truth| {
            if good(truth) { Answer::Pass } else { Answer::Fail(format!("{saw}: it is not so")) }
        };
        self.ask(name, |_| {}, answer).await
    }
}

impl Script {
    fn proof<'a>(
        &'a self,
        word: &str,
        pool: PoolId,
        unanswered: &'a Unanswered,
        good: impl FnOnce(&Truth) -> bool + Send + 'a,
    ) -> Asked<'a> {
        Box::pin(unanswered.until("imap", self.seen(format!("{word} {}", named(pool)), good)))
    }
}

/// What a hook does to the truth.
type Change = Box<dyn FnOnce(&mut Truth) + Send>;

/// v4, v5
fn named(pool: PoolId) -> &'static str {
    if pool == V4 { "v4" } else { "v5" }
}

impl Outside for Script {
    fn act(&self, act: Act, pool: PoolId) -> Asked<'_> {
        let i = usize::from(pool.0);
        let (word, change): (_, Change) = match act {
            Act::Engage => ("engage", Box::new(move |truth| truth.fenced[i] = true)),
            Act::Release => ("release", Box::new(move |truth| truth.fenced[i] = false)),
            Act::Promote => ("promote", Box::new(move |truth| truth.promoted[i] = true)),
        };
        Box::pin(self.ask(format!("{word} {}", named(pool)), change, |_| Answer::Pass))
    }

    fn open_canaries(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(self.seen(format!("canaries {}", named(pool)), move |truth| truth.writes(pool)))
    }

    fn keep_canaries(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(self.seen(format!("keep canaries {}", named(pool)), move |truth| truth.writes(pool)))
    }

    fn close_canaries(&self) -> Asked<'_, ()> {
        Box::pin(async { drop(self.seen("close canaries".into(), |_| true).await) })
    }

    fn fenced<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a> {
        self.proof("fenced", pool, unanswered, move |truth| !truth.writes(pool))
    }

    fn refuses<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a> {
        self.proof("refuses", pool, unanswered, move |truth| !truth.writes(pool))
    }

    fn asks_all(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(self.seen(format!("addresses {}", named(pool)), |_| true))
    }

    fn writes<'a>(&'a self, pool: PoolId, _: Duration, unanswered: &'a Unanswered) -> Asked<'a> {
        self.proof("writes", pool, unanswered, move |truth| truth.writes(pool))
    }

    fn offers<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a> {
        self.proof("offers", pool, unanswered, |_| true)
    }

    fn relays(&self, pool: PoolId) -> Asked<'_, Vec<(&'static str, Answer)>> {
        let asked = self.seen(format!("relays {}", named(pool)), |_| true);
        Box::pin(async move { vec![("smtp", asked.await)] })
    }

    fn answers(&self, pool: PoolId) -> Asked<'_, Vec<(String, Look)>> {
        let asked = self.seen(format!("answers {}", named(pool)), |_| true);
        Box::pin(async move {
            let look = match asked.await {
                Answer::Pass => Look::Good("it answers".to_owned()),
                answer @ (Answer::Fail(_) | Answer::Unknown(_)) => Look::Bad(answer),
            };
            vec![("lmtp".to_owned(), look)]
        })
    }

    fn web(&self, _: PoolId, to: PoolId, _: usize) -> Asked<'_, Vec<(String, Look)>> {
        let asked = self.seen(format!("web {}", named(to)), |_| true);
        Box::pin(async move {
            match asked.await {
                Answer::Pass => vec![],
                answer @ (Answer::Fail(_) | Answer::Unknown(_)) => {
                    vec![("http".to_owned(), Look::Bad(answer))]
                }
            }
        })
    }

    fn check<'a>(&'a self, check: &'a Check, phase: Phase) -> Asked<'a> {
        Box::pin(self.seen(format!("{phase:?} {}", check.name), |_| true))
    }

    fn identity(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(self.seen(format!("identity {}", named(pool)), |_| true))
    }

    fn capabilities(&self, _: PoolId) -> Asked<'_, Result<Vec<String>, String>> {
        Box::pin(async { Ok(vec!["IMAP4rev1".to_owned()]) })
    }
}

/// A rig: state directory, world, control.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) world: Arc<World>,
    pub(super) script: Arc<Script>,
    pub(super) control: Arc<Control>,
    pub(super) dir: Arc<tempfile::TempDir>,
}

/// A world as the journal says.
fn world(config: Config, recovered: &Recovered) -> Arc<World> {
    let pools: Arc<[Arc<Pool>]> = config.pools.clone().into();
    Arc::new(World {
        topology: Current::new(Topology { pools, active: recovered.active, epoch: recovered.epoch }),
        gate: Gate::new(recovered.epoch),
        slots: Arc::new(tokio::sync::Semaphore::new(config.limits.connections)),
        registry: Arc::default(),
        pinned: arc_swap::ArcSwap::from_pointee(None),
        said: Default::default(),
        keywords: Default::default(),
        relays: Default::default(),
        names: Default::default(),
        delivered: Arc::default(),
        connectors: crate::net::tls::Connectors::default(),
        http: Default::default(),
        holds: crate::session::holds::Holds::default(),
        unreachable: Default::default(),
        spool: Spool::new(&config.server.state_dir, 1 << 20, 0).unwrap(),
        metrics: Arc::new(crate::telemetry::Metrics::new()),
        config: Arc::new(config),
    })
}

/// Wraps the journal of a rig.
pub(super) type Wrap = Box<dyn FnOnce(Box<dyn DecisionLog>) -> Box<dyn DecisionLog>>;

impl Rig {
    /// v4 serves, the journal is new.
    pub(crate) async fn new(config: Config) -> Self {
        Self::wrapped(config, Box::new(|log| log)).await
    }

    pub(super) async fn wrapped(config: Config, wrap: Wrap) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        journal::init(dir.path(), "v4").unwrap();
        Self::over(config, dir, Script::new(), wrap).await
    }

    /// Another life over the same directory and the same pools.
    pub(super) async fn over(
        mut config: Config,
        dir: Arc<tempfile::TempDir>,
        script: Arc<Script>,
        wrap: Wrap,
    ) -> Self {
        config.server.state_dir = dir.path().into();
        let (journal, recovered) = loop {
            match journal::open(dir.path(), &config) {
                Err(journal::JournalError::Locked(_)) => tokio::task::yield_now().await,
                other => break other.unwrap(),
            }
        };
        let world = world(config, &recovered);
        let control = Control::with(world.clone(), script.clone(), wrap(Box::new(journal)), recovered);
        Self { world, script, control, dir }
    }

    /// Sessions of these users, connected to the active pool.
    pub(super) fn sessions(&self, users: &[&str]) {
        for user in users {
            self.session(user, |_| None);
        }
    }

    /// A session that refuses some orders with a reason.
    pub(super) fn session(
        &self,
        user: &str,
        refuses: impl Fn(Order) -> Option<&'static str> + Send + Sync + 'static,
    ) {
        let entry = self.world.registry.enter("127.0.0.1:1".parse().unwrap(), "test".into(), Protocol::Imap);
        entry.handle.describe(|info| info.identity = user.into());
        let topology = self.world.topology.load();
        entry.handle.word.set(Standing { backend: Some(topology.active), ..Standing::default() });
        tokio::spawn(obey(self.world.clone(), entry, refuses));
    }

    /// The pools that sessions are connected to, sorted.
    pub(super) fn backends(&self) -> Vec<Option<PoolId>> {
        let mut backends: Vec<_> = self.world.registry.all().iter().map(|h| h.word.read().backend).collect();
        backends.sort();
        backends
    }

    /// Resolves when the cutover is over; the status then.
    pub(super) async fn over_and_idle(&self) -> super::types::Status {
        let mut changes = self.control.watch();
        let over = |status: &super::types::Status| {
            status.state == super::types::Stage::Idle && status.cutover.is_none()
        };
        changes.wait_for(over).await.unwrap().clone()
    }
}

/// A session as the registry sees it: it carries out its orders one after the other.
async fn obey(world: Arc<World>, entry: Entry, refuses: impl Fn(Order) -> Option<&'static str>) {
    let mut seen = None;
    std::future::poll_fn(|cx| {
        entry.handle.register(cx.waker());
        let (number, order) = entry.handle.order();
        if seen == Some(number) {
            return Poll::Pending;
        }
        if let Some(why) = refuses(order) {
            seen = Some(number);
            entry.handle.describe(|info| info.unmovable = Some(why.into()));
            entry.handle.report(number, Progress::Refused);
            return Poll::Pending;
        }
        let mut standing = entry.handle.word.read();
        let topology = world.topology.load();
        match order {
            Order::Prepare => {}
            Order::Flow => standing.spare = None,
            Order::Leave => standing = Standing::default(),
            Order::Prewarm | Order::Verify => standing.spare = world.topology.target(),
            Order::Attach => {
                standing = Standing { backend: Some(topology.active), ..Standing::default() };
                if !entry.handle.word.announce(standing, &world.gate, topology.epoch) {
                    entry.handle.word.set(Standing::default());
                    return Poll::Pending;
                }
            }
            Order::End => return Poll::Ready(()),
        }
        seen = Some(number);
        entry.handle.word.set(standing);
        entry.handle.word_changed();
        entry.handle.report(number, Progress::Done);
        Poll::Pending
    })
    .await;
}
