//! What an operator is told of a cutover: before it in the plan, while it runs, and of its end.
//!
//! Rule: the clock is the test's own; nothing here waits for real time to pass.

use std::{sync::Arc, time::Duration};

use super::{
    testing::{Rig, Twist, config},
    tests::{USERS, went_home},
};
use crate::config::{StandbyLogin, Storage};

/// What is asked, its name in words, whose answer it is, and the part of the budget that it takes.
const STEPS: [(&str, &str, &str, &str); 8] = [
    ("engage v4", "hook fence engage of pool v4", "", "fence"),
    ("fenced v4", "proof that pool v4 is fenced", "imap: not answered yet", "fence"),
    ("Barrier lag", "barriers", "barrier lag: not answered yet", "barrier"),
    ("promote v5", "hook promote of pool v5", "", "promote"),
    ("release v5", "hook fence release of pool v5", "", "promote"),
    ("writes v5", "proof that pool v5 takes writes", "imap: not answered yet", "promote"),
    ("offers v5", "proof that pool v5 takes writes", "imap: not answered yet", "promote"),
    ("canaries v4", "canaries on pool v4", "", "arm"),
];

#[tokio::test(start_paused = true)]
async fn what_the_deadline_found_unfinished_is_in_the_report() {
    for (asked, step, whose, share) in STEPS.into_iter().filter(|(.., share)| *share != "arm") {
        let mut config = config(Storage::Replicated);
        // No share ends before the hold does.
        config.cutover.barrier = Duration::from_secs(100);
        let rig = Rig::new(config).await;
        rig.sessions(&USERS);
        rig.script.twist(asked, 0, Twist::Hangs, 1);
        rig.control.start("v5").await.unwrap();
        rig.over_and_idle().await;
        went_home(&rig, asked);
        let report = rig.control.report().unwrap();
        let waited = format!("the hold's deadline passed, still waiting for {step} (for 5");
        assert!(report.reason.contains(&waited) && report.reason.ends_with(whose), "{}", report.reason);
        // It took all of the hold, and the account says so.
        let spent = report.phases.iter().find(|phase| phase.name == share).map(|phase| phase.ms);
        assert!(spent.is_some_and(|ms| ms > 50_000), "{asked}: {:?}", report.phases);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_being_waited_for_is_in_the_status() {
    for (asked, step, whose, _) in STEPS {
        let rig = Rig::new(config(Storage::Replicated)).await;
        rig.sessions(&USERS);
        rig.script.twist(asked, 0, Twist::Hangs, 1);
        rig.control.start("v5").await.unwrap();
        rig.script.until_asked(asked, 1).await;
        let running = rig.control.status().cutover.unwrap();
        let waits: Vec<&str> = running.doing.iter().map(|doing| &*doing.what).collect();
        let waits = [waits, running.waits_for.iter().map(|line| &**line).collect()].concat();
        assert!(waits.contains(&step), "{asked}: {waits:?}");
        assert!(whose.is_empty() || waits.contains(&whose), "{asked}: {waits:?}");
        rig.control.abort("seen enough").await.unwrap();
        rig.over_and_idle().await;
        went_home(&rig, asked);
    }
}

#[tokio::test(start_paused = true)]
async fn time_is_left_only_where_it_ends_the_hold() {
    for (asked, counts) in [("canaries v4", false), ("promote v5", true), ("release v4", false)] {
        let rig = Rig::new(config(Storage::Replicated)).await;
        rig.sessions(&USERS);
        rig.script.twist("offers v5", 0, Twist::Fails, 1);
        rig.script.twist(asked, 0, Twist::Hangs, 1);
        rig.control.start("v5").await.unwrap();
        rig.script.until_asked(asked, 1).await;
        let running = rig.control.status().cutover.unwrap();
        assert_eq!(running.budget_left_ms.is_some(), counts, "{asked}: {running:?}");
        if asked == "release v4" {
            let limbo = rig.control.watch().wait_for(|status| status.limbo.is_some()).await.unwrap().clone();
            assert_eq!(limbo.cutover.unwrap().budget_left_ms, None);
        }
    }
}

#[tokio::test]
async fn servers_that_do_not_answer_forbid_a_cutover_unless_they_are_of_a_standby_that_need_not_run() {
    for (logins, pool, goes) in [
        (StandbyLogin::Yes, "v5", false),
        (StandbyLogin::No, "v5", true),
        (StandbyLogin::Forbidden, "v5", true),
        (StandbyLogin::No, "v4", false),
    ] {
        let mut config = config(Storage::Shared);
        for pool in &mut config.pools {
            Arc::make_mut(pool).contract.standby_login = logins;
        }
        let rig = Rig::new(config).await;
        rig.script.twist(&format!("answers {pool}"), 0, Twist::HappensUnknown, usize::MAX);
        let plan = rig.control.plan("v5").await.unwrap();
        assert_eq!(plan.go, goes, "{logins:?} {pool}: {plan:?}");
        let item = plan.items.iter().find(|item| item.name == format!("lmtp on {pool}")).unwrap();
        assert!(item.saw.contains("said nothing"), "{item:?}");
    }
}
