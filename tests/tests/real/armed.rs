//! What clients do between the beginning of a cutover and the moment at which the gate shuts.
//!
//! Rule: a guard keeps the cutover Armed until the test lets it go on.

use bascule_tests::dovecot::Options;

use super::scene::{MESSAGE, Scene, all_moved, guard};

#[tokio::test]
async fn mailboxes_that_are_selected_while_armed_are_no_obstacle() {
    let scene = Scene::asking(Options::default(), guard).await;
    let mut client = scene.selected("alice", 1).await;
    let inside = async {
        let guard = scene.armed().await;
        for n in 0..8 {
            client.command(&format!("CREATE box{n}")).await.unwrap().ok().unwrap();
            for _ in 0..n {
                client.append(&format!("box{n}"), MESSAGE).await.unwrap().ok().unwrap();
            }
            client.select(&format!("box{n}")).await.unwrap().ok().unwrap();
        }
        // The last one is selected before, while or after the gate shuts.
        let select = client.start("SELECT box3").await.unwrap();
        guard.answer(0).await;
        select
    };
    let (ran, select) = scene.cutover_while(inside).await;
    all_moved(&ran);
    client.finish(&select).await.unwrap().ok().unwrap();
    assert_eq!(client.uids().await.unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn a_download_that_ends_within_the_drain_keeps_its_session() {
    let mut large = b"Subject: large\r\n\r\n".to_vec();
    // More than the buffers between the server and this client take.
    large.resize(48 << 20, b'x');
    let scene = Scene::asking(Options::default(), guard).await;
    let mut client = scene.selected("alice", 0).await;
    client.append("INBOX", &large).await.unwrap().ok().unwrap();
    client.command("NOOP").await.unwrap().ok().unwrap();
    let inside = async {
        let guard = scene.armed().await;
        let fetch = client.start("UID FETCH 1 (BODY.PEEK[])").await.unwrap();
        client.answered().await.unwrap();
        guard.answer(0).await;
        scene.proxy.until(|status| status["state"] == "holding").await.unwrap();
        client.finish(&fetch).await.unwrap().ok().unwrap()
    };
    let (ran, fetched) = scene.cutover_while(inside).await;
    all_moved(&ran);
    assert!(fetched.lines.iter().any(|response| response.literals().next() == Some(&large[..])));
    assert_eq!(client.uids().await.unwrap(), [1]);
}
