//! A full configuration is read key by key; each mistake is refused with file, line, key and what to write.
//!
//! Rule: a mistake is one change to the full configuration, so that nothing else can be what is refused.

mod http;
mod sense;

use std::{fs, os::unix::fs::PermissionsExt, sync::LazyLock};

use bascule_certs::testing::{Authority, Leaf};

use super::*;

const FULL: &str = include_str!("../testdata/full.toml");

static LEAF: LazyLock<Leaf> = LazyLock::new(|| Authority::new().issue(&["mail.example.org"]));

/// A folder with the files that the configuration names.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let leaf = &*LEAF;
    let files = [
        ("fullchain.pem", &*leaf.cert, 0o644),
        ("privkey.pem", &*leaf.key, 0o600),
        ("probe.secret", "s3cret\n", 0o640),
        ("hook", "s3cret\n", 0o755),
    ];
    for (name, text, mode) in files {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    dir
}

fn load(dir: &tempfile::TempDir, text: &str) -> Result<Config, ConfigError> {
    let path = dir.path().join("bascule.toml");
    fs::write(&path, text).unwrap();
    Config::load(&path)
}

/// The full configuration with one change, refused in the line of the change: the page that the operator sees.
fn refused(from: &str, to: &str) -> Page {
    refused_at(to, from, to)
}

/// The full configuration with one change, refused in the line that begins or contains `anchor`.
fn refused_at(anchor: &str, from: &str, to: &str) -> Page {
    assert_eq!(FULL.matches(from).count(), 1, "`{from}` must stand once");
    page(&folder(), anchor, &FULL.replace(from, to))
}

/// What the operator sees, and the line that it must name.
struct Page {
    text: String,
    line: usize,
}

fn page(dir: &tempfile::TempDir, anchor: &str, config: &str) -> Page {
    let error = load(dir, config).expect_err("must be refused");
    let at = config.find(anchor).expect("the anchor stands in the file");
    let text = error.render().replace(dir.path().to_str().unwrap(), "/etc/bascule");
    Page { text, line: 1 + config[..at].matches('\n').count() }
}

/// Asserts the head line (behind file and line) and the help of a page.
fn says(page: &Page, head: &str, help: &str) {
    let Page { text, line } = page;
    let head = format!("× /etc/bascule/bascule.toml:{line}: {head}");
    assert!(text.contains(&head), "{head}\n{text}");
    assert!(text.contains(&format!("help: {help}")), "{help}\n{text}");
}

