//! What the proxy does at the door: redirects, challenges, routes, fields, limits over HTTP/2.
//!
//! Rule: what a client hears of the proxy it hears from every pool, and what a server hears of a client is true.

use bascule_tests::{
    client::Security,
    fake::http::At,
    http::{Client, Frame, Frames},
};

use super::{
    super::rig::{Plan, Rig, Spoken, Twins},
    USERS, plan,
};

const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"mail.bascule.test");

impl Rig {
    async fn frames(&self) -> Frames {
        Frames::connect(self.proxy.https(), self.proxy.tls().unwrap()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_text_leads_to_tls_except_for_challenges() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Token_1-x"), "Token_1-x.print\n").unwrap();
    let redirect = format!("redirect = \"https\"\nacme = {:?}\n", folder.path());
    let rig = plan().front("hsts = \"30d\"\n", redirect).start(USERS).await;
    let mut browser = Client::connect(rig.proxy.redirect(), Security::Plain).await.unwrap();
    for (host, target, place) in [
        ("mail.bascule.test", "/a/b?c=d", "https://mail.bascule.test/a/b?c=d"),
        ("Mail.Bascule.Test:8080", "/", "https://mail.bascule.test/"),
        ("[2001:db8::1]:80", "/", "https://[2001:db8::1]/"),
    ] {
        browser.write(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.unwrap();
        let answer = browser.answer().await.unwrap();
        assert_eq!((answer.status, answer.field("location")), (308, Some(place)));
    }
    let challenge = |token: &str| format!("/.well-known/acme-challenge/{token}");
    let answer = browser.ask("GET", &challenge("Token_1-x"), b"").await.unwrap();
    assert_eq!((answer.status, &*answer.text()), (200, "Token_1-x.print\n"));
    for token in ["none", "", ".hidden", "a/b", "%2ehidden"] {
        assert_eq!(browser.ask("GET", &challenge(token), b"").await.unwrap().status, 404, "{token}");
    }
    browser.write("GET /old HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = browser.answer().await.unwrap();
    assert_eq!(answer.field("location"), Some("https://mail.bascule.test/old"));
    assert_eq!(rig.web()[0].seen(), []);
    // Browsers are told to come with TLS, where they did.
    let hsts =
        |answer: bascule_tests::http::Answer| answer.field("strict-transport-security").map(str::to_owned);
    let page = rig.secure_browser().await.ask("GET", "/", b"").await.unwrap();
    assert_eq!(hsts(page).as_deref(), Some("max-age=2592000"));
    let mut client = rig.secure_browser().await;
    client.write(Client::head("PUT", "/", "", 1_000_000_000_000)).await.unwrap();
    let own = client.answer().await.unwrap();
    assert_eq!((own.status, hsts(own).as_deref()), (413, Some("max-age=2592000")));
    assert_eq!(hsts(rig.browser().await.ask("GET", "/", b"").await.unwrap()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_and_paths_lead_to_services_and_a_cutover_moves_all_of_them() {
    let rig = plan().twins(Twins::Dav).start(USERS).await;
    let mut browser = rig.browser().await;
    let mut text = async |host: &str, target: &str| {
        browser.write(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.unwrap();
        browser.answer().await.unwrap().text()
    };
    for (pool, dav) in [("old", "old2"), ("new", "new2")] {
        for (host, target, server) in [
            ("mail.bascule.test", "/", pool),
            ("mail.bascule.test", "/calx", pool),
            ("mail.bascule.test", "/cal", dav),
            ("mail.bascule.test", "/cal/anna/", dav),
            ("DAV.test.:8443", "/", dav),
        ] {
            assert_eq!(text(host, target).await, format!("{server} {target}"), "{host}");
        }
        if pool == "old" {
            rig.cutover("new").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_about_a_connection_or_an_origin_end_at_the_proxy() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.browser().await;
    let lies = "X_Forwarded_For: 192.0.2.9\r\nX-Forwarded-Port: 9\r\nX-Forwarded-SSL: on\r\nTrue-Client-IP: 192.0.2.9\r\n\
                x-Original_Host: evil\r\nX-Kept: 1\r\n";
    browser.ask_with("GET", "/told", lies, b"").await.unwrap();
    let head = rig.web()[0].seen()[0].head.to_ascii_lowercase();
    assert!(head.contains("x-kept: 1\r\n") && head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
    for lie in ["192.0.2.9", "x_forwarded", "-port", "-ssl", "evil"] {
        assert!(!head.contains(lie), "{lie}: {head}");
    }
    // Nor can what the proxy says be taken out again.
    let named = "Connection: X-Forwarded-For, X-Real-IP, Forwarded\r\n";
    let answer = rig.browser().await.ask_with("GET", "/named", named, b"").await.unwrap();
    assert_eq!((answer.status, rig.web()[0].count("/named")), (400, 0));
    let hop = "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
               Transfer-Encoding-X: y\r\nX-Kept: 1\r\n";
    rig.web()[0].fault("/hop", At::Say(200, hop), 2);
    let answer = browser.ask("GET", "/hop", b"").await.unwrap();
    assert_eq!((answer.status, answer.field("x-kept")), (200, Some("1")));
    for name in ["x-hop", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name}: {answer:?}");
    }
    assert_ne!(answer.field("keep-alive"), Some("timeout=5"), "the server's, not ours");
    let answer = rig.two().await.ask("GET", "/hop", b"").await.unwrap();
    for name in ["connection", "x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name}: {answer:?}");
    }
    // One name is asked for, or none.
    browser
        .write("GET http://mail.bascule.test/abs HTTP/1.1\r\nHost: mail.bascule.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(browser.answer().await.unwrap().text(), "old /abs");
    let mut other = rig.browser().await;
    other.write("GET http://mail.bascule.test/two HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    let answer = other.answer().await.unwrap();
    let seen = rig.web()[0].seen();
    let told = seen.iter().find(|seen| seen.head.contains("/two"));
    assert!(
        answer.status == 400 || told.is_some_and(|seen| !seen.head.contains("other.test")),
        "{answer:?} {told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_body_ends_its_stream_and_no_other() {
    let rig = plan().limits("http.body = \"1s\"\n").start(USERS).await;
    let mut frames = rig.frames().await;
    let method = |name: &'static [u8]| [(&b":method"[..], name), (b":scheme", b"https"), AUTHORITY];
    let slow = frames.head(&[&method(b"POST")[..], &[(b":path", b"/effect")]].concat(), false).await.unwrap();
    frames.data(slow, b"begun", false).await.unwrap();
    rig.web()[0].seen_of("/effect", |seen| seen.body > 0).await;
    assert_eq!(frames.next().await, Frame::Reset(slow));
    let page = frames.head(&[&method(b"GET")[..], &[(b":path", b"/page")]].concat(), true).await.unwrap();
    assert_eq!(frames.next().await, Frame::Answer(page));
    assert!(rig.proxy.metric("bascule_limits_hit_total{limit=\"http_body\"}").await.unwrap() >= 1.0);
    assert!(rig.shelf.effects().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_told_before_it_ends() {
    let rig = plan().limits("http.idle = \"1s\"\n").start(USERS).await;
    let mut frames = rig.frames().await;
    assert_eq!(frames.next().await, Frame::GoAway);
    let mut one = rig.browser().await;
    assert_eq!(one.ask("GET", "/", b"").await.unwrap().status, 200);
    assert!(one.ended().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_holds_no_server() {
    let rig = plan().limits("http.idle = \"1s\"\n").start(USERS).await;
    // More than the systems on the way keep.
    let large = vec![7; 30 << 20];
    assert_eq!(rig.browser().await.ask("PUT", "/dav/large", &large).await.unwrap().status, 201);
    let mut frames = rig.frames().await;
    let head = [(&b":method"[..], &b"GET"[..]), (b":scheme", b"https"), AUTHORITY, (b":path", b"/dav/large")];
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = rig.browser().await;
        client.write(Client::head("GET", "/dav/large", "", 0)).await.unwrap();
        clients.push(client);
    }
    let stream = frames.head(&head, true).await.unwrap();
    assert_eq!(frames.next().await, Frame::Answer(stream));
    // Its window is full, and nothing is ever taken out of it.
    assert_eq!(frames.next().await, Frame::Reset(stream));
    rig.metric("bascule_http_requests_total{outcome=\"gone\"}", |gone| gone >= 3.0).await;
    for mut client in clients {
        assert!(client.answer().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_told_in_a_header_of_a_connection_know_one_client_by_it() {
    let rig = Plan::replicated().web("", Spoken::Proxied).start(USERS).await;
    let (mut one, mut other) = (rig.browser().await, rig.browser().await);
    for _ in 0..2 {
        one.ask("GET", "/one", b"").await.unwrap();
        other.ask("GET", "/other", b"").await.unwrap();
    }
    let seen = rig.web()[0].seen();
    let of = |path: &str| -> std::collections::BTreeSet<u64> {
        seen.iter().filter(|one| one.head.contains(path)).map(|one| one.connection).collect()
    };
    assert_eq!((of("/one").len(), of("/other").len()), (1, 1), "kept: {seen:?}");
    assert!(of("/one").is_disjoint(&of("/other")), "shared with nobody: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_an_end_is_not_collected() {
    let rig = plan().limits("http.header_size = \"4KiB\"\n").start(USERS).await;
    let mut client = rig.browser().await;
    let line = format!("X: {}\r\n", "x".repeat(1000));
    client.write("GET / HTTP/1.1\r\nHost: h\r\n").await.unwrap();
    let mut written = 0;
    while written < 8 << 20 && client.write(&line).await.is_ok() {
        written += line.len();
    }
    assert!(written < 8 << 20, "a megabyte and no end");
    assert!(rig.proxy.metric("bascule_limits_hit_total{limit=\"http_header_size\"}").await.unwrap() >= 1.0);
}
