//! Servers that die in the middle of a message, and servers that do not believe who the client is.
//!
//! Rule: a server that may not be used has heard nothing of any message.

use bascule_tests::{
    client::Security,
    ledger::Fate,
    smtp::{Client, Dialect, stuffed},
};

use super::smtp_rig::{FROM, Post, Sender};

const ALICE: &str = "alice@example.org";

async fn client(post: &Post) -> Client {
    Client::ready(post.proxy.smtp(), Security::Plain, Dialect::Smtp).await.unwrap()
}

#[tokio::test]
async fn a_postfix_that_is_killed_in_the_middle_of_a_message_gets_it_again() {
    let mut post = Post::new(Sender::Postfix).await;
    let mut clients = Vec::new();
    // Before the content, in the middle of it, and before its end.
    for percent in [0, 50, 100] {
        let (id, message) = post.ledger.mail(3_000_000, &[ALICE]);
        let wire = stuffed(&message);
        let (first, rest) = wire.split_at(wire.len() / 100 * percent);
        let mut client = client(&post).await;
        client.begin(FROM, &[ALICE]).await.unwrap();
        client.write(first).await.unwrap();
        clients.push((client, id, rest.to_vec()));
    }
    post.postfixes[0].kill().await.unwrap();
    post.postfixes[0].resume().await.unwrap();
    for (mut client, id, rest) in clients {
        client.write(&rest).await.unwrap();
        client.dot().await.unwrap();
        let ends = client.ends().await.unwrap();
        assert_eq!(ends[0].code, 250, "{ends:?}\n{}", post.proxy.log());
        post.ledger.settle_for(&id, ALICE, Fate::Acknowledged);
        client.quit().await.unwrap();
    }
    post.holds(&post.pair.old, &["alice"], 3).await;
}

#[tokio::test]
async fn a_server_that_does_not_believe_us_is_not_used() {
    let mut post = Post::with(Sender::Postfix, |setup| {
        setup.cutover = "max_hold = \"8s\"".into();
        setup.tables += "[limits]\ncommand_ceiling = \"10s\"\nlogin_ceiling = \"10s\"\n";
    })
    .await;
    let trusted = "smtpd_authorized_xclient_hosts = 127.0.0.0/8";
    post.postfixes[0].configure(trusted, "smtpd_authorized_xclient_hosts =").unwrap();
    post.postfixes[0].kill().await.unwrap();
    post.postfixes[0].resume().await.unwrap();
    let (id, message) = post.ledger.mail(1000, &[ALICE]);
    let mut client = client(&post).await;
    let sent = client.send(FROM, &[ALICE], &message).await.unwrap();
    assert_eq!(sent.mail.code, 451, "{sent:?}");
    post.ledger.record(&id, &[ALICE], &sent);
    assert!(!post.postfixes[0].log().contains(": client="), "it was told of a message");
    post.postfixes[0].configure("smtpd_authorized_xclient_hosts =", trusted).unwrap();
    post.postfixes[0].kill().await.unwrap();
    post.postfixes[0].resume().await.unwrap();
    let (id, message) = post.ledger.mail(1000, &[ALICE]);
    let sent = client.send(FROM, &[ALICE], &message).await.unwrap();
    assert!(sent.accepted(), "{sent:?}");
    post.ledger.record(&id, &[ALICE], &sent);
    post.holds(&post.pair.old, &["alice"], 1).await;
}

#[tokio::test]
async fn scenario_96_postfix_carries_a_messages_name_to_the_delivery_and_a_second_copy_is_dropped() {
    let post = Post::with(Sender::Postfix, |setup| {
        for service in setup.pools.iter_mut().flat_map(|pool| &mut pool.mail) {
            if service.protocol == "smtp" {
                service.lines = service.lines.replace("xclient", "xforward");
            }
        }
    })
    .await;
    let (id, message) = post.ledger.mail(5000, &[ALICE]);
    let sent = client(&post).await.send(FROM, &[ALICE], &message).await.unwrap();
    post.ledger.record(&id, &[ALICE], &sent);
    post.delivered().await;
    let log = post.postfixes[0].log();
    // As Postfix was told by XFORWARD, which it says to the next hop in its turn.
    let (_, after) = log.split_once("orig_queue_id=").expect(&log);
    let name = after.split([',', '\n']).next().unwrap();
    assert!(name.starts_with("bascule-") && log.contains("orig_client="), "{log}");
    // Another way, another Received: as the queue of a server that came back would bring it.
    let mut again = Client::ready(post.proxy.lmtp(), Security::Plain, Dialect::Lmtp).await.unwrap();
    again.command(&format!("XFORWARD IDENT={name}")).await.unwrap().ok().unwrap();
    let copy = [b"Received: by elsewhere\r\n", &message[..]].concat();
    let ends = again.send(FROM, &[ALICE], &copy).await.unwrap().ends;
    assert!(ends[0].text().starts_with("2.1.5 Delivered before"), "{ends:?}");
    post.holds(&post.pair.old, &["alice"], 1).await;
    let dropped = "bascule_messages_total{outcome=\"delivered_before\"}";
    assert_eq!(post.proxy.metric(dropped).await.unwrap(), 1.0);
}
