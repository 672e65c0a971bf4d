//! The driver against scripted pools: every failure at every place, every word at every moment.
//!
//! Rule: whatever goes wrong, one pool serves at the end, it writes, and the other one does not.

use std::{sync::Arc, time::Duration};

mod journal;
mod promoted;

use super::{
    book,
    testing::{Rig, Twist, V4, V5, config},
    types::{Outcome, Stage, Status},
};
use crate::{
    admin::appliance::Process,
    app::stop::wind_down,
    config::{Config, Storage, Unmovable},
    gate::{Phase, Standing},
    session::registry::Order,
    topology::PoolId,
};

/// What is asked of the outside before the decision, and how many such askings are passed over: the plan asks
/// the guard as well, and the fence is proved twice.
const ASKED: [(&str, usize); 10] = [
    ("Guard lag", 1),
    ("canaries v4", 0),
    ("keep canaries v4", 0),
    ("engage v4", 0),
    ("fenced v4", 0),
    ("Barrier lag", 0),
    ("promote v5", 0),
    ("release v5", 0),
    ("writes v5", 0),
    ("fenced v4", 1),
];

pub(super) const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// For waits that are to end in giving up.
pub(super) const SOON: Duration = Duration::from_millis(20);

fn storages() -> [Config; 2] {
    [config(Storage::Shared), config(Storage::Replicated)]
}

/// One pool serves: it writes, the other one does not, the gate is open, every session is on it.
pub(super) fn serves(rig: &Rig, pool: PoolId, what: &str) {
    let other = if pool == V4 { V5 } else { V4 };
    assert_eq!(rig.world.topology.load().active, pool, "{what}");
    assert!(rig.script.writes(pool) && !rig.script.writes(other), "{what}: {:?}", rig.script.log());
    assert!(rig.world.gate.admits(rig.world.topology.load().epoch), "{what}: {:?}", rig.world.gate.phase());
    assert!(rig.backends().iter().all(|backend| *backend == Some(pool)), "{what}: {:?}", rig.backends());
    assert!(!rig.world.gate.armed() && rig.world.topology.target().is_none(), "{what}");
}

#[tokio::test]
async fn a_cutover_moves_every_session() {
    for config in storages() {
        let storage = config.pools[0].contract.storage;
        let rig = Rig::new(config).await;
        rig.sessions(&USERS);
        assert_eq!(rig.control.start("v5").await, Ok(1));
        rig.over_and_idle().await;
        serves(&rig, V5, "done");
        let report = rig.control.report().unwrap();
        assert_eq!((report.outcome, report.id, report.reason.as_str()), (Outcome::Done, 1, ""));
        assert_eq!((report.sessions, report.kept, report.moved), (3, 3, 3), "{storage:?}");
        let phases: Vec<&str> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
        let expected = ["arm", "drain", "leave", "fence", "barrier", "promote", "verify", "decide", "attach"];
        assert_eq!(phases, expected);
        // What the next process shows, and counts on from, even with a journal that was begun anew.
        assert_eq!(book::latest(rig.dir.path()), (Some(report), 1));
        let order: Vec<String> =
            rig.script.log().into_iter().filter(|asked| !asked.contains("identity")).collect();
        let order = &order[..order.iter().position(|asked| asked == "close canaries").unwrap()];
        let expected = [
            "addresses v4",
            "addresses v5",
            "answers v4",
            "answers v5",
            "relays v4",
            "relays v5",
            "Guard lag",
            "web v5",
            "Guard lag",
            "Guard lag",
            "canaries v4",
            "keep canaries v4",
            "engage v4",
            "fenced v4",
            "Barrier lag",
            "promote v5",
            "release v5",
            "writes v5",
            "offers v5",
            "fenced v4",
        ];
        assert_eq!(order, expected, "{storage:?}");
    }
}

