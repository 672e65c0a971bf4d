//! A server that dies in the middle of a request: the policy, row by row, on the wire.
//!
//! Rule: the shelf says what happened; a client is told "unknown" only about what may have.

use bascule_tests::{
    fake::http::At,
    http::{Answer, Client},
};

use super::{
    super::rig::{Plan, Rig, Spoken},
    USERS, plan,
};

/// The status that a request comes to when its server breaks once in this way.
async fn status(rig: &Rig, method: &str, target: &'static str, fields: &str, body: &[u8], at: At) -> u16 {
    rig.web()[0].fault(target, at, 1);
    rig.browser().await.ask_with(method, target, fields, body).await.unwrap().status
}

/// The answer to a request of so many bytes whose server dies when half of them have come, before the client says more.
async fn half(rig: &Rig, method: &str, target: &'static str, length: usize) -> Answer {
    const AGAIN: &str = "bascule_http_again_total{reason=\"lost\"}";
    let before = rig.proxy.metric(AGAIN).await.unwrap();
    rig.web()[0].fault(target, At::Body(length / 2), 1);
    let (mut client, body) = (rig.browser().await, vec![7; length]);
    let (first, second) = body.split_at(length / 2);
    client.write([Client::head(method, target, "", length).as_bytes(), first].concat()).await.unwrap();
    // What is kept is said again; of the rest the client hears before it has sent all.
    if length <= 64 * 1024 {
        rig.metric(AGAIN, |count| count > before).await;
        client.write(second).await.unwrap();
    }
    client.answer().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_arrive_whole_is_said_again_whatever_it_is() {
    let rig = plan().start(USERS).await;
    assert_eq!(half(&rig, "POST", "/body", 30_000).await.status, 201);
    assert_eq!(status(&rig, "GET", "/head", "", b"", At::Head).await, 200);
    assert_eq!(half(&rig, "PUT", "/dav/part", 30_000).await.status, 201);
    let effects = rig.shelf.effects();
    assert_eq!((effects.len(), effects[0].body.len()), (1, 30_000));
    // 110: fully written, and nobody knows.
    assert_eq!(status(&rig, "POST", "/whole", "", b"x", At::Whole).await, 502);
    assert_eq!(status(&rig, "POST", "/done", "", b"x", At::Done).await, 502);
    assert_eq!(rig.web()[0].count("POST /done"), 1, "never twice");
    let answer = rig.browser().await.ask("GET", "/after", b"").await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_to_the_same_is_said_again() {
    let rig = plan().start(USERS).await;
    for (method, status_expected) in [("GET", 200), ("PROPFIND", 404), ("REPORT", 200)] {
        let target: &'static str = "/dav/none";
        let body: &[u8] = if method == "GET" { b"" } else { b"<x/>" };
        let asked = if method == "GET" { "/read" } else { target };
        assert_eq!(status(&rig, method, asked, "", body, At::Done).await, status_expected, "{method}");
    }
    // 109: the answer to the second one is 412, and the resource is what was sent.
    let new = "If-None-Match: *\r\n";
    assert_eq!(status(&rig, "PUT", "/dav/event", new, b"BEGIN:VEVENT", At::Done).await, 204);
    assert_eq!(rig.shelf.puts("/dav/event"), 1);
    let mut browser = rig.browser().await;
    rig.web()[0].fault("/dav/event", At::Done, 1);
    let answer = browser.ask_with("PUT", "/dav/event", "If-Match: \"1\"\r\n", b"BEGIN:VTODO").await.unwrap();
    assert_eq!((answer.status, answer.field("etag")), (204, None));
    assert_eq!(rig.shelf.file("/dav/event").unwrap(), b"BEGIN:VTODO");
    // Somebody else's 412 stays one.
    assert_eq!(status(&rig, "PUT", "/dav/event", "If-Match: \"1\"\r\n", b"other", At::Whole).await, 412);
    assert_eq!(status(&rig, "DELETE", "/dav/event", "", b"", At::Done).await, 204);
    assert_eq!(rig.browser().await.ask("DELETE", "/dav/event", b"").await.unwrap().status, 404);
    assert_eq!(status(&rig, "MKCOL", "/dav/folder", "", b"", At::Done).await, 201);
    assert_eq!(rig.browser().await.ask("MKCOL", "/dav/folder", b"").await.unwrap().status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_asked_what_they_did_in_their_own_language() {
    for spoken in [Spoken::Two, Spoken::Proxied, Spoken::Tls] {
        let rig = Plan::replicated().web("", spoken).start(USERS).await;
        let new = "If-None-Match: *\r\n";
        assert_eq!(
            status(&rig, "PUT", "/dav/event", new, b"BEGIN:VEVENT", At::Done).await,
            204,
            "{spoken:?}"
        );
        assert_eq!(rig.shelf.puts("/dav/event"), 1);
        assert_eq!(status(&rig, "PUT", "/dav/event", new, b"other", At::Done).await, 412, "{spoken:?}");
        assert_eq!(status(&rig, "MKCOL", "/dav/folder", "", b"", At::Done).await, 201, "{spoken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_only_reads_is_said_again_and_one_that_writes_is_not() {
    let rig = plan().start(USERS).await;
    let json = "Content-Type: application/json\r\n";
    let call = |name: &str| {
        format!(r#"{{"using": ["urn:ietf:params:jmap:mail"], "methodCalls": [["{name}", {{}}, "0"]]}}"#)
    };
    assert_eq!(status(&rig, "POST", "/jmap", json, call("Email/query").as_bytes(), At::Whole).await, 201);
    assert_eq!(status(&rig, "POST", "/jmap", json, call("Email/set").as_bytes(), At::Whole).await, 502);
    let ping = "/Microsoft-Server-ActiveSync?Cmd=Ping";
    assert_eq!(status(&rig, "POST", ping, "", b"\x03\x01", At::Whole).await, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_cut_looks_cut() {
    let rig = plan().start(USERS).await;
    rig.browser().await.ask("PUT", "/dav/long", &[b'x'; 100_000]).await.unwrap();
    rig.web()[0].fault("/dav/long", At::Answer(50_000), 1);
    let answer = rig.browser().await.ask("GET", "/dav/long", b"").await;
    assert!(answer.is_err(), "{answer:?}");
    rig.web()[0].fault("/dav/long", At::Answer(50_000), 1);
    let answer = rig.two().await.ask("GET", "/dav/long", b"").await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(rig.browser().await.ask("GET", "/dav/long", b"").await.unwrap().body.len(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_body_that_is_not_kept_is_answered_busy_or_unknown() {
    let rig = plan().start(USERS).await;
    let long = [7; 300_000];
    // Not whole: nothing happened.
    let answer = half(&rig, "POST", "/long", 300_000).await;
    let after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    assert_eq!((answer.status, (5..=10).contains(&after)), (503, true));
    assert_eq!(
        status(&rig, "PUT", "/dav/long", "", &long, At::Done).await,
        503,
        "to be put again by the client"
    );
    assert_eq!(status(&rig, "POST", "/longer", "", &long, At::Done).await, 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_waited_for() {
    let rig = plan().start(USERS).await;
    rig.web()[0].stop().await;
    let mut browser = rig.browser().await;
    browser.write([Client::head("POST", "/effect", "", 4).as_bytes(), b"body"].concat()).await.unwrap();
    let mut two = rig.two().await;
    let asked = tokio::spawn(async move { two.ask("GET", "/page", b"").await });
    rig.held(2).await;
    rig.web()[0].serve();
    assert_eq!(browser.answer().await.unwrap().status, 201);
    assert_eq!(asked.await.unwrap().unwrap().text(), "old /page");
    assert_eq!(rig.shelf.effects().len(), 1);
}
