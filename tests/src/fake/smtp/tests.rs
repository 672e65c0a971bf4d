//! The doors for mail, seen by a strict client: what they promise, that faults come when asked for and that violations
//! are noticed.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Door, Options, Queue, Trust};
use crate::{
    client::{Error, Security, trusting},
    fake::{self, Fence, Platform, Reaction, Stall, Store, Tls, control},
    ledger::Ledger,
    smtp::{Client, Dialect, stuffed},
};

const FROM: &str = "someone@example.net";
const ANNA: &str = "anna@example.org";
const BOB: &str = "bob@example.org";
const MESSAGE: &[u8] = b"From: a@example.org\r\nSubject: dots\r\n\r\n.\r\n..two\r\n.one\r\nend\r\n";

fn store() -> Arc<Store> {
    let store = Store::new("secret");
    store.add_user("anna");
    store.add_user("bob");
    store
}

async fn platform(smtp: Options) -> Platform {
    let options = fake::Options { smtp: Some(smtp), transcripts: true, ..fake::Options::default() };
    Platform::start(store(), options).await.unwrap()
}

async fn default() -> Platform {
    platform(Options::default()).await
}

fn dialect(door: Door) -> Dialect {
    if door == Door::Lmtp { Dialect::Lmtp } else { Dialect::Smtp }
}

async fn ready(platform: &Platform, door: Door) -> Client {
    Client::ready(platform.door(door).unwrap(), Security::Plain, dialect(door)).await.unwrap()
}

/// The bodies in an INBOX.
fn inbox(platform: &Platform, user: &str) -> Vec<Vec<u8>> {
    platform.store().messages(user, "INBOX").into_iter().map(|m| m.body.to_vec()).collect()
}

fn violations(platform: &Platform) -> Vec<String> {
    platform.counters().violations
}

fn refusing(reply: &str) -> Reaction {
    Reaction { refuse: Some(reply.into()), ..Reaction::default() }
}

#[tokio::test]
async fn a_message_arrives_as_it_was_sent() {
    let bare = Options { keywords: Vec::new(), ..Options::default() };
    for options in [Options::default(), bare] {
        let chunking = options.shows("CHUNKING");
        let platform = platform(options).await;
        for (turn, door) in Door::MAIL.into_iter().enumerate() {
            let mut c = ready(&platform, door).await;
            if door == Door::Submission {
                c.auth_plain("anna", "secret", true).await.unwrap().ok().unwrap();
            }
            assert!(c.send(FROM, &[ANNA, BOB], MESSAGE).await.unwrap().accepted(), "{door:?}");
            if chunking {
                c.command(&format!("MAIL FROM:<{FROM}> BODY=BINARYMIME")).await.unwrap().ok().unwrap();
                c.command(&format!("RCPT TO:<{ANNA}>")).await.unwrap().ok().unwrap();
                c.chunk(&MESSAGE[..7], false).await.unwrap();
                assert_eq!(c.chunk(&MESSAGE[7..], true).await.unwrap()[0].code, 250);
            }
            c.quit().await.unwrap();
            let count = if chunking { 2 * (turn + 1) } else { turn + 1 };
            assert_eq!(inbox(&platform, "anna"), vec![MESSAGE.to_vec(); count]);
            assert_eq!(inbox(&platform, "bob"), vec![MESSAGE.to_vec(); turn + 1]);
        }
        assert_eq!(violations(&platform), [""; 0]);
        platform.connections(0).await;
    }
}

#[tokio::test]
async fn each_recipient_has_a_reply_of_its_own() {
    let platform = default().await;
    platform.react(&format!("DOT {BOB}"), refusing("452 4.2.2 full"));
    let mut c = ready(&platform, Door::Lmtp).await;
    let to = [ANNA, "nobody@example.org", BOB, "far@example.com", ANNA];
    let sent = c.send(FROM, &to, MESSAGE).await.unwrap();
    let codes = |replies: &[crate::smtp::Reply]| replies.iter().map(|r| r.code).collect::<Vec<_>>();
    assert_eq!(codes(&sent.rcpts), [250, 550, 250, 554, 250]);
    assert_eq!(codes(&sent.ends), [250, 452, 250]);
    assert_eq!(sent.acknowledged(&to), [ANNA, ANNA]);
    platform.react(&format!("RCPT {ANNA}"), refusing("451 4.2.0 later"));
    let sent = c.send(FROM, &[ANNA], MESSAGE).await.unwrap();
    assert_eq!((sent.rcpts[0].code, sent.data.code, sent.ends.len()), (451, 503, 0));
    assert_eq!((inbox(&platform, "anna").len(), inbox(&platform, "bob").len()), (2, 0));
    assert_eq!(platform.accepted().len(), 2);
    assert_eq!(violations(&platform), [""; 0]);
}

