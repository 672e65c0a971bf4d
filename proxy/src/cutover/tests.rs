//! The driver against scripted pools: every failure at every place, every crash after every record.
//!
//! Rule: whatever goes wrong, one pool serves at the end, it writes, and the other one does not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::{
    journal::{self, DecisionLog, JournalError, Record},
    testing::{Rig, Twist, V4, V5, Wrap, config},
    types::{Outcome, Stage, Status},
};
use crate::{
    admin::appliance::Process,
    app::stop::wind_down,
    config::{Config, Storage, Unmovable},
    gate::{Phase, Standing},
    session::registry::Order,
    topology::{Epoch, PoolId},
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
        assert!(rig.dir.path().join("reports/1.json").exists());
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
        // It is tried again and again, and goes on when it can.
        rig.script.until_asked(broken, 3).await;
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

/// A journal that fails, or stops the world, at one record.
#[derive(Debug)]
struct Trap {
    inner: Box<dyn DecisionLog>,
    left: usize,
    spring: Spring,
    /// Whether the record is written all the same.
    writes: bool,
}

#[derive(Debug)]
enum Spring {
    /// The append fails.
    Fail,
    /// Says so, and then waits for the end of its process.
    Die(mpsc::Sender<()>, mpsc::Receiver<()>),
}

impl DecisionLog for Trap {
    fn prepare(&mut self) -> Result<(), JournalError> {
        self.inner.prepare()
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if self.left > 0 {
            self.left -= 1;
            return self.inner.append(record);
        }
        self.left = usize::MAX;
        if self.writes {
            self.inner.append(record)?;
        }
        if let Spring::Die(sprung, end) = &self.spring {
            sprung.send(()).unwrap();
            let _ = end.recv();
        }
        Err(JournalError::FailStop("the trap".into()))
    }

    fn settle(&mut self, record: &Record) -> Result<(), JournalError> {
        self.inner.settle(record)
    }
}

fn trap(left: usize, spring: Spring, writes: bool) -> Wrap {
    Box::new(move |inner| Box::new(Trap { inner, left, spring, writes }))
}

/// Records of a whole cutover before its decision: Armed to Verified.
const UNDECIDED: usize = 6;

#[tokio::test]
async fn a_journal_that_fails_before_the_decision_goes_home() {
    for left in 0..UNDECIDED {
        let rig = Rig::wrapped(config(Storage::Shared), trap(left, Spring::Fail, false)).await;
        rig.sessions(&USERS);
        rig.control.start("v5").await.unwrap();
        rig.over_and_idle().await;
        went_home(&rig, &format!("record {left}"));
    }
}

#[tokio::test]
async fn a_decision_that_may_be_written_serves_nobody_until_the_operator_says() {
    for (word, serving, writes) in [("v4", V4, true), ("v5", V5, false), ("v4", V4, false), ("v5", V5, true)]
    {
        let rig = Rig::wrapped(config(Storage::Shared), trap(UNDECIDED, Spring::Fail, writes)).await;
        rig.sessions(&USERS);
        rig.control.start("v5").await.unwrap();
        rig.control.watch().wait_for(|status| status.gate == Phase::FailStop).await.unwrap();
        assert_eq!(rig.control.status().state, Stage::Limbo);
        assert!(rig.control.adopt("v6", "typing").await.is_err());
        rig.control.adopt(word, "I looked").await.unwrap();
        rig.over_and_idle().await;
        serves(&rig, serving, word);
        let journal = std::fs::read(rig.dir.path().join("journal")).unwrap();
        assert!(String::from_utf8_lossy(&journal).contains("I looked"), "the reason is kept");
        let (dir, script) = (rig.dir.clone(), rig.script.clone());
        drop(rig);
        let again = Rig::over(config(Storage::Shared), dir, script, Box::new(|log| log)).await;
        again.control.recover().await;
        again.over_and_idle().await;
        serves(&again, serving, word);
    }
}

/// One life that ends at a record, and the next.
fn dies_at(left: usize, writes: bool) -> (Rig, tokio::runtime::Runtime) {
    let ((sprung, trapped), (release, end)) = (mpsc::channel(), mpsc::channel());
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rig = first.block_on(async {
        let mut config = config(Storage::Shared);
        config.cutover.soak = Duration::ZERO;
        let rig = Rig::wrapped(config, trap(left, Spring::Die(sprung, end), writes)).await;
        rig.sessions(&USERS);
        rig.control.start("v5").await.unwrap();
        rig
    });
    trapped.recv().unwrap();
    first.shutdown_background();
    drop(release);
    let (dir, script) = (rig.dir.clone(), rig.script.clone());
    drop(rig);
    let second = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let again = second.block_on(async {
        let rig = Rig::over(config(Storage::Shared), dir, script, Box::new(|log| log)).await;
        rig.control.recover().await;
        rig.over_and_idle().await;
        rig
    });
    (again, second)
}

#[test]
fn a_process_that_dies_at_any_record_comes_up_on_the_right_pool() {
    // The decision is record 6, the end is record 7.
    for left in 0..=UNDECIDED + 1 {
        for writes in [false, true] {
            let (rig, _runtime) = dies_at(left, writes);
            let decided = left > UNDECIDED || (left == UNDECIDED && writes);
            let what = format!("record {left}, written: {writes}");
            serves(&rig, if decided { V5 } else { V4 }, &what);
            assert_eq!(rig.control.status().epoch.0, u32::from(decided), "{what}");
        }
    }
}

#[tokio::test]
async fn a_recovery_that_is_stuck_is_limbo_and_goes_on() {
    let rig = Rig::wrapped(config(Storage::Shared), trap(3, Spring::Fail, true)).await;
    rig.script.twist("release v4", 0, Twist::Fails, usize::MAX);
    rig.control.start("v5").await.unwrap();
    rig.control.watch().wait_for(|status| status.state == Stage::Limbo).await.unwrap();
    let (dir, script) = (rig.dir.clone(), rig.script.clone());
    // Its task goes on for ever; a new process would not see its lock.
    let copy = Arc::new(tempfile::tempdir().unwrap());
    std::fs::copy(dir.path().join("journal"), copy.path().join("journal")).unwrap();
    let again = Rig::over(config(Storage::Shared), copy, script.clone(), Box::new(|log| log)).await;
    again.control.recover().await;
    assert_eq!(again.control.status().state, Stage::Limbo);
    assert!(!matches!(again.world.gate.phase(), Phase::Open));
    script.untwist();
    again.over_and_idle().await;
    serves(&again, V4, "in the end");
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

/// A life that ended while v4 wrote and v5 was a fenced standby. Between two lives nobody can prove anything.
#[tokio::test]
async fn a_word_between_two_lives_decides_no_cutover_unless_it_is_said_to_be_unproved() {
    for (pool, unproved, written, serving) in
        [("v5", false, false, V4), ("v4", false, true, V4), ("v5", true, true, V5)]
    {
        let rig = Rig::new(config(Storage::Shared)).await;
        let (dir, script) = (rig.dir.clone(), rig.script.clone());
        drop(rig);
        let mut bound = config(Storage::Shared);
        bound.server.state_dir = dir.path().into();
        let (mut log, _) = journal::open(dir.path(), &bound).unwrap();
        let terms = super::course::terms(&bound.pools[0], &bound.pools[1]);
        for stage in [Stage::Armed, Stage::Holding, Stage::Fenced] {
            let (from, to, epoch) = ("v4".into(), "v5".into(), Epoch(0));
            log.append(&Record::Entered { id: 1, from, to, epoch, stage, terms }).unwrap();
        }
        drop(log);
        let said = journal::adopt(dir.path(), pool, "it was stuck", unproved);
        assert_eq!(said.is_ok(), written, "{pool}: {said:?}");
        if let Err(error) = said {
            assert!(error.to_string().contains("--unproved"), "{error}");
        }
        let again = Rig::over(config(Storage::Shared), dir, script, Box::new(|log| log)).await;
        again.control.recover().await;
        again.over_and_idle().await;
        assert_eq!(again.world.topology.load().active, serving, "{pool}");
        if !unproved {
            assert!(again.script.log().contains(&"writes v4".to_owned()), "{pool}: {:?}", again.script.log());
        }
    }
}

/// As the real journal when a sync fails: from the record on that enters this stage, which is there all the same, every
/// append fails. Whether the whole can be replaced is up to the test.
#[derive(Debug)]
struct SyncFails {
    inner: Box<dyn DecisionLog>,
    from: Option<Stage>,
    failed: bool,
    replaces: Arc<AtomicBool>,
}

impl DecisionLog for SyncFails {
    fn prepare(&mut self) -> Result<(), JournalError> {
        self.inner.prepare()
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if !self.failed {
            self.inner.append(record)?;
            self.failed = matches!(record, Record::Entered { stage, .. } if Some(*stage) == self.from);
            self.from = self.from.filter(|_| !self.failed);
        }
        if self.failed { Err(JournalError::FailStop("EIO".into())) } else { Ok(()) }
    }

    fn settle(&mut self, record: &Record) -> Result<(), JournalError> {
        if !self.replaces.load(Ordering::Relaxed) {
            return Err(JournalError::FailStop("EROFS".into()));
        }
        self.inner.settle(record)?;
        self.failed = false;
        Ok(())
    }
}

fn sync_fails(from: Stage, replaces: &Arc<AtomicBool>) -> Wrap {
    let replaces = replaces.clone();
    Box::new(move |inner| Box::new(SyncFails { inner, from: Some(from), failed: false, replaces }))
}

/// A start days later must not find it unfinished: a promote that nothing undoes would be asked about.
#[tokio::test]
async fn an_abort_is_recorded_also_by_a_journal_that_failed() {
    let config = || {
        let mut config = config(Storage::Shared);
        let mut v5 = (*config.pools[1]).clone();
        v5.contract.promote_reversible = false;
        config.pools[1] = Arc::new(v5);
        config
    };
    let replaces = Arc::new(AtomicBool::new(true));
    let rig = Rig::wrapped(config(), sync_fails(Stage::Promoted, &replaces)).await;
    rig.sessions(&USERS);
    rig.control.start("v5").await.unwrap();
    rig.over_and_idle().await;
    went_home(&rig, "the first life");
    assert_eq!(rig.control.status().journal, None);
    let (dir, script) = (rig.dir.clone(), rig.script.clone());
    drop(rig);
    let again = Rig::over(config(), dir, script, Box::new(|log| log)).await;
    again.control.recover().await;
    let status = again.control.status();
    assert_eq!((status.state, status.gate), (Stage::Idle, Phase::Open), "{:?}", status.limbo);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_is_shown_and_no_cutover_begins_until_it_can() {
    let replaces = Arc::new(AtomicBool::new(false));
    let rig = Rig::wrapped(config(Storage::Shared), sync_fails(Stage::Holding, &replaces)).await;
    rig.sessions(&USERS);
    rig.control.start("v5").await.unwrap();
    rig.over_and_idle().await;
    went_home(&rig, "the first one");
    assert!(rig.control.status().journal.unwrap().contains("EROFS"));
    assert_eq!(rig.world.metrics.journal_failed.get(), 1);
    let refused = rig.control.start("v5").await.unwrap_err();
    assert!(refused.why[0].contains("EROFS"), "{refused}");
    replaces.store(true, Ordering::Relaxed);
    rig.control.watch().wait_for(|status| status.journal.is_none()).await.unwrap();
    rig.control.start("v5").await.unwrap();
    rig.over_and_idle().await;
    serves(&rig, V5, "once it could be written");
}

/// One thread for what blocks, and the record of the decision keeps it.
#[test]
fn a_disk_that_hangs_hides_no_limbo_and_keeps_no_answer_back() {
    let ((sprung, trapped), (release, end)) = (mpsc::channel(), mpsc::channel());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(1).enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let rig =
            Rig::wrapped(config(Storage::Shared), trap(UNDECIDED, Spring::Die(sprung, end), false)).await;
        rig.sessions(&USERS);
        rig.control.start("v5").await.unwrap();
        // The clock stands still while a thread blocks.
        while trapped.try_recv().is_err() {
            tokio::time::advance(Duration::from_micros(10)).await;
        }
        tokio::time::advance(rig.world.config.cutover.max_hold).await;
        rig.control.watch().wait_for(|status| status.limbo.is_some()).await.unwrap();
        assert_eq!(rig.control.report().unwrap().outcome, Outcome::Limbo);
        let kept = rig.dir.path().join("reports/1.json");
        assert!(!kept.exists(), "the disk takes nothing, so somebody waited for something else");
        let refused = rig.control.adopt("v5", "I am in a hurry").await.unwrap_err();
        assert!(refused.why[0].contains("still being carried out"), "{refused}");
        drop(release);
        let asks = |status: &Status| status.limbo.as_ref().is_some_and(|needs| needs.contains("adopt"));
        rig.control.watch().wait_for(asks).await.unwrap();
        rig.control.adopt("v5", "I looked").await.unwrap();
        rig.over_and_idle().await;
        serves(&rig, V5, "in the end");
        let counts = rig.world.metrics.cutovers.counts();
        assert_eq!((counts["limbo"], counts["switched"]), (1, 1));
        let kept = std::fs::read_to_string(kept).unwrap();
        assert!(kept.contains("\"done\""), "{kept}");
    });
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

#[tokio::test]
async fn the_reason_of_a_refused_word_is_not_taken_for_that_of_the_one_before() {
    let rig = Rig::wrapped(config(Storage::Shared), trap(UNDECIDED, Spring::Fail, false)).await;
    rig.sessions(&USERS);
    rig.control.start("v5").await.unwrap();
    rig.control.watch().wait_for(|status| status.limbo.is_some()).await.unwrap();
    let (first, second) =
        tokio::join!(rig.control.adopt("v4", "I looked"), rig.control.adopt("v5", "I did not"));
    first.unwrap();
    assert!(second.unwrap_err().why[0].contains("an earlier word"));
    rig.over_and_idle().await;
    serves(&rig, V4, "the first word");
    let journal = std::fs::read(rig.dir.path().join("journal")).unwrap();
    let journal = String::from_utf8_lossy(&journal);
    assert!(journal.contains("I looked") && !journal.contains("I did not"), "{journal}");
}
