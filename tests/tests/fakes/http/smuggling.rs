//! A corpus of requests that two parsers read differently.
//!
//! Rule: every attack hides a request of its own name in what one parser takes for something else; none may ever see it.

use std::{sync::Arc, time::Duration};

use bascule_tests::http::{Frame, Frames};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{
    super::rig::{Plan, Rig, Spoken},
    USERS, plan,
};

/// Longest wait for the end of a connection.
const PATIENCE: Duration = Duration::from_secs(90);
/// Whoever waits for more than there is ends soon.
const LIMITS: &str = "http.header = \"2s\"\nhttp.body = \"2s\"\nhttp.idle = \"2s\"\n";

/// Requests of HTTP/1.1 as they are written: `{a}` is their own path, `{b}` the hidden request, `{n}` and `{x}` its length,
/// `{s}` the same with a blank in it. Whoever reads a length there that is none has a whole request.
const CORPUS: &[&str] = &[
    // Two lengths, and lengths that are none.
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{x}\r\n{b}\r\n0\r\n\r\n",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: 0, {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: 0x{x}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: -0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: 4e1\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: {s}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length : {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length\t: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\n Content-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nX: y\r\n Content-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nX: y\rContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nX: y\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n{b}",
    // Codings that one knows and another one does not.
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\t: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n{b}",
    // Chunks: what ends one, and what is its size.
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZ{b}0\r\n\r\n",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZ\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nZZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;\r\rZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n;1\r\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\r\n1\r\nZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0_2\r\nZZ\r\n0\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\nZ: a\r\n\r\n{b}",
    // Lines that end where another parser goes on.
    "GET {a} HTTP/1.1\nHost: h\n\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\nX: y\r\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\n\rX: y\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\n: y\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\nX y: z\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\nX[]: z\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\nnothing\r\n\r\n{b}",
    "GET {a}\rX HTTP/1.1\r\nHost: h\r\n\r\n{b}",
    "GET {a} X HTTP/1.1\r\nHost: h\r\n\r\n{b}",
    "GET\t{a}\tHTTP/1.1\r\nHost: h\r\n\r\n{b}",
    "GET {a} HTTP/1.1 X\r\nHost: h\r\n\r\n{b}",
    "GET {a} http/1.1\r\nHost: h\r\n\r\n{b}",
    "GET {a} HTTP/1.10\r\nHost: h\r\n\r\n{b}",
    "GET {a} HTTP/9.9\r\nHost: h\r\n\r\n{b}",
    "GET {a}\r\n{b}",
    // Fields that another one would take out.
    "POST {a} HTTP/1.1\r\nHost: h\r\nConnection: Content-Length\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nConnection: Transfer-Encoding, Host\r\nTransfer-Encoding: chunked\r\n\r\n{x}\r\n{b}\r\n0\r\n\r\n",
    // Whose host, whose path.
    "GET {a} HTTP/1.1\r\nHost: h\r\nHost: other\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h/x\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: a b\r\n\r\n{b}",
    "GET {a}/../../etc HTTP/1.1\r\nHost: h\r\n\r\n{b}",
    "GET {a}/%2e%2e%5cetc HTTP/1.1\r\nHost: h\r\n\r\n{b}",
    // Other languages on the same port.
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{b}",
    "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n{b}",
];

/// The body of one, which looks like a request: it is a body, and nothing else.
const BODIES: &[&str] = &[
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nContent-Length: {n}\r\nContent-Length: {n}\r\n\r\n{b}",
    "GET {a} HTTP/1.1\r\nHost: h\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{x}\r\n{b}\r\n0\r\n\r\n",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n{x};a=\"b\"\r\n{b}\r\n0\r\nX: y\r\n\r\n",
    "POST {a} HTTP/1.1\r\nHost: h\r\nTransfer_Encoding: chunked\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: {n}\r\n\r\n{b}",
    "POST {a} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {n}\r\n\r\n{b}",
];

fn hidden(n: usize) -> String {
    format!("GET /hidden{n} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// All that is said to these bytes, up to the end of the connection.
async fn said(rig: &Rig, request: String) -> String {
    let mut tcp = TcpStream::connect(rig.proxy.http()).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut said)).await.expect("an end");
    String::from_utf8_lossy(&said).into_owned()
}

/// Says all of it at once, each on a connection of its own; the answers in their order.
async fn say(rig: &Arc<Rig>, corpus: &[&str]) -> Vec<String> {
    let mut all = JoinSet::new();
    for (n, request) in corpus.iter().enumerate() {
        let hidden = hidden(n);
        let (length, hex) = (hidden.len().to_string(), format!("{:x}", hidden.len()));
        let request = request.replace("{a}", &format!("/own{n}/"));
        let (first, rest) = length.split_at(1);
        let request = request.replace("{s}", &format!("{first} {rest}"));
        let request = request.replace("{n}", &length).replace("{x}", &hex).replace("{b}", &hidden);
        let rig = rig.clone();
        all.spawn(async move { (n, said(&rig, request).await) });
    }
    let mut answers = vec![String::new(); corpus.len()];
    while let Some(answer) = all.join_next().await {
        let (n, said) = answer.unwrap();
        answers[n] = said;
    }
    answers
}