#[tokio::test]
async fn a_sender_logs_in() {
    let platform = default().await;
    let start = async || ready(&platform, Door::Submission).await;
    let mut c = start().await;
    assert_eq!(c.send(FROM, &[ANNA], MESSAGE).await.unwrap().mail.code, 530);
    assert_eq!(c.auth_plain("anna", "wrong", true).await.unwrap().code, 535);
    assert_eq!(c.auth_plain("anna", "secret", false).await.unwrap().code, 235);
    assert_eq!(c.hello().await.unwrap().lines.len(), 9, "AUTH is not shown again");
    assert!(c.send(FROM, &["far@example.com"], MESSAGE).await.unwrap().accepted());
    assert_eq!(start().await.auth_login("anna", "secret").await.unwrap().code, 235);
    assert_eq!(start().await.auth_login("anna", "wrong").await.unwrap().code, 535);
    assert_eq!(start().await.auth_xoauth2("anna", "secret").await.unwrap().code, 235);
    assert_eq!(start().await.auth_xoauth2("anna", "wrong").await.unwrap().code, 535);
    assert_eq!(platform.accepted()[0].peer.user.as_deref(), Some("anna"));
    assert_eq!(platform.counters().logins["anna"], 3);
    assert_eq!(violations(&platform), [""; 0]);

    let mut before = start().await;
    platform.fence(Fence::Refuse).await.unwrap();
    assert_eq!(before.auth_plain("anna", "secret", true).await.unwrap().code, 454);
    let refused =
        Client::connect(platform.door(Door::Submission).unwrap(), Security::Plain, Dialect::Smtp).await;
    assert!(matches!(refused, Err(Error::Closed(Some(_)))), "{refused:?}");
}

#[tokio::test]
async fn sessions_inside_tls() {
    let authority = bascule_certs::testing::Authority::new();
    let server = authority.issue(&["localhost"]).serving().unwrap();
    let client = trusting(&authority.pem()).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    for (tls, security) in [
        (Tls::Implicit(server.clone()), Security::Tls(client.clone(), name.clone())),
        (Tls::Starttls(server.clone()), Security::Starttls(client.clone(), name.clone())),
    ] {
        let options = fake::Options { tls, smtp: Some(Options::default()), ..fake::Options::default() };
        let platform = Platform::start(store(), options).await.unwrap();
        for door in Door::MAIL {
            let address = platform.door(door).unwrap();
            let mut c = Client::ready(address, security.clone(), dialect(door)).await.unwrap();
            assert_eq!(c.oracle().shows("AUTH"), door == Door::Submission);
            if door == Door::Submission {
                c.auth_plain("anna", "secret", true).await.unwrap().ok().unwrap();
            }
            let large = [b"Subject: large\r\n\r\n".as_slice(), &b"0123456789\r\n".repeat(20_000)].concat();
            assert!(c.send(FROM, &[ANNA], &large).await.unwrap().accepted());
            c.quit().await.unwrap();
        }
        assert!(platform.accepted().iter().all(|m| m.peer.tls));
        assert_eq!(violations(&platform), [""; 0]);
    }
}

