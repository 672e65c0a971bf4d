//! The validated configuration: what the rest of the program may rely on.
//!
//! Rule: nothing here is read from a file; `raw` reads, `validate` turns raw into these types once, and every
//! default stands in `defaults` with its reason.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub mod defaults;
mod error;
mod http;
mod raw;
#[cfg(test)]
mod tests;
mod validate;
mod web;

pub use error::ConfigError;
pub use http::{HttpAddress, HttpBalance, HttpLimits, HttpListener, HttpService, HttpVersion, Route};
pub use web::{HttpProof, HttpWrites, WebSession};

/// One configuration file, checked as a whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it came from.
    pub path: PathBuf,
    /// `[server]`
    pub server: Server,
    /// `[tls.certificate.NAME]`
    pub certificates: BTreeMap<String, Certificate>,
    /// `[listener.NAME]`
    pub listeners: BTreeMap<String, Listener>,
    /// `[pool.NAME]`, in the order of the names; a [`crate::topology::PoolId`] is an index into it.
    pub pools: Vec<Arc<Pool>>,
    /// `[cutover]`
    pub cutover: Cutover,
    /// `[limits]`
    pub limits: Limits,
}

impl Config {
    /// Reads and checks a file, and what it names: programs, passwords, certificates' files.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let source = error::Source::read(path)?;
        let raw = toml::from_str(source.text()).map_err(|error| source.unreadable(error))?;
        validate::config(&source, &raw)
    }
}

/// `[server]`: the process as a whole.
#[derive(Debug, Clone)]
pub struct Server {
    /// The name in greetings.
    pub hostname: String,
    /// Journal, spool, control socket, pinned capabilities, the key of cookies.
    pub state_dir: PathBuf,
    /// Read-only port: `/metrics`, `/healthz`, `/readyz`.
    pub observe: Option<SocketAddr>,
    /// Worker threads of the data plane; 0 is one per core.
    pub threads: usize,
}

/// `[tls.certificate.NAME]`
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// `[listener.NAME]`
#[derive(Debug, Clone)]
pub struct Listener {
    /// The key of its table.
    pub name: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// Addresses to listen on.
    pub bind: Vec<SocketAddr>,
    /// How TLS begins.
    pub tls: ListenerTls,
    /// Networks (address, prefix length) that must send a PROXY header; it is never looked for elsewhere.
    pub proxy_trusted: Vec<Network>,
    /// Interpose (default) or only pass bytes. IMAP only.
    pub relay: Relay,
    /// What SMTP adds.
    pub smtp: SmtpListener,
    /// What HTTP adds.
    pub http: HttpListener,
}

/// What a listener for SMTP, submission or LMTP decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpListener {
    /// The backend is dialled before the greeting, so that its own greeting tests see the client (postscreen).
    pub dial_first: bool,
    /// What becomes of a CR or LF in a message that is not part of CRLF.
    pub bare_newline: BareNewline,
    /// What a message is answered whose backend was lost between the final dot and its reply.
    pub ambiguous: Ambiguous,
    /// Printers, scanners, programs without a queue: held long, never told 421, not offered STARTTLS.
    pub devices: Vec<Network>,
    /// `[listener.NAME.rates]`
    pub rates: Rates,
}

/// What one client may do in a minute; `None`: as much as it likes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections of an address (of IPv6 a /64).
    pub address_connections: Option<NonZeroU32>,
    /// Messages of an address.
    pub address_messages: Option<NonZeroU32>,
    /// Messages of whoever is logged in.
    pub identity_messages: Option<NonZeroU32>,
    /// Requests of HTTP of an address.
    pub address_requests: Option<NonZeroU32>,
    /// Those of whoever sent credentials that a pool took.
    pub identity_requests: Option<NonZeroU32>,
    /// Addresses that are not counted.
    pub exempt: Vec<Network>,
}

/// `bare_newline = "normalize" | "reject"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareNewline {
    /// It is data, and becomes CRLF.
    Normalize,
    /// 550 5.6.11.
    Reject,
}

