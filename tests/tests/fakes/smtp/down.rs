//! The pool that serves is down, and no cutover runs.
//!
//! Rule: clients wait and are told nothing wrong; whoever runs the servers is told which of them, and why.

use bascule_tests::{
    client::Security,
    fake::{Fence, smtp::Door},
    http,
};

use super::{
    super::rig::{PASSWORD, Plan, Spoken},
    ALICE, BOB, USERS,
};

/// The protocols that are tried.
const TRIED: [&str; 3] = ["imap", "smtp", "http"];

#[tokio::test]
async fn servers_that_cannot_be_reached_are_counted_logged_and_named_until_they_can() {
    let rig = Plan::replicated().mail("xclient", "").web("", Spoken::One).start(USERS).await;
    let mut user = rig.proxy.connect().await.unwrap();
    let mut mailer = rig.mailer(Door::Relay).await;
    let mut browser = http::Client::connect(rig.proxy.http(), Security::Plain).await.unwrap();
    rig.old_pool().fence(Fence::Stop).await.unwrap();
    let login = user.login(ALICE, PASSWORD);
    let mail = rig.mail(&mut mailer, &[BOB], 100);
    let page = browser.ask("GET", "/inbox", b"");
    let down = async {
        let named = |status: &serde_json::Value| {
            let lines: Vec<&str> =
                status["not_reached"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
            TRIED
                .iter()
                .all(|what| lines.iter().any(|line| line.starts_with(what) && line.contains("refused")))
        };
        rig.proxy.until(named).await.unwrap();
        for protocol in TRIED {
            let failed = format!("bascule_dials_failed_total{{pool=\"old\",protocol=\"{protocol}\"}}");
            assert!(rig.proxy.metric(&failed).await.unwrap() >= 1.0, "{failed}");
        }
        let log = rig.proxy.log();
        let told = |protocol: &str| {
            let whose = format!("protocol=\"{protocol}\" server=");
            log.lines().any(|line| line.contains("WARN") && line.contains(&whose) && line.contains("refused"))
        };
        assert!(TRIED.into_iter().all(told), "{log}");
        rig.old_pool().fence(Fence::Off).await.unwrap();
    };
    let (login, mail, page, ()) = tokio::join!(login, mail, page, down);
    login.unwrap().ok().unwrap();
    assert!(mail);
    assert!(page.unwrap().status < 500);
    rig.proxy.until(|status| status["not_reached"].as_array().unwrap().is_empty()).await.unwrap();
    rig.logs("a server is reached again").await;
    rig.all_told().await;
}
