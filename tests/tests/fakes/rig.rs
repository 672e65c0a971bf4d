//! Two fake platforms with a proxy in front of them, and hooks that a test has in its hands.
//!
//! Rule: a test waits for what it is about (a hook that is reached, a status, an answer); what it sets up here is
//! in effect when the call returns.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bascule_certs::testing::Authority;
use bascule_tests::{
    bascule::{Bascule, Fence, Pool, Ran, Service, Setup},
    client::{Client, Reply, Status},
    fake::{
        Attendance, Options, Platform, Replication, Stall, Store,
        control::{Pair, services},
        http::{Shelf, Speech, Web},
        smtp::{self, Trust},
    },
    ledger::{Fate, Ledger},
    process,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle};

use super::hooks::{Hooks, serve};

pub(super) const PASSWORD: &str = "secret";
/// Messages in everybody's INBOX.
pub(super) const MAIL: u32 = 3;

/// Where the web servers listen, and their twins.
const WEB: u16 = 10081;
const TWIN: u16 = 10082;
/// The name in their certificate.
const WEB_NAME: &str = "web.test";
const ROUTES: &str = "routes = [{ path = \"/\", service = \"webmail\" }, \
                      { path = \"/poll\", service = \"webmail\", long_poll = true }]\n";
const ROUTES_OF_TWO: &str = "routes = [{ path = \"/\", service = \"webmail\" }, { path = \"/cal\", service = \"dav\" }, \
                              { host = \"dav.test\", path = \"/\", service = \"dav\" }]\n";

/// What the servers are proved by.
const PROOF: &str = "probe = \"/dav/{user}/probe\"\nsession = { login = \"/login\", page = \"/inbox\", cookie = \"sid\", \
                     form = \"token={token}&user={user}&password={password}\" }";

/// The hooks as the proxy's configuration calls them.
pub(super) const BARRIER: &str = "caught-up old";
pub(super) const FENCE: &str = "fence old readonly";
pub(super) const PROMOTE: &str = "promote new";

/// How a rig is to be.
pub(super) struct Plan {
    shared: bool,
    stops: bool,
    brief: bool,
    barrier: &'static str,
    cutover: &'static str,
    limits: &'static str,
    budget: Option<&'static str>,
    ceiling: &'static str,
    mail: Option<(&'static str, &'static str)>,
    web: Option<(&'static str, Spoken)>,
    service: &'static str,
    twins: Option<Twins>,
    https: &'static str,
    redirect: String,
    lag: Duration,
    change: [fn(&mut Options); 2],
    new_pool: fn(&mut Pool),
    prepare: fn(&Store, &Store),
}

/// How web servers are spoken to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spoken {
    One,
    Two,
    /// The same, and the first connection turns every request away unseen.
    TwoAway,
    Proxied,
    Tls,
}

/// What a second web server of each pool is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twins {
    /// The same service.
    Same,
    /// A service of its own, `dav`: everything under `/cal`, and all of the host `dav.test`.
    Dav,
}

/// Everything that runs.
pub(super) struct Rig {
    pub(super) proxy: Arc<Bascule>,
    pub(super) pair: Arc<Pair>,
    pub(super) hooks: Arc<Hooks>,
    pub(super) attendance: Attendance,
    pub(super) ledger: Ledger,
    /// What the web servers of both pools have, if there are any.
    pub(super) shelf: Arc<Shelf>,
    pub(super) webs: Vec<Web>,
    _folder: TempDir,
}

impl Plan {
    /// Two stores with replication both ways, read-only fences.
    pub(super) fn replicated() -> Self {
        Self {
            shared: false,
            stops: false,
            brief: false,
            barrier: "30s",
            cutover: "",
            limits: "",
            budget: None,
            ceiling: "90s",
            mail: None,
            web: None,
            service: "",
            twins: None,
            https: "",
            redirect: String::new(),
            lag: Duration::ZERO,
            change: [|_| {}, |_| {}],
            new_pool: |_| {},
            prepare: |_, _| {},
        }
    }

    /// One store; the fence stops the service.
    pub(super) fn shared() -> Self {
        Self { shared: true, stops: true, ..Self::replicated() }
    }

    /// Fences stop the service.
    pub(super) fn stops(self) -> Self {
        Self { stops: true, ..self }
    }

