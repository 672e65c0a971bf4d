//! Mailboxes and accounts that differ on the new pool: before the decision they abort, after it they are told
//! farewell.
//!
//! Rule: each is tried twice, with `unmovable = "abort"` (nobody hears anything) and with one session allowed (that
//! one hears a plain BYE, its neighbours nothing).

use bascule_tests::{
    client::{Client, Error},
    fake::{Op, Options, Store},
};

use super::rig::{MAIL, Plan, Rig, aborted, heard};

/// What differs for alice: `reason` is the proxy's word for it.
struct Difference {
    reason: &'static str,
    make: fn(&Store, &Store),
}

const UIDVALIDITY: Difference = Difference {
    reason: "uidvalidity",
    make: |old, new| {
        for (store, validity) in [(old, 7), (new, 8)] {
            store.change("alice", Op::Create { mailbox: "Work".into(), validity });
        }
    },
};

const MISSING: Difference = Difference {
    reason: "mailbox_refused",
    make: |old, _| old.change("alice", Op::Create { mailbox: "Work".into(), validity: 7 }),
};

const EXPUNGED: Difference = Difference {
    reason: "expunged",
    make: |old, new| {
        for store in [old, new] {
            store.change("alice", Op::Create { mailbox: "Work".into(), validity: 7 });
            store.deliver("alice", "Work", b"Subject: one\r\n\r\n");
            store.deliver("alice", "Work", b"Subject: two\r\n\r\n");
        }
        new.expunge("alice", "Work", 1);
    },
};

const NO_ACCOUNT: Difference = Difference {
    reason: "login_refused",
    make: |old, _| {
        old.add_user("alice");
        old.change("alice", Op::Create { mailbox: "Work".into(), validity: 7 });
    },
};

/// Alice in IDLE on what differs; her other session, where the account is not what differs; bob.
async fn people(rig: &Rig, difference: &Difference) -> (Client, Vec<Client>) {
    let mut alice = rig.login("alice").await;
    alice.select("Work").await.unwrap().ok().unwrap();
    assert_eq!(alice.idle().await.unwrap(), None);
    alice.keep_transcript();
    let mut others = vec![rig.idler("bob").await];
    if difference.users().contains(&"alice") {
        others.push(rig.idler("alice").await);
    }
    (alice, others)
}

impl Difference {
    /// Who has an account on both sides.
    fn users(&self) -> &'static [&'static str] {
        if self.reason == "login_refused" { &["bob"] } else { &["alice", "bob"] }
    }
}

/// None of them may be given up: the cutover goes back, and nobody hears anything.
async fn aborts(difference: Difference) {
    let rig = Plan::replicated().stores(difference.make).start(difference.users()).await;
    let (alice, mut others) = people(&rig, &difference).await;
    let report = aborted(rig.begin("new").end().await);
    assert!(report["unmovable"][difference.reason] == 1, "{report}");
    assert!(report["reason"].as_str().unwrap().contains(difference.reason), "{report}");
    others.push(alice);
    for session in &mut others {
        let reply = session.done().await.unwrap().ok().unwrap();
        assert_eq!(heard(session), format!("{} OK {}\r\n", reply.tag, reply.text));
        session.command("NOOP").await.unwrap().ok().unwrap();
    }
    assert_eq!(rig.active().await, "old");
    rig.unharmed().await;
}

/// One may be given up: it hears a BYE that no mail program shows, and the others nothing.
async fn says_farewell(difference: Difference) {
    let rig =
        Plan::replicated().cutover("unmovable = 1").stores(difference.make).start(difference.users()).await;
    let (mut alice, mut others) = people(&rig, &difference).await;
    let ran = rig.begin("new").end().await;
    assert_eq!((ran.code, &ran.json["outcome"]), (0, &"done".into()), "{ran:?}");
    assert_eq!(ran.json["unmovable"], serde_json::json!({ difference.reason: 1 }), "{ran:?}");
    assert_eq!(ran.json["kept"].as_u64().unwrap() + 1, ran.json["sessions"].as_u64().unwrap(), "{ran:?}");
    let bye = alice.notice().await.unwrap().text();
    assert!(bye.starts_with("* BYE ") && !bye.contains('['), "{bye}");
    assert!(matches!(alice.notice().await, Err(Error::Closed(_))));
    assert_eq!(heard(&alice), format!("{bye}\r\n"), "nothing but the farewell");
    for session in &mut others {
        let reply = session.done().await.unwrap().ok().unwrap();
        assert_eq!(heard(session), format!("{} OK {}\r\n", reply.tag, reply.text));
        assert_eq!(session.uids().await.unwrap().len(), MAIL as usize);
    }
    rig.unharmed().await;
}

#[tokio::test]
async fn scenario_26_another_uidvalidity_aborts() {
    aborts(UIDVALIDITY).await;
}

#[tokio::test]
async fn scenario_26_another_uidvalidity_is_told_bye_without_alert() {
    says_farewell(UIDVALIDITY).await;
}

#[tokio::test]
async fn scenario_28_a_mailbox_that_is_not_there_aborts() {
    aborts(MISSING).await;
}

#[tokio::test]
async fn scenario_28_a_mailbox_that_is_not_there_is_told_bye() {
    says_farewell(MISSING).await;
}

#[tokio::test]
async fn scenario_31_a_refused_login_aborts() {
    aborts(NO_ACCOUNT).await;
}

#[tokio::test]
async fn scenario_31_a_refused_login_never_reaches_the_client() {
    says_farewell(NO_ACCOUNT).await;
}

#[tokio::test]
async fn a_message_that_is_gone_on_the_new_pool_aborts() {
    aborts(EXPUNGED).await;
}

#[tokio::test]
async fn a_message_that_is_gone_on_the_new_pool_is_told_bye() {
    says_farewell(EXPUNGED).await;
}

/// Verify only looks (EXAMINE), so nobody knows before the decision.
#[tokio::test]
async fn a_mailbox_that_nobody_may_change_there_any_more_is_told_bye() {
    let stores = |old: &Store, new: &Store| {
        for store in [old, new] {
            store.change("alice", Op::Create { mailbox: "Work".into(), validity: 7 });
        }
    };
    let read_only = |options: &mut Options| options.read_only.push("Work".into());
    let rig = Plan::replicated().stores(stores).platforms(|_| {}, read_only).start(&["alice"]).await;
    let (mut alice, mut examines) = (rig.login("alice").await, rig.login("alice").await);
    alice.select("Work").await.unwrap().ok().unwrap();
    examines.command("EXAMINE Work").await.unwrap().ok().unwrap();
    let ran = rig.begin("new").end().await;
    assert_eq!((ran.code, &ran.json["outcome"]), (0, &"done".into()), "{ran:?}");
    assert_eq!(ran.json["unmovable"], serde_json::json!({ "read_only": 1 }), "{ran:?}");
    assert!(alice.notice().await.unwrap().text().starts_with("* BYE "));
    examines.command("NOOP").await.unwrap().ok().unwrap();
    rig.unharmed().await;
}
