//! Cutovers from Dovecot 2.3 to 2.4 with clients connected, and fences that do not hold.
//!
//! Rule: what a client saw is judged by its oracle; what was written is looked up past the proxy.

use bascule_tests::{
    bascule::Bascule,
    client::Client,
    dovecot::{Action, Options, Pair},
};

const MESSAGE: &[u8] = b"Subject: cutover\r\n\r\nbody\r\n";

#[tokio::test]
async fn sessions_move_to_a_new_version_and_hear_nothing() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    let proxy = Bascule::start(&pair.setup(Action::Stop), "old").await.unwrap();
    let mut idle = selected(&proxy, "alice").await;
    assert!(idle.idle().await.unwrap().is_none());
    let mut quiet = selected(&proxy, "bob").await;
    let heard = [idle.received(), quiet.received()];

    let report = proxy.cutover("new").await.unwrap();
    assert_eq!(report.code, 0, "{report:?}");
    assert_eq!([&report.json["kept"], &report.json["moved"]], [2, 2], "{report:?}");
    assert_eq!([idle.received(), quiet.received()], heard);

    // Both write where the new server reads.
    idle.done().await.unwrap().ok().unwrap();
    for (client, user) in [(&mut idle, "alice"), (&mut quiet, "bob")] {
        client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
        let mut direct = pair.new.session(user).await.unwrap();
        direct.select("INBOX").await.unwrap();
        assert_eq!(direct.uids().await.unwrap(), [1, 2]);
        assert_eq!(client.uids().await.unwrap(), [1, 2]);
    }
}

#[tokio::test]
async fn a_stop_that_returned_early_aborts() {
    aborts(Action::StopEarly).await;
}

#[tokio::test]
async fn refused_logins_are_no_fence() {
    aborts(Action::Refuse).await;
}

/// The cutover is refused by the proof, and every session lives on the old server.
async fn aborts(fence: Action) {
    let pair = Pair::shared(Options::default()).await.unwrap();
    let proxy = Bascule::start(&pair.setup(fence), "old").await.unwrap();
    let mut idle = selected(&proxy, "alice").await;
    assert!(idle.idle().await.unwrap().is_none());
    let mut quiet = selected(&proxy, "bob").await;
    let heard = [idle.received(), quiet.received()];

    let report = proxy.cutover("new").await.unwrap();
    assert_eq!(report.code, 3, "{report:?}");
    let reason = report.json["reason"].as_str().unwrap();
    assert!(reason.contains("the session opened before the fence"), "{reason}");
    assert_eq!(report.json["kept"], 2, "{report:?}");
    assert_eq!(proxy.status().await.unwrap()["active"], "old");
    assert!(pair.new.session("alice").await.is_err(), "the new server was never started");

    assert_eq!([idle.received(), quiet.received()], heard);
    idle.done().await.unwrap().ok().unwrap();
    for client in [&mut idle, &mut quiet] {
        client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
        assert_eq!(client.uids().await.unwrap(), [1, 2]);
    }
}

/// A session with one message in its selected INBOX.
async fn selected(proxy: &Bascule, user: &str) -> Client {
    let mut client = proxy.session(user, "pass").await.unwrap();
    client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
    client.select("INBOX").await.unwrap().ok().unwrap();
    client
}