#[test]
fn every_key_of_the_full_configuration_arrives() {
    let dir = folder();
    let config = load(&dir, FULL).map_err(|error| error.render()).unwrap();
    let beside = |name: &str| dir.path().join(name);
    let seconds = Duration::from_secs;

    assert_eq!(config.server.hostname, "mail.example.org");
    assert_eq!(config.server.state_dir, Path::new("/var/lib/bascule"));
    assert_eq!(config.server.observe, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.server.threads, 2);
    assert_eq!(config.certificates["default"].key, beside("privkey.pem"));
    assert_eq!(config.listeners["imap"].tls, ListenerTls::Starttls);
    assert_eq!(config.listeners["imap"].bind.len(), 2);
    assert!(config.listeners["imap"].proxy_trusted.is_empty());
    assert_eq!(config.listeners["imaps"].proxy_trusted[1].prefix, 128);

    let [v4, v5] = config.pools.as_slice() else { panic!("two pools") };
    assert_eq!(v4.contract.standby_login, StandbyLogin::No);
    assert!(
        !v4.contract.fence_reversible && v4.contract.fence_keeps_reads && !v4.contract.promote_reversible
    );
    assert_eq!(v4.contract.reverse, Reverse::Replication);
    assert_eq!((&*v4.probes[1].user, &*v4.probes[1].address), ("probe2", "two@example.org"));
    assert_eq!(v4.probes[1].password.0.as_slice(), b"s3cret");
    assert_eq!(v4.capabilities.as_ref().unwrap().len(), 3);
    let Restore::Master(master) = &v4.imap.restore else { panic!("a master user") };
    assert_eq!(master.user, "master");
    let verify = Verify { ca: Some(beside("fullchain.pem")), name: "imap.v4.internal".to_owned() };
    assert_eq!(v4.imap.tls, ServiceTls::Starttls(verify));
    assert_eq!((v4.imap.client_address, v4.imap.dial_timeout), (ClientAddress::Id, seconds(3)));
    let fence = v4.fence.as_ref().unwrap();
    assert_eq!(fence.engage.exec, [beside("hook").to_str().unwrap(), "fence", "on"]);
    assert_eq!((fence.engage.timeout, fence.release.timeout), (seconds(2), defaults::HOOK_TIMEOUT));
    assert_eq!(v4.promote.as_ref().unwrap().timeout, seconds(2));

    assert_eq!(v5.contract.standby_login, StandbyLogin::Yes);
    assert!(
        v5.contract.fence_reversible && !v5.contract.fence_keeps_reads && !v5.contract.promote_reversible
    );
    assert_eq!(v5.imap.server, "[fd00::5]:993");
    assert_eq!(v5.imap.tls, ServiceTls::Implicit(Verify { ca: None, name: "fd00::5".to_owned() }));
    assert!(matches!(v5.imap.restore, Restore::Client));

    assert_eq!((config.cutover.max_hold, config.cutover.fence), (seconds(15), seconds(3)));
    assert_eq!(config.cutover.unmovable, Unmovable::Upto(3));
    let [queue, check] = config.cutover.checks.as_slice() else { panic!("two checks") };
    assert_eq!((check.name.as_str(), check.guard, check.barrier), ("replica", false, true));
    assert_eq!(check.kind, CheckKind::Exec);
    let CheckKind::Queue(left) = &queue.kind else { panic!("a queue") };
    assert_eq!((&*left.local, left.allowed), (&["example.org".to_owned(), "example.com".into()][..], 2));
    assert_eq!((&*left.ignore, queue.guard, queue.barrier), (&["hold".to_owned()][..], true, true));
    assert_eq!((check.from.as_str(), check.to.as_str(), check.hook.timeout), ("v4", "v5", seconds(1)));
    assert_eq!((config.limits.line, config.limits.upload), (32 * 1024, 50_000_000));
    assert_eq!((config.limits.spool, config.limits.spool_memory), (1 << 30, 32 << 20));
    assert_eq!((config.limits.autologout, config.limits.failed_logins), (seconds(2700), 3));
}

#[test]
fn every_key_of_mail_arrives() {
    let config = load(&folder(), FULL).map_err(|error| error.render()).unwrap();
    let mx = &config.listeners["mx"];
    assert_eq!((mx.protocol, mx.tls), (Protocol::Smtp, ListenerTls::Starttls));
    let smtp = &mx.smtp;
    assert!(smtp.dial_first && smtp.devices[0].contains("10.9.1.1".parse().unwrap()));
    assert_eq!((smtp.bare_newline, smtp.ambiguous), (BareNewline::Reject, Ambiguous::Replay));
    let count = |rate: Option<NonZeroU32>| rate.map(u32::from);
    assert_eq!(count(smtp.rates.address_connections), Some(60));
    assert_eq!(count(smtp.rates.address_messages), Some(100));
    assert_eq!(smtp.rates.exempt[0].prefix, 16);
    assert_eq!(count(config.listeners["submissions"].smtp.rates.identity_messages), Some(30));
    let plain = &config.listeners["lmtp"].smtp;
    assert!(!plain.dial_first && plain.devices.is_empty() && plain.rates == Rates::default());
    assert_eq!((plain.bare_newline, plain.ambiguous), (BareNewline::Normalize, Ambiguous::Tempfail));

    let service = |at: usize, protocol| config.pools[at].service(protocol).unwrap();
    let told = |protocol| service(0, protocol).client_address;
    assert_eq!(told(Protocol::Smtp), ClientAddress::Xclient);
    assert_eq!(told(Protocol::Submission), ClientAddress::ProxyV2);
    assert_eq!(told(Protocol::Lmtp), ClientAddress::Xforward);
    assert_eq!(service(1, Protocol::Smtp).client_address, ClientAddress::None);
    assert_eq!(service(1, Protocol::Lmtp).server, "[fd00::5]:24");
    let keywords = service(0, Protocol::Lmtp).keywords.as_deref().unwrap();
    assert_eq!(keywords, ["PIPELINING", "8BITMIME", "SIZE 52428800"]);
}

