//! Clients that send what nobody can frame, too much of it, or nothing at all.
//!
//! Rule: whatever one client does, the proxy's memory stays bounded, that client gets a clear answer or a clear
//! end, and the session beside it notices nothing.

use bascule_tests::{
    bascule::Bascule,
    client::{Client, Status},
    ledger::Fate,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::rig::{Rig, When};

/// 2^63
const HUGE: &str = "9223372036854775808";
/// The most that the proxy's memory may ever have grown by: much less than what is sent at it.
const ROOM_KB: u64 = 24 << 10;

/// Where a session stands when it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    BeforeLogin,
    Selected,
    Idle,
}

/// What must come of it.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The client is told this, and the connection ends.
    Ends(&'static str),
    /// The client is told this, and goes on.
    GoesOn(&'static str),
}

/// A connection that sends bytes as they are.
struct Raw {
    lines: BufReader<ReadHalf<TlsStream<TcpStream>>>,
    bytes: WriteHalf<TlsStream<TcpStream>>,
}

impl Raw {
    async fn connect(rig: &Rig, at: At) -> Self {
        let trust = bascule_tests::client::trusting(&rig.proxy.authority.pem()).unwrap();
        let tcp = TcpStream::connect(rig.proxy.imaps()).await.unwrap();
        let name = Bascule::HOST.try_into().unwrap();
        let (read, bytes) = tokio::io::split(TlsConnector::from(trust).connect(name, tcp).await.unwrap());
        let mut raw = Self { lines: BufReader::new(read), bytes };
        raw.until("* OK").await;
        if at != At::BeforeLogin {
            raw.say("l LOGIN user1 secret\r\n", "l OK").await;
            raw.say("s SELECT INBOX\r\n", "s OK").await;
        }
        if at == At::Idle {
            raw.say("i IDLE\r\n", "+").await;
        }
        raw
    }

    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes.write_all(bytes).await?;
        self.bytes.flush().await
    }

    /// All lines up to the one that contains these words.
    async fn until(&mut self, words: &str) -> String {
        let mut all = String::new();
        loop {
            let begin = all.len();
            assert!(self.lines.read_line(&mut all).await.unwrap() > 0, "no {words:?} in {all:?}");
            if all[begin..].contains(words) {
                return all;
            }
        }
    }

    async fn say(&mut self, bytes: &str, words: &str) -> String {
        self.send(bytes.as_bytes()).await.unwrap();
        self.until(words).await
    }

    /// Sends while the connection takes it; all that is said up to its end.
    async fn ends(self, bytes: Vec<u8>, times: usize) -> String {
        let Self { mut lines, bytes: mut to } = self;
        let sending = tokio::spawn(async move {
            for _ in 0..times {
                // The connection may end before all is sent: that is what is hoped for.
                if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                    break;
                }
            }
            to
        });
        let mut said = Vec::new();
        // A reset ends it as well: there were bytes that nobody read.
        let _ = lines.read_to_end(&mut said).await;
        sending.await.unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// A line of `/proc/PID/status`, kilobytes.
fn memory(rig: &Rig, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.proxy.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
}

/// Does what `deed` does beside a session that must not notice.
async fn beside(rig: &Rig, deed: impl AsyncFnOnce()) {
    let mut other = rig.client("user2").await;
    rig.append(&mut other).await.ok().unwrap();
    let before = memory(rig, "VmRSS");
    deed().await;
    let most = memory(rig, "VmHWM");
    assert!(most < before + ROOM_KB, "{before} kB before, {most} kB at the most");
    rig.append(&mut other).await.ok().unwrap();
    other.logout().await.unwrap();
    rig.judge("old").await;
}

async fn try_it(rig: &Rig, at: At, input: &str, then: Then) {
    let mut raw = Raw::connect(rig, at).await;
    match then {
        Then::GoesOn(words) => {
            raw.say(input, words).await;
            raw.say("z NOOP\r\n", "z OK").await;
        }
        Then::Ends(words) => {
            let said = raw.ends(input.as_bytes().to_vec(), 1).await;
            assert!(said.contains(words), "{at:?} {input:?}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_line_is_cut_off() {
    let rig = Rig::start().await;
    beside(&rig, async || {
        for at in [At::BeforeLogin, At::Selected, At::Idle] {
            let raw = Raw::connect(&rig, at).await;
            let said = raw.ends(vec![b'x'; 1 << 20], 64).await;
            assert!(said.contains("BAD line too long"), "{at:?}: {said:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn literals_of_two_to_the_63() {
    let rig = Rig::start().await;
    let (sync, now) = (format!("{{{HUGE}}}\r\n"), format!("{{{HUGE}+}}\r\n"));
    beside(&rig, async || {
        for (command, refusal) in [("APPEND INBOX", "[TOOBIG]"), ("SEARCH SUBJECT", "[TOOBIG]")] {
            let line = |marker: &str| format!("a {command} {marker}");
            try_it(&rig, At::Selected, &line(&sync), Then::GoesOn(refusal)).await;
            try_it(&rig, At::Selected, &line(&now), Then::Ends("a BAD Literal too large")).await;
        }
        // Behind one that was accepted.
        for marker in [&sync, &now] {
            let input = format!("a APPEND INBOX {{3+}}\r\nabc {marker}");
            try_it(&rig, At::Selected, &input, Then::Ends("a BAD Literal too large")).await;
        }
        let line = |marker: &str| format!("a LOGIN {marker}");
        try_it(&rig, At::BeforeLogin, &line(&sync), Then::GoesOn("a BAD literal too long")).await;
        try_it(&rig, At::BeforeLogin, &line(&now), Then::Ends("a BAD literal too long")).await;
        try_it(&rig, At::Idle, &line(&now), Then::Ends("a BAD literal marker")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_framed_ends_and_what_can_is_refused() {
    let rig = Rig::start().await;
    beside(&rig, async || {
        for at in [At::BeforeLogin, At::Selected, At::Idle] {
            for (input, then) in [
                ("a NO\0OP\r\n", Then::Ends("a BAD NUL")),
                ("a NOOP\rb LOGOUT\r\n", Then::Ends("a BAD bare CR")),
                ("a XFOO \"{5+}\r\n", Then::Ends("a BAD literal marker")),
            ] {
                try_it(&rig, at, input, then).await;
            }
        }
        for at in [At::BeforeLogin, At::Selected] {
            try_it(&rig, at, "a XFOO \"bar\r\n", Then::GoesOn("a BAD unfinished quoted string")).await;
            try_it(&rig, at, "\r\n", Then::GoesOn("BAD")).await;
            try_it(&rig, at, "a\r\n", Then::GoesOn("BAD")).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_shown_the_door() {
    let rig = Rig::start().await;
    beside(&rig, async || {
        let request = "GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nUser-Agent: y\r\n\r\n".repeat(10);
        let said = Raw::connect(&rig, At::BeforeLogin).await.ends(request.into_bytes(), 1).await;
        assert!(said.contains("* BYE"), "{said}");
        // TLS where none is spoken.
        let mut tcp = TcpStream::connect(rig.proxy.clear()).await.unwrap();
        tcp.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\r\n").await.unwrap();
        let mut said = Vec::new();
        let _ = tcp.read_to_end(&mut said).await; // a reset ends it as well
        assert!(String::from_utf8_lossy(&said).contains("BAD NUL"), "{said:?}");
    })
    .await;
}

/// Pipelines, and reads only afterwards. Every command is answered, in order.
async fn ten_thousand(raw: Raw, between: impl AsyncFnOnce()) {
    const COUNT: usize = 10_000;
    let Raw { mut lines, bytes: mut to } = raw;
    let sending = tokio::spawn(async move {
        let all: String = (0..COUNT).map(|n| format!("n{n} NOOP\r\n")).collect();
        to.write_all(all.as_bytes()).await.unwrap();
        to.flush().await.unwrap();
        to
    });
    between().await;
    let mut next = 0;
    while next < COUNT {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).await.unwrap() > 0, "closed before n{next}");
        if !line.starts_with("* ") {
            assert!(line.starts_with(&format!("n{next} OK")), "n{next}: {line}");
            next += 1;
        }
    }
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_commands_at_once() {
    let rig = Rig::start().await;
    beside(&rig, async || {
        for at in [At::BeforeLogin, At::Selected] {
            ten_thousand(Raw::connect(&rig, at).await, async || {}).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read() {
    let rig = Rig::start().await;
    let body = [&b"Subject: big\r\n\r\n"[..], &vec![b'y'; 8 << 20]].concat();
    rig.platform("old").store().deliver("user1", "INBOX", &body).unwrap();
    let mut raw = Raw::connect(&rig, At::Selected).await;
    beside(&rig, async || {
        for n in 0..10 {
            raw.send(format!("f{n} UID FETCH 2 (BODY.PEEK[])\r\n").as_bytes()).await.unwrap();
        }
        // The proxy cannot pass on what the client does not take: others come and go meanwhile.
        for _ in 0..20 {
            let mut client = rig.client("user2").await;
            rig.append(&mut client).await.ok().unwrap();
            client.logout().await.unwrap();
        }
    })
    .await;
    // It reads after all, and has lost nothing.
    let said = raw.ends(b"q LOGOUT\r\n".to_vec(), 1).await;
    assert_eq!(said.matches('y').count() / (8 << 20), 10);
    assert!(said.contains("f9 OK") && said.contains("q OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends() {
    let rig = Rig::start_with("[limits]\nlogin = \"1s\"\nhandshake = \"1s\"\n").await;
    beside(&rig, async || {
        let mut mute = TcpStream::connect(rig.proxy.imaps()).await.unwrap();
        let mut slow = TcpStream::connect(rig.proxy.imaps()).await.unwrap();
        slow.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc").await.unwrap();
        let mut clear = TcpStream::connect(rig.proxy.clear()).await.unwrap();
        let secure = Raw::connect(&rig, At::BeforeLogin).await;
        for tcp in [&mut mute, &mut slow] {
            // Nothing that a client could read is said to a handshake that never came.
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        }
        let mut said = String::new();
        clear.read_to_string(&mut said).await.unwrap();
        said += &secure.ends(vec![], 0).await;
        assert_eq!(said.matches("* BYE").count(), 2, "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_during_a_hold() {
    let rig = Rig::start().await;
    let mut other = rig.client("user2").await;
    rig.append(&mut other).await.ok().unwrap();
    let mut raws = Vec::new();
    for _ in 0..5 {
        raws.push(Raw::connect(&rig, At::Selected).await);
    }
    let before = memory(&rig, "VmRSS");
    let fence = rig.stall("fence old readonly", When::Before);
    rig.cutover_until(fence.reached(1)).await;
    let (id, message) = rig.ledger.message(300);
    let tag = other.start_append("INBOX", &message).await.unwrap();

    let [endless, nul, cr, literal, many] = <[Raw; 5]>::try_from(raws).unwrap_or_else(|_| panic!("five"));
    assert!(endless.ends(vec![b'x'; 1 << 20], 64).await.contains("BAD line too long"));
    assert!(nul.ends(b"a NO\0OP\r\n".to_vec(), 1).await.contains("a BAD NUL"));
    assert!(cr.ends(b"a NOOP\rb\r\n".to_vec(), 1).await.contains("a BAD bare CR"));
    let huge = format!("a APPEND INBOX {{{HUGE}+}}\r\n").into_bytes();
    assert!(literal.ends(huge, 1).await.contains("a BAD Literal too large"));
    let knock = Client::connect(rig.proxy.imaps(), rig.security()).await;
    assert!(knock.is_ok(), "the greeting does not wait for the gate");
    ten_thousand(many, async || {
        rig.proxy.until(|status| status["held"].as_u64() > Some(1)).await.unwrap();
        fence.release();
    })
    .await;

    let reply = other.finish(&tag).await.unwrap();
    assert_eq!(reply.status, Status::Ok, "{reply:?}");
    rig.ledger.settle(&id, Fate::Acknowledged);
    let most = memory(&rig, "VmHWM");
    assert!(most < before + ROOM_KB, "{before} kB before, {most} kB at the most");
    let status = rig.proxy.until(|status| status["gate"] == "open").await.unwrap();
    rig.judge(status["active"].as_str().unwrap()).await;
}