/// No server saw what was hidden, nor anything that a further one could read in two ways.
fn nothing_was_hidden(rig: &Rig) {
    for seen in rig.webs.iter().flat_map(|web| web.seen()) {
        let head = seen.head.to_ascii_lowercase();
        assert!(!head.lines().next().unwrap_or_default().contains("hidden"), "{seen:?}");
        let framing =
            |line: &&str| line.starts_with("content-length:") || line.starts_with("transfer-encoding:");
        assert!(head.lines().filter(framing).count() <= 1, "{seen:?}");
        assert_eq!(head.lines().filter(|line| line.starts_with("host:")).count(), 1, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_parsers_read_differently_is_read_by_none() {
    let rig = Arc::new(plan().limits(LIMITS).start(USERS).await);
    let answers = say(&rig, CORPUS).await;
    nothing_was_hidden(&rig);
    for (request, said) in CORPUS.iter().zip(&answers) {
        let status = said.split(' ').nth(1);
        assert!(matches!(status, None | Some("400" | "405")), "{request:?}: {said:?}");
        assert!(said.matches("HTTP/1.1 ").count() <= 1, "{request:?}: {said:?}");
    }
    // Of a body in chunks it shows late what it is; until then it is a request, and never a whole one.
    assert!(rig.webs.iter().flat_map(|web| web.seen()).all(|seen| !seen.whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_looks_like_a_request_is_a_body() {
    let rig = Arc::new(plan().limits(LIMITS).start(USERS).await);
    let answers = say(&rig, BODIES).await;
    nothing_was_hidden(&rig);
    for (n, (request, said)) in BODIES.iter().zip(&answers).enumerate() {
        let count = rig.web()[0].count(&format!("/own{n}/"));
        let finals = said.matches("HTTP/1.1 ").count() - said.matches("HTTP/1.1 100 ").count();
        assert_eq!((count, finals), (1, 1), "{request:?}: {said:?}");
    }
    for effect in rig.shelf.effects() {
        assert!(effect.body.starts_with(b"GET /hidden") && effect.body.ends_with(b"\r\n\r\n"), "{effect:?}");
    }
}

/// Heads of HTTP/2 that would bring a second request, or another one, where they become HTTP/1.1.
fn heads() -> Vec<Vec<(&'static [u8], &'static [u8])>> {
    const SECOND: &[u8] = b"x\r\n\r\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    let with = |fields: &[(&'static [u8], &'static [u8])]| {
        let begin: [(&[u8], &[u8]); 4] =
            [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/own")];
        [&begin[..], fields].concat()
    };
    let instead = |name: &'static [u8], value: &'static [u8]| {
        let mut head = with(&[]);
        head.iter_mut().filter(|(own, _)| *own == name).for_each(|(_, own)| *own = value);
        head
    };
    vec![
        with(&[(b"x", SECOND)]),
        with(&[(b"x", b"y\nTransfer-Encoding: chunked")]),
        with(&[(b"x", b"y\0z")]),
        with(&[(b"x: y\r\ntransfer-encoding", b"chunked")]),
        with(&[(b"x\r\n\r\nGET /hidden HTTP/1.1\r\nHost", b"h")]),
        with(&[(b"Upper", b"y")]),
        with(&[(b"x y", b"z")]),
        with(&[(b"", b"z")]),
        with(&[(b"transfer-encoding", b"chunked")]),
        with(&[(b"connection", b"transfer-encoding")]),
        with(&[(b"upgrade", b"websocket")]),
        with(&[(b"content-length", b"+0")]),
        with(&[(b"content-length", b"0"), (b"content-length", b"44")]),
        with(&[(b":path", b"/hidden")]),
        with(&[(b"x", b"y"), (b":path", b"/hidden")]),
        with(&[(b":unknown", b"y")]),
        instead(b":path", b"/own HTTP/1.1\r\nHost: h\r\n\r\nGET /hidden"),
        instead(b":path", b"/own HTTP/1.1\tX"),
        instead(b":path", b""),
        instead(b":path", b"/own/../hidden"),
        instead(b":method", b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\nPOST"),
        instead(b":method", b"GET /hidden"),
        instead(b":authority", SECOND),
        instead(b":authority", b"h /hidden"),
        instead(b":scheme", b"http://h/hidden?"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_of_http_2_bring_no_requests_of_http_1() {
    let rig = plan().limits(LIMITS).start(USERS).await;
    for head in heads() {
        let mut frames = Frames::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
        frames.head(&head, true).await.unwrap();
        let said = frames.next().await;
        let seen = rig.web()[0].seen();
        assert!(seen.is_empty(), "{said:?}: {seen:?}");
    }
    nothing_was_hidden(&rig);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_http_2_has_the_length_that_it_says() {
    for spoken in [Spoken::One, Spoken::Two] {
        let rig = Plan::replicated().web("", spoken).limits(LIMITS).start(USERS).await;
        for (length, body) in [(&b"3"[..], &b"four"[..]), (b"5", b"four")] {
            let mut frames = Frames::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
            let head: [(&[u8], &[u8]); 5] = [
                (b":method", b"POST"),
                (b":scheme", b"https"),
                (b":authority", b"h"),
                (b":path", b"/effect"),
                (b"content-length", length),
            ];
            let stream = frames.head(&head, false).await.unwrap();
            frames.data(stream, body, true).await.unwrap();
            assert_ne!(frames.next().await, Frame::End);
        }
        assert!(rig.shelf.effects().is_empty(), "{:?}", rig.shelf.effects());
    }
}
