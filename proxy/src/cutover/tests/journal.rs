//! The driver over a journal that fails, hangs, or is left by a process that died.
//!
//! Rule: what the disk says decides which pool serves, and what it may say is asked about.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::{
    super::{
        course,
        journal::{self, DecisionLog, JournalError, Record},
        testing::{Rig, Twist, V4, V5, Wrap, config},
        types::{Outcome, Stage, Status},
    },
    USERS, serves, went_home,
};
use crate::{config::Storage, gate::Phase, topology::Epoch};

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
        let terms = course::terms(&bound.pools[0], &bound.pools[1]);
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

/// A life that ended with v5 promoted, and v5 is dead or gone for good: no proof ever passes.
#[tokio::test]
async fn an_unproved_word_for_the_old_pool_ends_a_cutover_whose_new_pool_is_no_more() {
    for stage in [Stage::Promoted, Stage::Soaking] {
        let rig = Rig::new(config(Storage::Shared)).await;
        let (dir, script) = (rig.dir.clone(), rig.script.clone());
        drop(rig);
        let mut bound = config(Storage::Shared);
        bound.server.state_dir = dir.path().into();
        let (mut log, _) = journal::open(dir.path(), &bound).unwrap();
        let (from, to, epoch) = ("v4".into(), "v5".into(), Epoch(0));
        let terms = course::terms(&bound.pools[0], &bound.pools[1]);
        log.append(&Record::Entered { id: 1, from, to, epoch, stage: Stage::Promoted, terms }).unwrap();
        if stage == Stage::Soaking {
            log.append(&Record::Decided { id: 1, to: "v5".into(), epoch: Epoch(1) }).unwrap();
        }
        drop(log);
        for asked in ["refuses v5", "engage v5"] {
            script.twist(asked, 0, Twist::Fails, usize::MAX);
        }
        journal::adopt(dir.path(), "v4", "v5 is dead", true).unwrap();
        // The configuration need not know the dead pool any more.
        bound.pools.truncate(1);
        let (_, recovered) = journal::open(dir.path(), &bound).unwrap();
        assert_eq!((recovered.active, recovered.unfinished), (V4, None), "{stage}");
        let again = Rig::over(config(Storage::Shared), dir, script, Box::new(|log| log)).await;
        again.control.recover().await;
        assert_eq!(again.control.status().state, Stage::Idle, "{stage}");
        assert_eq!((again.world.topology.load().active, again.world.gate.phase()), (V4, Phase::Open));
        assert!(again.script.log().is_empty(), "{:?}", again.script.log());
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
