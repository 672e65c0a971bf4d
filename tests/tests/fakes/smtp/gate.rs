//! Mail and mailboxes behind one gate: no open relay is served or switched to, a fence is one for mail too, and the new
//! pool has shown that it takes mail.
//!
//! Rule: what a probe leaves is looked for where it could lie: in mailboxes and queues of both platforms.

use bascule_tests::{
    fake::{Options, Reaction, smtp::Door},
    smtp::{Client, Dialect},
};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    super::rig::{BARRIER, PASSWORD, aborted, through},
    BOB, FROM, Plan, Rig, USERS,
};

const SMTP_CLOSED: &str = "bascule_connections_refused_total{reason=\"open_relay\"}";

fn opens(options: &mut Options) {
    options.smtp.as_mut().unwrap().open_relay = true;
}

fn trusts_loopback(options: &mut Options) {
    options.smtp.as_mut().unwrap().networks = vec!["127.0.0.1".parse().unwrap()];
}

impl Rig {
    /// The items of a plan that forbid the cutover, by name.
    async fn against(&self) -> Vec<(String, String)> {
        let plan = self.proxy.run(&["cutover", "plan", "new"]).await.unwrap().json;
        let blocks = |item: &&Value| matches!(item["answer"].as_str(), Some("fail" | "unknown"));
        let items = plan["items"].as_array().unwrap().iter().filter(blocks);
        items.map(|i| (i["name"].as_str().unwrap().into(), i["saw"].as_str().unwrap().into())).collect()
    }

    /// Nobody's mailbox and no queue has a message of a probe.
    fn nothing_of_a_probe(&self) {
        for platform in [self.old_pool(), self.new_pool()] {
            let ours = |body: &[u8]| body.windows(14).any(|part| part == b"canary@bascule");
            let mail = platform.store().mail();
            assert!(mail.iter().all(|(_, body)| !ours(body)), "{:?}", mail.len());
            let queued = platform.accepted().into_iter().filter(|accepted| accepted.door != Door::Lmtp);
            assert!(queued.into_iter().all(|accepted| !ours(&accepted.body)));
        }
    }
}

#[tokio::test]
async fn an_open_relay_is_not_served_until_it_is_mended() {
    let rig = Plan::replicated().mail("xclient", "").platforms(opens, |_| {}).start(USERS).await;
    rig.inbox(BOB).await;
    assert!(rig.greets_nobody().await);
    rig.metric(SMTP_CLOSED, |count| count > 0.0).await;
    rig.metric("bascule_open_relay{pool=\"old\",protocol=\"smtp\"}", |open| open == 1.0).await;
    let status = rig.proxy.status().await.unwrap();
    let why = status["not_served"][0].as_str().unwrap();
    assert!(why.starts_with("smtp: smtp of pool old would relay for strangers"), "{why}");
    let against = rig.against().await;
    assert!(
        against
            .iter()
            .any(|(name, saw)| name == "relay test of smtp on old" && saw.contains("client_address"))
    );
    rig.old_pool().reconfigure(|options| options.smtp.as_mut().unwrap().open_relay = false);
    rig.proxy.signal(Signal::HUP).unwrap();
    rig.proxy.until(|status| status["not_served"].as_array().unwrap().is_empty()).await.unwrap();
    assert!(rig.mail(&mut rig.mailer(Door::Relay).await, &[BOB], 100).await);
    assert!(rig.old_pool().accepted().iter().all(|accepted| accepted.recipients == [BOB]));
    rig.all_told().await;
}

#[tokio::test]
async fn a_relay_that_opens_is_closed_by_the_next_plan() {
    let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
    let mut client = rig.mailer(Door::Relay).await;
    assert!(rig.against().await.is_empty());
    rig.old_pool().reconfigure(opens);
    assert_eq!(rig.against().await[0].0, "relay test of smtp on old");
    assert!(client.closed().await.unwrap().is_some_and(|words| words.contains("421")));
    assert!(rig.greets_nobody().await);
}

#[tokio::test]
async fn a_pool_that_relays_once_it_is_promoted_never_serves() {
    let rig = Plan::replicated().mail("xclient", "").platforms(|_| {}, opens).start(USERS).await;
    let mut client = rig.mailer(Door::Relay).await;
    assert!(rig.against().await.is_empty(), "a standby takes no mail and says nothing");
    let report = aborted(rig.begin("new").end().await);
    assert!(report["reason"].as_str().unwrap().contains("an open relay"), "{report}");
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    rig.nothing_of_a_probe();
    rig.all_told().await;
}

