//! What is asked of a new pool once it was promoted, and what the way home from there shows.
//!
//! Rule: what a standby could not be asked is asked while the old pool can still be gone back to.

use std::sync::Arc;

use super::{
    super::{
        testing::{Rig, Script, Twist, V5, config},
        types::Stage,
    },
    USERS, impatient, serves, went_home,
};
use crate::{
    config::{Config, Protocol, StandbyLogin, Storage},
    gate::Phase,
};

/// v5 takes logins before its promote, or does not.
fn standby(login: StandbyLogin) -> Config {
    let mut config = config(Storage::Replicated);
    let mut v5 = (*config.pools[1]).clone();
    v5.contract.standby_login = login;
    config.pools[1] = Arc::new(v5);
    config
}

fn times(script: &Script, asked: &str) -> usize {
    script.log().iter().filter(|line| *line == asked).count()
}

#[tokio::test]
async fn logins_that_lead_to_other_mailboxes_after_the_promote_go_home() {
    for login in [StandbyLogin::No, StandbyLogin::Forbidden] {
        for twist in [Twist::Fails, Twist::HappensUnknown, Twist::Hangs] {
            let rig = impatient(standby(login)).await;
            rig.script.twist("identity v5", 0, twist.clone(), usize::MAX);
            rig.control.start("v5").await.unwrap();
            rig.over_and_idle().await;
            let what = format!("{login:?} {twist:?}");
            went_home(&rig, &what);
            assert!(rig.control.report().unwrap().reason.contains("identity"), "{what}");
        }
    }
}

#[tokio::test]
async fn whose_mail_logins_show_is_asked_once_and_again_until_markers_are_there() {
    for (login, unclear) in [(StandbyLogin::Yes, 0), (StandbyLogin::No, 0), (StandbyLogin::No, 2)] {
        let rig = Rig::new(standby(login)).await;
        rig.sessions(&USERS);
        rig.script.twist("identity v5", 0, Twist::HappensUnknown, unclear);
        rig.control.start("v5").await.unwrap();
        rig.over_and_idle().await;
        serves(&rig, V5, &format!("{login:?} {unclear}"));
        assert_eq!(times(&rig.script, "identity v5"), unclear + 1, "{login:?}");
    }
}

#[tokio::test]
async fn one_account_cannot_show_whose_mail_logins_show() {
    let mut config = standby(StandbyLogin::No);
    let mut v5 = (*config.pools[1]).clone();
    v5.probes.truncate(1);
    config.pools[1] = Arc::new(v5);
    let rig = Rig::new(config).await;
    let refused = rig.control.start("v5").await.unwrap_err();
    assert!(refused.why[0].contains("pool v5 has one probe account"), "{refused:?}");
    assert!(refused.why[0].contains("pool.v5.probe"), "{refused:?}");
}

#[tokio::test]
async fn limbo_is_over_when_the_gate_opens_though_sessions_are_still_attached() {
    let rig = impatient(config(Storage::Shared)).await;
    rig.script.twist("engage v4", 0, Twist::Fails, 1);
    rig.script.twist("release v4", 0, Twist::Fails, usize::MAX);
    rig.control.start("v5").await.unwrap();
    let mut changes = rig.control.watch();
    changes.wait_for(|status| status.limbo.is_some()).await.unwrap();
    // It came meanwhile, and carries out no order.
    let silent = rig.world.registry.enter("127.0.0.1:1".parse().unwrap(), "test".into(), Protocol::Imap);
    silent.handle.describe(|info| info.identity = "dave".into());
    rig.script.untwist();
    let open = changes.wait_for(|status| status.gate == Phase::Open).await.unwrap().clone();
    assert_eq!((open.state, open.limbo), (Stage::Aborting, None));
    drop(silent);
    rig.over_and_idle().await;
    went_home(&rig, "in the end");
}
