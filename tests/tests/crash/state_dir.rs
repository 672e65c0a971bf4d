//! What `serve` refuses to begin with, what it says to do, and the operator's repair.
//!
//! Rule: a refusal names the file and a way on; nothing is listened on meanwhile and the journal stays as it is.

use bascule_tests::client::{Client, Error};

use crate::rig::{Rig, frames};

/// `serve` ends at once with this in its refusal, and the journal is untouched.
async fn refused(rig: &Rig, words: &[&str]) {
    let before = std::fs::read(rig.journal_file()).ok();
    let ran = rig.run(&["serve"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    let said = ran.json.to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
    assert_eq!(std::fs::read(rig.journal_file()).ok(), before);
    let knock = Client::connect(rig.proxy.imaps(), rig.security()).await;
    assert!(matches!(knock, Err(Error::Io(_) | Error::Closed(_))), "nobody listens: {knock:?}");
}

/// Initialised, never served.
async fn initialised() -> Rig {
    let rig = Rig::lay().await;
    assert_eq!(rig.run(&["init", "--active", "old"]).await.code, 0);
    rig
}

/// The journal with what `change` does to it.
fn rewrite(rig: &Rig, change: impl FnOnce(&mut Vec<u8>)) {
    let mut journal = std::fs::read(rig.journal_file()).unwrap();
    change(&mut journal);
    std::fs::write(rig.journal_file(), journal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_dir_without_a_journal_is_refused() {
    let rig = initialised().await;
    std::fs::write(rig.journal_file(), []).unwrap();
    refused(&rig, &["journal", "bascule init --active"]).await;
    std::fs::remove_file(rig.journal_file()).unwrap();
    refused(&rig, &["journal", "bascule init --active"]).await;
    std::fs::remove_dir_all(rig.proxy.state_dir()).unwrap();
    refused(&rig, &["bascule init"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_other_pools_is_refused_until_one_is_adopted() {
    let mut rig = Rig::lay().await;
    let mut foreign = rig.setup.clone();
    foreign.tables.clear();
    for (pool, name) in foreign.pools.iter_mut().zip(["east", "west"]) {
        pool.name = name.into();
    }
    rig.proxy.configure(&foreign).unwrap();
    assert_eq!(rig.run(&["init", "--active", "east"]).await.code, 0);
    rig.proxy.configure(&rig.setup).unwrap();
    refused(&rig, &["\\\"east\\\"", "bascule cutover adopt"]).await;

    let ran = rig.run(&["cutover", "adopt", "east", "--reason", "x"]).await;
    assert_eq!(ran.code, 1, "a pool that the configuration lacks: {ran:?}");
    let ran = rig.run(&["cutover", "adopt", "old", "--reason", "east is called old now"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    rig.proxy.serve().await.unwrap();
    rig.serves("old").await;
    assert_eq!(rig.journal()[1]["reason"], "east is called old now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_record_is_dropped() {
    let mut rig = initialised().await;
    rewrite(&rig, |journal| {
        let torn = journal[..journal.len() - 1].to_vec();
        journal.extend(torn);
    });
    rig.proxy.serve().await.unwrap();
    rig.serves("old").await;
    assert_eq!(rig.history(), ["init"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_the_last_record_is_refused() {
    let mut rig = Rig::start().await;
    assert_eq!(rig.proxy.cutover("new").await.unwrap().code, 0);
    rig.proxy.kill().await.unwrap();
    rewrite(&rig, |journal| {
        let second = frames(journal)[0].len();
        journal[second + 20] ^= 1;
    });
    refused(&rig, &["damaged", "keep a copy", "bascule init --active"]).await;
    // Nobody knows what the lost record said, so a word on one pool does not repair it either.
    let ran = rig.run(&["cutover", "adopt", "new", "--reason", "x"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_bascule_is_refused() {
    let rig = initialised().await;
    rewrite(&rig, |journal| {
        let json = String::from_utf8(frames(journal)[0][8..].to_vec()).unwrap();
        *journal = frame(json.replacen("\"v\":1", "\"v\":2", 1).as_bytes());
    });
    refused(&rig, &["version 2", "newer"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_dir_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let rig = initialised().await;
    std::fs::set_permissions(rig.proxy.state_dir(), PermissionsExt::from_mode(0o755)).unwrap();
    refused(&rig, &["chmod 700"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_serve_on_one_state_dir_is_refused() {
    let rig = Rig::start().await;
    let mut client = rig.client("user1").await;
    let ran = rig.run(&["serve"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.json.to_string().contains("another bascule uses this journal"), "{ran:?}");
    rig.append(&mut client).await.ok().unwrap();
    rig.serves("old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_init_is_refused() {
    let rig = Rig::start().await;
    let ran = rig.run(&["init", "--active", "new"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.json.to_string().contains("bascule cutover adopt"), "{ran:?}");
    rig.serves("old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adopt_repairs_a_proxy_that_does_not_run() {
    let mut rig = Rig::start().await;
    let mut client = rig.client("user1").await;
    rig.append(&mut client).await.ok().unwrap();
    rig.pair.replication("old").unwrap().drained().await;
    rig.proxy.kill().await.unwrap();
    // The day the old site is dead: its successor is made ready by hand.
    for order in ["fence old readonly", "promote new", "fence new off"] {
        assert_eq!(rig.pair.obey(order).await.code, 0);
    }
    let ran = rig.run(&["cutover", "adopt", "new", "--reason", "old burnt down"]).await;
    assert_eq!((ran.code, &ran.json["active"]), (0, &"new".into()), "{ran:?}");
    rig.proxy.serve().await.unwrap();
    rig.serves("new").await;
    assert_eq!(rig.status().await["epoch"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn adopt_is_refused_while_nothing_is_stuck() {
    let rig = Rig::start().await;
    let ran = rig.run(&["cutover", "adopt", "new", "--reason", "x"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.json["instead"].as_str().unwrap().contains("start a cutover"), "{ran:?}");
    rig.serves("old").await;
}

/// A record as the journal's format has it: length, CRC-32 of length and JSON, JSON.
fn frame(json: &[u8]) -> Vec<u8> {
    let len = u32::try_from(json.len()).unwrap().to_le_bytes();
    let bytes = || len.iter().chain(json);
    let crc = !bytes().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    [&len[..], &crc.to_le_bytes(), json].concat()
}

#[test]
fn the_frame_of_these_tests_is_the_frame_of_bascule() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rig = runtime.block_on(initialised());
    let journal = std::fs::read(rig.journal_file()).unwrap();
    assert_eq!(frame(&journal[8..]), journal);
}
