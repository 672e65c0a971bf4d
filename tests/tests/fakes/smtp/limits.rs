//! Who is turned away, when, and with which words.
//!
//! Rule: early, never inside a message, and never by silence.

use std::{net::SocketAddr, time::Duration};

use bascule_tests::{
    client::{Client as Imap, Security},
    fake::{Reaction, smtp::Door},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{super::rig::Plan, BOB, FROM, USERS};

/// The one line that somebody hears who says `first`, before the connection is closed.
async fn last_words(to: SocketAddr, first: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(first).await.unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    let line = String::from_utf8(line).unwrap();
    let mut rest = Vec::new();
    // A reset tells the same.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(String::from_utf8_lossy(&rest), "", "after {line}");
    line
}

#[tokio::test]
async fn one_connection_too_many_of_an_address_is_told_before_the_greeting() {
    let rig = Plan::replicated().mail("none", "rates = { address_connections = 2 }").start(USERS).await;
    let mut clients = [rig.mailer(Door::Relay).await, rig.mailer(Door::Relay).await];
    let words = last_words(rig.proxy.smtp(), b"").await;
    assert!(
        words.starts_with("421 4.3.2 ") && words.ends_with(" is busy, please try again later\r\n"),
        "{words}"
    );
    for client in &mut clients {
        assert!(rig.mail(client, &[BOB], 100).await);
    }
    // Each listener counts for itself.
    assert!(rig.mail(&mut rig.mailer(Door::Lmtp).await, &[BOB], 100).await);
    assert_eq!(rig.proxy.metric("bascule_connections_refused_total{reason=\"rate\"}").await.unwrap(), 1.0);
    let reached = "bascule_limits_hit_total{limit=\"address_connections\"}";
    assert_eq!(rig.proxy.metric(reached).await.unwrap(), 1.0);
    rig.all_told().await;
}

#[tokio::test]
async fn one_message_too_many_is_refused_at_mail_and_a_server_goes_away() {
    let rig = Plan::replicated().mail("none", "rates = { address_messages = 2 }").start(USERS).await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        for _ in 0..2 {
            assert!(rig.mail(&mut client, &[BOB], 100).await, "{door:?}");
        }
        client.start(&format!("MAIL FROM:<{FROM}>")).await.unwrap();
        if door == Door::Relay {
            let words = client.closed().await.unwrap().unwrap();
            assert!(words.starts_with("421 4.3.2 "), "{words}");
        } else {
            assert_eq!(client.finish().await.unwrap().code, 451, "{door:?}");
            // Nothing else has changed.
            client.command("NOOP").await.unwrap().ok().unwrap();
            client.quit().await.unwrap();
        }
    }
    assert_eq!(rig.accepted()[0].len(), 6);
    rig.all_told().await;
}

/// The first word of a greeting, heard by somebody at this address.
async fn greeted(from: &str, to: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let mut code = [0; 3];
    stream.read_exact(&mut code).await.unwrap();
    String::from_utf8(code.into()).unwrap()
}

#[tokio::test]
async fn where_places_are_scarce_servers_go_first_then_people_and_printers_never() {
    let plan = Plan::replicated().limits("connections = 100\n");
    let rig = plan.mail("none", "devices = [\"127.99.0.0/16\"]").start(USERS).await;
    let (relay, person, lmtp) = (rig.proxy.smtp(), rig.proxy.submission(), rig.proxy.lmtp());
    let mut inside = rig.mailer(Door::Relay).await;
    let mut others = Vec::new();
    let mut crowd = async |door: SocketAddr| {
        while greeted("127.0.0.1", door).await == "220" {
            others.push(Imap::connect(rig.proxy.clear(), Security::Plain).await.unwrap());
            // Whoever only looked in is gone again.
            let inside = others.len() + 1;
            rig.proxy.until(|status| status["sessions"] == inside).await.unwrap();
        }
        others.len()
    };
    let servers = crowd(relay).await;
    assert_eq!(greeted("127.0.0.1", person).await, "220");
    let people = crowd(person).await;
    assert!(80 < servers && servers < people && people < 99, "{servers} {people}");
    assert_eq!(greeted("127.0.0.1", relay).await, "421");
    assert_eq!(greeted("127.99.1.1", relay).await, "220", "a printer");
    assert_eq!(greeted("127.0.0.1", lmtp).await, "220", "a server that delivers");
    // Who is inside stays, and who comes when there are places again is let in.
    assert!(rig.mail(&mut inside, &[BOB], 100).await);
    others.truncate(10);
    rig.proxy.until(|status| status["sessions"] == 11).await.unwrap();
    assert!(rig.mail(&mut rig.mailer(Door::Relay).await, &[BOB], 100).await);
    rig.all_told().await;
}

