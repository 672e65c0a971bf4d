//! What passes, and what does not.
//!
//! Rule: nothing that two servers might read as two requests reaches one.

use bascule_tests::{
    fake::{Stall, http::At},
    http::{Client, Frame, Frames},
};
use tokio::task::JoinSet;

use super::{
    super::rig::{Plan, Spoken},
    USERS, plan,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_pass_in_both_versions_and_connections_are_kept() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.browser().await;
    for n in 0..3 {
        let answer = browser.ask("GET", &format!("/page/{n}?q"), b"").await.unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, &*format!("old /page/{n}?q")));
    }
    let mut secure = rig.secure_browser().await;
    assert_eq!(secure.ask("POST", "/effect", b"one").await.unwrap().status, 201);
    let mut two = rig.two().await;
    assert_eq!(two.ask("POST", "/effect", b"two").await.unwrap().status, 201);
    assert_eq!(two.ask("GET", "/page", b"").await.unwrap().text(), "old /page");
    let bodies: Vec<_> = rig.shelf.effects().into_iter().map(|effect| effect.body).collect();
    assert_eq!(bodies, [b"one".to_vec(), b"two".to_vec()]);
    let [old, new] = rig.web();
    assert!(new.seen().is_empty());
    let mut connections: Vec<_> = old.seen().iter().map(|seen| seen.connection).collect();
    connections.dedup();
    assert!(connections.len() < old.seen().len(), "kept connections are used again: {connections:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_every_framing_and_size_arrive_whole() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.secure_browser().await;
    let large: Vec<u8> = (0..500_000u32).map(|n| n as u8).collect();
    assert_eq!(browser.ask("PUT", "/dav/large", &large).await.unwrap().status, 201);
    assert_eq!(browser.ask("GET", "/dav/large", b"").await.unwrap().body, large);
    let head = "PUT /dav/chunks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    browser.write(format!("{head}5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n")).await.unwrap();
    assert_eq!(browser.answer().await.unwrap().status, 201);
    assert_eq!(rig.shelf.file("/dav/chunks").unwrap(), b"hello world");
    let mut two = rig.two().await;
    assert_eq!(two.ask("PUT", "/dav/two", &large).await.unwrap().status, 201);
    assert_eq!(two.ask("GET", "/dav/two", b"").await.unwrap().body, large);
    // A server's 100 is passed on; the body comes after it.
    let head = Client::head("PUT", "/dav/asked", "Expect: 100-continue\r\n", 4);
    browser.write(head).await.unwrap();
    assert_eq!(browser.any_answer().await.unwrap().status, 100);
    browser.write("body").await.unwrap();
    assert_eq!(browser.answer().await.unwrap().status, 201);
    assert_eq!(rig.shelf.file("/dav/asked").unwrap(), b"body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_a_row_without_waiting_are_answered_in_their_order() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.browser().await;
    let ask = |n: usize| Client::head("GET", &format!("/{n}"), "", 0);
    let posted = |n: usize| format!("{}body{n}", Client::head("POST", &format!("/{n}"), "", 5));
    browser.write([ask(0), ask(1), posted(2), ask(3), posted(4)].concat()).await.unwrap();
    for n in 0..5 {
        let answer = browser.answer().await.unwrap();
        assert!(
            answer.ok() && (n % 2 == 0 && n > 0 || answer.text() == format!("old /{n}")),
            "{n}: {answer:?}"
        );
    }
    // The connection is as good as new, and small again: the next request comes alone.
    assert_eq!(browser.ask("GET", "/5", b"").await.unwrap().text(), "old /5");
    assert_eq!(rig.shelf.effects().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_a_connection_of_http_2() {
    let rig = plan().start(USERS).await;
    let two = rig.two().await;
    let mut all = JoinSet::new();
    for n in 0..60 {
        let mut two = two.clone();
        all.spawn(async move { (n, two.ask("GET", &format!("/{n}"), b"").await.unwrap().text()) });
    }
    while let Some(answer) = all.join_next().await {
        let (n, text) = answer.unwrap();
        assert_eq!(text, format!("old /{n}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_told_whose_request_it_is_and_nothing_that_the_client_says_about_it() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.secure_browser().await;
    let lies = "X-Forwarded-For: 192.0.2.9\r\nForwarded: for=192.0.2.9\r\nX-Real-IP: 192.0.2.9\r\n\
                X-Forwarded-Proto: gopher\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                X-Kept: yes\r\n";
    browser.ask_with("GET", "/told", lies, b"").await.unwrap();
    let seen = rig.web()[0].seen();
    let head = seen[0].head.to_ascii_lowercase();
    for field in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: mail.bascule.test\r\n",
        "forwarded: for=127.0.0.1;proto=https;host=\"mail.bascule.test\"\r\n",
        "host: mail.bascule.test\r\n",
        "x-kept: yes\r\n",
    ] {
        assert!(head.contains(field), "{field}{head}");
    }
    for hop in ["192.0.2.9", "gopher", "x-hop", "keep-alive", "\r\nte:"] {
        assert!(!head.contains(hop), "{hop}\n{head}");
    }
}

/// Chrome and Firefox do that with every cookie; what reads only the first field, or joins fields with a comma, would
/// lose the session (RFC 9113 §8.2.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_in_crumbs_are_one_field_again() {
    for spoken in [Spoken::One, Spoken::Two] {
        let rig = Plan::replicated().web("", spoken).start(USERS).await;
        let mut frames = Frames::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
        for (method, body) in [(&b"GET"[..], &b""[..]), (b"POST", b"body")] {
            let head = [
                (&b":method"[..], method),
                (b":scheme", b"https"),
                (b":authority", b"mail.bascule.test"),
                (b":path", b"/crumbs"),
                (b"cookie", b"a=1"),
                (b"cookie", b"b=2"),
                (b"cookie", b"c=3"),
            ];
            let asked = frames.head(&head, body.is_empty()).await.unwrap();
            if !body.is_empty() {
                frames.data(asked, body, true).await.unwrap();
            }
            assert_eq!(frames.next().await, Frame::Answer(asked));
        }
        let seen = rig.web()[0].seen();
        assert_eq!(seen.len(), 2);
        for one in seen {
            let head = one.head.to_ascii_lowercase();
            let cookies: Vec<&str> = head.lines().filter(|line| line.starts_with("cookie:")).collect();
            assert_eq!(cookies, ["cookie: a=1; b=2; c=3"], "{spoken:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.secure_browser().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let answer = browser.ask_with("GET", "/ws", upgrade, b"").await.unwrap();
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    for bytes in [&b"\x81\x05hello"[..], b"\x82\x01x"] {
        browser.write(bytes).await.unwrap();
        assert_eq!(browser.bytes(bytes.len()).await.unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_117th_scenario_and_its_kin_reach_no_server() {
    let rig = plan().start(USERS).await;
    let host = "Host: mail.bascule.test\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for request in [
        format!(
            "POST / HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!{smuggled}"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: +4\r\n\r\nbody{smuggled}"),
        format!("GET / HTTP/1.1\r\n{host}Host: other\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host} folded\r\n\r\n"),
        format!("GET /x/%2e%2e/smuggled HTTP/1.1\r\n{host}\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let mut client = rig.browser().await;
        client.write(&request).await.unwrap();
        let answer = client.answer().await;
        assert_eq!(answer.as_ref().map(|answer| answer.status).ok(), Some(400), "{request:?}: {answer:?}");
        assert!(client.ended().await, "{request:?}");
    }
    assert_eq!(rig.web()[0].seen(), [], "not a byte of them");
    assert!(rig.proxy.metric("bascule_http_refused_total{reason=\"two_lengths\"}").await.unwrap() >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_be_so_large_and_take_so_long() {
    let limits =
        "http.header = \"1s\"\nhttp.header_size = \"4KiB\"\nhttp.body = \"1s\"\nhttp.body_size = \"1KiB\"\n";
    let rig = plan().limits(limits).start(USERS).await;
    let status = async |request: String| {
        let mut client = rig.browser().await;
        client.write(request).await.unwrap();
        let answer = client.answer().await.unwrap();
        (answer.status, client.ended().await)
    };
    let long = format!("X: {}\r\n", "x".repeat(5000));
    assert_eq!(status(Client::head("GET", "/", &long, 0)).await, (431, true));
    assert_eq!(status(Client::head("POST", "/", "", 5000)).await, (413, true));
    let chunked = "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("{chunked}800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048));
    assert_eq!(status(chunks).await, (413, true));
    for slow in ["GET / HT".to_owned(), Client::head("POST", "/", "", 10)] {
        let mut client = rig.browser().await;
        client.write(slow).await.unwrap();
        assert!(client.ended().await);
    }
    for limit in ["http_header", "http_body", "http_body_size", "http_header_size"] {
        let hit = format!("bascule_limits_hit_total{{limit=\"{limit}\"}}");
        assert!(rig.proxy.metric(&hit).await.unwrap() >= 1.0, "{limit}");
    }
    assert!(rig.shelf.effects().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_of_the_process_answers_come_to_theirs() {
    let rig = plan().start(USERS).await;
    let mut browser = rig.browser().await;
    let stall = rig.web()[0].stall("/slow");
    browser.write(Client::head("GET", "/slow", "", 0)).await.unwrap();
    stall.reached(1).await;
    // One has the head of its answer already.
    let (mut reader, pause, large) = (rig.browser().await, Stall::default(), vec![1; 50_000]);
    reader.ask("PUT", "/dav/large", &large).await.unwrap();
    rig.web()[0].fault("/dav/large", At::Pause(20_000, pause.clone()), 1);
    reader.write(Client::head("GET", "/dav/large", "", 0)).await.unwrap();
    pause.reached(1).await;
    let mut idle = rig.browser().await;
    rig.proxy.signal(rustix::process::Signal::TERM).unwrap();
    assert!(idle.ended().await, "who waits for nothing goes first");
    pause.release();
    assert_eq!(reader.answer().await.unwrap().body, large);
    assert!(reader.ended().await);
    stall.release();
    assert_eq!(browser.answer().await.unwrap().text(), "old /slow");
    assert!(browser.ended().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_tls_with_a_server_is_resumed() {
    let rig = Plan::replicated().web("", Spoken::Tls).start(USERS).await;
    let mut browser = rig.browser().await;
    assert_eq!(browser.ask("GET", "/page", b"").await.unwrap().text(), "old /page");
    rig.web()[0].fault("/page", At::Done, 1);
    assert_eq!(browser.ask("GET", "/page", b"").await.unwrap().text(), "old /page");
    let seen = rig.web()[0].seen();
    let resumed: Vec<bool> = seen.iter().map(|seen| seen.head.contains("X-Resumed: yes\r\n")).collect();
    assert_eq!(resumed, [false, false, true], "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_may_speak_http_2_or_tls_or_want_a_proxy_header() {
    for spoken in [Spoken::Two, Spoken::Tls, Spoken::Proxied] {
        let rig = Plan::replicated().web("", spoken).start(USERS).await;
        let (mut one, mut two) = (rig.secure_browser().await, rig.two().await);
        let large = vec![7; 100_000];
        for pool in ["old", "new"] {
            assert_eq!(
                one.ask("GET", "/page", b"").await.unwrap().text(),
                format!("{pool} /page"),
                "{spoken:?}"
            );
            assert_eq!(two.ask("POST", "/effect", &large).await.unwrap().text(), pool, "{spoken:?}");
            assert_eq!(one.ask("DELETE", "/dav/none", b"").await.unwrap().status, 404, "{spoken:?}");
            if pool == "old" {
                rig.cutover("new").await;
            }
        }
        assert_eq!(rig.shelf.effects().len(), 2);
        let [old, new] = rig.web();
        let seen = [old.seen(), new.seen()].concat();
        assert_eq!(seen.len(), 6);
        let proxied = |head: &str| head.contains("X-Proxied: 127.0.0.1\r\n");
        assert!(seen.iter().all(|seen| proxied(&seen.head) == matches!(spoken, Spoken::Proxied)), "{seen:?}");
    }
}
