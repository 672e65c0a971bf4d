//! What reads well and could never work: numbers without an end, files that are something else, keys that do nothing.
//!
//! Rule: the one of the tests beside it.

use super::*;

#[test]
fn numbers_have_an_end() {
    for (from, to, head) in [
        (
            "restore_concurrency = 16",
            "restore_concurrency = 2305843009213693952",
            "cutover.restore_concurrency: 2305843009213693952 is too much",
        ),
        (
            "connections     = 5000",
            "connections = 9223372036854775807",
            "limits.connections: 9223372036854775807 is too much",
        ),
        ("login           = \"2m\"", "login = \"584542046090y\"", "limits.login: 584542046090y"),
        ("spool           = \"1GiB\"", "spool = \"4TiB\"", "limits.spool: 4096GiB is too much"),
    ] {
        says(&refused(from, to), head, "write ");
    }
    says(
        &refused("concurrency = 64", "concurrency = 0"),
        "pool.v4.http.webmail.concurrency: zero is not allowed",
        "leave it out for no limit",
    );
}

#[test]
fn certificates_are_read_with_the_file_that_names_them() {
    let dir = folder();
    let other = Authority::new().issue(&["mail.example.org"]);
    fs::write(dir.path().join("other.pem"), &other.key).unwrap();
    fs::write(dir.path().join("text.pem"), "hello\n").unwrap();
    for (from, to, head) in [
        (
            "key  = \"privkey.pem\"",
            "key = \"other.pem\"",
            "tls.certificate.default.key: /etc/bascule/other.pem is not the key of the first certificate",
        ),
        (
            "cert = \"fullchain.pem\"",
            "cert = \"text.pem\"",
            "tls.certificate.default.cert: /etc/bascule/text.pem contains no certificate",
        ),
        (
            "key  = \"privkey.pem\"",
            "key = \"text.pem\"",
            "tls.certificate.default.key: /etc/bascule/text.pem contains no private key",
        ),
        (
            "ca = \"fullchain.pem\"",
            "ca = \"privkey.pem\"",
            "pool.v4.imap.tls.ca: /etc/bascule/privkey.pem contains no certificate",
        ),
    ] {
        assert_eq!(FULL.matches(from).count(), 1, "`{from}` must stand once");
        says(&page(&dir, to, &FULL.replace(from, to)), head, "write the ");
    }
}

#[test]
fn keys_that_would_do_nothing_are_refused() {
    says(
        &refused("redirect = \"https\"", "relay = \"pipe\"\nredirect = \"https\""),
        "listener.web.relay: it says nothing to a listener for http",
        "leave it out",
    );
    says(
        &refused("client_address = \"xclient\"", "restore = { mode = \"client\" }"),
        "pool.v4.smtp.restore: nobody logs in to a server for smtp",
        "leave it out",
    );
    says(
        &refused("[\"10.9.0.0/16\"]", "[\"::ffff:10.0.0.0/104\"]"),
        "listener.mx.devices: `::ffff:10.0.0.0/104` would never match",
        "write it as IPv4",
    );
    says(
        &refused("guard_passes  = 2", "guard_passes = 1000"),
        "cutover.guard_passes: 1000 passes, one each 250ms, do not fit into arm_timeout 1m",
        "write fewer passes",
    );
}

#[test]
fn a_pool_is_not_this_proxy_itself() {
    for (server, listener) in
        [("127.0.0.1:24", "lmtp"), ("[::1]:443", "webs"), ("127.0.0.1:993", "imaps"), ("[::1]:143", "imap")]
    {
        says(
            &refused_at("\"web1.v4.internal:80\"", "\"web2.v4.internal:80\"", &format!("\"{server}\"")),
            &format!("pool.v4.http.webmail.servers: {server} is this proxy's own listener {listener}"),
            "write the address of the pool's server",
        );
    }
}

