//! Sessions in IDLE: nothing to tell is told as nothing, news as news, DONE is answered whatever the gate says.
//!
//! Rule: what a session must not notice is compared byte by byte.

use super::rig::{BARRIER, MAIL, Plan, heard, through};

#[tokio::test]
async fn scenario_03_an_idle_session_without_differences_hears_nothing_and_then_of_new_mail() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.idler("alice").await;
    rig.cutover("new").await;
    rig.new_pool().store().deliver("alice", "INBOX", b"Subject: news\r\n\r\n");
    assert_eq!(alice.notice().await.unwrap().text(), "* 4 EXISTS");
    assert_eq!(alice.notice().await.unwrap().text(), "* 1 RECENT");
    assert_eq!(heard(&alice), "* 4 EXISTS\r\n* 1 RECENT\r\n", "and not a byte before");
    alice.done().await.unwrap().ok().unwrap();
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3, 4]);
    rig.unharmed().await;
}

/// Both platforms and the clients are in this process: three descriptors a session, of 20,000.
#[tokio::test(flavor = "multi_thread")]
async fn scenario_37_5000_idle_sessions_without_differences_receive_not_one_byte() {
    const SESSIONS: usize = 5000;
    let users: Vec<String> = (0..500).map(|n| format!("user{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    // The default rate would make this a minute; the pace has tests of its own.
    let rig = Plan::replicated().cutover("login_rate = 5000").start(&users).await;
    let mut sessions = Vec::new();
    while sessions.len() < SESSIONS {
        let user = |n: usize| users[(sessions.len() + n) % users.len()];
        let (a, b, c, d) =
            tokio::join!(rig.idler(user(0)), rig.idler(user(1)), rig.idler(user(2)), rig.idler(user(3)));
        sessions.extend([a, b, c, d]);
    }
    let report = rig.cutover("new").await;
    assert_eq!((&report["sessions"], &report["moved"]), (&SESSIONS.into(), &SESSIONS.into()), "{report}");
    let logins = rig.new_pool().counters().logins;
    let logins: usize = users.iter().filter_map(|user| logins.get(*user)).sum();
    assert_eq!(logins, SESSIONS, "one login each, ahead of the pause or in it");
    for session in &mut sessions {
        let reply = session.done().await.unwrap().ok().unwrap();
        assert_eq!(heard(session), format!("{} OK {}\r\n", reply.tag, reply.text));
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_39_done_during_a_hold_is_answered_at_once_and_what_follows_is_held() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.idler("alice").await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    alice.done().await.unwrap().ok().unwrap();
    let fetch = alice.start("UID FETCH 1:* (FLAGS)").await.unwrap();
    rig.held(1).await;
    barrier.release();
    let reply = alice.finish(&fetch).await.unwrap().ok().unwrap();
    assert_eq!(reply.lines.len(), MAIL as usize, "{reply:?}");
    through(cutover.end().await);
    assert_eq!(rig.arrived(b"UID FETCH 1:* (FLAGS)\r\n"), [0, 1]);
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_40_done_and_idle_in_one_packet_during_a_hold() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.idler("alice").await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let [first, second] = alice.done_and("IDLE").await.unwrap();
    alice.finish(&first).await.unwrap().ok().unwrap();
    assert_eq!(alice.go_ahead(&second).await.unwrap(), None, "idling again, still in the hold");
    assert_eq!(rig.proxy.status().await.unwrap()["held"], 0);
    barrier.release();
    through(cutover.end().await);
    rig.new_pool().store().deliver("alice", "INBOX", b"Subject: news\r\n\r\n");
    assert_eq!(alice.notice().await.unwrap().text(), "* 4 EXISTS");
    alice.write(b"DONE\r\n").await.unwrap();
    alice.finish(&second).await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_41_anything_but_done_is_answered_bad_and_the_session_goes_on() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let nonsense = async |alice: &mut bascule_tests::client::Client| {
        let idle = alice.start("IDLE").await.unwrap();
        assert_eq!(alice.go_ahead(&idle).await.unwrap(), None);
        alice.write(b"nonsense\r\n").await.unwrap();
        let reply = alice.finish(&idle).await.unwrap();
        assert_eq!(reply.status, bascule_tests::client::Status::Bad, "{reply:?}");
    };
    nonsense(&mut alice).await;
    alice.command("NOOP").await.unwrap().ok().unwrap();
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    nonsense(&mut alice).await;
    barrier.release();
    through(cutover.end().await);
    nonsense(&mut alice).await;
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3]);
    rig.unharmed().await;
}

#[tokio::test]
async fn a_mailbox_that_only_grew_is_announced_with_exists_and_recent() {
    let rig = Plan::replicated().start(&["alice", "bob"]).await;
    let mut idle = rig.idler("alice").await;
    let mut quiet = rig.inbox("bob").await;
    quiet.keep_transcript();
    rig.pair.replication("new").unwrap().pause();
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    for user in ["alice", "bob"] {
        rig.new_pool().store().deliver(user, "INBOX", b"Subject: only there\r\n\r\n");
    }
    barrier.release();
    through(cutover.end().await);
    idle.notice().await.unwrap();
    idle.notice().await.unwrap();
    assert_eq!(heard(&idle), "* 4 EXISTS\r\n* 1 RECENT\r\n");
    idle.done().await.unwrap().ok().unwrap();
    let reply = quiet.command("UID FETCH 4 (UID)").await.unwrap().ok().unwrap();
    assert!(heard(&quiet).starts_with("* 4 EXISTS\r\n* 1 RECENT\r\n"), "{reply:?}");
    assert_eq!(reply.texts().last().unwrap(), "* 4 FETCH (UID 4)");
    rig.unharmed().await;
}
