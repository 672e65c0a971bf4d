//! The scenarios of the semantics for SMTP and LMTP, named after their numbers.
//!
//! Rule: where a crash is meant, the backend dies and comes back at once, as another server of its pool would take over.

use bascule_tests::{
    client::Security,
    fake::{
        Options, Reaction, Stall,
        smtp::{Door, Queue, Trust},
    },
    smtp::{Client, Dialect, Reply, stuffed},
};
use rustix::process::Signal;

use super::{
    super::rig::{BARRIER, through},
    ALICE, BOB, CAROL, FROM, PASSWORD, Plan, Rig, USERS,
};

fn codes(replies: &[Reply]) -> Vec<u16> {
    replies.iter().map(|r| r.code).collect()
}

async fn rig(lines: &'static str) -> Rig {
    Plan::replicated().mail("xclient", lines).start(USERS).await
}

/// Sends a whole message that must be accepted, by steps that a test may interrupt.
async fn envelope(client: &mut Client, to: &[&str]) {
    let mail = format!("MAIL FROM:<{FROM}>");
    let rcpts: Vec<String> = to.iter().map(|to| format!("RCPT TO:<{to}>")).collect();
    for line in std::iter::once(&mail).chain(&rcpts) {
        client.command(line).await.unwrap().ok().unwrap();
    }
}

#[tokio::test]
async fn scenario_91_the_next_message_is_the_new_pools_which_knows_the_client() {
    let rig = rig("").await;
    let mut client = rig.mailer(Door::Submission).await;
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    client.keep_transcript();
    rig.cutover("new").await;
    assert_eq!(client.transcript(), b"");
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    let [old, new] = rig.accepted();
    for message in [&old, &new] {
        assert_eq!(message.len(), 1);
        assert_eq!((message[0].peer.address, message[0].peer.user.as_deref()), (client.local(), Some(ALICE)));
    }
    rig.all_told().await;
}

#[tokio::test]
async fn scenario_92_an_envelope_outlives_its_backend() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let (id, message) = rig.ledger.mail(1000, &[ALICE, BOB]);
        envelope(&mut client, &[ALICE, BOB]).await;
        rig.old_pool().die(Queue::Kept).await;
        client.start("DATA").await.unwrap();
        rig.old_pool().resume().await.unwrap();
        assert_eq!(client.finish().await.unwrap().code, 354);
        assert!(client.content(&message).await.unwrap().iter().all(|r| r.code == 250));
        assert_eq!([ALICE, BOB].map(|to| rig.copies(&id, to)), [1, 1], "{door:?}");
    }
    rig.delivered().await;
}

#[tokio::test]
async fn scenario_93_one_recipient_less_is_451_and_nothing_is_delivered() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        envelope(&mut client, &[ALICE, BOB]).await;
        rig.old_pool().die(Queue::Kept).await;
        let gone = Reaction { refuse: Some("550 5.1.1 gone".into()), ..Reaction::default() };
        rig.old_pool().react(&format!("RCPT {BOB}"), gone);
        client.start("DATA").await.unwrap();
        rig.old_pool().resume().await.unwrap();
        assert_eq!(client.finish().await.unwrap().code, 451);
        rig.old_pool().calm();
        assert!(rig.mail(&mut client, &[ALICE], 100).await);
    }
    assert_eq!(rig.accepted()[0].len(), 3, "only the second messages");
    rig.all_told().await;
}

#[tokio::test]
async fn scenario_94_20_mb_half_sent() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let (id, message) = rig.ledger.mail(20_000_000, &[ALICE]);
        client.begin(FROM, &[ALICE]).await.unwrap();
        let wire = stuffed(&message);
        let (first, second) = wire.split_at(wire.len() / 2);
        client.write(first).await.unwrap();
        rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes >= first.len() as f64).await;
        let before = rig.old_pool().counters().accepted;
        rig.old_pool().cut();
        rig.proxy.until(|_| rig.old_pool().counters().accepted > before).await.unwrap();
        client.write(second).await.unwrap();
        client.dot().await.unwrap();
        assert_eq!(codes(&client.ends().await.unwrap()), [250], "{door:?}");
        assert_eq!(rig.copies(&id, ALICE), 1);
    }
    rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes == 0.0).await;
    rig.delivered().await;
}