#[tokio::test]
async fn mail_for_elsewhere_is_refused_unless_the_relay_is_open() {
    let far = async |c: &mut Client| c.send(FROM, &["far@example.com"], MESSAGE).await.unwrap().rcpts[0].code;
    let platform_with =
        async |options: Options| platform(Options { xclient: Trust::Honoured, ..options }).await;
    let closed = platform_with(Options::default()).await;
    assert_eq!(far(&mut ready(&closed, Door::Relay).await).await, 554);
    let open = platform_with(Options { open_relay: true, ..Options::default() }).await;
    assert_eq!(far(&mut ready(&open, Door::Relay).await).await, 250);
    // The trap: the address of the proxy is trusted, and nobody says who the client is.
    let networks = vec!["127.0.0.1".parse().unwrap()];
    let trusting = platform_with(Options { networks, ..Options::default() }).await;
    let mut c = ready(&trusting, Door::Relay).await;
    assert_eq!(far(&mut c).await, 250);
    c.command("RSET").await.unwrap();
    c.command("XCLIENT ADDR=203.0.113.7 PORT=50344").await.unwrap().ok().unwrap();
    c.hello().await.unwrap();
    assert_eq!(far(&mut c).await, 554);
}

#[tokio::test]
async fn who_the_client_is_can_be_said() {
    let platform =
        platform(Options { xclient: Trust::Honoured, xforward: Trust::Honoured, ..Options::default() }).await;
    let mut c = ready(&platform, Door::Submission).await;
    let said = "XCLIENT ADDR=IPV6:2001:db8::7 PORT=50344 HELO=laptop LOGIN=anna PROTO=ESMTP";
    assert_eq!(c.command(said).await.unwrap().code, 220);
    c.hello().await.unwrap();
    c.command("XFORWARD IDENT=txn-1 NAME=x.test").await.unwrap().ok().unwrap();
    assert!(c.send(FROM, &[ANNA], MESSAGE).await.unwrap().accepted());
    assert!(c.send(FROM, &[ANNA], MESSAGE).await.unwrap().accepted());
    let [first, second] = &platform.accepted()[..] else { panic!("two") };
    assert_eq!(first.peer.address, "[2001:db8::7]:50344".parse().unwrap());
    assert_eq!((first.peer.hello.as_str(), first.peer.user.as_deref()), ("laptop", Some("anna")));
    assert_eq!(first.peer.xforward["IDENT"], "txn-1");
    assert!(second.peer.xforward.is_empty(), "XFORWARD is for one transaction");
    assert_eq!(violations(&platform), [""; 0]);
    platform.reconfigure(|o| o.smtp = Some(Options { xclient: Trust::Refused, ..Options::default() }));
    assert_eq!(
        ready(&platform, Door::Relay).await.command("XCLIENT ADDR=203.0.113.7").await.unwrap().code,
        550
    );
    drop(c);
    platform.reconfigure(|o| o.smtp = Some(Options { proxy_v2: true, ..Options::default() }));
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 7, 192, 0, 2, 1, 0, 80, 0, 25]);
    let mail = format!("EHLO me\r\n|MAIL FROM:<>\r\nRCPT TO:<{ANNA}>\r\nDATA\r\n|.\r\n");
    converse(&platform, &header, &mail).await;
    let last = platform.accepted().pop().unwrap();
    assert_eq!(last.peer.address, "203.0.113.7:80".parse().unwrap());
    assert_eq!(violations(&platform), [""; 0]);
    converse(&platform, b"EHLO I am not a proxy\r\n", "").await;
    assert_eq!(violations(&platform).len(), 1);
}

