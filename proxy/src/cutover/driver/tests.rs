//! What a cutover asks of sessions, against sessions that cannot or will not.
//!
//! Rule: nobody is given up for nothing, and who is, is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use super::{FRESH, fresh};
use crate::{
    config::{Check, Protocol, Storage, Unmovable},
    cutover::{
        testing::{Rig, V4, V5, config},
        tests::{SOON, USERS, serves, went_home},
        types::{Outcome, Stage, Status},
    },
    gate::Standing,
    session::registry::{Order, Progress},
};

#[test]
fn a_decision_needs_a_proof_of_this_moment() {
    let proved = Instant::now();
    fresh(None, proved).unwrap_err();
    fresh(Some(proved), proved + FRESH).unwrap();
    let frozen = fresh(Some(proved), proved + FRESH + Duration::from_millis(1)).unwrap_err();
    assert_eq!(frozen, "the fence was not proved within the last 1s");
}

/// A session that can only be closed when it is told to leave; it resolves when it was.
fn reads_for_ever(rig: &Rig) -> tokio::task::JoinHandle<()> {
    let entry = rig.world.registry.enter("127.0.0.1:1".parse().unwrap(), "test".into(), Protocol::Imap);
    entry.handle.describe(|info| info.identity = "dave".into());
    entry.handle.word.set(Standing { backend: Some(V4), reads: 1, costly: true, ..Standing::default() });
    tokio::spawn(async move {
        std::future::poll_fn(|cx| {
            entry.handle.register(cx.waker());
            let (number, order) = entry.handle.order();
            if order == Order::Leave {
                entry.handle.word.set(Standing::default());
                entry.handle.report(number, Progress::Farewell);
                return Poll::Ready(());
            }
            if entry.handle.progress(number) == Progress::Working {
                entry.handle.report(number, Progress::Done);
            }
            Poll::Pending
        })
        .await;
    })
}

#[tokio::test]
async fn nobody_is_cut_for_a_cutover_that_turns_back_for_it() {
    for (allowed, moves) in [(Unmovable::Abort, false), (Unmovable::Upto(1), true)] {
        let mut config = config(Storage::Shared);
        (config.cutover.drain, config.cutover.unmovable) = (SOON, allowed);
        let rig = Rig::new(config).await;
        rig.sessions(&USERS);
        let reader = reads_for_ever(&rig);
        rig.control.start("v5").await.unwrap();
        rig.over_and_idle().await;
        let report = rig.control.report().unwrap();
        assert_eq!(report.outcome == Outcome::Done, moves, "{}", report.reason);
        assert_eq!(report.unmovable.get("read_in_flight"), Some(&1), "{allowed:?}");
        assert_eq!(reader.is_finished(), moves, "{}", report.reason);
        assert_eq!(rig.script.log().contains(&"engage v4".to_owned()), moves);
        serves(&rig, if moves { V5 } else { V4 }, "reader");
    }
}

#[tokio::test]
async fn a_pipe_is_not_closed_for_a_cutover_that_turns_back_for_it() {
    let rig = Rig::new(config(Storage::Shared)).await;
    rig.sessions(&["alice", "carol"]);
    let registry = rig.world.registry.clone();
    rig.session("bob", move |order| {
        let bob = registry.select(|handle| handle.inspect(|info| info.identity == "bob"));
        // It loses step when the plan has been made.
        bob[0].describe(|info| info.pipe |= order == Order::Prepare);
        None
    });
    rig.control.start("v5").await.unwrap();
    rig.over_and_idle().await;
    went_home(&rig, "pipe");
    let reason = rig.control.report().unwrap().reason;
    assert!(reason.contains("holding") && reason.contains("1 pipe"), "{reason}");
}

/// The standby let them in, and the pool that was promoted does not.
#[tokio::test]
async fn a_pool_that_refuses_users_can_be_left_again() {
    for storage in [Storage::Shared, Storage::Replicated] {
        let mut config = config(storage);
        let back = Check { from: "v5".into(), to: "v4".into(), ..config.cutover.checks[0].clone() };
        config.cutover.checks.push(back);
        (config.cutover.soak, config.cutover.unmovable) = (Duration::from_secs(3600), Unmovable::Upto(40));
        let rig = Rig::new(config).await;
        let refused = Arc::new(AtomicUsize::new(0));
        for user in 0..40 {
            let (world, refused) = (rig.world.clone(), refused.clone());
            rig.session(&format!("user{user}"), move |order| {
                let there = order == Order::Attach && world.topology.load().active == V5;
                there.then(|| refused.fetch_add(1, Ordering::Relaxed)).map(|_| "refused")
            });
        }
        rig.control.start("v5").await.unwrap();
        let soaks = |status: &Status| status.state == Stage::Soaking;
        let status = rig.control.watch().wait_for(soaks).await.unwrap().clone();
        assert!(status.cutover.unwrap().waits_for[0].contains("were refused by the active pool"));
        assert_eq!(rig.control.start("v4").await, Ok(2), "{storage:?}");
        rig.control.watch().wait_for(|status| status.active == "v4" && soaks(status)).await.unwrap();
        assert_eq!(rig.control.report().unwrap().unmovable, Default::default(), "{storage:?}");
        serves(&rig, V4, "back");
        let refused = refused.load(Ordering::Relaxed);
        assert!(refused < 40, "everybody was sent to be refused");
    }
}
