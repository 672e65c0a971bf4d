//! What becomes of what waits where a server took an answer with it.
//!
//! Rule: a cutover is stopped before the gate shuts at a canary of its own ([`braked`]), so that a command is on its
//! way when it does, and nothing is timed.

use bascule_tests::{
    client::{Error, Status},
    fake::{Op, Reaction, Stall},
};

use super::rig::{FENCE, Plan, Rig, Running, through};

fn stalled(stall: &Stall) -> Reaction {
    Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() }
}

/// A cutover that knows every view and has not shut the gate, and what lets it go on.
async fn braked(rig: &Rig) -> (Running, Stall) {
    let brake = Stall::default();
    rig.old_pool().react("UID STORE", stalled(&brake));
    let mut cutover = rig.begin("new");
    cutover.reaches(&brake).await;
    (cutover, brake)
}

fn work(old: &bascule_tests::fake::Store, new: &bascule_tests::fake::Store) {
    for store in [old, new] {
        store.change("alice", Op::Create { mailbox: "Work".into(), validity: 7 });
        store.deliver("alice", "Work", b"Subject: one\r\n\r\n");
    }
}

#[tokio::test]
async fn what_is_held_behind_a_copy_that_was_lost_is_refused_with_it() {
    let rig = Plan::replicated().stores(work).start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let (cutover, brake) = braked(&rig).await;
    let lost = Stall::default();
    rig.old_pool().react("COPY", Reaction { drop: true, ..stalled(&lost) });
    let copy = alice.start("COPY 1 Work").await.unwrap();
    lost.reached(1).await;
    brake.release();
    rig.state("holding").await;
    let store = alice.start("STORE 1 +FLAGS.SILENT (\\Deleted)").await.unwrap();
    let expunge = alice.start("EXPUNGE").await.unwrap();
    let (id, message) = rig.ledger.message(300);
    let append = alice.begin(&format!("APPEND Work {{{}}}", message.len())).await.unwrap();
    assert_eq!(alice.go_ahead(&append).await.unwrap(), None);
    alice.write(&message[..100]).await.unwrap();
    rig.proxy.until_session(|session| session["upload"][0] == 100).await.unwrap();
    lost.release();
    for tag in [copy, store, expunge] {
        let reply = alice.finish(&tag).await.unwrap();
        assert_eq!(reply.status, Status::No, "{reply:?}");
    }
    alice.complete(&append, &message[100..]).await.unwrap();
    let reply = alice.finish(&append).await.unwrap();
    assert!(reply.status == Status::No && reply.text.starts_with("[UNAVAILABLE]"), "{reply:?}");
    rig.settle(&id, &reply);
    through(cutover.end().await);
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3]);
    assert_eq!(rig.new_pool().store().messages("alice", "Work").len(), 1);
    rig.unharmed().await;
}

#[tokio::test]
async fn a_store_by_number_does_not_meet_another_message_than_its_client_meant() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.idler("alice").await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    alice.done().await.unwrap().ok().unwrap();
    let store = alice.start("STORE 2 +FLAGS (\\Deleted)").await.unwrap();
    rig.held(1).await;
    assert!(rig.old_pool().store().expunge("alice", "INBOX", 2), "in another session of hers");
    rig.abort().await;
    fence.release();
    let end = alice.finish(&store).await;
    assert!(matches!(end, Err(Error::Closed(None))), "{end:?}");
    assert_eq!(cutover.end().await.code, 3);
    let messages = rig.old_pool().store().messages("alice", "INBOX");
    assert!(messages.iter().all(|message| message.flags.is_empty()), "{messages:?}");
    rig.unharmed().await;
}

#[tokio::test]
async fn a_mailbox_that_was_selected_while_the_gate_shut_is_learnt_in_the_hold() {
    let rig = Plan::replicated().stores(work).start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let (mut cutover, brake) = braked(&rig).await;
    let withheld = Stall::default();
    let late = Reaction { withhold: Some(withheld.clone()), times: Some(1), ..Reaction::default() };
    rig.old_pool().react("SELECT", late);
    let select = alice.start("SELECT Work").await.unwrap();
    withheld.reached(1).await;
    let fence = rig.hooks.stall(FENCE);
    brake.release();
    cutover.reaches(&fence).await;
    let uids = alice.start("UID SEARCH ALL").await.unwrap();
    rig.held(1).await;
    withheld.release();
    alice.finish(&select).await.unwrap().ok().unwrap();
    fence.release();
    alice.finish(&uids).await.unwrap().ok().unwrap();
    through(cutover.end().await);
    rig.unharmed().await;
}
