//! Sessions that log in to the standby while traffic flows, so that the pause need not.
//!
//! Rule: what was done before the fence is looked at while the fence's hook waits; nothing is timed.

use bascule_tests::{
    client::Client,
    fake::{Options, Reaction, Stall},
};

use super::rig::{FENCE, PASSWORD, Plan, Rig, Running, aborted, heard, through};

/// The hook that stops the old platform where both have one store.
const STOP: &str = "fence old stop";
const USERS: &[&str] = &["alice", "bob", "carol"];

/// Everybody of [`USERS`] has their INBOX selected.
async fn everybody(rig: &Rig) -> Vec<Client> {
    let mut sessions = Vec::new();
    for user in USERS {
        sessions.push(rig.inbox(user).await);
    }
    sessions
}

/// A cutover that has come as far as this hook, and waits there.
async fn fencing(rig: &Rig, hook: &str) -> (Running, Stall) {
    let fence = rig.hooks.stall(hook);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    (cutover, fence)
}

/// How often each of them has logged in to the new platform.
fn logins(rig: &Rig) -> [usize; 3] {
    let counted = rig.new_pool().counters().logins;
    std::array::from_fn(|n| counted.get(USERS[n]).copied().unwrap_or(0))
}

#[tokio::test]
async fn sessions_log_in_before_the_pause_once_each_and_keep_the_connection() {
    let rig = Plan::replicated().start(USERS).await;
    let (mut alice, bob, carol) =
        (rig.idler("alice").await, rig.inbox("bob").await, rig.login("carol").await);
    let (cutover, fence) = fencing(&rig, FENCE).await;
    assert_eq!(logins(&rig), [1, 1, 1], "before the old platform was fenced");
    fence.release();
    through(cutover.end().await);
    assert_eq!(logins(&rig), [1, 1, 1], "and not again");
    let reply = alice.done().await.unwrap().ok().unwrap();
    assert_eq!(heard(&alice), format!("{} OK {}\r\n", reply.tag, reply.text));
    drop((bob, carol));
    rig.unharmed().await;
}

#[tokio::test]
async fn an_abort_gives_the_connections_back() {
    let rig = Plan::replicated().start(USERS).await;
    let mut sessions = everybody(&rig).await;
    let (cutover, fence) = fencing(&rig, FENCE).await;
    assert_eq!(logins(&rig), [1, 1, 1]);
    rig.abort().await;
    fence.release();
    aborted(cutover.end().await);
    rig.new_pool().connections(0).await;
    for session in &mut sessions {
        session.command("NOOP").await.unwrap().ok().unwrap();
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn a_connection_that_died_meanwhile_is_replaced_and_nobody_hears_of_it() {
    let rig = Plan::replicated().start(USERS).await;
    let mut sessions = Vec::new();
    for user in USERS {
        sessions.push(rig.idler(user).await);
    }
    let (cutover, fence) = fencing(&rig, FENCE).await;
    rig.new_pool().cut();
    fence.release();
    let report = through(cutover.end().await);
    assert_eq!((&report["moved"], &report["kept"]), (&3.into(), &3.into()), "{report}");
    for session in &mut sessions {
        let reply = session.done().await.unwrap().ok().unwrap();
        assert_eq!(heard(session), format!("{} OK {}\r\n", reply.tag, reply.text));
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn on_one_store_nobody_logs_in_ahead() {
    let rig = Plan::shared().start(USERS).await;
    let mut sessions = everybody(&rig).await;
    let (cutover, fence) = fencing(&rig, STOP).await;
    assert_eq!(logins(&rig), [0, 0, 0], "a user is on one server at a time");
    fence.release();
    through(cutover.end().await);
    for session in &mut sessions {
        session.command("NOOP").await.unwrap().ok().unwrap();
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn what_a_client_enables_while_its_session_logs_in_ahead_is_enabled_there_too() {
    let more =
        |options: &mut Options| options.capabilities.extend(["CONDSTORE", "QRESYNC"].map(String::from));
    let rig = Plan::replicated().platforms(more, more).start(&["alice"]).await;
    // Probes say LOGIN.
    let mut alice = rig.proxy.connect().await.unwrap();
    alice.authenticate("", "alice", PASSWORD, true).await.unwrap().ok().unwrap();
    let login = Stall::default();
    let stalled = Reaction { stall: Some(login.clone()), times: Some(1), ..Reaction::default() };
    rig.new_pool().react("AUTHENTICATE", stalled);
    let mut cutover = rig.begin("new");
    cutover.reaches(&login).await;
    alice.command("ENABLE QRESYNC").await.unwrap().ok().unwrap();
    login.release();
    through(cutover.end().await);
    alice.command("NOOP").await.unwrap().ok().unwrap();
    let all = rig.new_pool().transcripts();
    let serves = all.iter().find(|t| t.user.as_deref() == Some("alice") && t.contains(b" NOOP\r\n"));
    assert!(serves.unwrap().contains(b" ENABLE QRESYNC\r\n"), "what the session was told");
    rig.unharmed().await;
}
