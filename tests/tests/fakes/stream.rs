//! Backends that say strange things: text that looks like a literal, tags that nobody used.
//!
//! Rule: a session whose stream cannot be followed is rebuilt where only the login was known to its backend, and
//! else passes bytes until a gate shuts.

use bascule_tests::{
    client::{Error, Status},
    fake::{Reaction, Stall},
};

use super::rig::Plan;

#[tokio::test]
async fn scenario_85_braces_in_the_text_of_a_status_response_are_no_literal() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let strange = Reaction { raw: Some("* OK see {25}\r\n".into()), times: Some(1), ..Reaction::default() };
    rig.old_pool().react("NOOP", strange);
    let reply = alice.command("NOOP").await.unwrap().ok().unwrap();
    assert_eq!(reply.texts(), ["* OK see {25}"]);
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3]);
    rig.cutover("new").await;
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3]);
    rig.unharmed().await;
}

#[tokio::test]
async fn a_word_of_the_proxy_never_stands_in_a_literal() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let (stall, heard) = (Stall::default(), alice.received());
    let rest = Reaction {
        stall: Some(stall.clone()),
        raw: Some("hi\r\n FLAGS ())\r\n".into()),
        times: Some(1),
        ..Reaction::default()
    };
    rig.old_pool().react("NOOP", rest);
    rig.old_pool().say("* 1 FETCH (BODY[] {9}\r\nabc", false);
    while alice.received() == heard {
        tokio::select! {
            whole = alice.notice() => panic!("the end is not said yet: {whole:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    // One packet, so that the proxy has read both lines when the backend has read one.
    alice.announce("n", "NOOP");
    alice.announce("s", "SEARCH SUBJECT {3}");
    alice.write(b"n NOOP\r\ns SEARCH SUBJECT {3}\r\n").await.unwrap();
    stall.reached(1).await;
    stall.release();
    assert_eq!(alice.go_ahead("s").await.unwrap(), None);
    let reply = alice.finish("n").await.unwrap().ok().unwrap();
    assert_eq!(reply.lines[0].literals().collect::<Vec<_>>(), [b"abc\r\nhi\r\n"]);
    alice.complete("s", b"abc").await.unwrap();
    alice.finish("s").await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_86_an_unknown_tag_without_a_mailbox_rebuilds_the_session() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.login("alice").await;
    alice.keep_transcript();
    rig.old_pool().say("zz99 OK whose is this", false);
    rig.proxy.until(|_| rig.old_pool().counters().logins["alice"] == 2).await.unwrap();
    let reply = alice.command("STATUS INBOX (MESSAGES)").await.unwrap().ok().unwrap();
    assert_eq!(reply.texts(), ["* STATUS \"INBOX\" (MESSAGES 3)"]);
    rig.cutover("new").await;
    alice.command("NOOP").await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_86_with_a_mailbox_it_passes_bytes_until_a_gate_shuts() {
    let rig = Plan::replicated().start(&["alice", "bob"]).await;
    let mut alice = rig.inbox("alice").await;
    rig.old_pool().say("zz99 OK whose is this", false);
    rig.metric("bascule_pipes", |pipes| pipes == 1.0).await;
    let Err(Error::Violation(strange)) = alice.notice().await else { panic!("the line passes as it came") };
    assert!(strange.0.contains("zz99"), "{strange}");
    alice.command("NOOP").await.unwrap().ok().unwrap();
    let (id, message) = rig.ledger.message(100);
    let reply = alice.append("INBOX", &message).await.unwrap();
    assert_eq!(reply.status, Status::Ok);
    rig.settle(&id, &reply);
    let refused = rig.begin("new").end().await;
    assert_eq!(refused.code, 1, "it cannot be moved, and none may be given up: {refused:?}");
    assert!(refused.json["why"][0].as_str().unwrap().contains("unmovable"), "{refused:?}");
    alice.command("NOOP").await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_86_a_pipe_is_closed_when_a_gate_shuts_and_counted() {
    let rig = Plan::replicated().cutover("unmovable = 1").start(&["alice", "bob"]).await;
    let mut alice = rig.inbox("alice").await;
    rig.old_pool().say("zz99 OK whose is this", false);
    rig.metric("bascule_pipes", |pipes| pipes == 1.0).await;
    assert!(matches!(alice.notice().await, Err(Error::Violation(_))));
    let mut bob = rig.idler("bob").await;
    let ran = rig.begin("new").end().await;
    assert_eq!((ran.code, &ran.json["outcome"]), (0, &"done".into()), "{ran:?}");
    assert_eq!(ran.json["unmovable"], serde_json::json!({ "pipe": 1 }), "{ran:?}");
    assert!(matches!(alice.notice().await, Err(Error::Closed(None))), "without a word");
    bob.done().await.unwrap().ok().unwrap();
    rig.unharmed().await;
}
