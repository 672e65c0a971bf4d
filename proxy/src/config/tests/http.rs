//! What HTTP adds to the file.
//!
//! Rule: the one of the tests beside it.

use bascule_protocols::http::queue::Priority;

use super::*;

#[test]
fn every_key_of_http_arrives() {
    let dir = folder();
    let config = load(&dir, FULL).map_err(|error| error.render()).unwrap();
    let web = &config.listeners["web"];
    assert_eq!((web.protocol, web.tls), (Protocol::Http, ListenerTls::None));
    assert!(web.http.redirect && web.http.routes.is_empty() && web.http.hsts.is_none());
    assert_eq!(web.http.acme.as_deref(), Some(&*dir.path().join(".")));
    let webs = &config.listeners["webs"].http;
    assert_eq!((webs.hsts, webs.redirect), (Some(Duration::from_secs(365 * 86_400)), false));
    assert_eq!(webs.route("mail.example.org", "/x").unwrap().service, "webmail");
    assert_eq!(webs.route("dav.example.org", "/x").unwrap().service, "dav");
    assert_eq!(config.listeners["imaps"].http, HttpListener::default());
    let priority = |path: &str| webs.route("mail.example.org", path).unwrap().priority;
    assert_eq!((priority("/export/x"), priority("/")), (Some(Priority::Background), None));
    let long_poll = |path: &str| webs.route("mail.example.org", path).unwrap().long_poll;
    assert_eq!((long_poll("/poll/inbox"), long_poll("/")), (true, false));
    let count = |rate: Option<NonZeroU32>| rate.map(u32::from);
    assert_eq!(count(webs.rates.address_connections), Some(90));
    assert_eq!(count(webs.rates.address_requests), Some(600));
    assert_eq!(count(webs.rates.identity_requests), Some(300));

    let service = |pool: usize, name: &str| &config.pools[pool].http[name];
    let webmail = service(0, "webmail");
    assert_eq!((webmail.servers.len(), webmail.version), (2, HttpVersion::Two));
    assert_eq!((&webmail.tls, webmail.client_address), (&ServiceTls::None, HttpAddress::None));
    assert_eq!((webmail.dial_timeout, webmail.silence), (Duration::from_secs(2), Duration::from_secs(600)));
    let ca = Some(dir.path().join("fullchain.pem"));
    let verify = Verify { ca, name: "dav.v4.internal".to_owned() };
    assert_eq!(service(0, "dav").tls, ServiceTls::Implicit(verify));
    assert_eq!(service(0, "dav").client_address, HttpAddress::ProxyV2);
    let places = |service: &HttpService| (service.concurrency, service.queue);
    assert_eq!(places(webmail), (Some(64), 100));
    assert_eq!(places(service(0, "dav")), (Some(8), 32), "four times as many wait");
    let plain = service(1, "webmail");
    assert_eq!(places(plain), (None, 0));
    assert_eq!((plain.version, plain.client_address), (HttpVersion::One, HttpAddress::Headers));
    assert_eq!((plain.dial_timeout, plain.silence), (defaults::DIAL_TIMEOUT, defaults::HTTP_SILENCE));
    let balances = [webmail, service(0, "dav"), plain, service(1, "dav")].map(|service| &service.balance);
    let named = (HttpBalance::Cookie("SESSION".into()), HttpBalance::Header("x-user".into()));
    assert_eq!(balances, [&named.0, &HttpBalance::Address, &HttpBalance::Identity, &named.1]);

    let proof = |pool: usize, name: &str| service(pool, name).proof.clone();
    let session = WebSession {
        login: "/login".into(),
        form: "u={user}&p={password}".into(),
        cookie: "SESSION".into(),
        page: "/mail".into(),
    };
    assert_eq!(proof(0, "webmail"), HttpProof { writes: HttpWrites::None, session: Some(session) });
    assert_eq!(proof(1, "webmail"), HttpProof::default());
    assert_eq!(proof(1, "dav").writes, HttpWrites::At("/dav/{user}/probe.ics".into()));

    let limits = HttpLimits {
        header: Duration::from_secs(5),
        header_size: 32 * 1024,
        body: Duration::from_secs(300),
        body_size: 64 * 1024 * 1024,
        idle: Duration::from_secs(60),
        hold: Duration::from_secs(20),
        held_requests: 100,
        held_bytes: 1024 * 1024,
        streams: 50,
    };
    assert_eq!(config.limits.http, limits);
}

#[test]
fn a_route_leads_somewhere_on_every_pool() {
    let dav = "[pool.v5.http.dav]\nservers = [\"[fd00::5]:5232\"]\ntls     =   { mode = \"none\" }\nbalance = \"header:X-User\"\n";
    says(
        &refused_at("service = \"dav\"", dav, ""),
        "listener.webs.routes.service: pool v5 has no service `dav`",
        "add [pool.v5.http.dav] with `servers` and `tls`",
    );
    says(
        &refused_at(
            "{ path = \"x\"",
            "{ path = \"/\", service = \"webmail\" },",
            "{ path = \"x\", service = \"webmail\" },",
        ),
        "listener.webs.routes.path: `x` is not a path",
        "write the beginning",
    );
    says(
        &refused("host = \"DAV.example.org\"", "host = \"dav.example.org:443\""),
        "listener.webs.routes.host: `dav.example.org:443` is not a host name",
        "write a name without a port",
    );
    says(
        &refused_at("routes", "host = \"DAV.example.org\", ", ""),
        "listener.webs.routes: `/` has two routes",
        "leave one",
    );
    says(
        &refused_at("[listener.web]", "redirect = \"https\"\n", ""),
        "listener.web.routes: no request has a route",
        "add routes",
    );
}