/// `ambiguous = "tempfail" | "replay"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// 451: the sender tries again, and a message that the lost server had taken comes twice.
    Tempfail,
    /// It is said again to the next server at once, and answered with its words; the same may happen.
    Replay,
}

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// First address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Network {
    /// Whether the address lies in it. An IPv4 address that a dual-stack socket shows as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let same_family = address.is_ipv4() == self.address.is_ipv4();
        same_family && Self { address, prefix: self.prefix }.first() == self.first()
    }

    /// The address with all bits behind the prefix cleared.
    fn first(&self) -> IpAddr {
        let kept = u32::from(self.prefix);
        match self.address {
            IpAddr::V4(v4) => {
                IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - kept.min(32)).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - kept.min(128)).unwrap_or(0)).into())
            }
        }
    }
}

/// The protocols of a listener. Others are refused by name until their issue lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// IMAP4rev1
    Imap,
    /// SMTP between servers (port 25).
    Smtp,
    /// SMTP of users' programs, with a login (RFC 6409).
    Submission,
    /// Delivery (RFC 2033).
    Lmtp,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

impl Protocol {
    /// Those by which mail is sent on. LMTP is not among them: it delivers, and what it accepts goes no further than
    /// into a mailbox.
    pub const RELAYS: [Self; 2] = [Self::Smtp, Self::Submission];

    /// The name of its tables and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Smtp => "smtp",
            Self::Submission => "submission",
            Self::Lmtp => "lmtp",
            Self::Http => "http",
        }
    }
}

/// How TLS begins on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerTls {
    /// Never: LOGINDISABLED stays.
    None,
    /// On the client's STARTTLS.
    Starttls,
    /// Before the greeting.
    Implicit,
}

/// `relay = "session" | "pipe"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// Every command is parsed; the session can move.
    Session,
    /// Bytes pass after the login; alive, counted, unmovable.
    Pipe,
}

/// `[pool.NAME]`: one complete mail platform.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The key of its table.
    pub name: String,
    /// What the pool declares about itself.
    pub contract: Contract,
    /// Accounts for probes and canaries; two, to prove that one does not see the other's mail.
    pub probes: Vec<Account>,
    /// `[pool.NAME.imap]`
    pub imap: Service,
    /// `[pool.NAME.smtp]`
    pub smtp: Option<Service>,
    /// `[pool.NAME.submission]`
    pub submission: Option<Service>,
    /// `[pool.NAME.lmtp]`
    pub lmtp: Option<Service>,
    /// `[pool.NAME.http.SERVICE]`
    pub http: BTreeMap<String, HttpService>,
    /// Declared capabilities; `None`: learnt by the probe accounts.
    pub capabilities: Option<Vec<String>>,
    /// `[pool.NAME.promote] run`: making the pool able to write. `None`: it always is, its fence aside.
    pub promote: Option<Hook>,
    /// `[pool.NAME.fence]`: making the pool unable to write.
    pub fence: Option<Fence>,
}

impl Pool {
    /// The servers of one protocol, if the pool has any; HTTP has services with names instead.
    pub fn service(&self, protocol: Protocol) -> Option<&Service> {
        match protocol {
            Protocol::Imap => Some(&self.imap),
            Protocol::Smtp => self.smtp.as_ref(),
            Protocol::Submission => self.submission.as_ref(),
            Protocol::Lmtp => self.lmtp.as_ref(),
            Protocol::Http => None,
        }
    }
}

/// What a pool declares; probes verify it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// One mail store under both pools, or two with replication between them.
    pub storage: Storage,
    /// Whether a standby can be logged in to before it is promoted.
    pub standby_login: StandbyLogin,
    /// Whether a fence can be released again; `false` makes every abort after it end in Limbo.
    pub fence_reversible: bool,
    /// Whether reads go on while the fence holds (never on shared storage).
    pub fence_keeps_reads: bool,
    /// Whether promote can be undone by this pool's own fence.
    pub promote_reversible: bool,
    /// Whether a cutover in the other direction has replication behind it.
    pub reverse: Reverse,
}

/// `storage = "shared" | "replicated"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The same files under both pools: one user on one server at a time.
    Shared,
    /// A store of its own, filled by replication.
    Replicated,
}

