//! The journal under torn writes, damage, and a disk that fails.
//!
//! Rule: what an append confirmed is there after every crash; what it did not confirm is there whole or not at
//! all.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{config::Storage, cutover::testing::config};

const TERMS: Terms =
    Terms { fence_reversible: true, has_promote: true, promote_reversible: true, new_has_fence: true };

fn entered(stage: Stage) -> Record {
    Record::Entered { id: 1, from: "v4".into(), to: "v5".into(), epoch: Epoch(0), stage, terms: TERMS }
}

fn decided() -> Record {
    Record::Decided { id: 1, to: "v5".into(), epoch: Epoch(1) }
}

/// A journal on disk with these records after the first.
fn journal(records: &[Record]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), "v4").unwrap();
    let (mut journal, _) = open(dir.path(), &config(Storage::Shared)).unwrap();
    for record in records {
        journal.append(record).unwrap();
    }
    dir
}

fn reopened(dir: &tempfile::TempDir) -> Recovered {
    open(dir.path(), &config(Storage::Shared)).unwrap().1
}

#[test]
fn a_new_journal_says_which_pool_serves() {
    let found = reopened(&journal(&[]));
    assert_eq!((found.active, found.epoch, found.last_id, found.unfinished), (PoolId(0), Epoch(0), 0, None));
}

#[test]
fn an_absent_or_empty_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused =
        |dir: &tempfile::TempDir| open(dir.path(), &config(Storage::Shared)).unwrap_err().to_string();
    assert!(refused(&dir).contains("bascule init --active"), "{}", refused(&dir));
    std::fs::write(dir.path().join("journal"), []).unwrap();
    assert!(refused(&dir).contains("bascule init --active"), "{}", refused(&dir));
}

#[test]
fn init_refuses_a_journal_that_is_there() {
    let dir = journal(&[]);
    assert!(matches!(init(dir.path(), "v5"), Err(JournalError::Present(_))));
    assert_eq!(reopened(&dir).active, PoolId(0));
}

#[test]
fn one_process_has_the_journal_also_after_it_was_replaced() {
    let dir = journal(&[]);
    let (mut held, _) = open(dir.path(), &config(Storage::Shared)).unwrap();
    let again = || open(dir.path(), &config(Storage::Shared));
    assert!(matches!(again(), Err(JournalError::Locked(_))));
    held.settle(&Record::Adopted { pool: "v5".into(), epoch: Epoch(1), reason: "x".into(), unproved: false })
        .unwrap();
    assert!(matches!(again(), Err(JournalError::Locked(_))));
    drop(held);
    assert_eq!(again().unwrap().1.active, PoolId(1));
}

#[test]
fn a_pool_that_the_configuration_lacks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), "v3").unwrap();
    let refused = open(dir.path(), &config(Storage::Shared)).unwrap_err().to_string();
    assert!(refused.contains("\"v3\"") && refused.contains("adopt"), "{refused}");
    adopt(dir.path(), "v5", "v3 is gone", false).unwrap();
    let found = reopened(&dir);
    assert_eq!((found.active, found.epoch), (PoolId(1), Epoch(1)));
}

#[test]
fn a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let json = br#"{"v":2,"at_ms":0,"record":"init","active":"v4"}"#;
    std::fs::write(dir.path().join("journal"), frame::write(json).unwrap()).unwrap();
    let refused = open(dir.path(), &config(Storage::Shared)).unwrap_err();
    assert!(matches!(refused, JournalError::Version { offset: 0, version: 2, .. }), "{refused}");
}