#[test]
fn http_keys_that_would_do_nothing_are_refused() {
    let head = "[listener.imaps]\nprotocol = \"imap\"\n";
    for key in ["routes = []", "redirect = \"https\"", "hsts = \"365d\"", "acme = \".\""] {
        let name = key.split(' ').next().unwrap();
        says(
            &refused_at(key, head, &format!("{head}{key}\n")),
            &format!("listener.imaps.{name}: it is for listeners of HTTP"),
            "leave it out",
        );
    }
    let web = "tls      =   \"implicit\"\n";
    says(
        &refused("tls      =   \"implicit\"", "tls = \"starttls\""),
        "listener.webs.tls: HTTP has no STARTTLS",
        "write \"none\"",
    );
    says(
        &refused_at("redirect = \"https\"\nhsts", web, &format!("{web}redirect = \"https\"\n")),
        "listener.webs.redirect: it would lead to itself",
        "leave it out",
    );
    says(
        &refused_at("devices = []", web, &format!("{web}devices = []\n")),
        "listener.webs.devices: it says nothing to an HTTP listener",
        "leave it out",
    );
    says(
        &refused_at("hsts = \"1d\"", "redirect = \"https\"\n", "redirect = \"https\"\nhsts = \"1d\"\n"),
        "listener.web.hsts: browsers believe it only where it came with TLS",
        "write it to the listener",
    );
    says(
        &refused("hsts     = \"365d\"", "hsts = \"1h\""),
        "listener.webs.hsts: 1h is forgotten",
        "write \"1d\"",
    );
    says(
        &refused("acme     = \".\"", "acme = \"gone\""),
        "listener.web.acme: /etc/bascule/gone is not a folder",
        "write the folder",
    );
}

#[test]
fn a_cookie_without_a_name_is_ours() {
    let dir = folder();
    let text = FULL.replace("\"cookie:SESSION\"", "\"cookie\"");
    let config = load(&dir, &text).map_err(|error| error.render()).unwrap();
    assert_eq!(config.pools[0].http["webmail"].balance, HttpBalance::Own);
}

#[test]
fn limits_of_http_are_refused_where_they_would_do_nothing() {
    says(
        &refused_at("queue = 100", "concurrency = 64\n", ""),
        "pool.v4.http.webmail.queue: nobody waits where as many are served as come",
        "add `concurrency`",
    );
    says(
        &refused("concurrency = 8", "concurrency = 0"),
        "pool.v4.http.dav.concurrency: zero is not allowed",
        "leave it out",
    );
    says(
        &refused("priority = \"background\"", "priority = \"low\""),
        "listener.webs.routes.priority: `low` is not allowed",
        "allowed",
    );
    says(
        &refused("address_requests = 600", "address_messages = 600"),
        "listener.webs.rates.address_messages: it is for listeners of mail",
        "leave it out",
    );
    says(
        &refused("address_messages    = 100", "address_requests = 100"),
        "listener.mx.rates.address_requests: it is for listeners of HTTP",
        "leave it out",
    );
}

#[test]
fn services_of_http_are_as_strict() {
    says(
        &refused("version = \"2\"", "version = \"3\""),
        "pool.v4.http.webmail.version: `3` is not supported yet",
        "allowed now: `1.1`, `2`",
    );
    for wrong in ["cookie:", "cookie:a b", "query:x"] {
        says(
            &refused("balance = \"cookie:SESSION\"", &format!("balance = \"{wrong}\"")),
            &format!("pool.v4.http.webmail.balance: `{wrong}` is not allowed"),
            "write \"cookie:NAME\"",
        );
    }
    says(
        &refused("balance = \"cookie:SESSION\"", "balance = \"sticky\""),
        "pool.v4.http.webmail.balance: `sticky` is not supported yet",
        "allowed: `address`, `cookie`, `cookie:NAME`",
    );
    says(
        &refused("servers = [\"web1.v4.internal:80\", \"web2.v4.internal:80\"]", "servers = []"),
        "pool.v4.http.webmail.servers: no server is listed",
        "write one",
    );
    says(
        &refused("hold          = \"20s\"", "hold = \"10s\""),
        "limits.http.hold: 10s is less than cutover.max_hold, 15s",
        "write a longer time",
    );
    says(
        &refused("streams       = 50", "streams = 0"),
        "limits.http.streams: zero is not allowed",
        "leave it out for the default, 100",
    );
}

#[test]
fn what_proves_a_service_is_one_that_could() {
    says(
        &refused("probe = \"none\"", "probe = \"dav/x\""),
        "pool.v4.http.webmail.probe: `dav/x` is not a path",
        "write one that begins with a slash, or \"none\"",
    );
    for wrong in ["{name}", "{USER}", "{user"] {
        says(
            &refused("/dav/{user}/probe.ics", &format!("/dav/{{user}}/{wrong}/probe.ics")),
            &format!("pool.v5.http.dav.probe: `{wrong}"),
            "allowed: `{user}`, which is the probe account's name",
        );
    }
    says(
        &refused("page = \"/mail\"", "page = \"/mail/{user}\""),
        "pool.v4.http.webmail.session.page: `{user}` is not filled in here",
        "write the path as it is",
    );
    says(
        &refused("u={user}&p={password}", "u={user}"),
        "pool.v4.http.webmail.session.form: nobody could log in with it",
        "write the fields as a browser posts them",
    );
    says(
        &refused("cookie = \"SESSION\"", "cookie = \"SESSION=1\""),
        "pool.v4.http.webmail.session.cookie: `SESSION=1` is not a cookie's name",
        "write its name alone",
    );
    says(
        &refused("page = \"/mail\"", "page = \"mail\""),
        "pool.v4.http.webmail.session.page: `mail` is not a path",
        "write one that begins with a slash",
    );
}
