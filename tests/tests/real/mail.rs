//! What the other tests take for granted about Postfix and Dovecot's doors for mail.
//!
//! Rule: no proxy here.

use bascule_tests::{
    client::Security,
    dovecot::{Action, Dovecot, Options, Pair},
    ledger::Ledger,
    postfix::{Next, Postfix},
    smtp::{Client, Dialect},
    tools::{Ran, Sink, msmtp, smtp_source, swaks},
};

const ALICE: &str = "alice@example.org";
const FROM: &str = "someone@example.net";

/// A rig with a Postfix that delivers to one of the Dovecots, which runs alone.
async fn rig(new: bool) -> (Pair, Postfix) {
    let pair = Pair::shared(Options::default()).await.unwrap();
    if new {
        pair.old.act(Action::Stop).await.unwrap();
        pair.new.act(Action::Start).await.unwrap();
    }
    let server = running(&pair, new);
    let next = Next { lmtp: server.lmtp(), outbound: None };
    let postfix = Postfix::start(&pair, server, next).await.unwrap();
    (pair, postfix)
}

fn running(pair: &Pair, new: bool) -> &Dovecot {
    if new { &pair.new } else { &pair.old }
}

/// The messages in an INBOX once there are so many.
async fn inbox(server: &Dovecot, user: &str, count: usize) -> Vec<Vec<u8>> {
    let mut session = server.session(user).await.unwrap();
    session.select("INBOX").await.unwrap().ok().unwrap();
    while session.oracle().selected().unwrap().uids.len() < count {
        assert!(session.idle().await.unwrap().is_none());
        session.notice().await.unwrap();
        session.done().await.unwrap().ok().unwrap();
    }
    session.bodies().await.unwrap()
}

fn well(ran: Ran) {
    assert_eq!(ran.code, 0, "{}", ran.output);
}

#[tokio::test]
async fn mail_goes_through_postfix_into_a_mailbox() {
    for new in [false, true] {
        let (pair, postfix) = rig(new).await;
        let ledger = Ledger::default();
        let [by_swaks, by_client] = [ledger.mail(3000, &[ALICE]), ledger.mail(3000, &[ALICE])];
        let xclient = ["--xclient", "ADDR=203.0.113.7 PORT=50344 NAME=swaks.far.test"];
        well(swaks(postfix.relay(), FROM, ALICE, &by_swaks.1, &xclient).await.unwrap());
        ledger.settle_for(&by_swaks.0, ALICE, bascule_tests::ledger::Fate::Acknowledged);
        let mut client = Client::ready(postfix.relay(), Security::Plain, Dialect::Smtp).await.unwrap();
        client.command("XFORWARD NAME=far.test ADDR=203.0.113.9 IDENT=txn-1").await.unwrap().ok().unwrap();
        let sent = client.send(FROM, &[ALICE], &by_client.1).await.unwrap();
        ledger.record(&by_client.0, &[ALICE], &sent);
        assert_eq!(client.send(FROM, &["far@example.com"], b"x").await.unwrap().rcpts[0].code, 554);
        client.quit().await.unwrap();

        let found = inbox(running(&pair, new), "alice", 2).await;
        let verdict = ledger.judge_mail(found.into_iter().map(|body| (ALICE, body)));
        assert!(verdict.clean() && verdict.acknowledged == 2, "{verdict:?}");
        let log = postfix.log();
        assert!(log.contains("client=swaks.far.test[203.0.113.7]"), "XCLIENT: {log}");
        assert!(log.contains("orig_queue_id=txn-1, orig_client=far.test[203.0.113.9]"), "XFORWARD: {log}");
    }
}