#[test]
fn each_record_leads_to_its_recovery() {
    let undone = Record::Undone { id: 1 };
    let adopted = |pool: &str, epoch| Record::Adopted {
        pool: pool.into(),
        epoch: Epoch(epoch),
        reason: "x".into(),
        unproved: false,
    };
    type Row = (&'static str, Vec<Record>, u8, u32, Option<(Stage, Option<Side>)>);
    let rows: [Row; 8] = [
        ("armed", vec![entered(Stage::Armed)], 0, 0, Some((Stage::Armed, None))),
        ("fenced", vec![entered(Stage::Armed), entered(Stage::Fenced)], 0, 0, Some((Stage::Fenced, None))),
        ("undone", vec![entered(Stage::Fenced), undone], 0, 0, None),
        (
            "decided",
            vec![entered(Stage::Verified), decided()],
            1,
            1,
            Some((Stage::Verified, Some(Side::New))),
        ),
        ("done", vec![entered(Stage::Verified), decided(), Record::Done { id: 1 }], 1, 1, None),
        (
            "old adopted",
            vec![entered(Stage::Verified), decided(), adopted("v4", 2)],
            0,
            2,
            Some((Stage::Verified, Some(Side::Old))),
        ),
        (
            "new adopted",
            vec![entered(Stage::Verified), adopted("v5", 1)],
            1,
            1,
            Some((Stage::Verified, Some(Side::New))),
        ),
        (
            "adopted after",
            vec![entered(Stage::Fenced), Record::Undone { id: 1 }, adopted("v5", 1)],
            1,
            1,
            None,
        ),
    ];
    for (name, records, active, epoch, unfinished) in rows {
        let found = reopened(&journal(&records));
        assert_eq!((found.active, found.epoch), (PoolId(active), Epoch(epoch)), "{name}");
        assert_eq!(found.unfinished.map(|u| (u.stage, u.decided)), unfinished, "{name}");
        assert_eq!((found.last_id, found.undecided), (1, false), "{name}");
    }
}

/// As versions wrote it that knew no word without proofs.
#[test]
fn an_old_word_for_the_old_pool_leaves_the_way_home_to_be_proved() {
    let json = br#"{"v":1,"at_ms":0,"record":"adopted","pool":"v4","epoch":1,"reason":"x"}"#;
    let Record::Adopted { unproved, .. } = serde_json::from_slice::<Entry>(json).unwrap().record else {
        panic!()
    };
    assert!(!unproved);
}

#[test]
fn a_record_cut_at_any_byte_is_dropped_whole() {
    let dir = journal(&[entered(Stage::Armed), entered(Stage::Verified)]);
    let before = std::fs::read(dir.path().join("journal")).unwrap();
    let end = frame::read(&before).unwrap().end;
    let (mut journal, _) = open(dir.path(), &config(Storage::Shared)).unwrap();
    journal.append(&decided()).unwrap();
    drop(journal);
    let whole = std::fs::read(dir.path().join("journal")).unwrap();
    let after = frame::read(&whole).unwrap().end;
    for cut in end..after {
        // As a file that ends there, and as one whose room had been made.
        for tail in [0, 64] {
            let mut bytes = whole[..cut].to_vec();
            bytes.resize(cut + tail, 0);
            std::fs::write(dir.path().join("journal"), &bytes).unwrap();
            let found = reopened(&dir);
            assert_eq!(found.active, PoolId(0), "cut at {cut}");
            assert_eq!(found.undecided, cut > end, "cut at {cut}: a torn record may have been the decision");
        }
    }
}

/// The decision is damaged after it was confirmed and acted upon, or never was: nobody can tell, at no start.
#[test]
fn a_torn_decision_stays_in_doubt_until_the_operator_says() {
    for (word, serving) in [("v4", PoolId(0)), ("v5", PoolId(1))] {
        let dir = journal(&[entered(Stage::Armed), entered(Stage::Verified)]);
        let path = dir.path().join("journal");
        let end = frame::read(&std::fs::read(&path).unwrap()).unwrap().end;
        let (mut log, _) = open(dir.path(), &config(Storage::Shared)).unwrap();
        log.append(&decided()).unwrap();
        drop(log);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[end + 20] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        for start in 1..=3 {
            let found = reopened(&dir);
            assert!(found.undecided && found.active == PoolId(0), "start {start}: {found:?}");
        }
        adopt(dir.path(), word, "I looked", true).unwrap();
        let found = reopened(&dir);
        assert_eq!((found.active, found.undecided, found.unfinished), (serving, false, None), "{word}");
    }
}

#[test]
fn a_torn_record_leaves_room_for_the_next() {
    let dir = journal(&[entered(Stage::Armed)]);
    let path = dir.path().join("journal");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = frame::read(&bytes).unwrap().end;
    bytes.truncate(end);
    bytes.extend_from_slice(&[200, 0, 0, 0, 1, 2, 3, 4, b'{', b'"']);
    std::fs::write(&path, bytes).unwrap();
    let (mut journal, found) = open(dir.path(), &config(Storage::Shared)).unwrap();
    assert!(!found.undecided, "only Verified can be followed by a decision");
    journal.append(&Record::Undone { id: 1 }).unwrap();
    drop(journal);
    assert_eq!(reopened(&dir).unfinished, None);
}

#[test]
fn damage_before_the_last_record_is_never_skipped() {
    let dir = journal(&[entered(Stage::Verified), decided(), Record::Done { id: 1 }]);
    let path = dir.path().join("journal");
    let whole = std::fs::read(&path).unwrap();
    let last = frame::read(&whole).unwrap().last_at();
    for at in 0..last {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let refused = open(dir.path(), &config(Storage::Shared)).expect_err("a flipped bit");
        assert!(matches!(refused, JournalError::Corrupt { offset, .. } if offset <= at), "{at}: {refused}");
    }
}

/// A disk in memory that fails when told to.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Bytes that one write takes at most; 0 is all of them.
    short: usize,
    /// Bytes that are still taken before every write fails.
    left: Option<usize>,
    sync_fails: bool,
    no_room: bool,
}

