//! Two platforms on one store: nobody is ever on both (D7).
//!
//! Rule: the list of comings and goings that both platforms write is the witness, probe accounts included.

use std::collections::BTreeMap;

use bascule_tests::{
    client::Client,
    fake::{Reaction, Stall},
};

use super::rig::{MAIL, Plan, Rig, aborted, heard, through};

const FENCE: &str = "fence old stop";
const START_NEW: &str = "fence new off";
const USERS: &[&str] = &["alice", "bob", "carol"];
/// What the probe accounts examine on a new pool, before any session is verified there.
const MARKERS: u32 = 2;

/// No user was on two platforms at once. The most sessions that each had at once.
fn never_on_both(rig: &Rig) -> BTreeMap<(&'static str, String), usize> {
    let mut here: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let mut most = BTreeMap::new();
    for visit in rig.attendance.visits() {
        let other = if visit.platform == "old" { "new" } else { "old" };
        let count = here.entry((visit.platform, visit.user.clone())).or_default();
        *count = if visit.came { *count + 1 } else { *count - 1 };
        let highest: &mut usize = most.entry((visit.platform, visit.user.clone())).or_default();
        *highest = (*highest).max(*count);
        let there = here.get(&(other, visit.user.clone())).copied().unwrap_or_default();
        assert!(!visit.came || there == 0, "{} came to {} while on {other}", visit.user, visit.platform);
    }
    most
}

/// Alice with three sessions (in IDLE, with a mailbox, without), bob in IDLE.
async fn people(rig: &Rig) -> [Client; 4] {
    let mut mailbox = rig.inbox("alice").await;
    let mut quiet = rig.login("alice").await;
    mailbox.keep_transcript();
    quiet.keep_transcript();
    [rig.idler("alice").await, mailbox, quiet, rig.idler("bob").await]
}

