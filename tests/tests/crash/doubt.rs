//! A decision that may or may not be on the disk, and journals cut off after each of their records.
//!
//! Rule: neither pool is served writes until the operator says which one it is.

use bascule_tests::client::{Client, Status};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::rig::{Rig, frames};

/// The operator's word.
const WORD: &[&str] = &["--reason", "seen by hand"];

/// A cutover whose decision reached the disk only in part, and a client with an APPEND in the hold.
async fn fail_stop() -> (Rig, Client, (String, String)) {
    let rig = Rig::start().await;
    let mut client = rig.client("user1").await;
    rig.append(&mut client).await.ok().unwrap();
    let verify = rig.cutover_to_verified().await;
    let (id, message) = rig.ledger.message(300);
    let tag = client.start_append("INBOX", &message).await.unwrap();
    rig.proxy.until(|status| status["held"] == 1).await.unwrap();
    let journal = std::fs::read(rig.journal_file()).unwrap();
    let known: usize = frames(&journal).iter().map(|frame| frame.len()).sum();
    limit_files(&rig, Some(known as u64 + 20));
    verify.release();
    let status = rig.proxy.until(|status| status["limbo"].is_string()).await.unwrap();
    assert_eq!((&status["state"], &status["gate"]), (&"limbo".into(), &"fail_stop".into()), "{status:#}");
    assert!(status["limbo"].as_str().unwrap().contains("bascule cutover adopt"), "{status:#}");
    nobody_has(&rig, &id);
    (rig, client, (id, tag))
}

/// Writes past this size fail, as on a full disk.
fn limit_files(rig: &Rig, size: Option<u64>) {
    let pid = Pid::from_raw(rig.proxy.id().unwrap().cast_signed());
    prlimit(pid, Resource::Fsize, Rlimit { current: size, maximum: None }).unwrap();
}

fn nobody_has(rig: &Rig, id: &str) {
    for pool in ["old", "new"] {
        let bodies = rig.platform(pool).store().bodies();
        assert!(!bodies.iter().any(|body| String::from_utf8_lossy(body).contains(id)), "{pool} has {id}");
    }
}

async fn adopt(rig: &Rig, pool: &str) -> bascule_tests::bascule::Ran {
    rig.run(&[&["cutover", "adopt", pool], WORD].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_cannot_be_written_waits_for_the_operator() {
    for pool in ["old", "new"] {
        let (rig, mut client, (id, tag)) = fail_stop().await;
        // The word has to be recorded too.
        let ran = adopt(&rig, pool).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!(rig.run(&["status"]).await.code, 4);
        nobody_has(&rig, &id);

        limit_files(&rig, None);
        let ran = adopt(&rig, pool).await;
        assert_eq!(ran.code, 0, "{ran:?}\n{}", rig.proxy.log());
        let reply = client.finish(&tag).await.unwrap();
        assert_eq!(reply.status, Status::Ok, "the held command is answered by {pool}: {reply:?}");
        rig.ledger.settle(&id, bascule_tests::ledger::Fate::Acknowledged);
        rig.proxy.until(|status| status["gate"] == "open" && status["limbo"].is_null()).await.unwrap();
        rig.serves(pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_decision_waits_for_the_operator_after_a_start_too() {
    for pool in ["old", "new"] {
        let (mut rig, _client, (id, _)) = fail_stop().await;
        rig.proxy.kill().await.unwrap();
        rig.platform("new").calm();
        rig.proxy.launch().await.unwrap();
        let status = rig.proxy.until(|status| status["limbo"].is_string()).await.unwrap();
        assert_eq!(status["state"], "limbo", "{status:#}");
        assert!(!rig.takes_writes("old").await, "its fence is left alone");
        nobody_has(&rig, &id);

        let ran = adopt(&rig, pool).await;
        assert_eq!(ran.code, 0, "{ran:?}\n{}", rig.proxy.log());
        rig.proxy.until(|status| status["gate"] == "open" && status["limbo"].is_null()).await.unwrap();
        let adopted = rig.journal().into_iter().find(|record| record["record"] == "adopted");
        assert_eq!(adopted.unwrap()["pool"], pool);
        rig.serves(pool).await;
    }
}

/// What each cut leaves: the records up to it, the pools as they may be then, and the start of the next record.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_cut_off_anywhere_leads_to_the_right_pool() {
    let mut rig = Rig::start().await;
    let ran = rig.proxy.cutover("new").await.unwrap();
    assert_eq!(ran.json["outcome"], "done", "{ran:?}");
    rig.proxy.kill().await.unwrap();
    let whole = std::fs::read(rig.journal_file()).unwrap();
    let frames = frames(&whole);
    assert_eq!(rig.history().last().unwrap(), "decided");
    let mut end = 0;
    for (at, frame) in frames.iter().enumerate() {
        end += frame.len();
        let torn = frames.get(at + 1).map_or(0, |next| next.len() / 2);
        for cut in [end, end + torn] {
            std::fs::write(rig.journal_file(), &whole[..cut]).unwrap();
            let last = rig.history().last().unwrap().clone();
            as_after(&rig, &last).await;
            if last == "entered verified" && cut > end {
                rig.proxy.launch().await.unwrap();
                rig.proxy.until(|status| status["limbo"].is_string()).await.unwrap();
            } else {
                rig.proxy.serve().await.unwrap();
                rig.serves(if last == "decided" { "new" } else { "old" }).await;
            }
            rig.proxy.kill().await.unwrap();
        }
    }
}

/// The pools as far gone as they can be when this was the last record.
async fn as_after(rig: &Rig, last: &str) {
    let fenced = !["init", "entered armed", "entered holding"].contains(&last);
    let promoted = fenced && !["entered fenced", "entered caught_up"].contains(&last);
    let orders = match (fenced, promoted) {
        (false, _) => ["fence old off", "demote new", "fence new off"],
        (true, false) => ["fence old readonly", "demote new", "fence new off"],
        (true, true) => ["fence old readonly", "promote new", "fence new off"],
    };
    for order in orders {
        assert_eq!(rig.pair.obey(order).await.code, 0, "{order}");
    }
}