/// `standby_login = "yes" | "no" | "forbidden"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyLogin {
    /// Probes may log in at any time.
    Yes,
    /// Refuses until promoted.
    No,
    /// Must not be tried.
    Forbidden,
}

/// `reverse = "none" | "replication"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reverse {
    /// Writes on this pool reach no other.
    None,
    /// Writes on this pool are replicated to the other one of a cutover.
    Replication,
}

/// A login of our own.
#[derive(Clone)]
pub struct Account {
    /// Login name.
    pub user: String,
    /// Where mail for it goes: the login name, where nothing else is configured.
    pub address: String,
    /// Its password, read from `password_file` at load.
    pub password: Secret,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Bytes that no log, metric or debug output shows; wiped when dropped.
#[derive(Clone, Default)]
pub struct Secret(pub Arc<zeroize::Zeroizing<Vec<u8>>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// `[pool.NAME.PROTOCOL]`: the servers of one protocol. One server for now.
#[derive(Debug, Clone)]
pub struct Service {
    /// `host:port`, resolved at every dial.
    pub server: String,
    /// How the leg to it is protected.
    pub tls: ServiceTls,
    /// How a session is restored on it. Only the client's own credentials for now.
    pub restore: Restore,
    /// How the client's address is told.
    pub client_address: ClientAddress,
    /// Longest dial with TLS and greeting.
    pub dial_timeout: Duration,
    /// Declared lines of its EHLO reply, for SMTP and LMTP; `None`: learnt from the server.
    pub keywords: Option<Vec<String>>,
}

/// `tls = { mode = "none" | "starttls" | "implicit", ca = …, name = … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceTls {
    /// Clear text.
    None,
    /// STARTTLS after the greeting.
    Starttls(Verify),
    /// TLS first.
    Implicit(Verify),
}

/// What the server's certificate is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// PEM file of the authorities; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The name that must stand in the certificate; default: the host of `server`.
    pub name: String,
}

/// `restore = { mode = "client" | "master" }`
#[derive(Debug, Clone)]
pub enum Restore {
    /// Replay what the client logged in with in this connection.
    Client,
    /// SASL PLAIN with the client's name as authzid.
    Master(Account),
}

/// `client_address = "none" | "id" | "xclient" | "xforward" | "proxy-v2"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// Not told.
    None,
    /// In the first ID command (`x-originating-ip` …), Dovecot's way. IMAP.
    Id,
    /// By XCLIENT. SMTP and LMTP; a server that does not offer it is not used.
    Xclient,
    /// By XFORWARD before each message, with the message's name; for logs and filters. SMTP and LMTP; a server that does
    /// not offer it is not used.
    Xforward,
    /// In a PROXY header, version 2, before anything else.
    ProxyV2,
}

/// A program with arguments and a time limit.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Program and arguments; no shell.
    pub exec: Vec<String>,
    /// Killed after this long, with its process group.
    pub timeout: Duration,
}

/// `[pool.NAME.fence]`
#[derive(Debug, Clone)]
pub struct Fence {
    /// Returns when the fence holds.
    pub engage: Hook,
    /// Returns when the pool can write again, its promote aside.
    pub release: Hook,
    /// What the proof expects: a pool that refuses writes, or one whose service is gone.
    pub kind: FenceKind,
}

/// `kind = "refuse" | "stop"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceKind {
    /// Logins or writes are answered with a refusal.
    Refuse,
    /// The service is stopped: connections end, dials are refused.
    Stop,
}

