//! What a plan says about services of HTTP, and the fences of theirs.
//!
//! Rule: a service that could still be written to stops a cutover, and so does one of which nothing is known.

use bascule_tests::{fake::http::Web, http::Client};

use super::{USERS, plan};
use crate::fakes::rig::{Rig, through};

/// The items of a plan whose names begin so.
async fn items(rig: &Rig, name: &str) -> Vec<(String, String, String)> {
    let plan = rig.proxy.run(&["cutover", "plan", "new"]).await.unwrap().json;
    let text = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap().to_owned();
    let items = plan["items"].as_array().unwrap().iter();
    let named = items.filter(|item| text(item, "name").starts_with(name));
    named.map(|item| (text(item, "name"), text(item, "answer"), text(item, "saw"))).collect()
}

/// Logs in, and looks at the page.
async fn person(rig: &Rig) -> Client {
    let mut client = rig.browser().await;
    let said = client.ask_with("GET", "/inbox", "Cookie: sid=old\r\n", b"").await.unwrap();
    assert_eq!((said.status, &*said.body), (200, &b"mail"[..]));
    client
}

/// Requests of proofs that begin so.
fn proofs(web: &Web, begin: &str) -> usize {
    web.proofs().iter().filter(|seen| seen.head.starts_with(begin)).count()
}

#[tokio::test]
async fn a_fence_that_leaves_a_web_server_writing_is_caught() {
    for (plan, saw) in [(plan(), "PUT was answered OK"), (plan().stops(), "PUT was answered OK")] {
        let rig = plan.start(USERS).await;
        rig.web()[0].leak();
        let ran = rig.begin("new").end().await;
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.json.to_string().contains(saw), "{ran:?}");
        assert_eq!(rig.active().await, "old");
        assert_eq!(rig.shelf.file("/dav/probe1/probe"), None, "what was let through is taken away");
    }
}

#[tokio::test]
async fn web_servers_whose_fence_holds_are_switched_and_nothing_of_the_proof_is_left() {
    for (plan, after) in [(plan(), 2), (plan().stops(), 0)] {
        let rig = plan.start(USERS).await;
        through(rig.begin("new").end().await);
        assert_eq!(rig.shelf.file("/dav/probe1/probe"), None);
        assert!(proofs(rig.web()[0], "PUT /dav/probe1/probe") > after, "before the fence, and after it");
        assert!(proofs(rig.web()[1], "PUT /dav/probe2/probe") > 0, "after the promote");
    }
}

#[tokio::test]
async fn sessions_that_are_good_on_both_pools_are_said_to_be() {
    let rig = plan().start(USERS).await;
    rig.web()[1].desk().takes_others();
    let _person = person(&rig).await;
    let saw = "a session of the old pool is good on the new one; 1 are live";
    assert_eq!(
        items(&rig, "http webmail: sessions").await,
        [("http webmail: sessions on new".into(), "pass".into(), saw.into())]
    );
}

#[tokio::test]
async fn people_who_would_have_to_log_in_again_are_counted_and_stop_the_plan() {
    let rig = plan().start(USERS).await;
    let before = items(&rig, "http webmail: sessions").await;
    assert_eq!(
        (&*before[0].1, &*before[0].2),
        ("note", "a session of the old pool is answered 302 by the new one; 0 are live")
    );
    let _people = (person(&rig).await, person(&rig).await);
    let after = items(&rig, "http webmail: sessions").await;
    assert_eq!(after[0].1, "fail");
    assert!(after[0].2.contains("1 live ones would have to log in again"), "{after:?}");
}

#[tokio::test]
async fn a_pool_that_shows_the_names_of_its_servers_stops_the_plan_where_it_is_the_new_one() {
    let rig = plan().start(USERS).await;
    let [old, new] = rig.web();
    assert_eq!(
        items(&rig, "http webmail: names").await.iter().map(|item| &*item.1).collect::<Vec<_>>(),
        ["pass", "pass"]
    );
    for web in [old, new] {
        web.desk().sends_to(format!("http://{}/login", web.address()));
    }
    let found = items(&rig, "http webmail: names").await;
    assert_eq!(found.iter().map(|item| &*item.1).collect::<Vec<_>>(), ["note", "fail"], "{found:?}");
    assert!(found[1].2.contains(&new.address().ip().to_string()), "{found:?}");
}
