//! SIGKILL in every state of a cutover, and a start afterwards.
//!
//! Rule: a state is known by the stall that makes it last and by what `status` says of it, never by time.

use bascule_tests::fake::{Reaction, Stall};

use crate::rig::{Rig, When};

/// Kills the proxy as it is, in this state, with a session in the hold; starts it again. What it recorded.
async fn kill_and_start(rig: &mut Rig, state: &str) -> Vec<String> {
    let status = rig.proxy.until(|status| status["state"] == state).await.unwrap();
    assert_eq!(status["active"], if state == "resuming" { "new" } else { "old" }, "{status:#}");
    rig.proxy.kill().await.unwrap();
    let history = rig.history();
    rig.no_stalls();
    for pool in ["old", "new"] {
        rig.platform(pool).calm();
    }
    rig.proxy.serve().await.unwrap();
    history
}

/// A proxy with two clients, one of which has stored something.
async fn rig() -> (Rig, [bascule_tests::client::Client; 2]) {
    let rig = Rig::start().await;
    let mut clients = [rig.client("user1").await, rig.client("user2").await];
    rig.append(&mut clients[0]).await.ok().unwrap();
    rig.append(&mut clients[1]).await.ok().unwrap();
    (rig, clients)
}

/// The way home ends in Idle, is in the journal, and the next cutover goes through.
async fn went_home(rig: &Rig) {
    rig.serves("old").await;
    assert_eq!(rig.status().await["state"], "idle");
    assert_eq!(rig.history().last().unwrap(), "undone");
    let ran = rig.proxy.cutover("new").await.unwrap();
    assert_eq!((ran.code, &ran.json["outcome"]), (0, &"done".into()), "{ran:?}\n{}", rig.proxy.log());
    rig.serves("new").await;
}

/// Guards are asked twice for the plan, by whoever starts and by the start itself, and then while Armed.
const PLANNED: u32 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_armed() {
    let (mut rig, mut clients) = rig().await;
    let stall = rig.stall_after(PLANNED, "guard", When::Before);
    rig.cutover_until(stall.reached(1)).await;
    rig.append(&mut clients[0]).await.ok().unwrap();
    let history = kill_and_start(&mut rig, "armed").await;
    assert_eq!(history, ["init", "entered armed"]);
    went_home(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_holding() {
    let (mut rig, mut clients) = rig().await;
    let guard = rig.stall_after(PLANNED, "guard", When::Before);
    let slow = Stall::default();
    let stopped = async {
        guard.reached(1).await;
        // Both sessions know their view when they have dialled the new pool.
        rig.platform("new").connections(2).await;
        // The client's; the canary writes after it.
        let stall = Some(slow.clone());
        rig.platform("old").react("APPEND", Reaction { stall, times: Some(1), ..Reaction::default() });
        rig.append_and_forget(&mut clients[0]).await;
        slow.reached(1).await;
        guard.release();
        rig.proxy.until(|status| status["state"] == "holding").await.unwrap();
    };
    rig.cutover_until(stopped).await;
    let history = kill_and_start(&mut rig, "holding").await;
    assert_eq!(history, ["init", "entered armed", "entered holding"]);
    slow.release();
    went_home(&rig).await;
}

/// Stops at a hook, leaves an APPEND in the hold, kills and starts.
async fn killed_at(order: &str, when: When, state: &str) {
    let (mut rig, mut clients) = rig().await;
    let stall = rig.stall(order, when);
    rig.cutover_until(stall.reached(1)).await;
    rig.append_and_forget(&mut clients[0]).await;
    let history = kill_and_start(&mut rig, state).await;
    assert_eq!(history.last().unwrap(), &format!("entered {state}"), "{history:?}");
    went_home(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_fenced_before_the_fence_holds() {
    killed_at("fence old readonly", When::Before, "fenced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_fenced_when_the_fence_holds() {
    killed_at("fence old readonly", When::After, "fenced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_caught_up() {
    killed_at("caught-up old", When::Before, "caught_up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_promoted_before_the_promote() {
    killed_at("promote new", When::Before, "promoted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_promoted_when_it_is_promoted() {
    killed_at("promote new", When::After, "promoted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_promoted_when_both_fences_are_released_too() {
    killed_at("fence new off", When::After, "promoted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_verified() {
    let (mut rig, mut clients) = rig().await;
    rig.cutover_to_verified().await;
    rig.append_and_forget(&mut clients[0]).await;
    let history = kill_and_start(&mut rig, "verified").await;
    assert_eq!(history.last().unwrap(), "entered verified");
    went_home(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_resuming() {
    let (mut rig, mut clients) = rig().await;
    let verify = rig.cutover_to_verified().await;
    rig.append_and_forget(&mut clients[0]).await;
    // Not earlier: the proof that the new pool writes selects too.
    let attach = Stall::default();
    rig.platform("new").react("SELECT", Reaction { stall: Some(attach.clone()), ..Reaction::default() });
    verify.release();
    attach.reached(1).await;
    let history = kill_and_start(&mut rig, "resuming").await;
    assert_eq!(history.last().unwrap(), "decided");
    let status = rig.status().await;
    assert_eq!((&status["state"], &status["epoch"]), (&"soaking".into(), &1.into()), "{status:#}");
    rig.serves("new").await;
}
