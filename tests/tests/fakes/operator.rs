//! What an operator is refused.
//!
//! Rule: a refusal changes nothing, says why, and has its own exit code.

use bascule_tests::{
    bascule::{Bascule, Pool, Ran, Setup},
    client::Error,
    fake::{Reaction, Stall},
};
use rustix::process::Signal;

use super::rig::{BARRIER, PROMOTE, Plan, aborted, through};

fn why(ran: &Ran) -> &str {
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.json["why"][0].as_str().unwrap()
}

#[tokio::test]
async fn a_platform_that_decides_itself_is_refused_by_check_config() {
    let pool = Pool {
        name: "old".into(),
        server: ([127, 0, 0, 1], 143).into(),
        tls: None,
        contract: "storage = \"replicated\", decision = \"platform\"",
        password: "secret".into(),
        capabilities: Vec::new(),
        mail: Vec::new(),
        http: Vec::new(),
        fence: None,
        promote: None,
    };
    let platform = Setup { pools: vec![pool.clone()], ..Setup::default() };
    let proxy = Bascule::lay(&platform).unwrap();
    let checked = proxy.run(&["check-config"]).await.unwrap();
    assert_eq!(checked.code, 2, "{checked:?}");
    let said = checked.json["why"][0].as_str().unwrap();
    assert!(said.contains("pool.old.contract.decision"), "{said}");
    let bascule = "storage = \"replicated\", decision = \"bascule\"";
    let pools = vec![Pool { contract: bascule, ..pool }];
    proxy.configure(&Setup { pools, ..platform }).unwrap();
    assert_eq!(proxy.run(&["check-config"]).await.unwrap().code, 0);
}

#[tokio::test]
async fn a_cutover_to_nowhere_to_where_we_are_or_twice_is_refused() {
    let rig = Plan::replicated().start(&["alice"]).await;
    let mut alice = rig.idler("alice").await;
    let unknown = rig.proxy.cutover("elsewhere").await.unwrap();
    assert_eq!(why(&unknown), "there is no pool \"elsewhere\"");
    assert_eq!(unknown.json["instead"], "the pools are new, old");
    assert_eq!(why(&rig.proxy.cutover("old").await.unwrap()), "old is the active pool already");
    let barrier = rig.hooks.stall(BARRIER);
    let mut first = rig.begin("new");
    first.reaches(&barrier).await;
    let second = rig.proxy.cutover("new").await.unwrap();
    assert!(why(&second).contains("a cutover is caught_up"), "{second:?}");
    assert_eq!(rig.proxy.status().await.unwrap()["state"], "caught_up", "the first goes on");
    barrier.release();
    through(first.end().await);
    let late = rig.proxy.run(&["cutover", "abort", "--reason", "late"]).await.unwrap();
    assert_eq!(late.code, 1, "the decision stands: {late:?}");
    assert_eq!(why(&rig.proxy.cutover("new").await.unwrap()), "new is the active pool already");
    alice.done().await.unwrap().ok().unwrap();
    rig.unharmed().await;
}

/// The operator is asked, since no fence undoes a promote that may have happened; its hook did nothing.
#[tokio::test]
async fn the_old_pool_can_be_adopted_though_the_new_one_has_no_fence() {
    let rig = Plan::replicated().new_pool(|new| new.fence = None).start(&["alice"]).await;
    rig.hooks.refuse(PROMOTE);
    let cutover = rig.begin("new");
    rig.state("limbo").await;
    let ran = rig.proxy.run(&["cutover", "adopt", "old", "--reason", "new is a standby"]).await.unwrap();
    assert_eq!(ran.code, 0, "{ran:?}");
    cutover.end().await;
    rig.proxy.until(|status| status["state"] == "idle" && status["cutover"].is_null()).await.unwrap();
    assert_eq!(rig.active().await, "old");
    rig.login("alice").await;
    rig.unharmed().await;
}

#[tokio::test]
async fn the_log_says_how_a_cutover_ended_and_why() {
    let rig = Plan::replicated().start(&["alice"]).await;
    rig.hooks.refuse(PROMOTE);
    aborted(rig.begin("new").end().await);
    rig.hooks.mend(PROMOTE);
    through(rig.begin("new").end().await);
    rig.proxy.until(|status| status["cutover"].is_null()).await.unwrap();
    let log = rig.proxy.log();
    let of = |cutover: &str| -> Vec<&str> {
        log.lines().filter(|line| line.contains(&format!("cutover={cutover} "))).collect()
    };
    let says = |line: Option<&&str>, words: &[&str]| {
        assert!(line.is_some_and(|line| words.iter().all(|word| line.contains(word))), "{words:?}:\n{log}");
    };
    let (first, second) = (of("1"), of("2"));
    let turned = first.iter().find(|line| line.contains("aborting"));
    says(turned, &["WARN", "promoted: promote of pool new", "refused by the test"]);
    says(
        first.iter().rev().nth(1),
        &["outcome=\"aborted\"", "promoted: promote of pool new", "gate_shut_ms="],
    );
    says(first.last(), &["state=\"idle\"", "active=\"old\""]);
    says(second.iter().find(|line| line.contains("outcome")), &["outcome=\"switched\""]);
    says(second.last(), &["state=\"idle\"", "active=\"new\""]);
}

/// A client that is told BYE instead of what became of its write does it again.
#[tokio::test]
async fn an_answer_that_is_on_its_way_comes_before_the_bye() {
    let rig = Plan::replicated().start(&["alice", "bob"]).await;
    let stall = Stall::default();
    rig.old_pool().react("APPEND", Reaction { withhold: Some(stall.clone()), ..Reaction::default() });
    let (mut alice, mut bob) = (rig.inbox("alice").await, rig.inbox("bob").await);
    let append = alice.start_append("INBOX", b"Subject: once\r\n\r\n").await.unwrap();
    stall.reached(1).await;
    rig.proxy.signal(Signal::TERM).unwrap();
    assert!(matches!(bob.finish("none").await, Err(Error::Closed(Some(_)))));
    stall.release();
    alice.finish(&append).await.unwrap().ok().unwrap();
    assert!(matches!(alice.finish("none").await, Err(Error::Closed(Some(_)))));
}