#[tokio::test]
async fn where_places_are_scarce_a_server_that_says_nothing_goes_and_nobody_else() {
    let rig = Plan::replicated().limits("connections = 40\n").mail("none", "").start(USERS).await;
    let mut silent = rig.mailer(Door::Relay).await;
    let mut inside = rig.mailer(Door::Relay).await;
    inside.command(&format!("MAIL FROM:<{FROM}>")).await.unwrap().ok().unwrap();
    let mut others = [rig.mailer(Door::Submission).await, rig.mailer(Door::Lmtp).await];
    silent.set_patience(Duration::from_secs(60));
    let mut crowd = Vec::new();
    // Each listener has a place for whoever comes next.
    for _ in 0..24 {
        crowd.push(Imap::connect(rig.proxy.clear(), Security::Plain).await.unwrap());
    }
    let words = silent.closed().await.unwrap().unwrap();
    assert!(words.starts_with("421 "), "{words}");
    let reached = "bascule_limits_hit_total{limit=\"autologout\"}";
    assert_eq!(rig.proxy.metric(reached).await.unwrap(), 1.0);
    // A message is never cut for that, and people and deliveries stay.
    inside.command(&format!("RCPT TO:<{BOB}>")).await.unwrap().ok().unwrap();
    for client in &mut others {
        client.command("NOOP").await.unwrap().ok().unwrap();
    }
}

#[tokio::test]
async fn who_speaks_before_the_greeting_is_refused() {
    let early = b"EHLO spammer\r\nMAIL FROM:<a@example.net>\r\n";
    let rig = Plan::replicated().mail("none", "dial = \"before-greeting\"").start(USERS).await;
    let before = rig.old_pool().counters().verbs;
    let stall = bascule_tests::fake::Stall::default();
    let reaction = Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() };
    rig.old_pool().react("GREETING", reaction);
    let client = tokio::spawn(last_words(rig.proxy.smtp(), early));
    stall.reached(1).await;
    stall.release();
    assert!(client.await.unwrap().starts_with("554 5.5.1 "));
    let verbs = rig.old_pool().counters().verbs;
    assert_eq!(verbs.get("relay MAIL"), before.get("relay MAIL"));
    assert!(rig.mail(&mut rig.mailer(Door::Relay).await, &[BOB], 100).await);
    rig.all_told().await;
}

#[tokio::test]
async fn a_server_that_greets_first_may_refuse_the_client() {
    let rig = Plan::replicated().mail("proxy-v2", "dial = \"before-greeting\"").start(USERS).await;
    let refusal = Reaction {
        refuse: Some("554 5.7.1 your address is listed".to_owned()),
        times: Some(1),
        ..Reaction::default()
    };
    rig.old_pool().react("GREETING", refusal);
    assert_eq!(last_words(rig.proxy.smtp(), b"").await, "554 5.7.1 your address is listed\r\n");
    // The connection that greeted is the one that takes the mail.
    let before = rig.old_pool().counters().accepted;
    assert!(rig.mail(&mut rig.mailer(Door::Relay).await, &[BOB], 100).await);
    assert_eq!(rig.old_pool().counters().accepted, before + 1);
    rig.all_told().await;
}
