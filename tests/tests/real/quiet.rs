//! Sessions whose mailbox does not change: the cutover says nothing to them, and afterwards all is as it was.
//!
//! Rule: "nothing" is counted in bytes. The old server is gone by then, so whatever is answered, 2.4 answers.

use std::os::unix::fs::chown;

use bascule_tests::{
    dovecot::{Options, Pair},
    oracle::Stage,
};

use super::scene::{MESSAGE, Scene, deliver, patient};

#[tokio::test]
async fn scenario_1_nothing_selected() {
    let scene = Scene::new().await;
    let mut client = scene.proxy.session("alice", "pass").await.unwrap();
    client.command("CREATE Archive").await.unwrap().ok().unwrap();
    let heard = client.received();
    scene.moved().await;
    assert_eq!(client.received(), heard);
    let list = client.command("LIST \"\" *").await.unwrap().ok().unwrap().texts();
    assert!(list.iter().any(|line| line.ends_with(" Archive")), "{list:?}");
}

#[tokio::test]
async fn scenario_2_message_numbers_stay() {
    let scene = Scene::new().await;
    let mut client = scene.selected("alice", 5).await;
    client.command("STORE 2 +FLAGS (\\Deleted)").await.unwrap().ok().unwrap();
    client.command("EXPUNGE").await.unwrap().ok().unwrap();
    let before = client.command("FETCH 3 (UID)").await.unwrap().ok().unwrap().texts();
    assert_eq!(before, ["* 3 FETCH (UID 4)"]);
    let heard = client.received();
    scene.moved().await;
    assert_eq!(client.received(), heard);
    let after = client.command("FETCH 3 (UID)").await.unwrap().ok().unwrap().texts();
    assert_eq!(after, before);
}

#[tokio::test]
async fn scenario_3_idle_hears_of_the_next_delivery() {
    let scene = Scene::new().await;
    let mut client = scene.idle("alice", 1).await;
    let heard = client.received();
    scene.moved().await;
    assert_eq!(client.received(), heard);
    deliver(&scene.pair.new, "alice").await;
    let notices = [client.notice().await.unwrap().text(), client.notice().await.unwrap().text()];
    assert_eq!(notices, ["* 2 EXISTS", "* 1 RECENT"]);
    client.done().await.unwrap().ok().unwrap();
    assert_eq!(client.uids().await.unwrap(), [1, 2]);
}

#[tokio::test]
async fn scenario_14_examine_takes_no_recent() {
    let scene = Scene::new().await;
    deliver(&scene.pair.old, "alice").await;
    let mut client = scene.proxy.session("alice", "pass").await.unwrap();
    let examined = client.command("EXAMINE INBOX").await.unwrap().ok().unwrap();
    assert!(examined.texts().contains(&"* 1 RECENT".to_owned()), "{examined:?}");
    let heard = client.received();
    scene.moved().await;
    assert_eq!(client.received(), heard);
    // It is still read-only, and the message is still recent to the first that selects it.
    let store = client.command("STORE 1 +FLAGS (\\Seen)").await.unwrap();
    assert!(store.lines.is_empty() && store.text.contains("read-only"), "{store:?}");
    let mut other = scene.proxy.session("alice", "pass").await.unwrap();
    let selected = other.select("INBOX").await.unwrap().ok().unwrap();
    assert!(selected.texts().contains(&"* 1 RECENT".to_owned()), "{selected:?}");
}

#[tokio::test]
async fn scenario_36_what_the_client_enabled_and_nothing_more() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    // 2.4 keeps what every session sends.
    let raw = pair.path("raw");
    std::fs::create_dir(&raw).unwrap();
    chown(&raw, Some(5000), Some(5000)).unwrap();
    pair.new.configure("protocols =", "protocol imap {\n  rawlog_dir = /mnt/raw\n}\nprotocols =").unwrap();
    let setup = patient(&pair);
    let scene = Scene::start(pair, &setup).await;

    let mut enabled = scene.proxy.session("alice", "pass").await.unwrap();
    enabled.command("ENABLE QRESYNC CONDSTORE").await.unwrap().ok().unwrap();
    enabled.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
    enabled.select("INBOX").await.unwrap().ok().unwrap();
    let mut plain = scene.selected("bob", 1).await;
    let heard = [enabled.received(), plain.received()];
    scene.moved().await;
    assert_eq!([enabled.received(), plain.received()], heard);

    let flags = "UID STORE 1 +FLAGS (\\Flagged)";
    let answer = enabled.command(flags).await.unwrap().ok().unwrap().texts().concat();
    assert!(answer.contains("MODSEQ"), "{answer}");
    let answer = plain.command(flags).await.unwrap().ok().unwrap().texts().concat();
    assert!(!answer.contains("MODSEQ"), "{answer}");
    let mut seen = Vec::new();
    for file in std::fs::read_dir(&raw).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "in") {
            let log = std::fs::read_to_string(path).unwrap();
            seen.extend(log.lines().filter_map(|line| line.split_once("ENABLE ")).map(|(_, what)| {
                let mut words: Vec<_> = what.split_whitespace().map(str::to_owned).collect();
                words.sort();
                words
            }));
        }
    }
    assert_eq!(seen, [["CONDSTORE", "QRESYNC"]]);
}

#[tokio::test]
async fn scenario_51_one_list_of_capabilities() {
    let scene = Scene::with_barrier().await;
    let mut client = scene.proxy.session("alice", "pass").await.unwrap();
    let before = client.command("CAPABILITY").await.unwrap().ok().unwrap().texts();
    let during = scene.moved_while(client.command("CAPABILITY")).await.unwrap().ok().unwrap().texts();
    let after = client.command("CAPABILITY").await.unwrap().ok().unwrap().texts();
    assert_eq!([&during, &after], [&before; 2]);
    let shown = client.oracle().capabilities(Stage::Authenticated).unwrap();
    assert!(shown.contains("IDLE") && shown.contains("UIDPLUS"), "{shown:?}");
    // A later session is shown the same.
    let mut late = scene.proxy.session("bob", "pass").await.unwrap();
    assert_eq!(late.command("CAPABILITY").await.unwrap().ok().unwrap().texts(), before);
}