    /// A hold that may expire, for tests that let it.
    pub(super) fn brief(self) -> Self {
        Self { brief: true, barrier: "1500ms", ..self }
    }

    /// The barrier's share, where a test lets it pass.
    pub(super) fn barrier(self, barrier: &'static str) -> Self {
        Self { barrier, ..self }
    }

    /// Further lines of `[cutover]`.
    pub(super) fn cutover(self, cutover: &'static str) -> Self {
        Self { cutover, ..self }
    }

    /// Lines of `[limits]`.
    pub(super) fn limits(self, limits: &'static str) -> Self {
        Self { limits, ..self }
    }

    /// How long commands and logins may wait, which is more than a hold of a second.
    pub(super) fn ceiling(self, ceiling: &'static str) -> Self {
        let budget = "max_hold = \"1s\"\ndrain = \"100ms\"\nfence = \"200ms\"\nbarrier = \"300ms\"\n\
                      decide = \"100ms\"\nabort_reserve = \"300ms\"\n";
        Self { ceiling, budget: Some(budget), ..self }
    }

    /// How long commands, logins and requests may wait.
    pub(super) fn waits(self, ceiling: &'static str) -> Self {
        Self { ceiling, ..self }
    }

    /// Mail passes too. Platforms learn who sends it in this way (`none`, `xclient`, `proxy-v2`); these lines stand in
    /// its listeners.
    pub(super) fn mail(self, client_address: &'static str, lines: &'static str) -> Self {
        Self { mail: Some((client_address, lines)), ..self }
    }

    /// HTTP passes too: one store under the web servers of both platforms. These lines stand in the listeners.
    pub(super) fn web(self, listener: &'static str, spoken: Spoken) -> Self {
        Self { web: Some((listener, spoken)), ..self }
    }

    /// Further lines of the services of HTTP.
    pub(super) fn service(self, service: &'static str) -> Self {
        Self { service, ..self }
    }

    /// Lines of the listeners for HTTP.
    pub(super) fn listener(self, lines: &'static str) -> Self {
        Self { web: self.web.map(|(_, spoken)| (lines, spoken)), ..self }
    }

    /// Two web servers in each pool.
    pub(super) fn twins(self, twins: Twins) -> Self {
        Self { twins: Some(twins), ..self }
    }

    /// Further lines of the listener for HTTP over TLS, and those of one without routes.
    pub(super) fn front(self, https: &'static str, redirect: String) -> Self {
        Self { https, redirect, ..self }
    }

    /// How late replication is.
    pub(super) fn lag(self, lag: Duration) -> Self {
        Self { lag, ..self }
    }

    /// The options of the old and of the new platform.
    pub(super) fn platforms(self, old: fn(&mut Options), new: fn(&mut Options)) -> Self {
        Self { change: [old, new], ..self }
    }

    /// What the configuration says otherwise of the new pool.
    pub(super) fn new_pool(self, new_pool: fn(&mut Pool)) -> Self {
        Self { new_pool, ..self }
    }

    /// What differs between the stores (old, new) before replication begins.
    pub(super) fn stores(self, prepare: fn(&Store, &Store)) -> Self {
        Self { prepare, ..self }
    }

    /// Sets everything up for these users, and serves from `old`.
    pub(super) async fn start(self, users: &[&str]) -> Rig {
        let attendance = Attendance::default();
        let pair = Arc::new(self.pair(users, &attendance).await);
        let folder = tempfile::Builder::new().prefix("bascule-fakes-").tempdir().unwrap();
        let socket = folder.path().join("control");
        let listener = UnixListener::bind(&socket).unwrap();
        let hooks = Arc::new(Hooks::default());
        tokio::spawn(serve(hooks.clone(), pair.clone(), listener));
        let ctl = [env!("CARGO_BIN_EXE_bascule-fake"), "ctl", socket.to_str().unwrap()].map(String::from);
        let (shelf, speech) = (Arc::new(Shelf::default()), self.speech(folder.path()));
        let mut webs = Vec::new();
        let names = [("old", "old", WEB), ("new", "new", WEB), ("old", "old2", TWIN), ("new", "new2", TWIN)];
        let count = self.web.map_or(0, |_| if self.twins.is_some() { 4 } else { 2 });
        for (pool, name, port) in names.into_iter().take(count) {
            let address = (pair.platform(pool).unwrap().address().ip(), port).into();
            let web = Web::start(name, address, shelf.clone(), speech.clone()).await.unwrap();
            pair.platform(pool).unwrap().beside(&web).await;
            webs.push(web);
        }
        let proxy = Bascule::start(&self.setup(&pair, &ctl, folder.path()), "old").await.unwrap();
        let (proxy, ledger) = (Arc::new(proxy), Ledger::default());
        Rig { proxy, pair, hooks, attendance, ledger, shelf, webs, _folder: folder }
    }