#[tokio::test]
async fn a_death_comes_at_the_byte_that_was_asked_for() {
    let platform = default().await;
    let wire = stuffed(MESSAGE);
    for door in [Door::Relay, Door::Lmtp] {
        for at in [0, 1, wire.len() / 2, wire.len()] {
            let reaction = Reaction { at: Some(at), drop: true, times: Some(1), ..Reaction::default() };
            platform.react("BODY", reaction);
            let died = ready(&platform, door).await.send(FROM, &[ANNA], MESSAGE).await;
            assert!(matches!(died, Err(Error::Closed(None))), "{at}: {died:?}");
        }
        platform.react("DOT", Reaction { drop: true, times: Some(1), ..Reaction::default() });
        assert!(ready(&platform, door).await.send(FROM, &[ANNA], MESSAGE).await.is_err());
    }
    let chunk = Reaction { at: Some(5), drop: true, times: Some(1), ..Reaction::default() };
    platform.react("BODY", chunk);
    let mut c = ready(&platform, Door::Relay).await;
    c.pipeline(&[&format!("MAIL FROM:<{FROM}>"), &format!("RCPT TO:<{ANNA}>")]).await.unwrap();
    assert!(c.chunk(MESSAGE, true).await.is_err());
    assert!(inbox(&platform, "anna").is_empty(), "nothing of that was accepted");

    platform.react("DOT", Reaction { cut: Some(0), times: Some(1), ..Reaction::default() });
    assert!(ready(&platform, Door::Relay).await.send(FROM, &[ANNA], MESSAGE).await.is_err());
    assert_eq!(inbox(&platform, "anna").len(), 1, "accepted, and nobody was told");
    for verb in ["GREETING", "EHLO", "MAIL", "RCPT", "DATA"] {
        platform.react(verb, Reaction { drop: true, times: Some(1), ..Reaction::default() });
        let attempt = async {
            let address = platform.door(Door::Relay).unwrap();
            let mut c = Client::ready(address, Security::Plain, Dialect::Smtp).await?;
            c.send(FROM, &[ANNA], MESSAGE).await
        };
        assert!(matches!(attempt.await, Err(Error::Closed(None))), "{verb}");
    }
    assert_eq!(inbox(&platform, "anna").len(), 1);
    assert_eq!(violations(&platform), [""; 0]);
}

#[tokio::test]
async fn a_death_after_some_of_the_replies() {
    let platform = default().await;
    platform.react(&format!("DOT {BOB}"), Reaction { drop: true, ..Reaction::default() });
    let mut c = ready(&platform, Door::Lmtp).await;
    c.begin(FROM, &[ANNA, BOB, ANNA]).await.unwrap();
    c.write(&stuffed(MESSAGE)).await.unwrap();
    c.dot().await.unwrap();
    assert_eq!(c.finish().await.unwrap().code, 250);
    assert!(matches!(c.finish().await, Err(Error::Closed(None))));
    assert_eq!((inbox(&platform, "anna").len(), inbox(&platform, "bob").len()), (1, 0));
}

#[tokio::test]
async fn stalls_before_and_after_the_effect() {
    let platform = default().await;
    let (body, answer) = (Stall::default(), Stall::default());
    platform.react("BODY", Reaction { at: Some(10), stall: Some(body.clone()), ..Reaction::default() });
    platform.react("DOT", Reaction { withhold: Some(answer.clone()), ..Reaction::default() });
    let mut c = ready(&platform, Door::Relay).await;
    c.begin(FROM, &[ANNA]).await.unwrap();
    c.write(&stuffed(MESSAGE)).await.unwrap();
    c.dot().await.unwrap();
    body.reached(1).await;
    assert!(platform.accepted().is_empty());
    body.release();
    answer.reached(1).await;
    assert_eq!(inbox(&platform, "anna").len(), 1);
    answer.release();
    assert_eq!(c.ends().await.unwrap()[0].code, 250);
}

#[tokio::test]
async fn nothing_is_accepted_behind_a_fence_unless_it_leaks() {
    let platform = default().await;
    for door in [Door::Relay, Door::Lmtp] {
        let mut c = ready(&platform, door).await;
        c.begin(FROM, &[ANNA]).await.unwrap();
        platform.fence(Fence::ReadOnly).await.unwrap();
        assert_eq!(c.content(MESSAGE).await.unwrap()[0].code, 451);
        assert_eq!(c.send(FROM, &[ANNA], MESSAGE).await.unwrap().mail.code, 451);
        platform.leak(true);
        assert!(c.send(FROM, &[ANNA], MESSAGE).await.unwrap().accepted());
        platform.leak(false);
        platform.fence(Fence::Stop).await.unwrap();
        assert!(matches!(c.command("NOOP").await, Err(Error::Closed(None))));
        assert!(Client::connect(platform.door(door).unwrap(), Security::Plain, dialect(door)).await.is_err());
        platform.fence(Fence::Off).await.unwrap();
        assert!(ready(&platform, door).await.send(FROM, &[ANNA], MESSAGE).await.unwrap().accepted());
    }
    assert_eq!(inbox(&platform, "anna").len(), 4);
    assert_eq!(violations(&platform), [""; 0]);
}