#[tokio::test]
async fn scenario_95_a_dot_that_waits_at_the_gate_is_the_new_pools_alone() {
    let rig = rig("").await;
    let mut clients = Vec::new();
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        client.begin(FROM, &[ALICE]).await.unwrap();
        let (id, message) = rig.ledger.mail(1000, &[ALICE]);
        client.write(&stuffed(&message)).await.unwrap();
        clients.push((client, id));
    }
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    for (client, _) in &mut clients {
        client.dot().await.unwrap();
    }
    rig.held(3).await;
    barrier.release();
    for (client, id) in &mut clients {
        assert_eq!(codes(&client.ends().await.unwrap()), [250]);
        assert_eq!(rig.copies(id, ALICE), 1);
    }
    through(cutover.end().await);
    let [old, new] = rig.accepted();
    assert_eq!((old.len(), new.len()), (0, 3));
    rig.delivered().await;
}

#[tokio::test]
async fn scenario_96_two_copies_in_two_queues_are_one_in_the_mailbox() {
    let named = |options: &mut Options| options.smtp.as_mut().unwrap().xforward = Trust::Honoured;
    let plan = Plan::replicated().platforms(named, named);
    let rig = plan.mail("xclient", "ambiguous = \"replay\"").start(USERS).await;
    // What the servers accept is for their queues, which deliver through the proxy.
    rig.old_pool().hold_queue(true);
    let unanswered = Reaction { cut: Some(0), times: Some(1), ..Reaction::default() };
    rig.old_pool().react("SUBMISSION DOT", unanswered);
    let mut client = rig.mailer(Door::Submission).await;
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    let queue = rig.old_pool().queue();
    let [first, second] = &queue[..] else { panic!("two copies: {queue:?}") };
    let name = &first.peer.xforward["IDENT"];
    assert_eq!(name, &second.peer.xforward["IDENT"], "they have one name");
    for message in [first, second] {
        let mut server = rig.mailer(Door::Lmtp).await;
        server.command(&format!("XFORWARD IDENT={name}")).await.unwrap().ok().unwrap();
        assert!(server.send(FROM, &[BOB], &message.body).await.unwrap().accepted());
    }
    let verdict = rig.ledger.judge_mail(rig.old_pool().store().mail());
    assert!(verdict.clean() && verdict.acknowledged == 1, "{verdict:?}");
}

/// A server that delivers to one recipient at a time, or comes again for one that was told to wait.
#[tokio::test]
async fn two_recipients_of_one_message_get_it_one_after_the_other() {
    let rig = Plan::replicated().mail("none", "").start(USERS).await;
    let (id, message) = rig.ledger.mail(100, &[ALICE, BOB]);
    for recipient in [ALICE, BOB] {
        let mut server = rig.mailer(Door::Lmtp).await;
        server.command("XFORWARD IDENT=4Xy1").await.unwrap().ok().unwrap();
        let sent = server.send(FROM, &[recipient], &message).await.unwrap();
        assert!(sent.accepted());
        rig.ledger.record(&id, &[recipient], &sent);
    }
    assert_eq!(rig.all_told().await.acknowledged, 2);
}

#[tokio::test]
async fn scenario_97_doubt_is_451_and_the_retry_is_the_new_pools() {
    let rig = rig("ambiguous = \"tempfail\"").await;
    let died = Reaction { drop: true, times: Some(1), ..Reaction::default() };
    rig.old_pool().react("DOT", died);
    let mut client = rig.mailer(Door::Relay).await;
    let (id, message) = rig.ledger.mail(1000, &[ALICE]);
    assert_eq!(codes(&client.send(FROM, &[ALICE], &message).await.unwrap().ends), [451]);
    rig.cutover("new").await;
    let sent = client.send(FROM, &[ALICE], &message).await.unwrap();
    rig.ledger.record(&id, &[ALICE], &sent);
    assert_eq!(rig.all_told().await.acknowledged, 1);
    assert_eq!(rig.accepted()[1].len(), 1);
}

#[tokio::test]
async fn scenario_98_a_crash_after_the_second_of_three_chunks() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let (id, message) = rig.ledger.mail(3000, &[ALICE]);
        envelope(&mut client, &[ALICE]).await;
        for chunk in [&message[..1000], &message[1000..2000]] {
            assert_eq!(codes(&client.chunk(chunk, false).await.unwrap()), [250]);
        }
        rig.old_pool().die(Queue::Kept).await;
        client.start_chunk(&message[2000..], true).await.unwrap();
        rig.old_pool().resume().await.unwrap();
        assert_eq!(codes(&client.ends().await.unwrap()), [250]);
        assert_eq!(rig.copies(&id, ALICE), 1);
    }
    rig.delivered().await;
}