#[tokio::test]
async fn a_cutover_in_the_other_direction_follows_at_once() {
    let mut config = config(Storage::Shared);
    config.cutover.checks.clear();
    config.cutover.soak = Duration::from_secs(3600);
    let rig = Rig::new(config).await;
    rig.sessions(&USERS);
    rig.control.start("v5").await.unwrap();
    rig.control.watch().wait_for(|status| status.state == Stage::Soaking).await.unwrap();
    let refused = rig.control.abort("too late").await.unwrap_err();
    assert!(refused.why[0].contains("the decision stands"), "{refused:?}");
    assert_eq!(rig.control.start("v4").await, Ok(2), "the soak ends");
    rig.control.watch().wait_for(|status| status.state == Stage::Soaking).await.unwrap();
    assert_eq!(rig.control.status().active, "v4");
    assert_eq!(rig.control.report().unwrap().id, 2);
    serves(&rig, V4, "there and back");
}

/// A rig whose guards and barriers are soon given up.
async fn impatient(mut config: Config) -> Rig {
    (config.cutover.barrier, config.cutover.arm_timeout) = (SOON, SOON);
    let rig = Rig::new(config).await;
    rig.sessions(&USERS);
    rig
}

pub(super) fn went_home(rig: &Rig, what: &str) {
    let report = rig.control.report().unwrap();
    assert_eq!(report.outcome, Outcome::Aborted, "{what}: {}", report.reason);
    assert_eq!(rig.backends().len(), USERS.len(), "{what}");
    serves(rig, V4, what);
}

#[tokio::test]
async fn whatever_goes_wrong_before_the_decision_goes_home() {
    for config in storages() {
        for (asked, skip) in ASKED {
            for twist in [Twist::Fails, Twist::HappensUnknown] {
                let rig = impatient(config.clone()).await;
                // Guards and barriers are asked again: they fail for as long as it takes.
                let times = if asked.ends_with("lag") { usize::MAX } else { 1 };
                rig.script.twist(asked, skip, twist.clone(), times);
                rig.control.start("v5").await.unwrap();
                rig.over_and_idle().await;
                went_home(&rig, &format!("{asked} {skip} {twist:?}"));
            }
        }
    }
}

#[tokio::test]
async fn a_hook_that_lies_is_found_out() {
    for hook in ["engage v4", "promote v5", "release v5"] {
        let rig = impatient(config(Storage::Shared)).await;
        rig.script.twist(hook, 0, Twist::Lies, 1);
        rig.control.start("v5").await.unwrap();
        rig.over_and_idle().await;
        went_home(&rig, hook);
    }
}

#[tokio::test]
async fn a_panic_in_any_phase_of_the_hold_is_limbo_and_goes_home() {
    for config in storages() {
        for (asked, skip) in ASKED.into_iter().filter(|(asked, _)| !asked.ends_with("lag")) {
            let rig = Rig::new(config.clone()).await;
            rig.sessions(&USERS);
            rig.script.twist(asked, skip, Twist::HappensAndPanics, 1);
            let mut changes = rig.control.watch();
            rig.control.start("v5").await.unwrap();
            if asked != "canaries v4" {
                let limbo = changes.wait_for(|status| status.limbo.is_some()).await.unwrap().clone();
                assert!(limbo.limbo.unwrap().contains("is a mistake"), "{asked}");
                assert!(limbo.gate != Phase::Open, "{asked}: {:?}", limbo.gate);
            }
            rig.over_and_idle().await;
            went_home(&rig, asked);
            assert!(rig.control.report().unwrap().reason.contains("is a mistake"), "{asked}");
        }
    }
}

#[tokio::test]
async fn a_panic_after_the_decision_goes_forward() {
    let rig = Rig::new(config(Storage::Replicated)).await;
    rig.sessions(&USERS);
    // The soak begins with giving the canaries back.
    rig.script.twist("close canaries", 0, Twist::HappensAndPanics, 1);
    rig.control.start("v5").await.unwrap();
    rig.over_and_idle().await;
    serves(&rig, V5, "forward");
    assert_eq!(rig.control.report().unwrap().outcome, Outcome::Done);
}