    async fn pair(&self, users: &[&str], attendance: &Attendance) -> Pair {
        let filled = || {
            let store = Store::new(PASSWORD);
            for user in users.iter().chain(&["probe1", "probe2"]) {
                store.add_user(user);
                for n in 1..=MAIL {
                    store.deliver(user, "INBOX", format!("Subject: {user} {n}\r\n\r\n{n}\r\n").as_bytes());
                }
            }
            store
        };
        let old = filled();
        let new = if self.shared { old.clone() } else { filled() };
        (self.prepare)(&old, &new);
        let replications = (!self.shared)
            .then(|| [Replication::start(&old, &new, self.lag), Replication::start(&new, &old, self.lag)]);
        // A stopped platform comes back to its port, which nobody may have taken meanwhile.
        let [here, there, _] = process::addresses();
        let options = |name: &'static str, address: Ipv4Addr, standby: bool| Options {
            listen: (address, 10143).into(),
            transcripts: true,
            standby,
            attendance: attendance.at(name),
            smtp: self.mail.map(|(address, _)| smtp::Options {
                xclient: if address == "xclient" { Trust::Honoured } else { Trust::Off },
                proxy_v2: address == "proxy-v2",
                ..smtp::Options::default()
            }),
            ..Options::default()
        };
        let mut options = [options("old", here, false), options("new", there, !self.shared)];
        for (options, change) in options.iter_mut().zip(&self.change) {
            change(options);
        }
        let [first, second] = options;
        let platforms =
            [Platform::start(old, first).await.unwrap(), Platform::start(new, second).await.unwrap()];
        if self.shared {
            platforms[1].fence(bascule_tests::fake::Fence::Stop).await.unwrap();
        }
        Pair::new(["old", "new"], platforms, replications)
    }

    /// What the web servers speak; over TLS with a certificate of an authority whose own lies in this folder.
    fn speech(&self, folder: &Path) -> Speech {
        match self.web {
            None | Some((_, Spoken::One)) => Speech::One,
            Some((_, Spoken::Two)) => Speech::Two,
            Some((_, Spoken::TwoAway)) => Speech::TwoAway,
            Some((_, Spoken::Proxied)) => Speech::Proxied,
            Some((_, Spoken::Tls)) => {
                let authority = Authority::new();
                authority.write(folder).unwrap();
                Speech::Tls(authority.issue(&[WEB_NAME]).serving().unwrap())
            }
        }
    }

    fn routes(&self) -> &'static str {
        if self.twins == Some(Twins::Dav) { ROUTES_OF_TWO } else { ROUTES }
    }

    /// The services of HTTP of one pool.
    fn services(&self, platform: &Platform, ca: &Path) -> Vec<(&'static str, Vec<SocketAddr>, String)> {
        let Some((_, spoken)) = self.web else { return Vec::new() };
        let clear = "tls = { mode = \"none\" }";
        let lines = match spoken {
            Spoken::One => clear.to_owned(),
            Spoken::Two | Spoken::TwoAway => format!("{clear}\nversion = \"2\""),
            Spoken::Proxied => format!("{clear}\nclient_address = \"proxy-v2\""),
            Spoken::Tls => format!("tls = {{ mode = \"implicit\", ca = {ca:?}, name = {WEB_NAME:?} }}"),
        };
        let lines = format!("{lines}\n{PROOF}\n{}", self.service);
        let at = |port| SocketAddr::from((platform.address().ip(), port));
        match self.twins {
            None => vec![("webmail", vec![at(WEB)], lines)],
            Some(Twins::Same) => vec![("webmail", vec![at(WEB), at(TWIN)], lines)],
            Some(Twins::Dav) => {
                vec![("webmail", vec![at(WEB)], lines.clone()), ("dav", vec![at(TWIN)], lines)]
            }
        }
    }

    fn setup(&self, pair: &Pair, ctl: &[String], folder: &Path) -> Setup {
        let order = |words: String| [ctl, &words.split(' ').map(String::from).collect::<Vec<_>>()].concat();
        let declared = Options::default().capabilities;
        let pool = |name: &str| Pool {
            name: name.into(),
            server: pair.platform(name).unwrap().address(),
            tls: None,
            contract: match (self.shared, self.stops) {
                (true, _) => "storage = \"shared\", standby_login = \"no\"",
                (false, true) => "storage = \"replicated\", reverse = \"replication\"",
                (false, false) => {
                    "storage = \"replicated\", reverse = \"replication\", fence_keeps_reads = true"
                }
            },
            password: PASSWORD.into(),
            // A pool that is not there cannot be asked.
            capabilities: if self.shared { declared.clone() } else { Vec::new() },
            mail: mail(pair.platform(name).unwrap(), self.shared),
            http: self.services(pair.platform(name).unwrap(), &folder.join("ca.pem")),
            fence: Some(Fence {
                kind: if self.stops { "stop" } else { "refuse" },
                engage: order(format!("fence {name} {}", if self.stops { "stop" } else { "readonly" })),
                release: order(format!("fence {name} off")),
            }),
            promote: (!self.shared).then(|| order(format!("promote {name}"))),
        };
        let check = |from: &str, to: &str| {
            let exec = order(format!("caught-up {from}"));
            format!(
                "[cutover.check.{from}]\nkind = \"exec\"\nexec = {exec:?}\nfrom = {from:?}\nto = {to:?}\n\
                 as = [\"barrier\"]\ntimeout = \"45s\"\n"
            )
        };
        let checks = if self.shared { String::new() } else { check("old", "new") + &check("new", "old") };
        // A hold as long as may be: eight tests on two cores are slow, and what a test stops must not expire.
        let budget = match (self.budget, self.brief) {
            (Some(budget), _) => budget.to_owned(),
            (None, true) => {
                format!(
                    "max_hold = \"8s\"\nfence = \"2s\"\nabort_reserve = \"2s\"\nbarrier = {:?}\n",
                    self.barrier
                )
            }
            (None, false) => format!(
                "max_hold = \"60s\"\ndrain = \"8s\"\nfence = \"8s\"\ndecide = \"4s\"\nabort_reserve = \"10s\"\nbarrier = {:?}\n",
                self.barrier
            ),
        };
        // No keepalive comes between what a test counts, unless it asks for it.
        let quiet = self.limits.contains("keepalive") || self.ceiling != "90s";
        let keepalive = if quiet { "" } else { "keepalive = \"60s\"\n" };
        let mut new = pool("new");
        (self.new_pool)(&mut new);
        Setup {
            pools: vec![pool("old"), new],
            mail: self.mail.unwrap_or_default().1.into(),
            http: self.web.map(|(lines, _)| format!("{}{lines}\n", self.routes())).unwrap_or_default(),
            https: self.https.into(),
            redirect: self.redirect.clone(),
            cutover: format!("{budget}soak = \"100ms\"\n{}", self.cutover),
            tables: format!(
                "{checks}[limits]\nlogin_ceiling = {ceiling:?}\ncommand_ceiling = {ceiling:?}\n{keepalive}\
                 http.hold = {ceiling:?}\n{}",
                self.limits,
                ceiling = self.ceiling,
            ),
            ..Setup::default()
        }
    }
}

