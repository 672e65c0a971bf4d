//! What a plan and the proofs say of pools by every protocol at once.
//!
//! Rule: what is wrong with one of them is said at once and by its name, and no hold is spent on it.

use bascule_tests::fake::Fence;

use super::{
    super::rig::{PROMOTE, Plan, Spoken, aborted, through},
    USERS,
};

#[tokio::test]
async fn a_promote_that_did_nothing_is_found_by_the_first_who_is_refused() {
    let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
    rig.hooks.pretend(PROMOTE);
    let report = aborted(rig.begin("new").end().await);
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.starts_with("promoted: pool new: ") && reason.contains("[UNAVAILABLE]"), "{reason}");
    rig.hooks.mend(PROMOTE);
    through(rig.begin("new").end().await);
}

#[tokio::test]
async fn a_plan_knocks_at_every_server() {
    let rig = Plan::replicated().mail("xclient", "").web("", Spoken::One).start(USERS).await;
    let what = ["smtp", "submission", "lmtp", "http webmail"];
    let seen = async || {
        let plan = rig.proxy.run(&["cutover", "plan", "new"]).await.unwrap().json;
        let items = plan["items"].as_array().unwrap().clone();
        let answer = |name: String| items.iter().find(|item| item["name"] == name).unwrap()["answer"].clone();
        ["old", "new"].map(|pool| what.map(|what| answer(format!("{what} on {pool}"))))
    };
    assert_eq!(seen().await, [["pass"; 4]; 2]);
    rig.new_pool().fence(Fence::Stop).await.unwrap();
    assert_eq!(seen().await, [["pass"; 4], ["unknown"; 4]]);
}