#[tokio::test]
async fn users_send_after_they_have_logged_in() {
    for new in [false, true] {
        let (pair, postfix) = rig(new).await;
        let server = running(&pair, new);
        let ledger = Ledger::default();
        for door in [postfix.submission(), server.submission()] {
            let (id, message) = ledger.mail(1000, &[ALICE]);
            let mut client = Client::ready(door, Security::Plain, Dialect::Smtp).await.unwrap();
            assert!(client.send(ALICE, &[ALICE], &message).await.unwrap().acknowledged(&[ALICE]).is_empty());
            client.command("RSET").await.unwrap().ok().unwrap();
            assert_eq!(client.auth_plain("alice", "wrong", true).await.unwrap().code, 535);
            client.auth_plain("alice", "pass", true).await.unwrap().ok().unwrap();
            client.hello().await.unwrap().ok().unwrap();
            ledger.record(&id, &[ALICE], &client.send(ALICE, &[ALICE], &message).await.unwrap());
            client.quit().await.unwrap();
        }
        let (id, message) = ledger.mail(1000, &[ALICE]);
        let ran = msmtp(postfix.submission(), ALICE, &[ALICE], &message, Some(["alice", "pass"]), &[])
            .await
            .unwrap();
        well(ran);
        ledger.settle_for(&id, ALICE, bascule_tests::ledger::Fate::Acknowledged);
        let found = inbox(server, "alice", 3).await;
        let verdict = ledger.judge_mail(found.into_iter().map(|body| (ALICE, body)));
        assert!(verdict.clean() && verdict.acknowledged == 3, "{verdict:?}");
        assert!(postfix.log().contains("sasl_username=alice"));
    }
}

#[tokio::test]
async fn dovecot_delivers_and_believes_who_the_client_is() {
    for new in [false, true] {
        let (pair, _postfix) = rig(new).await;
        let server = running(&pair, new);
        let ledger = Ledger::default();
        let to = [ALICE, "bob@example.org"];
        let mut client = Client::ready(server.lmtp(), Security::Plain, Dialect::Lmtp).await.unwrap();
        assert!(client.oracle().shows("XCLIENT"));
        client.command("XCLIENT ADDR=203.0.113.7 PORT=50344").await.unwrap().ok().unwrap();
        client.hello().await.unwrap().ok().unwrap();
        let (id, message) = ledger.mail(1000, &to);
        ledger.record(&id, &to, &client.send(FROM, &to, &message).await.unwrap());
        if client.oracle().shows("CHUNKING") {
            let (id, message) = ledger.mail(1000, &to);
            client.command(&format!("MAIL FROM:<{FROM}>")).await.unwrap().ok().unwrap();
            for to in to {
                client.command(&format!("RCPT TO:<{to}>")).await.unwrap().ok().unwrap();
            }
            client.chunk(&message[..100], false).await.unwrap();
            let ends = client.chunk(&message[100..], true).await.unwrap();
            for (to, end) in to.iter().zip(ends) {
                assert_eq!(end.code, 250);
                ledger.settle_for(&id, to, bascule_tests::ledger::Fate::Acknowledged);
            }
        }
        client.quit().await.unwrap();
        let mut found = Vec::new();
        for (user, to) in ["alice", "bob"].into_iter().zip(to) {
            found.extend(inbox(server, user, 1).await.into_iter().map(|body| (to, body)));
        }
        let verdict = ledger.judge_mail(found);
        assert!(verdict.clean() && verdict.acknowledged > 0, "{verdict:?}");
        assert!(server.log().contains("203.0.113.7"), "{}", server.log());
    }
}

#[tokio::test]
async fn postfix_keeps_what_cannot_go_on_and_survives() {
    let (pair, mut postfix) = rig(false).await;
    pair.old.act(Action::Stop).await.unwrap();
    let ledger = Ledger::default();
    let (id, message) = ledger.mail(1000, &[ALICE]);
    let mut client = Client::ready(postfix.relay(), Security::Plain, Dialect::Smtp).await.unwrap();
    ledger.record(&id, &[ALICE], &client.send(FROM, &[ALICE], &message).await.unwrap());
    let queue = postfix.queue().await.unwrap();
    assert_eq!(queue[0]["recipients"][0]["address"], ALICE, "{queue:?}");
    postfix.kill().await.unwrap();
    assert!(client.command("NOOP").await.is_err());
    pair.old.act(Action::Start).await.unwrap();
    postfix.resume().await.unwrap();
    let found = inbox(&pair.old, "alice", 1).await;
    assert!(ledger.judge_mail(found.into_iter().map(|body| (ALICE, body))).clean());
}

#[tokio::test]
async fn a_crowd_of_messages_goes_in() {
    let (pair, postfix) = rig(false).await;
    let ran = smtp_source(postfix.relay(), 50, 5, &["-f", FROM, "-t", ALICE, "-l", "2000"]).await.unwrap();
    well(ran);
    assert_eq!(inbox(&pair.old, "alice", 50).await.len(), 50);
    let sink = (pair.old.relay(), 10099).into();
    let _sink = Sink::start(sink, &[]).await.unwrap();
    well(smtp_source(sink, 50, 5, &[]).await.unwrap());
}