/// Stores are two, whoever relays for both may be one.
#[test]
fn two_pools_are_two_servers() {
    says(
        &refused("\"[fd00::5]:993\"", "\"IMAP1.v4.internal:143\""),
        "pool.v5.imap.servers: IMAP1.v4.internal:143 is the server of pool v4 as well",
        "write an address of its own for each pool",
    );
    for both in ["Imap1.v4.internal:24", "[fd00:0::5]:24"] {
        let (from, anchor) = match both.starts_with('[') {
            true => ("\"imap1.v4.internal:24\"", "\"[fd00::5]:24\""),
            false => ("\"[fd00::5]:24\"", "\"Imap1.v4.internal:24\""),
        };
        says(
            &refused_at(anchor, from, &format!("\"{both}\"")),
            "pool.v5.lmtp.servers: ",
            "write an address of its own for each pool",
        );
    }
    for (from, to) in [
        ("\"mx.v5.internal:25\"", "\"mx.v4.internal:25\""),
        ("\"smtp.v5.internal:465\"", "\"smtp.v4.internal:587\""),
        // In another order and in other letters.
        ("\"[fd00::5]:80\"", "\"Web2.v4.internal:80\", \"web1.v4.internal:80\""),
    ] {
        load(&folder(), &FULL.replace(from, to)).map_err(|error| error.render()).unwrap();
    }
    // One store has one server for deliveries, whoever serves its mailboxes.
    let shared = FULL.replace("\"replicated\"", "\"shared\"").replace("fence_keeps_reads = true, ", "");
    let shared = shared.replace("\"[fd00::5]:24\"", "\"imap1.v4.internal:24\"");
    load(&folder(), &shared).map_err(|error| error.render()).unwrap();
}

/// What both pools have is asked by no proof: that is said of a whole service, and only of one that no fence is needed for.
#[test]
fn a_service_of_http_is_of_both_pools_or_of_one() {
    let web = "\"[fd00::5]:80\"";
    for (some, shared) in [
        ("\"web1.v4.internal:80\"", "web1.v4.internal:80"),
        ("\"[fd00::5]:80\", \"WEB2.v4.internal:80\"", "WEB2.v4.internal:80"),
    ] {
        says(
            &refused_at(&format!("[{some}]"), web, some),
            &format!("pool.v5.http.webmail.servers: {shared} is the server of pool v4 as well"),
            "name the same servers in both pools, or none of them in both",
        );
    }
    let dav = ("\"[fd00::5]:5232\"", "\"dav.v4.internal:8443\"");
    says(
        &refused_at("\"dav.v4.internal:8443\"]\ntls     =   { mode = \"none\" }", dav.0, dav.1),
        "pool.v5.http.dav.servers: dav.v4.internal:8443 is the server of pool v4 as well",
        "write an address of its own for each pool",
    );
    let both = FULL.replace(dav.0, dav.1);
    let stores_nothing = both.replace("probe = \"/dav/{user}/probe.ics\"", "probe = \"none\"");
    let one_store = both.replace("\"replicated\"", "\"shared\"").replace("fence_keeps_reads = true, ", "");
    for whole in [stores_nothing, one_store] {
        load(&folder(), &whole).map_err(|error| error.render()).unwrap();
    }
}

#[test]
fn a_sign_of_life_comes_before_the_end_that_it_is_to_prevent() {
    says(
        &refused("keepalive       = \"5s\"", "keepalive = \"90s\""),
        "limits.keepalive: after 1m30s nobody waits any more: limits.command_ceiling is 1m30s",
        "write a shorter time, or leave it out for the default, 8s",
    );
    says(
        &refused("idle_keepalive  = \"1m\"", "idle_keepalive = \"45m\""),
        "limits.idle_keepalive: 45m is not less than limits.autologout, 45m",
        "write a shorter time, or leave it out for the default, 2m",
    );
    // Streams of HTTP wait for longer than commands.
    let longer = FULL.replace("keepalive       = \"5s\"", "keepalive = \"95s\"");
    let longer = longer.replace("hold          = \"20s\"", "hold = \"100s\"");
    load(&folder(), &longer).map_err(|error| error.render()).unwrap();
}