#[tokio::test]
async fn the_operator_aborts_at_any_time_before_the_decision() {
    for config in storages() {
        for (asked, skip) in ASKED {
            for twist in [Twist::Hangs, Twist::HappensAndHangs] {
                let rig = Rig::new(config.clone()).await;
                rig.sessions(&USERS);
                rig.script.twist(asked, skip, twist.clone(), 1);
                rig.control.start("v5").await.unwrap();
                rig.script.until_asked(asked, skip + 1).await;
                rig.control.abort("changed my mind").await.unwrap();
                rig.over_and_idle().await;
                let what = format!("{asked} {skip} {twist:?}");
                went_home(&rig, &what);
                assert!(rig.control.report().unwrap().reason.contains("changed my mind"), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn the_deadline_passes_in_any_phase_of_the_hold() {
    for config in storages() {
        for (asked, skip) in
            ASKED.into_iter().filter(|(asked, _)| !["canaries v4", "Guard lag"].contains(asked))
        {
            let mut config = config.clone();
            (config.cutover.max_hold, config.cutover.abort_reserve) = (30 * SOON, 29 * SOON);
            let rig = Rig::new(config).await;
            rig.sessions(&USERS);
            rig.script.twist(asked, skip, Twist::HappensAndHangs, 1);
            rig.control.start("v5").await.unwrap();
            rig.over_and_idle().await;
            went_home(&rig, asked);
            let reason = rig.control.report().unwrap().reason;
            assert!(reason.contains("deadline"), "{asked}: {reason}");
        }
    }
}

#[tokio::test]
async fn writes_that_are_not_answered_are_named_and_waited_for() {
    for answered in [true, false] {
        let mut config = config(Storage::Shared);
        if !answered {
            config.cutover.drain = SOON;
        }
        let rig = Rig::new(config).await;
        rig.sessions(&USERS);
        let busy =
            rig.world.registry.all().into_iter().find(|handle| handle.info().identity == "bob").unwrap();
        let writing = Standing { writes: 2, ..busy.word.read() };
        busy.word.set(writing);
        rig.control.start("v5").await.unwrap();
        let waits = |status: &Status| {
            status.cutover.as_ref().is_some_and(|run| run.waits_for.iter().any(|w| w.contains("bob")))
        };
        rig.control.watch().wait_for(|status| status.state == Stage::Holding && waits(status)).await.unwrap();
        if answered {
            busy.word.set(Standing { writes: 0, ..writing });
            busy.word_changed();
            rig.over_and_idle().await;
            serves(&rig, V5, "answered");
        } else {
            rig.over_and_idle().await;
            went_home(&rig, "not answered");
            let reason = rig.control.report().unwrap().reason;
            assert!(reason.contains("unanswered writes: bob"), "{reason}");
        }
    }
}

#[tokio::test]
async fn sessions_that_cannot_move_are_bounded() {
    for order in [Order::Prepare, Order::Verify] {
        for (allowed, moves) in [(Unmovable::Abort, false), (Unmovable::Upto(1), true)] {
            let mut config = config(Storage::Replicated);
            config.cutover.unmovable = allowed;
            let rig = Rig::new(config).await;
            rig.sessions(&["alice", "bob"]);
            rig.session("carol", move |given| (given == order).then_some("uids"));
            rig.control.start("v5").await.unwrap();
            rig.over_and_idle().await;
            let report = rig.control.report().unwrap();
            assert_eq!(report.outcome == Outcome::Done, moves, "{order:?}: {}", report.reason);
            assert_eq!(report.unmovable.get("uids"), Some(&1), "{order:?}");
            assert!(moves || report.reason.contains("1 uids"), "{}", report.reason);
            serves(&rig, if moves { V5 } else { V4 }, "bounded");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_undone_is_limbo_until_it_can() {
    for (broken, stuck) in
        [("release v4", "writes v5"), ("engage v5", "writes v5"), ("refuses v5", "fenced v4")]
    {
        let rig = impatient(config(Storage::Shared)).await;
        rig.script.twist(stuck, usize::from(stuck == "fenced v4"), Twist::HappensUnknown, 1);
        rig.script.twist(broken, 0, Twist::Fails, usize::MAX);
        rig.control.start("v5").await.unwrap();
        let limbo = rig.control.watch().wait_for(|status| status.limbo.is_some()).await.unwrap().clone();
        assert!(limbo.limbo.unwrap().contains(broken), "{broken}");
        assert_eq!(rig.control.report().unwrap().outcome, Outcome::Limbo);
        assert!(!matches!(rig.world.gate.phase(), Phase::Open), "{broken}");
        // It is tried again and again, also when the operator says so, and goes on when it can.
        rig.script.until_asked(broken, 3).await;
        let refused = rig.control.adopt("v4", "v4 is fine").await.unwrap_err();
        assert!(refused.why[0].contains(broken) && refused.instead.contains("stop bascule"), "{refused}");
        rig.script.untwist();
        rig.over_and_idle().await;
        went_home(&rig, broken);
    }
}

#[tokio::test]
async fn a_promote_that_cannot_be_undone_waits_for_the_operator() {
    for (word, serving) in [("v5", V5), ("v4", V4)] {
        let mut config = config(Storage::Shared);
        let mut v5 = (*config.pools[1]).clone();
        v5.contract.promote_reversible = false;
        config.pools[1] = Arc::new(v5);
        let rig = Rig::new(config).await;
        rig.sessions(&USERS);
        rig.script.twist("writes v5", 0, Twist::HappensUnknown, 1);
        rig.control.start("v5").await.unwrap();
        rig.control.watch().wait_for(|status| status.state == Stage::Limbo).await.unwrap();
        let refused = rig.control.abort("please").await.unwrap_err();
        assert!(refused.why[0].contains("adopt"), "{refused}");
        if serving == V4 {
            // v5 writes: the word alone opens nothing.
            let refused = rig.control.adopt(word, "v4 shall serve").await.unwrap_err();
            assert!(refused.why[0].contains("promoted"), "{refused}");
            rig.control.watch().wait_for(|status| status.state == Stage::Limbo).await.unwrap();
            rig.script.until_asked("refuses v5", 1).await;
            rig.script.fence_by_hand(V5);
            while rig.control.status().state == Stage::Limbo {
                let _ = rig.control.adopt(word, "v5 is off now").await;
                tokio::task::yield_now().await;
            }
        } else {
            rig.control.adopt(word, "v5 is the one").await.unwrap();
        }
        rig.over_and_idle().await;
        serves(&rig, serving, word);
    }
}

#[tokio::test]
async fn a_plan_says_every_reason_and_changes_nothing() {
    let mut config = config(Storage::Replicated);
    config.cutover.checks[0].barrier = false;
    let mut v4 = (*config.pools[0]).clone();
    v4.fence = None;
    config.pools[0] = Arc::new(v4);
    let rig = Rig::new(config).await;
    rig.sessions(&["alice"]);
    rig.session("bob", |_| None);
    rig.world.registry.all()[0].describe(|info| info.pipe = true);
    rig.script.twist("identity v5", 0, Twist::Fails, usize::MAX);
    rig.script.twist("Guard lag", 0, Twist::Fails, usize::MAX);
    rig.script.twist("relays v5", 0, Twist::Fails, usize::MAX);
    rig.script.twist("web v5", 0, Twist::Fails, usize::MAX);
    rig.script.twist("addresses v5", 0, Twist::Fails, usize::MAX);
    let plan = rig.control.plan("v5").await.unwrap();
    let blocking: Vec<&str> =
        plan.items.iter().filter(|i| i.answer.blocks()).map(|i| i.name.as_str()).collect();
    assert_eq!(
        blocking,
        [
            "fence",
            "barriers",
            "addresses of v5",
            "identity on v5",
            "relay test of smtp on v5",
            "guard lag",
            "http",
            "sessions"
        ]
    );
    let refused = rig.control.start("v5").await.unwrap_err();
    assert_eq!(refused.why.len(), blocking.len(), "{refused:?}");
    assert!(rig.control.plan("v4").await.is_err() && rig.control.plan("v6").await.is_err());
    assert_eq!(rig.control.status().state, Stage::Idle);
    let looks = ["addresses", "identity", "Guard", "answers", "relays", "web"];
    assert!(rig.script.log().iter().all(|asked| looks.iter().any(|look| asked.contains(look))));
}

#[tokio::test]
async fn what_a_standby_does_not_say_about_strangers_is_asked_after_the_promote() {
    let rig = Rig::new(config(Storage::Shared)).await;
    for (pool, goes) in [("v5", true), ("v4", false)] {
        rig.script.untwist();
        rig.script.twist(&format!("relays {pool}"), 0, Twist::HappensUnknown, usize::MAX);
        let plan = rig.control.plan("v5").await.unwrap();
        assert_eq!(plan.go, goes, "{pool}: {plan:?}");
    }
}

#[tokio::test]
async fn a_second_start_and_words_without_a_cutover_are_refused() {
    let rig = Rig::new(config(Storage::Shared)).await;
    assert!(rig.control.abort("what").await.unwrap_err().why[0].contains("no cutover"));
    assert!(rig.control.adopt("v5", "why not").await.unwrap_err().why[0].contains("no cutover is stuck"));
    rig.script.twist("canaries v4", 0, Twist::Hangs, 1);
    rig.control.start("v5").await.unwrap();
    rig.script.until_asked("canaries v4", 1).await;
    assert!(rig.control.start("v5").await.unwrap_err().why[0].contains("armed"));
    assert!(rig.control.adopt("v5", "why not").await.unwrap_err().why[0].contains("no cutover is stuck"));
    rig.control.abort("enough").await.unwrap();
    rig.over_and_idle().await;
    went_home_alone(&rig);
}

fn went_home_alone(rig: &Rig) {
    assert_eq!(rig.control.report().unwrap().outcome, Outcome::Aborted);
    serves(rig, V4, "alone");
}

/// A start that was taken a moment before is still being planned when the process is told to end.
#[tokio::test]
async fn no_cutover_begins_after_the_process_was_told_to_end() {
    let rig = Rig::new(config(Storage::Shared)).await;
    rig.sessions(&["alice"]);
    // The standby has not got the probe's marker yet: the plan asks again.
    rig.script.twist("identity v5", 0, Twist::HappensUnknown, 2);
    let control = rig.control.clone();
    let started = tokio::spawn(async move { control.start("v5").await });
    rig.script.until_asked("identity v5", 1).await;
    let process = Process { world: rig.world.clone(), control: rig.control.clone() };
    wind_down(&process, &rig.world.registry, Duration::from_secs(3)).await;
    let refused = started.await.unwrap().unwrap_err();
    assert!(refused.why[0].contains("stopping"), "{refused}");
    assert_eq!(rig.control.status().state, Stage::Idle);
    assert!(!rig.script.log().contains(&"canaries v4".to_owned()), "{:?}", rig.script.log());
}

#[tokio::test]
async fn a_cutover_that_goes_back_because_the_process_ends_blames_nobody() {
    let rig = Rig::new(config(Storage::Shared)).await;
    rig.sessions(&["alice"]);
    rig.script.twist("canaries v4", 0, Twist::Hangs, 1);
    rig.control.start("v5").await.unwrap();
    rig.script.until_asked("canaries v4", 1).await;
    let process = Process { world: rig.world.clone(), control: rig.control.clone() };
    wind_down(&process, &rig.world.registry, Duration::from_secs(3)).await;
    assert_eq!(rig.control.report().unwrap().reason, "aborted: bascule is stopping");
}

#[tokio::test]
async fn a_panic_counts_one_limbo() {
    let rig = Rig::new(config(Storage::Shared)).await;
    rig.sessions(&USERS);
    rig.script.twist("engage v4", 0, Twist::HappensAndPanics, 1);
    rig.control.start("v5").await.unwrap();
    rig.over_and_idle().await;
    went_home(&rig, "a panic");
    let counts = rig.world.metrics.cutovers.counts();
    assert_eq!((counts["limbo"], counts["aborted"]), (1, 1));
}
#[tokio::test]
async fn of_two_aborts_at_once_one_is_told_that_it_was_too_late() {
    let rig = Rig::new(config(Storage::Shared)).await;
    rig.sessions(&USERS);
    rig.script.twist("canaries v4", 0, Twist::Hangs, 1);
    rig.control.start("v5").await.unwrap();
    rig.script.until_asked("canaries v4", 1).await;
    let (first, second) = tokio::join!(rig.control.abort("the first"), rig.control.abort("the second"));
    first.unwrap();
    assert!(second.unwrap_err().why[0].contains("on its way back already"));
    rig.over_and_idle().await;
    went_home(&rig, "two aborts");
    assert!(rig.control.report().unwrap().reason.contains("the first"));
}
