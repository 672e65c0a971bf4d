//! The launchers: a proxy in front of the rig.
//!
//! Rule: what these show, the other tests take for granted.

use bascule_tests::{
    bascule::Bascule,
    dovecot::{Action, Options, Pair},
};

#[tokio::test]
async fn the_configuration_of_a_rig_is_right() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    for fence in [Action::Stop, Action::StopEarly, Action::Refuse] {
        let proxy = Bascule::lay(&pair.setup(fence)).unwrap();
        let checked = proxy.run(&["check-config"]).await.unwrap();
        assert_eq!(checked.code, 0, "{checked:?}");
    }
}