#[test]
fn names_sizes_and_addresses_make_sense() {
    for wrong in ["<script>", "mail example", "-mail.example.org"] {
        let line = format!("hostname = \"{wrong}\"");
        let page = refused("hostname  = \"mail.example.org\"", &line);
        assert!(page.text.contains("server.hostname: "), "{}", page.text);
    }
    for wrong in ["10.9.0.0/+16", "10.9.0.0/", "10.9.0.0/ 16"] {
        let page = refused("[\"10.9.0.0/16\"]", &format!("[\"{wrong}\"]"));
        says(&page, &format!("listener.mx.devices: `{wrong}` is not a network"), "write an address");
    }
    says(
        &refused("\"imap1.v4.internal:143\"", "\"imap1.v4.internal:+143\""),
        "pool.v4.imap.servers: `imap1.v4.internal:+143` is not a host with a port",
        "write a name",
    );
    says(
        &refused_at("[\"127.0.0.1:24\"]", "\"127.0.0.1:9464\"", "\"[::ffff:127.0.0.1]:24\""),
        "listener.lmtp.bind: 127.0.0.1:24 is taken: server.observe has [::ffff:127.0.0.1]:24",
        "give each its own",
    );
    says(
        &refused("header_size   = \"32KiB\"", "header_size = \"1B\""),
        "limits.http.header_size: no request has a head of 1 bytes",
        "write \"1KiB\" or more",
    );
}

#[test]
fn errors_speak_of_what_may_be_written() {
    for (from, to, head, help) in [
        ("threads   = 2", "threads = 70000", "server.threads: invalid value", "write a whole number"),
        ("redirect = \"https\"", "redirect = 1", "listener.web.redirect: invalid type", "write it in quotes"),
        ("prewarm = false", "prewarm = \"no\"", "cutover.prewarm: invalid type", "write true or false"),
        (
            "capabilities = [\"IMAP4rev1\", \"IDLE\", \"UIDPLUS\"]",
            "capabilities = \"IMAP4rev1\"",
            "pool.v4.capabilities: invalid type: string \"IMAP4rev1\", expected a list",
            "write a list",
        ),
    ] {
        says(&refused(from, to), head, help);
    }
    let twice = refused_at("drain = \"3s\"", "barrier       = \"2500ms\"", "drain = \"3s\"");
    assert!(twice.text.contains("`drain` stands twice"), "{}", twice.text);
    let long = refused("drain         = \"2s\"", "drain = \"60s\"");
    assert!(long.text.contains("write smaller shares: max_hold is 1m at most"), "{}", long.text);

    let dir = folder();
    let path = dir.path().join("latin.toml");
    fs::write(&path, b"[server]\nhostname = \"caf\xe9\"\n").unwrap();
    let page = Config::load(&path).unwrap_err().render();
    assert!(page.contains("latin.toml:2: a character is not UTF-8"), "{page}");
}

#[test]
fn a_network_contains_what_its_prefix_says() {
    let network = |address: &str, prefix| Network { address: address.parse().unwrap(), prefix };
    for (network, address, inside) in [
        (network("10.0.0.0", 8), "10.255.0.1", true),
        (network("10.0.0.0", 8), "::ffff:10.1.2.3", true),
        (network("10.0.0.0", 8), "11.0.0.1", false),
        (network("0.0.0.0", 0), "203.0.113.9", true),
        (network("0.0.0.0", 0), "fd00::1", false),
        (network("fd00::", 8), "fdff::1", true),
        (network("fd00::1", 128), "fd00::2", false),
        (network("::", 0), "2001:db8::1", true),
    ] {
        assert_eq!(network.contains(address.parse().unwrap()), inside, "{network:?} {address}");
    }
}