#[tokio::test]
async fn scenario_99_what_one_pool_does_not_know_is_never_shown() {
    let lacks = |options: &mut Options| {
        options.smtp.as_mut().unwrap().keywords.retain(|keyword| keyword != "CHUNKING" && keyword != "DSN");
    };
    let rig = Plan::replicated().platforms(|_| {}, lacks).mail("none", "").start(USERS).await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        for word in ["CHUNKING", "BINARYMIME", "DSN", "XCLIENT"] {
            assert!(!client.oracle().shows(word), "{door:?} {word}");
        }
        assert!(client.oracle().shows("8BITMIME"));
        let mail = format!("MAIL FROM:<{FROM}>");
        assert_eq!(client.command(&format!("{mail} BODY=BINARYMIME")).await.unwrap().code, 555);
        client.command(&mail).await.unwrap().ok().unwrap();
        assert_eq!(client.command(&format!("RCPT TO:<{ALICE}> NOTIFY=NEVER")).await.unwrap().code, 555);
        client.command(&format!("RCPT TO:<{ALICE}>")).await.unwrap().ok().unwrap();
        assert_eq!(codes(&client.chunk(b"MAIL FROM:<a>\r\n", true).await.unwrap()), [502]);
        client.command("RSET").await.unwrap().ok().unwrap();
        rig.mail(&mut client, &[ALICE], 100).await;
    }
    rig.all_told().await;
}

#[tokio::test]
async fn scenario_100_recipients_that_were_answered_are_not_delivered_to_again() {
    for (lines, last, copies) in [("ambiguous = \"replay\"", 250, 1), ("ambiguous = \"tempfail\"", 451, 0)] {
        let rig = rig(lines).await;
        let died = Reaction { drop: true, times: Some(1), ..Reaction::default() };
        rig.old_pool().react(&format!("DOT {CAROL}"), died);
        let mut client = rig.mailer(Door::Lmtp).await;
        let to = [ALICE, BOB, CAROL];
        let (id, message) = rig.ledger.mail(1000, &to);
        let sent = client.send(FROM, &to, &message).await.unwrap();
        assert_eq!(codes(&sent.ends), [250, 250, last]);
        assert_eq!(to.map(|to| rig.copies(&id, to)), [1, 1, copies]);
        rig.ledger.record(&id, &to, &sent);
        rig.all_told().await;
    }
}

#[tokio::test]
async fn scenario_103_the_end_in_pieces_is_one_end() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        for pieces in [
            &["\r", "\n.\r\n"][..],
            &["\r\n", ".", "\r\n"],
            &["\r\n.", "\r", "\n"],
            &["\r", "\n", ".", "\r", "\n"],
        ] {
            client.begin(FROM, &[ALICE]).await.unwrap();
            client.write(b"text").await.unwrap();
            client.announce("DOT");
            for piece in pieces {
                client.write(piece.as_bytes()).await.unwrap();
                // A round trip between two of them, so that they come by themselves.
                rig.proxy.status().await.unwrap();
            }
            assert_eq!(codes(&client.ends().await.unwrap()), [250]);
        }
    }
    assert!(rig.accepted()[0].iter().all(|m| &*m.body == b"text\r\n"));
    assert_eq!(rig.accepted()[0].len(), 12);
    rig.delivered().await;
}

#[tokio::test]
async fn scenario_104_the_next_message_behind_a_dot_that_is_held() {
    let rig = rig("").await;
    let mut clients = Vec::new();
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        client.begin(FROM, &[ALICE]).await.unwrap();
        clients.push(client);
    }
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    for client in &mut clients {
        ["DOT", "MAIL", "RCPT", "DATA"].iter().for_each(|verb| client.announce(verb));
        let wire = format!("first\r\n.\r\nMAIL FROM:<{FROM}>\r\nRCPT TO:<{BOB}>\r\nDATA\r\n");
        client.write(wire.as_bytes()).await.unwrap();
    }
    rig.held(3).await;
    barrier.release();
    for client in &mut clients {
        assert_eq!(codes(&client.ends().await.unwrap()), [250]);
        for code in [250, 250, 354] {
            assert_eq!(client.finish().await.unwrap().code, code);
        }
        assert_eq!(codes(&client.content(b"second").await.unwrap()), [250]);
    }
    through(cutover.end().await);
    let bodies: Vec<_> =
        rig.accepted()[1].iter().map(|m| (m.recipients[0].clone(), m.body.to_vec())).collect();
    for (to, body) in [(ALICE, "first\r\n"), (BOB, "second\r\n")] {
        assert_eq!(bodies.iter().filter(|m| **m == (to.to_owned(), body.as_bytes().to_vec())).count(), 3);
    }
    rig.delivered().await;
}