#[test]
fn mail_keys_that_would_do_nothing_are_refused() {
    let head = "[listener.imaps]\nprotocol = \"imap\"\n";
    for key in ["dial = \"when-needed\"", "ambiguous = \"replay\"", "rates = {}", "devices = []"] {
        let name = key.split(' ').next().unwrap();
        says(
            &refused_at(key, head, &format!("{head}{key}\n")),
            &format!("listener.imaps.{name}: it says nothing to an IMAP listener"),
            "leave it out",
        );
    }
    says(
        &refused("address_messages    = 100", "identity_messages = 100"),
        "listener.mx.rates.identity_messages: nobody logs in here",
        "leave it out, or write it to a listener for submission",
    );
    says(
        &refused("address_messages    = 100", "address_messages = 0"),
        "listener.mx.rates.address_messages: zero is not allowed",
        "leave it out for no limit",
    );
    says(
        &refused_at(
            "protocol = \"lmtp\"",
            "[pool.v5.lmtp]\nservers = [\"[fd00::5]:24\"]\ntls     = { mode = \"none\" }\n",
            "",
        ),
        "listener.lmtp.protocol: pool v5 has no servers for lmtp",
        "add [pool.v5.lmtp] with `servers` and `tls`",
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let from = FULL.find("[cutover]").unwrap();
    let config = load(&folder(), &FULL[..from]).unwrap();
    let c = &config.cutover;
    assert_eq!(c.max_hold, c.drain + c.fence + c.barrier + c.decide + c.abort_reserve);
    assert_eq!((c.max_hold, c.unmovable), (Duration::from_secs(8), Unmovable::Abort));
    assert_eq!((config.limits.upload_memory, config.limits.spool_memory), (256 * 1024, 64 * 1024 * 1024));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let page = refused("hostname  =", "hostnam =");
    says(&page, "server.hostnam: `hostnam` is not a key of this table", "did you mean `hostname`? Allowed: ");
    let page = refused(
        "contract = { storage = \"replicated\" }",
        "contract = { storage = \"replicated\", revers = \"none\" }",
    );
    says(&page, "pool.v5.contract.revers: `revers` is not a key", "did you mean `reverse`?");
    let page = refused("failed_logins   = 3", "zzz = 3");
    says(&page, "limits.zzz: `zzz` is not a key of this table", "allowed: `autologout`, `command`, ");
}

#[test]
fn the_page_points_into_the_file_without_colours() {
    let page = refused("storage = \"replicated\" }", "storage = \"replicatd\" }");
    assert!(page.text.contains("46 │ contract = { storage = \"replicatd\" }"), "{}", page.text);
    assert!(page.text.contains("╰── here"), "{}", page.text);
    assert!(!page.text.contains('\u{1b}'), "{}", page.text);
}

#[test]
fn what_is_not_toml_or_of_another_kind_is_refused_in_its_line() {
    says(&refused("threads   = 2", "threads = "), "", "the file must be TOML");
    says(
        &refused("threads   = 2", "threads = \"two\""),
        "server.threads: invalid type: string \"two\", expected a number",
        "write a whole number, such as 5, without quotes",
    );
    says(
        &refused("threads   = 2", "threads = 5000"),
        "server.threads: 5000 threads are too many",
        "write 0 (one per core)",
    );
    says(
        &refused_at("[server]", "hostname  = \"mail.example.org\"", ""),
        "server: the key `hostname` is missing",
        "add `hostname`",
    );
    let missing = Config::load(Path::new("/nonexistent/bascule.toml")).unwrap_err().render();
    assert!(missing.contains("cannot be read") && missing.contains("--config"), "{missing}");
}

#[test]
fn durations_and_sizes_need_their_units() {
    for wrong in ["8", "\"8\"", "\"8 parsecs\""] {
        let page = refused("max_hold      = \"15s\"", &format!("max_hold = {wrong}"));
        assert!(
            page.text.contains("cutover.max_hold: invalid")
                && page.text.contains("such as \"8s\" or \"500ms\""),
            "{}",
            page.text
        );
    }
    for wrong in ["65536", "\"65536\"", "\"64 KiBi\""] {
        let page = refused("line            = \"32KiB\"", &format!("line = {wrong}"));
        assert!(
            page.text.contains("limits.line: invalid") && page.text.contains("such as \"64KiB\" or \"2GiB\""),
            "{}",
            page.text
        );
    }
    says(
        &refused("soak          = \"5m\"", "soak = \"0s\""),
        "cutover.soak: zero is not allowed",
        "leave it out for the default, 10m",
    );
    says(
        &refused("held_commands   = 32", "held_commands = 0"),
        "limits.held_commands: zero",
        "leave it out for the default, 64",
    );
}

#[test]
fn the_budget_is_added_up_aloud() {
    says(
        &refused("max_hold      = \"15s\"", "max_hold = \"9s\""),
        "cutover.max_hold: drain 2s + fence 3s + barrier 2s500ms + decide 500ms + abort_reserve 1s500ms make \
         9s500ms, which is more than max_hold 9s",
        "write max_hold = \"9s500ms\" (at most 1m) or smaller shares",
    );
    says(
        &refused("max_hold      = \"15s\"", "max_hold = \"61s\""),
        "cutover.max_hold: 1m1s is more than 1m",
        "write 1m or less",
    );
    let less = "limits.login_ceiling: 14s is less than cutover.max_hold, 15s";
    says(&refused("login_ceiling   = \"40s\"", "login_ceiling = \"14s\""), less, "write a longer time");
    let by_default = FULL.split_once("[limits]").unwrap().0.replace("\"15s\"", "\"50s\"");
    let less = "limits.login_ceiling: 45s is less than cutover.max_hold, 50s";
    says(&page(&folder(), "max_hold", &by_default), less, "write a longer time");
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    says(
        &refused("command         = \"64KiB\"", "command = \"16KiB\""),
        "limits.command: command 16KiB is less than line 32KiB",
        "write command = \"32KiB\" or more, or a smaller line",
    );
    says(
        &refused("spool           = \"1GiB\"", "spool = \"1MiB\""),
        "limits.spool: spool 1MiB is less than upload",
        "write spool",
    );
    says(
        &refused("autologout      = \"45m\"", "autologout = \"10m\""),
        "limits.autologout: 10m is less than 30m",
        "RFC 3501",
    );
}

#[test]
fn what_comes_later_is_refused_with_what_is_allowed_now() {
    says(
        &refused("decision = \"bascule\"", "decision = \"platform\""),
        "pool.v4.contract.decision: a platform that elects its own leader",
        "write \"bascule\"",
    );
    says(
        &refused("servers = [\"imap1.v4.internal:143\"]", "servers = [\"a.test:143\", \"b.test:143\"]"),
        "pool.v4.imap.servers: 2 servers are listed; one server per pool for now",
        "write one",
    );
    let master = "restore = { mode = \"master\", user = \"master\", password_file = \"probe.secret\" }";
    for (from, to, head) in [
        (
            "protocol = \"imap\"\nbind     = [\"[::]:993\"]",
            "protocol = \"tcp\"\nbind = [\"[::]:993\"]",
            "listener.imaps.protocol: `tcp`",
        ),
        (master, "restore = { mode = \"token-hook\" }", "pool.v4.imap.restore.mode: `token-hook`"),
        (
            "client_address = \"id\"",
            "client_address = \"proxy-v2\"",
            "pool.v4.imap.client_address: `proxy-v2`",
        ),
        ("client_address = \"id\"", "client_address = \"xclient\"", "pool.v4.imap.client_address: `xclient`"),
        ("balance = \"user\"", "balance = \"least\"", "pool.v4.imap.balance: `least`"),
        ("kind    = \"exec\"", "kind = \"kafka\"", "cutover.check.replica.kind: `kafka`"),
    ] {
        says(&refused(from, to), &format!("{head} is not supported yet"), "allowed now: `");
    }
}

#[test]
fn words_have_a_nearest_neighbour() {
    says(
        &refused("reverse = \"replication\"", "reverse = \"replicate\""),
        "pool.v4.contract.reverse: `replicate` is not allowed",
        "did you mean `replication`?",
    );
    says(
        &refused("tls      = \"implicit\"", "tls = \"ssl\""),
        "listener.imaps.tls: `ssl` is not allowed",
        "allowed: `implicit`, `none`, `starttls`",
    );
    says(
        &refused("to      = \"v5\"", "to = \"v6\""),
        "cutover.check.replica.to: `v6` is not allowed",
        "allowed: `v4`, `v5`",
    );
    says(
        &refused("to      = \"v5\"", "to = \"v4\""),
        "cutover.check.replica.to: `from` and `to` are both `v4`",
        "name two pools",
    );
    says(
        &refused("as      = [\"barrier\"]", "as = []"),
        "cutover.check.replica.as: a check that is never asked",
        "write [",
    );
    says(
        &refused("unmovable     = 3", "unmovable = -1"),
        "cutover.unmovable: -1 is not allowed",
        "write \"abort\"",
    );
}

#[test]
fn listeners_need_certificates_and_sockets_of_their_own() {
    let certificate = "[tls.certificate.default]\ncert = \"fullchain.pem\"\nkey  = \"privkey.pem\"\n";
    says(
        &refused_at("tls      = \"starttls\"", certificate, ""),
        "listener.imap.tls: tls = \"starttls\" needs a certificate",
        "add [tls.certificate.default]",
    );
    says(
        &refused("bind     = [\"[::]:993\"]", "bind = [\"127.0.0.1:143\"]"),
        "listener.imaps.bind: 127.0.0.1:143 is taken: listener.imap.bind has 0.0.0.0:143",
        "give each its own",
    );
    says(
        &refused("bind     = [\"[::]:993\"]", "bind = [\"127.0.0.1:9464\"]"),
        "listener.imaps.bind: 127.0.0.1:9464 is taken: server.observe",
        "give each",
    );
    says(
        &refused("bind     = [\"[::]:993\"]", "bind = [\":993\"]"),
        "listener.imaps.bind: `:993` is not an address",
        "write an IP address",
    );
    says(
        &refused("bind     = [\"[::]:993\"]", "bind = []"),
        "listener.imaps.bind: the list is empty",
        "write at least one",
    );
    says(
        &refused("\"10.0.0.0/8\"", "\"10.1.0.0/8\""),
        "listener.imaps.proxy_protocol.trusted: `10.1.0.0/8` has bits",
        "write \"10.0.0.0/8\"",
    );
    says(
        &refused("\"10.0.0.0/8\"", "\"10.0.0.0/33\""),
        "listener.imaps.proxy_protocol.trusted: `10.0.0.0/33` is not a network",
        "write an address",
    );
    says(
        &refused("bind     = [\"[::]:993\"]", "bind = [\"[::]:143\"]"),
        "listener.imaps.bind: [::]:143 is taken: listener.imap.bind has 0.0.0.0:143",
        "give each its own",
    );
    assert!(load(&folder(), &FULL.replace("\"[::]:993\"", "\"127.0.0.1:0\", \"127.0.0.1:0\"")).is_ok());
}

#[test]
fn contracts_that_contradict_themselves_are_refused() {
    says(
        &refused("contract = { storage = \"replicated\" }", "contract = { storage = \"shared\" }"),
        "pool.v5.contract.storage: pools v4 and v5 do not agree about their storage",
        "write \"shared\" for all pools",
    );
    let shared = FULL.replace("storage = \"replicated\"", "storage = \"shared\"");
    says(
        &page(&folder(), "contract = {", &shared),
        "pool.v4.contract.fence_keeps_reads: on shared storage",
        "write false",
    );
    says(
        &refused_at("fence_keeps_reads", "kind    = \"refuse\"", "kind = \"stop\""),
        "pool.v4.contract.fence_keeps_reads: a fence that stops",
        "write false",
    );
    says(
        &refused(
            "contract = { storage = \"replicated\" }",
            "contract = { storage = \"replicated\", promote_reversible = true }",
        ),
        "pool.v5.contract.promote_reversible: a promote is undone by the pool's own fence",
        "add [pool.v5.fence]",
    );
    let probe = "probe    = [{ user = \"probe1\", password_file = \"probe.secret\", address = \"one@example.org\" }]\n";
    says(
        &refused_at("[pool.v5]", probe, ""),
        "pool.v5: the pool has neither probe accounts nor capabilities",
        "add probe",
    );
    says(
        &refused("user = \"probe2\"", "user = \"probe1\""),
        "pool.v4.probe: `probe1` stands twice",
        "name different users",
    );
    says(
        &refused_at("capabilities", "\"IMAP4rev1\", ", ""),
        "pool.v4.capabilities: IMAP4rev1 is missing",
        "write the words",
    );
    says(
        &refused("servers = [\"[fd00::5]:993\"]", "keywords = [\"DSN\"]\nservers = [\"[fd00::5]:993\"]"),
        "pool.v5.imap.keywords: an IMAP server has capabilities",
        "write `capabilities`",
    );
    says(
        &refused("servers = [\"[fd00::5]:993\"]", "servers = [\"fd00::5:993\"]"),
        "pool.v5.imap.servers: `fd00::5:993` is not a host with a port",
        "write a name",
    );
    says(
        &refused("tls     = { mode = \"implicit\" }", "tls = { mode = \"none\", name = \"x\" }"),
        "pool.v5.imap.tls.mode: without TLS",
        "leave `ca`",
    );
    says(
        &refused("[listener.imaps]", "[listener.\"imap s\"]"),
        "listener: \"imap s\" cannot be a name",
        "write up to 64",
    );
}

#[test]
fn a_queue_check_knows_what_is_local_and_an_exec_check_does_not() {
    says(
        &refused_at("[cutover.check.left-over]", "local   = [\"Example.ORG\", \"example.com.\"]\n", ""),
        "cutover.check.left-over.local: a queue check does not know which mail is local",
        "write the domains",
    );
    says(
        &refused("\"Example.ORG\"", "\"bob@example.org\""),
        "cutover.check.left-over.local: `bob@example.org` is not a domain",
        "write the domains",
    );
    says(
        &refused("ignore  = [\"hold\"]", "ignore = [\"active\"]"),
        "cutover.check.left-over.ignore: `active` is not allowed",
        "allowed: `corrupt`, `deferred`, `hold`",
    );
    says(
        &refused("as      = [\"barrier\"]", "allowed = 3"),
        "cutover.check.replica.allowed: it says nothing to an exec check",
        "leave it out",
    );
}

#[test]
fn proofs_by_mail_need_an_address() {
    let addressed =
        "probe    = [{ user = \"probe1\", password_file = \"probe.secret\", address = \"one@example.org\" }]";
    let probe = addressed.replace(", address = \"one@example.org\"", "");
    says(
        &refused_at(&probe, addressed, &probe),
        "pool.v5.probe: `probe1` is not a mail address, and the pool has smtp servers",
        "add `address",
    );
    let config = load(&folder(), FULL).unwrap();
    assert_eq!(config.pools[1].probes[0].address, "one@example.org");
    says(
        &refused("\"two@example.org\"", "\"two\""),
        "pool.v4.probe.address: `two` is not a mail address",
        "write such as",
    );
}

#[test]
fn files_and_programs_must_be_there_and_safe() {
    says(
        &refused("state_dir = \"/var/lib/bascule\"", "state_dir = \"state\""),
        "server.state_dir: `state` is not an absolute path",
        "write the whole path",
    );
    says(
        &refused("key  = \"privkey.pem\"", "key = \"gone.pem\""),
        "tls.certificate.default.key: /etc/bascule/gone.pem cannot be read: No such file",
        "write the path",
    );
    says(
        &refused("ca = \"fullchain.pem\"", "ca = \".\""),
        "pool.v4.imap.tls.ca: /etc/bascule/. cannot be read: it is not a file",
        "write the path",
    );
    says(
        &refused("[\"hook\", \"fence\", \"on\"]", "[\"gone\"]"),
        "pool.v4.fence.engage.exec: /etc/bascule/gone: No such file",
        "write the program's path",
    );
    says(
        &refused("[\"hook\", \"fence\", \"on\"]", "[]"),
        "pool.v4.fence.engage.exec: no program is named",
        "write the program's path",
    );
    says(
        &refused("[\"hook\", \"caught-up\"]", "[\"probe.secret\"]"),
        "cutover.check.replica.exec: /etc/bascule/probe.secret is not executable",
        "write the program",
    );

    let dir = folder();
    let secret = dir.path().join("probe.secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    says(
        &page(&dir, "probe    =", FULL),
        "pool.v4.probe.password_file: /etc/bascule/probe.secret is open to every user of this machine (mode 644)",
        "run: chmod o= /etc/bascule/probe.secret",
    );
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in ["", "\n", "two\nlines\n", "nul\0\n"] {
        fs::write(&secret, wrong).unwrap();
        says(
            &page(&dir, "probe    =", FULL),
            "pool.v4.probe.password_file: /etc/bascule/probe.secret does not contain a password",
            "write the password",
        );
    }
    fs::write(&secret, "with blanks \r\n").unwrap();
    assert_eq!(load(&dir, FULL).unwrap().pools[0].probes[0].password.0.as_slice(), b"with blanks ");
}

#[test]
fn secrets_do_not_show() {
    let config = load(&folder(), FULL).unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
}