/// A cutover that was begun.
pub(super) struct Running(JoinHandle<Ran>);

impl Running {
    /// Waits until it has come as far as this stall; to end before that is a failure.
    pub(super) async fn reaches(&mut self, stall: &Stall) {
        tokio::select! {
            () = stall.reached(1) => {}
            ran = &mut self.0 => panic!("ended: {ran:?}"),
        }
    }

    /// Waits for its end.
    pub(super) async fn end(self) -> Ran {
        self.0.await.unwrap()
    }
}

/// The doors of a platform that takes mail.
fn mail(platform: &Platform, declared: bool) -> Vec<Service> {
    let options = platform.options();
    options.smtp.iter().flat_map(|mail| services(mail, declared, |door| platform.door(door))).collect()
}

impl Rig {
    /// The web server of the old platform, and of the new one.
    pub(super) fn web(&self) -> [&Web; 2] {
        let [old, new, ..] = self.webs.as_slice() else { panic!("the plan has no web") };
        [old, new]
    }

    pub(super) fn old_pool(&self) -> &Platform {
        self.pair.platform("old").unwrap()
    }

    pub(super) fn new_pool(&self) -> &Platform {
        self.pair.platform("new").unwrap()
    }

    /// A client that is logged in.
    pub(super) async fn login(&self, user: &str) -> Client {
        self.proxy.session(user, PASSWORD).await.unwrap()
    }