#[tokio::test]
async fn a_queue_survives_or_does_not() {
    let platform = default().await;
    let send =
        async || ready(&platform, Door::Relay).await.send(FROM, &[ANNA], MESSAGE).await.unwrap().accepted();
    platform.hold_queue(true);
    assert!(send().await);
    assert_eq!((platform.queue().len(), inbox(&platform, "anna").len()), (1, 0));
    platform.die(Queue::Kept).await;
    platform.hold_queue(false);
    assert_eq!((platform.queue().len(), inbox(&platform, "anna").len()), (1, 0), "the dead deliver nothing");
    platform.resume().await.unwrap();
    assert_eq!((platform.queue().len(), inbox(&platform, "anna").len()), (0, 1));
    platform.hold_queue(true);
    assert!(send().await);
    platform.fence(Fence::ReadOnly).await.unwrap();
    platform.hold_queue(false);
    assert_eq!(platform.queue().len(), 1, "nor do those who may not write");
    platform.fence(Fence::Off).await.unwrap();
    assert_eq!(inbox(&platform, "anna").len(), 2);
    platform.hold_queue(true);
    assert!(send().await);
    platform.die(Queue::Lost).await;
    platform.resume().await.unwrap();
    platform.hold_queue(false);
    assert_eq!((inbox(&platform, "anna").len(), platform.accepted().len()), (2, 3));
}

#[tokio::test]
async fn what_no_good_client_does_is_noticed() {
    let platform = default().await;
    let open = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANNA}>\r\n");
    let content = |body: &str| format!("{open}DATA\r\n|{body}\r\n.\r\n");
    let rows = [
        ("NOOP\n", "CRLF"),
        ("MAIL FROM:<a\rb>\r\n", "CRLF"),
        ("RCPT TO:<anna@example.org>\r\n", "RCPT at"),
        ("DATA\r\n", "DATA at"),
        (".\r\n", "no such command: ."),
        ("STARTTLS\r\n|", ""),
        ("AUTH PLAIN x\r\n", "AUTH at"),
        ("XCLIENT ADDR=203.0.113.7\r\n", "no such command: XCLIENT"),
        ("NOOP\r\nNOOP\r\n", "bytes behind NOOP"),
        ("BDAT x LAST\r\n", "BDAT x"),
        ("BDAT 0 LAST\r\n", "BDAT at"),
        ("MAIL FROM:anna\r\n", "not FROM:<path>"),
        ("MAIL FROM:<> MT-PRIORITY=3\r\n", "MT-PRIORITY was not offered"),
        ("LHLO me\r\n", "LHLO"),
        (&format!("{open}|MAIL FROM:<>\r\n"), "MAIL at"),
        (&format!("{open}|BDAT 2\r\nab|DATA\r\n"), "DATA where"),
        ("MAIL FROM:<>\r\n|RCPT TO:<nobody@example.org>\r\n|BDAT 2\r\nab|MAIL FROM:<>\r\n", "MAIL at"),
        ("MAIL FROM:<>\r\n|RCPT TO:<nobody@example.org>\r\n|BDAT 2 LAST\r\nab|MAIL FROM:<>\r\n", ""),
        (&format!("{open}DATA\r\nearly\r\n.\r\n"), "bytes behind DATA"),
        (&content("a\nb"), "a bare LF"),
        (&content("a\rb"), "a bare CR"),
        (&content("a\r\n.\nb"), "a bare LF"),
        (&content("a\n.\r\nQUIT"), "a bare LF"),
        (&content(".one"), "a dot that was not doubled"),
        (&content("fine"), ""),
    ];
    for (bytes, violation) in rows {
        let before = violations(&platform).len();
        converse(&platform, b"", &format!("EHLO me\r\n|{bytes}")).await;
        let new = violations(&platform).split_off(before);
        match violation {
            "" => assert_eq!(new, [""; 0], "{bytes:?}"),
            _ => assert!(new.iter().any(|v| v.contains(violation)), "{bytes:?}: {new:?}"),
        }
    }
}