#[tokio::test]
async fn a_configuration_that_would_open_a_relay_is_not_read() {
    let rig =
        Plan::replicated().mail("xclient", "").platforms(trusts_loopback, trusts_loopback).start(USERS).await;
    let file = rig.proxy.path("bascule.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"xclient\"", "\"none\"")).unwrap();
    rig.proxy.signal(Signal::HUP).unwrap();
    rig.logs("reload: the configuration is refused, nothing changed why=\"with it smtp of pool old would be an open relay").await;
    assert!(rig.mail(&mut rig.mailer(Door::Relay).await, &[BOB], 100).await, "it serves as before");
}

#[tokio::test]
async fn a_fence_that_does_not_hold_leaves_no_mail_behind() {
    let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
    rig.hooks.pretend("fence old readonly");
    let report = aborted(rig.begin("new").end().await);
    assert!(report["reason"].as_str().unwrap().contains("was answered OK"), "{report}");
    rig.nothing_of_a_probe();
}

#[tokio::test]
async fn a_new_pool_that_takes_no_mail_is_not_switched_to() {
    for (command, way) in [("RELAY RCPT", "smtp"), ("SUBMISSION MAIL", "submission"), ("LMTP DOT", "lmtp")] {
        let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
        let refusal = Reaction { refuse: Some("554 5.3.0 broken".into()), ..Reaction::default() };
        rig.new_pool().react(command, refusal);
        let report = aborted(rig.begin("new").end().await);
        let reason = report["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("pool new: {way}: ")) && reason.contains("broken"), "{reason}");
        rig.nothing_of_a_probe();
    }
}

#[tokio::test]
async fn a_quiet_relay_session_leaves_the_old_pool_and_is_counted() {
    let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
    let mut clients =
        [rig.mailer(Door::Relay).await, rig.mailer(Door::Lmtp).await, rig.mailer(Door::Submission).await];
    for client in &mut clients {
        assert!(rig.mail(client, &[BOB], 100).await);
    }
    let list = rig.proxy.run(&["sessions", "list"]).await.unwrap().json;
    let mut protocols: Vec<_> =
        list.as_array().unwrap().iter().map(|s| s["protocol"].as_str().unwrap()).collect();
    protocols.sort_unstable();
    assert_eq!(protocols, ["lmtp", "smtp", "submission"]);
    let stall = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&stall).await;
    clients[0].start(&format!("MAIL FROM:<{FROM}>")).await.unwrap();
    rig.held(1).await;
    stall.release();
    let report = through(cutover.end().await);
    assert_eq!((&report["sessions"], &report["moved"]), (&3.into(), &3.into()), "{report}");
    let list = rig.proxy.run(&["sessions", "list"]).await.unwrap().json;
    assert!(list.as_array().unwrap().iter().all(|session| session["backend"] != "old"), "{list}");
    clients[0].finish().await.unwrap().ok().unwrap();
    clients[0].command("RSET").await.unwrap().ok().unwrap();
    for client in &mut clients {
        assert!(rig.mail(client, &[BOB], 100).await);
    }
    rig.nothing_of_a_probe();
    rig.all_told().await;
}

#[tokio::test]
async fn who_may_not_log_in_to_the_new_pool_is_found_before_the_decision() {
    let rig = Plan::replicated()
        .mail("xclient", "")
        .stores(|old, _| old.add_user("dave@example.org"))
        .start(USERS)
        .await;
    let mut dave =
        Client::ready(rig.proxy.submissions(), rig.proxy.tls().unwrap(), Dialect::Smtp).await.unwrap();
    dave.auth_plain("dave@example.org", PASSWORD, true).await.unwrap().ok().unwrap();
    let report = aborted(rig.begin("new").end().await);
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.contains("1 sessions cannot be moved (1 login_refused)"), "{reason}");
    assert!(rig.mail(&mut dave, &[BOB], 100).await, "it goes on where it was");
    dave.quit().await.unwrap();
    through(rig.begin("new").end().await);
    rig.nothing_of_a_probe();
    rig.all_told().await;
}