#[tokio::test]
async fn scenario_105_a_login_in_the_hold_is_answered_by_the_winner() {
    let rig = rig("").await;
    let connect = async || {
        let security = rig.proxy.tls().unwrap();
        Client::ready(rig.proxy.submissions(), security, Dialect::Smtp).await.unwrap()
    };
    let (mut right, mut wrong) = (connect().await, connect().await);
    // This one is asked while the gate shuts.
    let stall = Stall::default();
    rig.old_pool()
        .react("AUTH", Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() });
    let mut early = connect().await;
    early.start(&plain(PASSWORD)).await.unwrap();
    stall.reached(1).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    right.start(&plain(PASSWORD)).await.unwrap();
    wrong.start(&plain("wrong")).await.unwrap();
    rig.held(3).await;
    barrier.release();
    assert_eq!(right.finish().await.unwrap().code, 235);
    assert_eq!(early.finish().await.unwrap().code, 235);
    assert_eq!(wrong.finish().await.unwrap().code, 535, "what the winner says");
    through(cutover.end().await);
    stall.release();
    assert_eq!(rig.new_pool().counters().logins.get(ALICE), Some(&2));
    assert_eq!(rig.old_pool().counters().logins.get(ALICE), None);
    for client in [&mut right, &mut early] {
        assert!(rig.mail(client, &[BOB], 100).await);
    }
    rig.all_told().await;
}

fn plain(password: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{ALICE}\0{password}")))
}

#[tokio::test]
async fn scenario_106_an_idle_session_is_told_421_when_the_proxy_goes() {
    let rig = rig("").await;
    let mut clients = Vec::new();
    for door in Door::MAIL {
        clients.push(rig.mailer(door).await);
    }
    rig.proxy.signal(Signal::TERM).unwrap();
    for client in &mut clients {
        let farewell = client.closed().await.unwrap().unwrap();
        assert!(farewell.starts_with("421 4.3.2 "), "{farewell}");
    }
}

/// 421 for a message that was taken would bring it twice.
#[tokio::test]
async fn an_answer_that_is_on_its_way_comes_before_the_421() {
    for door in Door::MAIL {
        let rig = rig("").await;
        let stall = Stall::default();
        rig.old_pool().react("DOT", Reaction { withhold: Some(stall.clone()), ..Reaction::default() });
        let mut client = rig.mailer(door).await;
        let mut idle = [rig.mailer(Door::Relay).await, rig.mailer(Door::Relay).await];
        let (id, message) = rig.ledger.mail(100, &[BOB]);
        let ends = async {
            stall.reached(1).await;
            rig.proxy.signal(Signal::TERM).unwrap();
            for client in &mut idle {
                client.closed().await.unwrap();
            }
            stall.release();
        };
        let (sent, ()) = tokio::join!(client.send(FROM, &[BOB], &message), ends);
        rig.ledger.record(&id, &[BOB], &sent.unwrap());
        let farewell = client.closed().await.unwrap().unwrap();
        assert!(farewell.starts_with("421 4.3.2 "), "{farewell}");
        let verdict = rig.ledger.judge_mail(rig.old_pool().store().mail());
        assert!(verdict.clean() && verdict.acknowledged == 1, "{door:?} {verdict:?}");
    }
}

#[tokio::test]
async fn scenario_107_the_lowest_size_before_and_after() {
    let small = |options: &mut Options| {
        let mail = options.smtp.as_mut().unwrap();
        mail.keywords.retain(|keyword| !keyword.starts_with("SIZE"));
        mail.keywords.push("SIZE 5000".into());
        mail.size = 5000;
    };
    let rig = Plan::replicated().platforms(|_| {}, small).mail("none", "").start(USERS).await;
    let ask = async || {
        let client = Client::ready(rig.proxy.smtp(), Security::Plain, Dialect::Smtp).await.unwrap();
        client.oracle().parameter("SIZE").map(String::from)
    };
    assert_eq!(ask().await.as_deref(), Some("5000"));
    for to in ["new", "old"] {
        for door in Door::MAIL {
            let mut client = rig.mailer(door).await;
            assert_eq!(client.oracle().parameter("SIZE"), Some("5000"), "{door:?}");
            assert_eq!(client.command(&format!("MAIL FROM:<{FROM}> SIZE=5001")).await.unwrap().code, 552);
            assert!(!rig.mail(&mut client, &[ALICE], 6000).await);
            assert!(rig.mail(&mut client, &[ALICE], 4000).await);
        }
        rig.cutover(to).await;
        assert_eq!(ask().await.as_deref(), Some("5000"));
    }
    rig.all_told().await;
}
