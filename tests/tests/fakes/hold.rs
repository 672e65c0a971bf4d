//! What a hold does with commands: uploads, pipelines, logins, tags, capabilities.
//!
//! Rule: what is held goes to one pool and is answered once; transcripts of both platforms are the witnesses (D3).

use bascule_tests::{
    client::{Client, Status},
    fake::{Reaction, Stall},
    oracle::Stage,
};

use super::rig::{BARRIER, FENCE, PASSWORD, Plan, aborted, heard, through};

fn stalled(stall: &Stall) -> Reaction {
    Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() }
}

#[tokio::test]
async fn scenario_36_exactly_what_the_client_enabled_is_enabled_on_the_new_pool() {
    let more = |options: &mut bascule_tests::fake::Options| {
        options.capabilities.extend(["CONDSTORE", "QRESYNC", "UTF8=ACCEPT"].map(String::from));
    };
    let rig = Plan::replicated().platforms(more, more).start(&["alice", "bob"]).await;
    let mut alice = rig.login("alice").await;
    alice.command("ENABLE CONDSTORE UTF8=ACCEPT").await.unwrap().ok().unwrap();
    alice.select("INBOX").await.unwrap().ok().unwrap();
    let mut bob = rig.inbox("bob").await;
    rig.cutover("new").await;
    for client in [&mut alice, &mut bob] {
        client.command("NOOP").await.unwrap().ok().unwrap();
    }
    let enabled = |user: &str| {
        let all = rig.new_pool().transcripts();
        let of_user = all.iter().filter(|t| t.user.as_deref() == Some(user));
        let lines = of_user
            .flat_map(|t| String::from_utf8_lossy(&t.received).lines().map(String::from).collect::<Vec<_>>());
        lines
            .filter_map(|line| Some(line.split_once(" ENABLE ")?.1.split(' ').map(String::from).collect()))
            .map(|mut words: Vec<String>| {
                words.sort();
                words
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(enabled("alice"), [["CONDSTORE", "UTF8=ACCEPT"]]);
    assert_eq!(enabled("bob"), Vec::<Vec<String>>::new());
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_44_an_append_of_50_mb_announced_during_a_hold() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let (id, message) = rig.ledger.message(50_000_000);
    let tag = alice.begin(&format!("APPEND INBOX {{{}}}", message.len())).await.unwrap();
    assert_eq!(alice.go_ahead(&tag).await.unwrap(), None, "granted while the gate is shut");
    alice.complete(&tag, &message).await.unwrap();
    rig.held(1).await;
    rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes >= 50_000_000.0).await;
    barrier.release();
    let reply = alice.finish(&tag).await.unwrap().ok().unwrap();
    assert!(reply.text.starts_with("[APPENDUID 1700000000 4] "), "{reply:?}");
    rig.settle(&id, &reply);
    through(cutover.end().await);
    assert!(*rig.new_pool().store().messages("alice", "INBOX")[3].body == *message, "byte by byte");
    rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes == 0.0).await;
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_45_an_append_above_the_limit_waits_for_the_gate() {
    let rig = Plan::replicated().limits("upload = \"1 MiB\"").start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let (id, message) = rig.ledger.message(2_000_000);
    let tag = alice.begin(&format!("APPEND INBOX {{{}}}", message.len())).await.unwrap();
    rig.metric("bascule_limits_hit_total{limit=\"upload\"}", |hit| hit == 1.0).await;
    alice.keep_transcript();
    barrier.release();
    assert_eq!(alice.go_ahead(&tag).await.unwrap(), None);
    assert_eq!(heard(&alice).lines().count(), 1, "the first byte since the announcement");
    alice.complete(&tag, &message).await.unwrap();
    let reply = alice.finish(&tag).await.unwrap().ok().unwrap();
    rig.settle(&id, &reply);
    through(cutover.end().await);
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_46_a_pipeline_behind_an_append_is_answered_in_order_by_the_new_pool() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let (id, message) = rig.ledger.message(10);
    let append = alice.start_append("INBOX", &message).await.unwrap();
    let noop = alice.start("NOOP").await.unwrap();
    let search = alice.start("UID SEARCH ALL").await.unwrap();
    rig.held(3).await;
    barrier.release();
    // The client's own judge would refuse them in another order.
    let found = alice.finish(&search).await.unwrap().ok().unwrap();
    assert_eq!(found.texts().last().unwrap(), "* SEARCH 1 2 3 4");
    alice.finish(&noop).await.unwrap().ok().unwrap();
    rig.settle(&id, &alice.finish(&append).await.unwrap().ok().unwrap());
    through(cutover.end().await);
    assert_eq!(rig.arrived(&[&message[..], b"\r\n"].concat()), [0, 1]);
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_48_a_client_that_uses_our_tags() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.inbox("alice").await;
    let probe = |platform: &bascule_tests::fake::Platform| {
        let all = platform.transcripts();
        let mine = all.iter().filter(|t| t.user.as_deref() == Some("alice"));
        let text: String = mine.map(|t| String::from_utf8_lossy(&t.received).into_owned()).collect();
        let (before, _) = text.split_once(" UID SEARCH RETURN (ALL COUNT) 1:*\r\n").expect("a probe");
        before.rsplit("\r\n").next().unwrap().to_owned()
    };
    rig.cutover("new").await;
    let ours = probe(rig.old_pool());
    let prefix = &ours[..6];
    for tag in [ours.clone(), format!("{prefix}2"), format!("{prefix}3"), prefix.to_lowercase()] {
        alice.start_as(&tag, "NOOP").await.unwrap();
        alice.finish(&tag).await.unwrap().ok().unwrap();
    }
    let idle = format!("{prefix}4");
    alice.start_as(&idle, "IDLE").await.unwrap();
    assert_eq!(alice.go_ahead(&idle).await.unwrap(), None);
    rig.cutover("old").await;
    assert_ne!(&probe(rig.new_pool())[..6], prefix, "the prefix has changed");
    alice.write(b"DONE\r\n").await.unwrap();
    alice.finish(&idle).await.unwrap().ok().unwrap();
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3]);
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_51_capabilities_are_the_same_before_during_and_after() {
    let rig = Plan::replicated()
        .platforms(|old| old.capabilities.push("METADATA".into()), |new| new.capabilities.push("SORT".into()))
        .start(&["alice"])
        .await;
    let mut alice = rig.inbox("alice").await;
    let ask = async |alice: &mut Client| {
        let reply = alice.command("CAPABILITY").await.unwrap().ok().unwrap();
        reply.texts().into_iter().find(|line| line.starts_with("* CAPABILITY ")).unwrap()
    };
    let before = ask(&mut alice).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let during = ask(&mut alice).await;
    barrier.release();
    through(cutover.end().await);
    assert_eq!([&during, &ask(&mut alice).await], [&before, &before]);
    assert!(!before.contains("METADATA") && !before.contains("SORT"), "{before}");
    let later = rig.login("alice").await;
    assert_eq!(
        later.oracle().capabilities(Stage::Authenticated),
        alice.oracle().capabilities(Stage::Authenticated)
    );
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_52_a_bye_of_the_old_pool_while_it_drains_is_swallowed() {
    let rig = Plan::replicated().stops().start(&["alice", "bob", "carol", "dave"]).await;
    let mut alice = rig.idler("alice").await;
    let (mut bob, mut carol) = (rig.inbox("bob").await, rig.login("carol").await);
    let mut dave = rig.login("dave").await;
    for client in [&mut bob, &mut carol] {
        client.keep_transcript();
    }
    // A write that was sent before the gate shut keeps the drain waiting.
    let stall = Stall::default();
    rig.old_pool().react("CREATE", stalled(&stall));
    let create = dave.start("CREATE Work").await.unwrap();
    stall.reached(1).await;
    let cutover = rig.begin("new");
    rig.state("holding").await;
    rig.old_pool().say("* BYE [ALERT] going down", true);
    rig.old_pool().connections(1).await;
    stall.release();
    dave.finish(&create).await.unwrap().ok().unwrap();
    through(cutover.end().await);
    let reply = alice.done().await.unwrap().ok().unwrap();
    assert_eq!(heard(&alice), format!("{} OK {}\r\n", reply.tag, reply.text));
    for client in [&mut bob, &mut carol] {
        let reply = client.command("NOOP").await.unwrap().ok().unwrap();
        assert_eq!(heard(client), format!("{} OK {}\r\n", reply.tag, reply.text));
    }
    dave.command("STATUS Work (MESSAGES)").await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

#[tokio::test]
async fn an_upload_that_was_half_sent_when_the_gate_shut_moves() {
    let rig = Plan::replicated().start(&["alice", "bob"]).await;
    let mut alice = rig.login("alice").await;
    let mut bob = rig.login("bob").await;
    let (id, message) = rig.ledger.message(600_000);
    let tag = alice.begin(&format!("APPEND INBOX {{{}}}", message.len())).await.unwrap();
    assert_eq!(alice.go_ahead(&tag).await.unwrap(), None);
    alice.write(&message[..1000]).await.unwrap();
    let messages = [rig.ledger.message(500), rig.ledger.message(700)];
    let [(_, first), (_, second)] = &messages;
    let several = bob.begin(&format!("APPEND INBOX {{{}}}", first.len())).await.unwrap();
    assert_eq!(bob.go_ahead(&several).await.unwrap(), None);
    bob.write(first).await.unwrap();
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    alice.complete(&tag, &message[1000..]).await.unwrap();
    let rest = [format!(" {{{}+}}\r\n", second.len()).as_bytes(), second].concat();
    bob.complete(&several, &rest).await.unwrap();
    rig.held(2).await;
    barrier.release();
    rig.settle(&id, &alice.finish(&tag).await.unwrap().ok().unwrap());
    let reply = bob.finish(&several).await.unwrap().ok().unwrap();
    assert!(reply.text.starts_with("[APPENDUID 1700000000 4:5] "), "{reply:?}");
    for (id, _) in &messages {
        rig.settle(id, &reply);
    }
    through(cutover.end().await);
    assert_eq!(rig.arrived(&[&message[..], b"\r\n"].concat()), [0, 1]);
    assert_eq!(rig.arrived(&[second, &b"\r\n"[..]].concat()), [0, 1]);
    rig.unharmed().await;
}

#[tokio::test]
async fn a_large_upload_begun_before_is_waited_for() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.login("alice").await;
    let (id, message) = rig.ledger.message(600_000);
    let tag = alice.begin(&format!("APPEND INBOX {{{}}}", message.len())).await.unwrap();
    assert_eq!(alice.go_ahead(&tag).await.unwrap(), None);
    // More than is kept while nobody prepares a cutover.
    alice.write(&message[..500_000]).await.unwrap();
    let come = |session: &serde_json::Value| session["upload"][0].as_u64() >= Some(500_000);
    rig.proxy.until_session(come).await.unwrap();
    let cutover = rig.begin("new");
    rig.proxy.until(|status| status["cutover"]["waits_for"].to_string().contains("alice")).await.unwrap();
    rig.state("armed").await;
    alice.complete(&tag, &message[500_000..]).await.unwrap();
    rig.settle(&id, &alice.finish(&tag).await.unwrap().ok().unwrap());
    through(cutover.end().await);
    alice.command("NOOP").await.unwrap().ok().unwrap();
    assert_eq!(rig.arrived(&[&message[..], b"\r\n"].concat()), [1, 0]);
    rig.unharmed().await;
}

#[tokio::test]
async fn a_large_upload_begun_while_armed_moves_with_its_mailbox() {
    let rig = Plan::replicated().start(&["alice", "bob"]).await;
    let mut alice = rig.inbox("alice").await;
    let mut bob = rig.inbox("bob").await;
    // Bob's view cannot be learnt while he waits for an answer.
    let stall = Stall::default();
    rig.old_pool().react("FETCH", stalled(&stall));
    let fetch = bob.start("FETCH 1 (FLAGS)").await.unwrap();
    stall.reached(1).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    let probed = || {
        let all = rig.old_pool().transcripts();
        let probe = b" UID SEARCH RETURN (ALL COUNT) 1:*\r\n";
        all.iter().any(|t| t.user.as_deref() == Some("alice") && t.contains(probe))
    };
    rig.proxy.until(|_| probed()).await.unwrap();
    let (id, message) = rig.ledger.message(600_000);
    let tag = alice.begin(&format!("APPEND INBOX {{{}}}", message.len())).await.unwrap();
    assert_eq!(alice.go_ahead(&tag).await.unwrap(), None);
    alice.write(&message[..500_000]).await.unwrap();
    stall.release();
    bob.finish(&fetch).await.unwrap().ok().unwrap();
    cutover.reaches(&barrier).await;
    alice.complete(&tag, &message[500_000..]).await.unwrap();
    rig.held(1).await;
    barrier.release();
    let reply = alice.finish(&tag).await.unwrap().ok().unwrap();
    rig.settle(&id, &reply);
    through(cutover.end().await);
    assert_eq!(rig.arrived(&[&message[..], b"\r\n"].concat()), [0, 1]);
    assert_eq!(alice.uids().await.unwrap(), [1, 2, 3, 4]);
    rig.unharmed().await;
}

#[tokio::test]
async fn a_login_in_flight_during_the_hold_is_answered_by_the_winner() {
    let rig = Plan::replicated().start(&["alice", "bob"]).await;
    let stall = Stall::default();
    rig.old_pool().react("LOGIN", stalled(&stall));
    let mut alice = rig.proxy.connect().await.unwrap();
    let login = alice.start(&format!("LOGIN alice {PASSWORD}")).await.unwrap();
    stall.reached(1).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let mut bob = rig.proxy.connect().await.unwrap();
    let wrong = bob.start("LOGIN bob wrong").await.unwrap();
    rig.held(2).await;
    barrier.release();
    alice.finish(&login).await.unwrap().ok().unwrap();
    let refused = bob.finish(&wrong).await.unwrap();
    assert_eq!(refused.status, Status::No);
    assert!(refused.text.starts_with("[AUTHENTICATIONFAILED]"), "what the winner says: {refused:?}");
    through(cutover.end().await);
    assert_eq!(rig.old_pool().counters().logins.get("alice"), None);
    assert_eq!(rig.new_pool().counters().logins.get("alice"), Some(&1));
    stall.release();
    alice.command("STATUS INBOX (MESSAGES)").await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

#[tokio::test]
async fn a_login_in_flight_during_a_hold_that_is_aborted_is_answered_by_the_old_pool() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    let mut alice = rig.proxy.connect().await.unwrap();
    let login = alice.start(&format!("LOGIN alice {PASSWORD}")).await.unwrap();
    rig.held(1).await;
    rig.hooks.refuse(FENCE);
    fence.release();
    alice.finish(&login).await.unwrap().ok().unwrap();
    aborted(cutover.end().await);
    assert_eq!(rig.old_pool().counters().logins.get("alice"), Some(&1));
    assert_eq!(rig.new_pool().counters().logins.get("alice"), None);
    rig.unharmed().await;
}
