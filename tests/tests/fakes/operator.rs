//! What an operator is refused.
//!
//! Rule: a refusal changes nothing, says why, and has its own exit code.

use bascule_tests::bascule::{Bascule, Pool, Ran, Setup};

use super::rig::{BARRIER, Plan, through};

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