async fn unharmed(rig: &Rig, [idle, mailbox, quiet, bob]: &mut [Client; 4]) {
    for session in [idle, bob] {
        let reply = session.done().await.unwrap().ok().unwrap();
        assert_eq!(heard(session), format!("{} OK {}\r\n", reply.tag, reply.text));
    }
    for session in [mailbox, quiet] {
        let reply = session.command("NOOP").await.unwrap().ok().unwrap();
        assert_eq!(heard(session), format!("{} OK {}\r\n", reply.tag, reply.text));
    }
    let most = never_on_both(rig);
    for platform in ["old", "new"] {
        let alice = most.get(&(platform, "alice".into())).copied().unwrap_or_default();
        assert!(alice <= 3, "{alice} sessions of alice at once on {platform}, of three");
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn on_shared_storage_everybody_is_gone_from_the_old_pool_first() {
    let rig = Plan::shared().start(USERS).await;
    let mut people = people(&rig).await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    rig.old_pool().connections(1).await; // the canary's
    let mut carol = rig.proxy.connect().await.unwrap();
    let login = carol.start("LOGIN carol secret").await.unwrap();
    let (id, message) = rig.ledger.message(5000);
    let append = people[1].start_append("INBOX", &message).await.unwrap();
    rig.held(2).await;
    fence.release();
    carol.finish(&login).await.unwrap().ok().unwrap();
    let reply = people[1].finish(&append).await.unwrap().ok().unwrap();
    rig.settle(&id, &reply);
    let news: Vec<String> = reply.texts();
    assert_eq!(news[..2], ["* 4 EXISTS", "* 1 RECENT"], "its own message, and nothing else: {news:?}");
    through(cutover.end().await);
    assert_eq!(rig.arrived(&[&message[..], b"\r\n"].concat()), [0, 1]);
    // Alice in IDLE hears of it as well.
    people[0].notice().await.unwrap();
    people[0].done().await.unwrap().ok().unwrap();
    assert_eq!(people[3].done().await.unwrap().status, bascule_tests::client::Status::Ok);
    assert_eq!(carol.select("INBOX").await.unwrap().ok().unwrap().lines.len(), 7);
    never_on_both(&rig);
    rig.unharmed().await;
}

#[tokio::test]
async fn on_shared_storage_there_and_back_twice() {
    let rig = Plan::shared().start(USERS).await;
    let mut people = people(&rig).await;
    for to in ["new", "old", "new", "old"] {
        rig.cutover(to).await;
    }
    unharmed(&rig, &mut people).await;
}

#[tokio::test]
async fn scenario_54_a_way_back_closes_before_it_logs_in_again() {
    let rig = Plan::shared().start(USERS).await;
    let mut people = people(&rig).await;
    rig.hooks.refuse(START_NEW);
    aborted(rig.begin("new").end().await);
    unharmed(&rig, &mut people).await;
    assert_eq!(rig.old_pool().counters().logins["alice"], 6, "each session was there twice");
    rig.hooks.mend(START_NEW);
    rig.cutover("new").await;
    for client in &mut people {
        client.command("NOOP").await.unwrap().ok().unwrap();
    }
    never_on_both(&rig);
}

#[tokio::test]
async fn on_shared_storage_a_verify_that_is_called_off_leaves_the_new_pool_first() {
    let rig = Plan::shared().start(USERS).await;
    let mut people = people(&rig).await;
    let stall = Stall::default();
    let stalled = Reaction { stall: Some(stall.clone()), skip: MARKERS, ..Reaction::default() };
    rig.new_pool().react("EXAMINE", stalled);
    let mut cutover = rig.begin("new");
    cutover.reaches(&stall).await;
    rig.state("verified").await;
    rig.abort().await;
    stall.release();
    aborted(cutover.end().await);
    assert_eq!(rig.new_pool().counters().connections, 0);
    unharmed(&rig, &mut people).await;
    let uids = people[1].uids().await.unwrap();
    assert_eq!(uids.len(), MAIL as usize);
}

#[tokio::test]
async fn on_shared_storage_a_connection_that_does_not_end_keeps_the_cutover_from_going_on() {
    let rig = Plan::shared().brief().start(USERS).await;
    let mut people = people(&rig).await;
    let mut carol = rig.login("carol").await;
    // The plan's own logouts are past when the drain waits for a write.
    let (write, logout) = (Stall::default(), Stall::default());
    let once = |stall: &Stall| Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() };
    rig.old_pool().react("CREATE", once(&write));
    let create = carol.start("CREATE Work").await.unwrap();
    write.reached(1).await;
    let mut cutover = rig.begin("new");
    rig.state("holding").await;
    // A server's process hangs in its logout: it may still write to the store.
    rig.old_pool().react("LOGOUT", once(&logout));
    write.release();
    carol.finish(&create).await.unwrap().ok().unwrap();
    cutover.reaches(&logout).await;
    let report = aborted(cutover.end().await);
    let phases = report["phases"].as_array().unwrap();
    assert!(phases.iter().all(|phase| phase["name"] != "fence"), "not while somebody may be on it: {report}");
    logout.release();
    for client in &mut people[1..3] {
        client.command("NOOP").await.unwrap().ok().unwrap();
    }
    carol.command("STATUS Work (MESSAGES)").await.unwrap().ok().unwrap();
    never_on_both(&rig);
    rig.unharmed().await;
}

#[tokio::test]
async fn on_shared_storage_who_was_attached_before_its_turn_stays_attached() {
    let rig = Plan::shared().cutover("restore_concurrency = 1\n").start(USERS).await;
    let mut people = people(&rig).await;
    let (verify, select) = (Stall::default(), Stall::default());
    let once = |stall: &Stall| Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() };
    rig.new_pool().react("EXAMINE", Reaction { skip: MARKERS, ..once(&verify) });
    let mut cutover = rig.begin("new");
    cutover.reaches(&verify).await;
    // Not earlier: the proof that the new pool writes selects as well.
    rig.new_pool().react("SELECT", once(&select));
    verify.release();
    cutover.reaches(&select).await;
    rig.state("resuming").await;
    // Whoever waits in the stall keeps the others from their turn.
    for _ in 0..3 {
        people[2].command("NOOP").await.unwrap().ok().unwrap();
    }
    select.release();
    through(cutover.end().await);
    assert_eq!(rig.new_pool().counters().logins["alice"], 3, "one for each session");
    never_on_both(&rig);
    rig.unharmed().await;
}