/// `[cutover]`: the budget of one cutover (design §5.4).
#[derive(Debug, Clone)]
pub struct Cutover {
    /// Longest time that the gate may be shut.
    pub max_hold: Duration,
    /// Share for writes that were fully sent when the gate shut.
    pub drain: Duration,
    /// Share for the fence and its proof.
    pub fence: Duration,
    /// Share for barriers, promote and verify.
    pub barrier: Duration,
    /// Share for the decision itself.
    pub decide: Duration,
    /// Kept back for the way home.
    pub abort_reserve: Duration,
    /// Longest stay in Armed.
    pub arm_timeout: Duration,
    /// Consecutive passes that a guard needs.
    pub guard_passes: u32,
    /// Pause between two askings of a guard.
    pub guard_interval: Duration,
    /// Whether sessions log in to the standby while traffic still flows, where the contracts allow it.
    pub prewarm: bool,
    /// Logins a second on one pool for sessions that nobody waits for.
    pub login_rate: u32,
    /// Sessions that are verified before the decision.
    pub verify_sample: usize,
    /// Sessions that may be given up before the cutover aborts instead; `None`: none may.
    pub unmovable: Unmovable,
    /// Sessions that are restored at once.
    pub restore_concurrency: usize,
    /// Longest time for attaching the sessions in IDLE.
    pub resume_within: Duration,
    /// Time in Soaking before the cutover is over.
    pub soak: Duration,
    /// `[cutover.check.NAME]`
    pub checks: Vec<Check>,
}

impl Cutover {
    /// Whether sessions log in to this standby ahead of the hold. Never on shared storage: nobody may be on two
    /// servers at once there.
    pub fn prewarms(&self, standby: &Pool) -> bool {
        let Contract { storage, standby_login, .. } = standby.contract;
        self.prewarm && storage == Storage::Replicated && standby_login == StandbyLogin::Yes
    }
}

/// `unmovable = "abort" | N`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmovable {
    /// One session that cannot be moved honestly aborts.
    Abort,
    /// Up to so many get their farewell.
    Upto(usize),
}

/// `[cutover.check.NAME]`
#[derive(Debug, Clone)]
pub struct Check {
    /// The key of its table.
    pub name: String,
    /// Asked for a cutover from this pool …
    pub from: String,
    /// … to this one.
    pub to: String,
    /// Asked while Armed.
    pub guard: bool,
    /// Asked after the fence was proved.
    pub barrier: bool,
    /// The program that is asked.
    pub hook: Hook,
    /// How its answer is read.
    pub kind: CheckKind,
}

/// `kind = "exec" | "queue"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Exit 0 is Pass, 2 is Fail, anything else is Unknown.
    Exec,
    /// It lists a mail queue as `postqueue -j` does.
    Queue(Queue),
}

/// What of a queue holds a cutover up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Lower-cased domains whose mail ends in this platform's mailboxes; an address without a domain counts as well.
    pub local: Vec<String>,
    /// So many messages for them may be left.
    pub allowed: usize,
    /// Queues that do not count.
    pub ignore: Vec<String>,
}

/// `[limits]`: every bound with its default in [`defaults`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at once.
    pub connections: usize,
    /// Longest command line without its literals, bytes.
    pub line: usize,
    /// Longest command with the literals that the proxy collects, bytes.
    pub command: usize,
    /// Held bytes of commands per session.
    pub held_bytes: usize,
    /// Held commands per session.
    pub held_commands: usize,
    /// Bytes of an upload that always stay in memory.
    pub upload_memory: usize,
    /// Longest upload that the proxy keeps.
    pub upload: u64,
    /// Disk for all kept uploads.
    pub spool: u64,
    /// Memory for all kept uploads above `upload_memory` and up to 16 times that; what does not fit goes to the disk.
    pub spool_memory: u64,
    /// Time to log in, from the greeting.
    pub login: Duration,
    /// Longest wait of one client command.
    pub command_ceiling: Duration,
    /// Longest wait of one login.
    pub login_ceiling: Duration,
    /// First keepalive to a held client, and the pause between two.
    pub keepalive: Duration,
    /// `* OK Still here` in IDLE after this long without a byte.
    pub idle_keepalive: Duration,
    /// Silence after which an authenticated session ends (RFC 3501 §5.4: not under 30 minutes).
    pub autologout: Duration,
    /// TLS handshake with a client.
    pub handshake: Duration,
    /// Failed logins in one connection.
    pub failed_logins: u32,
    /// Farewells after SIGTERM are spread over this long.
    pub shutdown: Duration,
    /// `[limits.http]`
    pub http: HttpLimits,
}