impl Medium for Disk {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.0.lock().unwrap();
        let mut take = if disk.short == 0 { bytes.len() } else { bytes.len().min(disk.short) };
        if let Some(left) = &mut disk.left {
            take = take.min(*left);
            *left -= take;
            if take == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
        }
        let at = usize::try_from(offset).unwrap();
        let len = disk.bytes.len().max(at + take);
        disk.bytes.resize(len, 0);
        disk.bytes[at..at + take].copy_from_slice(&bytes[..take]);
        Ok(take)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.0.lock().unwrap().sync_fails { Err(io::Error::other("sync")) } else { Ok(()) }
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().bytes.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn allocate(&mut self, len: u64) -> io::Result<()> {
        if self.0.lock().unwrap().no_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.set_len(len)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sync()?;
        self.0.lock().unwrap().bytes = bytes.to_vec();
        Ok(())
    }

    fn error(&self, doing: &'static str, error: io::Error) -> JournalError {
        JournalError::Io { path: "disk".into(), doing, error }
    }
}

fn on_disk(disk: &Disk) -> (Journal, History) {
    let bytes = disk.0.lock().unwrap().bytes.clone();
    Journal::read(Box::new(disk.clone()), bytes, "disk").unwrap()
}

fn disk_with(records: &[Record]) -> Disk {
    let disk = Disk::default();
    disk.0.lock().unwrap().bytes = encode(&Record::Init { active: "v4".into() }).unwrap();
    let (mut journal, _) = on_disk(&disk);
    for record in records {
        journal.append(record).unwrap();
    }
    disk
}

#[test]
fn short_writes_are_gone_on_with() {
    let disk = disk_with(&[]);
    disk.0.lock().unwrap().short = 3;
    on_disk(&disk).0.append(&entered(Stage::Armed)).unwrap();
    assert!(on_disk(&disk).1.unfinished.is_some());
}

#[test]
fn a_decision_that_fails_at_any_byte_is_fail_stop_and_never_half_there() {
    let len = encode(&decided()).unwrap().len();
    for left in 0..=len {
        let disk = disk_with(&[entered(Stage::Verified)]);
        let (mut journal, _) = on_disk(&disk);
        journal.prepare().unwrap();
        let mut state = disk.0.lock().unwrap();
        (state.left, state.sync_fails) = (Some(left), left == len);
        drop(state);
        let failed = journal.append(&decided());
        assert!(matches!(failed, Err(JournalError::FailStop(_))), "{left}: {failed:?}");
        let next = journal.append(&Record::Undone { id: 1 });
        assert!(matches!(next, Err(JournalError::FailStop(_))), "{left}: nothing is written after a failure");
        let mut state = disk.0.lock().unwrap();
        (state.left, state.sync_fails) = (None, false);
        drop(state);
        let (_, found) = on_disk(&disk);
        assert_eq!(found.decided.is_some(), left == len, "{left}");
        assert_eq!(found.torn, left > 0 && left < len, "{left}");
        journal
            .settle(&Record::Adopted {
                pool: "v4".into(),
                epoch: Epoch(0),
                reason: "x".into(),
                unproved: false,
            })
            .unwrap();
        let (_, settled) = on_disk(&disk);
        assert_eq!((settled.active.as_str(), settled.decided), ("v4", Some(Side::Old)), "{left}");
        journal.append(&Record::Undone { id: 1 }).unwrap();
    }
}

#[test]
fn no_room_is_known_before_anything_is_written() {
    let disk = disk_with(&[]);
    let (mut journal, _) = on_disk(&disk);
    disk.0.lock().unwrap().no_room = true;
    assert!(matches!(journal.prepare(), Err(JournalError::Io { .. })));
    disk.0.lock().unwrap().no_room = false;
    journal.append(&entered(Stage::Armed)).unwrap();
}