    /// A client with its INBOX selected.
    pub(super) async fn inbox(&self, user: &str) -> Client {
        let mut client = self.login(user).await;
        client.select("INBOX").await.unwrap().ok().unwrap();
        client
    }

    /// A client in IDLE on its INBOX; what it receives from now on is kept.
    pub(super) async fn idler(&self, user: &str) -> Client {
        let mut client = self.inbox(user).await;
        assert_eq!(client.idle().await.unwrap(), None);
        client.keep_transcript();
        client
    }

    /// Begins a cutover.
    pub(super) fn begin(&self, to: &'static str) -> Running {
        let proxy = self.proxy.clone();
        Running(tokio::spawn(async move { proxy.cutover(to).await.unwrap() }))
    }

    /// A cutover that must go through with every session kept.
    pub(super) async fn cutover(&self, to: &'static str) -> Value {
        through(self.begin(to).end().await)
    }

    /// Waits until so many commands are held.
    pub(super) async fn held(&self, count: u64) {
        self.proxy.until(|status| status["held"] == count).await.unwrap();
    }

    /// Waits until the cutover is in this state.
    pub(super) async fn state(&self, state: &str) {
        self.proxy.until(|status| status["state"] == state).await.unwrap();
    }

    /// Waits until a metric is as wished.
    pub(super) async fn metric(&self, name: &str, wish: impl Fn(f64) -> bool) {
        let asked = async { while !wish(self.proxy.metric(name).await.unwrap()) {} };
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect(name);
    }

    /// `bascule cutover abort`
    pub(super) async fn abort(&self) {
        let ran = self.proxy.run(&["cutover", "abort", "--reason", "a test"]).await.unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    pub(super) async fn active(&self) -> String {
        self.proxy.status().await.unwrap()["active"].as_str().unwrap().into()
    }

    /// Takes note of what a client was told about its APPEND.
    pub(super) fn settle(&self, id: &str, reply: &Reply) {
        let fate = if reply.status == Status::Ok { Fate::Acknowledged } else { Fate::Refused };
        self.ledger.settle(id, fate);
    }

    /// Nothing was lost or doubled on the platform that serves, and nothing broke the protocol towards either.
    pub(super) async fn unharmed(&self) {
        let serving = self.pair.platform(&self.active().await).unwrap();
        let verdict = self.ledger.judge(serving.store().bodies());
        assert!(verdict.clean() && verdict.unknown == 0, "{verdict:?}");
        for platform in [self.old_pool(), self.new_pool()] {
            assert_eq!(platform.counters().violations, Vec::<String>::new());
        }
    }

    /// On how many connections these bytes arrived, on both platforms (D3: for a commit at most one).
    pub(super) fn arrived(&self, bytes: &[u8]) -> [usize; 2] {
        [self.old_pool(), self.new_pool()]
            .map(|p| p.transcripts().iter().filter(|t| t.contains(bytes)).count())
    }
}

/// The report of a cutover that went through and kept everybody.
pub(super) fn through(ran: Ran) -> Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json["outcome"], "done", "{ran:?}");
    assert_eq!(ran.json["kept"], ran.json["sessions"], "{ran:?}");
    ran.json
}

/// The report of a cutover that was aborted with everybody kept.
pub(super) fn aborted(ran: Ran) -> Value {
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(ran.json["outcome"], "aborted", "{ran:?}");
    assert_eq!(ran.json["kept"], ran.json["sessions"], "{ran:?}");
    ran.json
}

/// What a client has received since it began to keep it.
pub(super) fn heard(client: &Client) -> String {
    String::from_utf8_lossy(client.transcript()).into_owned()
}
