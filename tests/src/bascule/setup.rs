//! What a proxy is set up with, and how that stands in its configuration.
//!
//! Rule: what is not said here is the proxy's default.

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::Bascule;

pub(super) const SMTP: u16 = 10025;
pub(super) const SMTPS: u16 = 10026;
pub(super) const SUBMISSION: u16 = 10587;
pub(super) const SUBMISSIONS: u16 = 10465;
pub(super) const LMTP: u16 = 10024;
pub(super) const HTTP: u16 = 10080;
pub(super) const HTTPS: u16 = 10443;
pub(super) const REDIRECT: u16 = 10079;

/// The listeners for mail: name, protocol, port, `tls`.
const LISTENERS: [(&str, &str, u16, &str); 5] = [
    ("smtp", "smtp", SMTP, "starttls"),
    ("smtps", "smtp", SMTPS, "implicit"),
    ("submission", "submission", SUBMISSION, "starttls"),
    ("submissions", "submission", SUBMISSIONS, "implicit"),
    ("lmtp", "lmtp", LMTP, "none"),
];

/// What a proxy is set up with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its binary; `None`: `BASCULE_BIN`, or built on first use beside the running test.
    pub program: Option<PathBuf>,
    /// Threads of its data plane.
    pub threads: u16,
    /// `[pool.NAME]`, two of them as a rule.
    pub pools: Vec<Pool>,
    /// Further lines of every listener for mail: `ambiguous`, `devices` and the like.
    pub mail: String,
    /// The lines of the listeners for HTTP, their routes among them; empty: there are none.
    pub http: String,
    /// Further lines of the one over TLS.
    pub https: String,
    /// The lines of one more, in clear text and without routes; empty: it is not there.
    pub redirect: String,
    /// The lines of `[cutover]`.
    pub cutover: String,
    /// Further tables: checks, limits.
    pub tables: String,
}

impl Default for Setup {
    /// Nothing but two threads: what moves between them is to be seen.
    fn default() -> Self {
        Self {
            program: None,
            threads: 2,
            pools: Vec::new(),
            mail: String::new(),
            http: String::new(),
            https: String::new(),
            redirect: String::new(),
            cutover: String::new(),
            tables: String::new(),
        }
    }
}

/// One `[pool.NAME]`.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its one server.
    pub server: SocketAddr,
    /// The authority's file and the name in the server's certificate, for STARTTLS, or for TLS at once on port
    /// 10993; `None`: clear text.
    pub tls: Option<(PathBuf, String)>,
    /// What is declared about it: the keys of `contract`.
    pub contract: &'static str,
    /// The password of its accounts `probe1` and `probe2`.
    pub password: String,
    /// What it is declared to be capable of; empty: learnt.
    pub capabilities: Vec<String>,
    /// Its servers for mail. A listener stands for each that all pools have.
    pub mail: Vec<Service>,
    /// Its services of HTTP: the name, the servers and further lines.
    pub http: Vec<(&'static str, Vec<SocketAddr>, String)>,
    /// How it is made unable to write.
    pub fence: Option<Fence>,
    /// How it is made able to write.
    pub promote: Option<Vec<String>>,
}

/// `[pool.NAME.smtp]`, `[pool.NAME.submission]` or `[pool.NAME.lmtp]`
#[derive(Debug, Clone)]
pub struct Service {
    /// `smtp`, `submission` or `lmtp`.
    pub protocol: &'static str,
    /// Its one server.
    pub server: SocketAddr,
    /// As in [`Pool::tls`]; TLS at once on port 10465.
    pub tls: Option<(PathBuf, String)>,
    /// Further lines: `client_address`, `keywords`.
    pub lines: String,
}

/// `[pool.NAME.fence]`
#[derive(Debug, Clone)]
pub struct Fence {
    /// `stop` or `refuse`.
    pub kind: &'static str,
    /// The hook that engages it.
    pub engage: Vec<String>,
    /// The hook that releases it.
    pub release: Vec<String>,
}