/// Says these parts to the relay, each when every line of the one before it has its reply, and hears it out.
async fn converse(platform: &Platform, header: &[u8], parts: &str) {
    let mut stream = TcpStream::connect(platform.door(Door::Relay).unwrap()).await.unwrap();
    stream.write_all(header).await.unwrap();
    let (mut heard, mut due) = (String::new(), 1);
    // Nothing before the greeting.
    let mut parts = std::iter::once("").chain(parts.split('|')).peekable();
    while let Some(part) = parts.next() {
        stream.write_all(part.as_bytes()).await.unwrap();
        due += part.matches("\r\n").count();
        let replies = |heard: &str| heard.lines().filter(|l| l.as_bytes().get(3) == Some(&b' ')).count();
        while parts.peek().is_some() && replies(&heard) < due {
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_err() {
                return platform.connections(0).await;
            }
            heard.push(char::from(byte[0]));
        }
    }
    stream.shutdown().await.unwrap();
    // A server that hangs up on what it does not like may do it with a reset.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    platform.connections(0).await;
}

#[tokio::test]
async fn the_client_notices_what_no_good_server_does() {
    let platform = default().await;
    let once = |reaction: Reaction| Reaction { times: Some(1), ..reaction };
    for raw in [
        "250 2.0.0 twice\r\n",
        "250-2.0.0 a\r\n251 2.0.0 b\r\n",
        "250 no code\r\n",
        "nonsense\r\n",
        "250 2.0.0 x\n",
    ] {
        let mut c = ready(&platform, Door::Relay).await;
        platform.react("NOOP", once(Reaction { raw: Some(raw.into()), ..Reaction::default() }));
        let first = c.command("NOOP").await;
        let second = if first.is_ok() { c.command("NOOP").await.and(c.command("QUIT").await) } else { first };
        assert!(second.is_err(), "{raw:?}");
    }
    let mut c = ready(&platform, Door::Relay).await;
    platform.say("421 4.3.2 fake.bascule.test going down", true);
    assert_eq!(c.closed().await.unwrap().unwrap(), "421 4.3.2 fake.bascule.test going down");
}

#[tokio::test]
async fn a_pair_opens_doors_for_mail() {
    let options = fake::Options { smtp: Some(Options::default()), ..fake::Options::default() };
    let pair =
        control::Pair::replicated(["old", "new"], [store(), store()], Duration::ZERO, options).await.unwrap();
    let obey = async |order: &str| pair.obey(order).await;
    let old = obey("address old relay").await.text.parse().unwrap();
    assert_eq!((obey("hold-queue old on").await.code, obey("address old window").await.code), (0, 1));
    let mut c = Client::ready(old, Security::Plain, Dialect::Smtp).await.unwrap();
    assert!(c.send(FROM, &[ANNA], MESSAGE).await.unwrap().accepted());
    let queue: serde_json::Value = serde_json::from_str(&obey("queue old").await.text).unwrap();
    assert_eq!(queue["recipients"][0]["address"], ANNA);
    assert_eq!(obey("hold-queue old off").await.code, 0);
    pair.replication("old").unwrap().drained().await;
    assert_eq!(inbox(pair.platform("new").unwrap(), "anna").len(), 1);
    let new = pair.platform("new").unwrap();
    assert_eq!(ready(new, Door::Lmtp).await.send(FROM, &[ANNA], MESSAGE).await.unwrap().mail.code, 451);
    assert_eq!(obey("die old lost").await.code, 0);
    assert!(c.command("NOOP").await.is_err());
}

#[tokio::test]
async fn the_ledger_counts_what_each_recipient_has() {
    let platform = default().await;
    let ledger = Ledger::default();
    let to = [ANNA, BOB, "nobody@example.org"];
    platform.react(&format!("DOT {BOB}"), Reaction { times: Some(1), ..refusing("452 4.2.2 full") });
    for door in [Door::Lmtp, Door::Relay] {
        let (id, message) = ledger.mail(5000, &to);
        let sent = ready(&platform, door).await.send(FROM, &to, &message).await.unwrap();
        ledger.record(&id, &to, &sent);
    }
    let mail = || platform.store().mail().into_iter().map(|(user, body)| (user + "@example.org", body));
    let verdict = ledger.judge_mail(mail());
    assert!(verdict.clean(), "{verdict:?}");
    assert_eq!((verdict.acknowledged, verdict.refused), (3, 3));
    platform.store().deliver("bob", "INBOX", &platform.accepted()[0].body);
    assert_eq!(ledger.judge_mail(mail()).phantom.len(), 1);
}
