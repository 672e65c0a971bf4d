//! Servers that say things oddly.
//!
//! Rule: whatever way a request takes, its client gets what is legal, and what a server said.

use bascule_tests::{client::Result, http::Answer, process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{super::rig::Rig, USERS, plan};

/// What is said to requests for a path; then the server goes.
const ANSWERS: &[(&str, &str)] = &[
    ("/list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("/twice", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("/empty", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    ("/chunks", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("/switched", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello"),
    ("/poll", "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "/else",
        "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\"old.internal:443\"; ma=86400\r\nContent-Length: 5\r\n\r\nhello",
    ),
    ("/short", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
];

/// pingora's way, and the direct one.
const WAYS: [&str; 2] = ["Connection: keep-alive, x-none\r\n", ""];

async fn answer(tcp: TcpStream) -> std::io::Result<()> {
    let (mut io, mut head) = (BufReader::new(tcp), String::new());
    while !head.ends_with("\r\n\r\n") {
        if io.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let said = ANSWERS.iter().find(|(path, _)| head.contains(path)).map_or("", |(_, said)| said);
    io.write_all(said.as_bytes()).await
}

/// A rig with such a server in the place of the old pool's.
async fn rig() -> Rig {
    let rig = plan().start(USERS).await;
    rig.web()[0].stop().await;
    let listener = process::listen_again(rig.web()[0].address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer(tcp));
        }
    });
    rig
}

async fn ask(rig: &Rig, target: &str, way: &str) -> Result<Answer> {
    rig.browser().await.ask_with("GET", target, way, b"").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_are_said_once_and_not_where_there_is_nothing() {
    let rig = rig().await;
    for target in ["/list", "/twice"] {
        for way in WAYS {
            let answer = ask(&rig, target, way).await.unwrap();
            let lengths: Vec<_> = answer.fields.iter().filter(|(name, _)| name == "content-length").collect();
            assert_eq!(lengths, [&("content-length".to_owned(), "5".to_owned())], "{target} {way}");
            assert_eq!(answer.text(), "hello");
        }
        assert_eq!(rig.two().await.ask("GET", target, b"").await.unwrap().text(), "hello", "{target}");
    }
    for target in ["/empty", "/chunks"] {
        for way in WAYS {
            let answer = ask(&rig, target, way).await.unwrap();
            let framing = (answer.field("content-length"), answer.field("transfer-encoding"));
            assert_eq!((answer.status, framing), (204, (None, None)), "{target} {way}");
        }
        assert_eq!(rig.two().await.ask("GET", target, b"").await.unwrap().status, 204, "{target}");
    }
}

/// A client would go there for as long as it is told to, past the gate (RFC 7838 §3.1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_not_told_where_else_a_server_can_be_reached() {
    let rig = rig().await;
    for target in ["/else", "/poll"] {
        let mut answers = vec![rig.two().await.ask("GET", target, b"").await.unwrap()];
        for way in WAYS {
            answers.push(ask(&rig, target, way).await.unwrap());
        }
        for answer in answers {
            assert_eq!((answer.text(), answer.field("alt-svc")), ("hello".into(), None), "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_switched_who_did_not_ask_for_it() {
    let rig = rig().await;
    for way in WAYS {
        assert_eq!(ask(&rig, "/switched", way).await.unwrap().status, 503, "{way}");
    }
}

/// A client whose kept connection ends without a word says its request again by itself, whatever it is: browsers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_that_its_answer_had_begun() {
    let rig = rig().await;
    for method in ["GET", "POST"] {
        for way in WAYS {
            let mut client = rig.browser().await;
            let head = bascule_tests::http::Client::head(method, "/short", way, 0);
            client.write(head).await.unwrap();
            let answer = client.answer_head().await.unwrap();
            assert_eq!((answer.status, answer.field("content-length")), (200, Some("10")), "{method} {way}");
            assert_eq!(client.bytes(5).await.unwrap(), b"hello");
            assert!(client.ended().await);
        }
    }
}