impl Setup {
    /// The configuration of a proxy at this address.
    pub(super) fn text(&self, address: Ipv4Addr, state: &Path) -> String {
        let mut text = format!(
            "[server]\nhostname = {host:?}\nstate_dir = {state:?}\nobserve = \"{address}:9464\"\nthreads = {threads}\n\
             [tls.certificate.default]\ncert = \"server.crt\"\nkey = \"server.key\"\n\
             [listener.imaps]\nprotocol = \"imap\"\nbind = [\"{address}:10993\"]\ntls = \"implicit\"\n\
             [listener.imap]\nprotocol = \"imap\"\nbind = [\"{address}:10143\"]\ntls = \"starttls\"\n\
             [listener.clear]\nprotocol = \"imap\"\nbind = [\"{address}:10144\"]\ntls = \"none\"\n",
            host = Bascule::HOST,
            threads = self.threads,
        );
        // A String takes everything.
        for (name, protocol, port, tls) in
            LISTENERS.into_iter().filter(|(_, protocol, ..)| self.serves(protocol))
        {
            let bind = format!("{address}:{port}");
            let _ = writeln!(
                text,
                "[listener.{name}]\nprotocol = {protocol:?}\nbind = [{bind:?}]\ntls = {tls:?}\n{}",
                self.mail
            );
        }
        for (name, port, tls, lines) in self.web() {
            let bind = format!("{address}:{port}");
            let _ = writeln!(
                text,
                "[listener.{name}]\nprotocol = \"http\"\nbind = [{bind:?}]\ntls = {tls:?}\n{lines}"
            );
        }
        for pool in &self.pools {
            let _ = write!(text, "{pool}");
        }
        text + "[cutover]\n" + &self.cutover + "\n" + &self.tables
    }

    /// The listeners for HTTP: name, port, `tls`, lines.
    fn web(&self) -> Vec<(&str, u16, &str, String)> {
        let mut all = Vec::new();
        if !self.http.is_empty() {
            all.push(("http", HTTP, "none", self.http.clone()));
            all.push(("https", HTTPS, "implicit", format!("{}{}", self.http, self.https)));
        }
        if !self.redirect.is_empty() {
            all.push(("redirect", REDIRECT, "none", self.redirect.clone()));
        }
        all
    }

    fn serves(&self, protocol: &str) -> bool {
        let has = |pool: &Pool| pool.mail.iter().any(|service| service.protocol == protocol);
        !self.pools.is_empty() && self.pools.iter().all(has)
    }
}

impl fmt::Display for Pool {
    /// As it stands in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, server, contract, .. } = self;
        writeln!(f, "[pool.{name}]")?;
        writeln!(f, "contract = {{ {contract} }}")?;
        let address = |user| match self.mail.is_empty() {
            true => String::new(),
            false => format!(", address = \"{user}@example.org\""),
        };
        let probe =
            |user| format!("{{ user = {user:?}, password_file = \"{name}.password\"{} }}", address(user));
        writeln!(f, "probe = [{}, {}]", probe("probe1"), probe("probe2"))?;
        if !self.capabilities.is_empty() {
            writeln!(f, "capabilities = {:?}", self.capabilities)?;
        }
        writeln!(f, "[pool.{name}.imap]\nservers = [\"{server}\"]")?;
        protect(f, *server, self.tls.as_ref())?;
        for Service { protocol, server, tls, lines } in &self.mail {
            writeln!(f, "[pool.{name}.{protocol}]\nservers = [\"{server}\"]\n{lines}")?;
            protect(f, *server, tls.as_ref())?;
        }
        for (service, servers, lines) in &self.http {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            writeln!(f, "[pool.{name}.http.{service}]\nservers = {servers:?}\n{lines}")?;
        }
        if let Some(Fence { kind, engage, release }) = &self.fence {
            writeln!(f, "[pool.{name}.fence]\nkind = {kind:?}")?;
            writeln!(f, "engage = {{ exec = {engage:?} }}\nrelease = {{ exec = {release:?} }}")?;
        }
        if let Some(promote) = &self.promote {
            writeln!(f, "[pool.{name}.promote]\nrun = {{ exec = {promote:?} }}")?;
        }
        Ok(())
    }
}

/// `tls` of a service.
fn protect(f: &mut fmt::Formatter<'_>, server: SocketAddr, tls: Option<&(PathBuf, String)>) -> fmt::Result {
    let Some((ca, host)) = tls else { return writeln!(f, "tls = {{ mode = \"none\" }}") };
    let mode = if matches!(server.port(), 10993 | 10465) { "implicit" } else { "starttls" };
    writeln!(f, "tls = {{ mode = {mode:?}, ca = {ca:?}, name = {host:?} }}")
}
