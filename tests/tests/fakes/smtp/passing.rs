//! Mail passes: every listener, every way to say a message, and what a backend learns about the client.
//!
//! Rule: nothing fails and nothing moves here, but where a backend does not keep to what was configured.

use bascule_tests::{
    client::Security,
    fake::smtp::{Door, Trust},
    smtp::{Client, Dialect},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    ALICE, BOB, CAROL, FROM, NOBODY, PASSWORD, Plan, Rig, USERS,
    dialogue::{Form, Talk},
};

/// A new message that reads as mail should.
const DOTS: &[u8] = b"Subject: dots\r\n\r\n.\r\n..two\r\n.one\r\n.\r\nend\r\n";

async fn rig() -> Rig {
    Plan::replicated().mail("none", "").start(USERS).await
}

#[tokio::test]
async fn messages_pass_every_listener_one_after_the_other() {
    let rig = rig().await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        assert!(rig.mail(&mut client, &[ALICE], 1000).await, "{door:?}");
        assert!(rig.mail(&mut client, &[ALICE, BOB, CAROL], 100_000).await, "{door:?}");
        assert!(!rig.mail(&mut client, &[ALICE, NOBODY, BOB], 10).await, "{door:?}: nobody is refused");
        for form in Form::ALL {
            let mut talk = Talk::new(client, door, form, 50_000, &rig.ledger);
            let sent = talk.finish(&rig.ledger).await.unwrap();
            assert_eq!(
                sent.rcpts.iter().map(|r| r.code).collect::<Vec<_>>(),
                [250, 550, 250],
                "{}",
                talk.name
            );
            client = talk.client;
        }
        client.quit().await.unwrap();
    }
    assert_eq!(rig.all_told().await.acknowledged, 3 * (1 + 3 + 2 + 3 * 2));
}

#[tokio::test]
async fn a_message_is_the_same_byte_for_byte() {
    let rig = rig().await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        assert!(client.send(FROM, &[ALICE], DOTS).await.unwrap().accepted());
        client
            .command(&format!("MAIL FROM:<> BODY=BINARYMIME SIZE={}", DOTS.len()))
            .await
            .unwrap()
            .ok()
            .unwrap();
        client.command(&format!("RCPT TO:<{BOB}> NOTIFY=NEVER")).await.unwrap().ok().unwrap();
        client.chunk(b"bare \n and \r, ", false).await.unwrap();
        assert_eq!(client.chunk(b"\0\r\n.\r\nno line end", true).await.unwrap()[0].code, 250);
        client.quit().await.unwrap();
    }
    let [old, new] = rig.accepted();
    assert_eq!((old.len(), new.len()), (6, 0));
    for (at, door) in Door::MAIL.into_iter().enumerate() {
        let [first, second] = &old[2 * at..2 * at + 2] else { panic!("two") };
        assert_eq!((first.door, first.from.as_str(), &*first.body), (door, FROM, DOTS));
        assert_eq!(
            (second.from.as_str(), &*second.body),
            ("", &b"bare \n and \r, \0\r\n.\r\nno line end"[..])
        );
        assert_eq!(
            (&first.recipients[..], &second.recipients[..]),
            (&[ALICE.to_owned()][..], &[BOB.to_owned()][..])
        );
    }
    rig.delivered().await;
}

#[tokio::test]
async fn a_transaction_that_was_reset_leaves_nothing() {
    let rig = rig().await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let mail = format!("MAIL FROM:<{FROM}>");
        let (to_alice, to_nobody) = (format!("RCPT TO:<{ALICE}>"), format!("RCPT TO:<{NOBODY}>"));
        client.command("RSET").await.unwrap().ok().unwrap();
        for lines in [
            &[&*mail][..],
            &[&mail, &to_alice],
            &[&mail, &to_nobody],
            &[&mail, &to_alice, "RSET", &mail, &to_alice],
        ] {
            client.pipeline(lines).await.unwrap();
            client.command("RSET").await.unwrap().ok().unwrap();
        }
        client.command(&mail).await.unwrap().ok().unwrap();
        client.command(&to_alice).await.unwrap().ok().unwrap();
        client.chunk(b"half a message", false).await.unwrap();
        client.command("RSET").await.unwrap().ok().unwrap();
        client.command(&mail).await.unwrap().ok().unwrap();
        client.hello().await.unwrap().ok().unwrap();
        assert!(rig.mail(&mut client, &[BOB], 100).await);
    }
    assert!(rig.accepted()[0].iter().all(|m| m.recipients == [BOB]));
    rig.all_told().await;
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let rig = rig().await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        // A sender that the server refuses stands in the way of no other.
        let two =
            ["MAIL FROM:<a@example.net> SIZE=x", "MAIL FROM:<b@example.net>", "RCPT TO:<bob@example.org>"];
        let replies = client.pipeline(&[&two[..], &["RSET"]].concat()).await.unwrap();
        assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [501, 250, 250, 250], "{door:?}");
        let lines: Vec<String> = [
            "NOOP",
            "RCPT TO:<alice@example.org>",
            "MAIL FROM:<a@example.net>",
            "MAIL FROM:<b@example.net>",
            "RCPT TO:<nobody@example.org>",
            "RCPT TO:<alice@example.org>",
            "RSET",
            "MAIL FROM:<c@example.net> SIZE=999999999",
            "RCPT TO:<alice@example.org>",
            "DATA",
            "VRFY alice",
            "MAIL FROM:<d@example.net>",
            "RCPT TO:<bob@example.org>",
            "DATA",
        ]
        .map(String::from)
        .into();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let codes: Vec<u16> = client.pipeline(&lines).await.unwrap().iter().map(|r| r.code).collect();
        assert_eq!(codes, [250, 503, 250, 503, 550, 250, 250, 552, 503, 503, 252, 250, 250, 354], "{door:?}");
        // The next message in one packet with the end of this one.
        client.announce("DOT");
        lines[11..].iter().for_each(|line| client.announce(line));
        let next = [b"first\r\n.\r\n".to_vec(), (lines[11..].join("\r\n") + "\r\n").into_bytes()].concat();
        client.write(&next).await.unwrap();
        assert_eq!(client.ends().await.unwrap()[0].code, 250);
        for code in [250, 250, 354] {
            assert_eq!(client.finish().await.unwrap().code, code);
        }
        client.announce("QUIT");
        client.announce("DOT");
        // What follows the dot waits for its reply.
        let mut client = { client };
        client.write(b"second\r\n.\r\nQUIT\r\n").await.unwrap();
        drop(client);
    }
    rig.delivered().await;
}

#[tokio::test]
async fn every_mechanism_logs_in_by_the_pools_word() {
    let rig = rig().await;
    let connect = async || {
        let security = rig.proxy.starttls().unwrap();
        Client::ready(rig.proxy.submission(), security, Dialect::Smtp).await.unwrap()
    };
    let bearer = |token: &str| {
        format!(
            "AUTH OAUTHBEARER {}",
            STANDARD.encode(format!("n,a={ALICE},\x01auth=Bearer {token}\x01\x01"))
        )
    };
    let mut good = Vec::new();
    for mechanism in 0..5 {
        let mut client = connect().await;
        let mail = format!("MAIL FROM:<{FROM}>");
        assert_eq!(client.command(&mail).await.unwrap().code, 530, "nobody has logged in");
        for (password, code) in [("wrong", 535), (PASSWORD, 235)] {
            let reply = match mechanism {
                0 => client.auth_plain(ALICE, password, true).await,
                1 => client.auth_plain(ALICE, password, false).await,
                2 => client.auth_login(ALICE, password).await,
                3 => client.auth_xoauth2(ALICE, password).await,
                _ => client.command(&bearer(password)).await,
            };
            assert_eq!(reply.unwrap().code, code, "{mechanism}");
        }
        assert_eq!(client.auth_plain(ALICE, PASSWORD, true).await.unwrap().code, 503, "once is enough");
        good.push(client);
    }
    for client in &mut good {
        assert!(rig.mail(client, &[BOB], 100).await);
    }
    assert!(rig.accepted()[0].iter().all(|m| m.peer.user.as_deref() == Some(ALICE)));
    assert_eq!(rig.old_pool().counters().logins[ALICE], 5);
    rig.all_told().await;
}

#[tokio::test]
async fn a_login_before_tls_or_that_is_cancelled_never_reaches_a_pool() {
    let rig = rig().await;
    let mut plain = Client::ready(rig.proxy.submission(), Security::Plain, Dialect::Smtp).await.unwrap();
    assert!(!plain.oracle().shows("AUTH") && plain.oracle().shows("STARTTLS"));
    assert_eq!(plain.auth_plain(ALICE, PASSWORD, true).await.unwrap().code, 530);
    assert_eq!(plain.command("MAIL FROM:<a@example.net>").await.unwrap().code, 530);
    let security = rig.proxy.tls().unwrap();
    let mut secure = Client::ready(rig.proxy.submissions(), security, Dialect::Smtp).await.unwrap();
    assert_eq!(secure.oracle().parameter("AUTH"), Some("PLAIN LOGIN XOAUTH2 OAUTHBEARER"));
    for (line, answer, code) in
        [("AUTH LOGIN", "*", 501), ("AUTH PLAIN", "no base64", 501), ("AUTH CRAM-MD5", "", 504)]
    {
        let reply = secure.command(line).await.unwrap();
        let reply = if reply.code == 334 {
            secure.write(format!("{answer}\r\n").as_bytes()).await.unwrap();
            secure.finish().await.unwrap()
        } else {
            reply
        };
        assert_eq!(reply.code, code, "{line}");
    }
    assert_eq!(rig.old_pool().counters().logins.get(ALICE), None);
    rig.delivered().await;
}

#[tokio::test]
async fn what_was_said_in_clear_behind_starttls_is_forgotten() {
    let rig = rig().await;
    for to in [rig.proxy.smtp(), rig.proxy.submission()] {
        let mut client = Client::ready(to, Security::Plain, Dialect::Smtp).await.unwrap();
        client.announce("STARTTLS");
        client
            .write(b"STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<evil@example.net>\r\nNOOP\r\n")
            .await
            .unwrap();
        assert_eq!(client.finish().await.unwrap().code, 220);
        let Security::Tls(config, name) = rig.proxy.tls().unwrap() else { panic!("TLS") };
        client.secure(config, name).await.unwrap();
        // The client's own judge would refuse any other reply.
        assert_eq!(
            client.command("MAIL FROM:<a@example.net>").await.unwrap().code,
            503,
            "EHLO is forgotten too"
        );
        client.hello().await.unwrap().ok().unwrap();
        assert_eq!(client.command("STARTTLS").await.unwrap().code, 502);
        if to == rig.proxy.submission() {
            client.auth_plain(ALICE, PASSWORD, true).await.unwrap().ok().unwrap();
        }
        assert!(rig.mail(&mut client, &[BOB], 100).await);
    }
    assert!(rig.old_pool().transcripts().iter().all(|t| !t.contains(b"evil")));
    rig.all_told().await;
}

/// What was said before STARTTLS is forgotten, and so is the server that it was said to.
#[tokio::test]
async fn a_message_that_was_begun_before_tls_holds_no_cutover_up() {
    let rig = Plan::shared().mail("none", "").start(USERS).await;
    let mut client = Client::ready(rig.proxy.smtp(), Security::Plain, Dialect::Smtp).await.unwrap();
    client.command("MAIL FROM:<someone@example.net>").await.unwrap().ok().unwrap();
    client.command("STARTTLS").await.unwrap().ok().unwrap();
    let Security::Tls(config, name) = rig.proxy.tls().unwrap() else { panic!("TLS") };
    client.secure(config, name).await.unwrap();
    rig.cutover("new").await;
    client.hello().await.unwrap().ok().unwrap();
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    rig.all_told().await;
}

/// The address of a client that was seen by the backend as that of the last message.
async fn seen(rig: &Rig, door: Door) {
    let mut client = rig.mailer(door).await;
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    let accepted = rig.accepted()[0].last().unwrap().clone();
    assert_eq!(accepted.peer.address, client.local(), "{door:?}");
    assert_eq!(accepted.peer.hello, "client.test");
    let ports = [rig.proxy.smtp(), rig.proxy.submissions(), rig.proxy.lmtp()];
    assert_eq!(accepted.peer.destination, Some(ports[Door::MAIL.iter().position(|d| *d == door).unwrap()]));
    // Another name in the middle of a message, which is forgotten with it.
    client.command(&format!("MAIL FROM:<{FROM}>")).await.unwrap().ok().unwrap();
    client.set_name("renamed.test");
    client.hello().await.unwrap().ok().unwrap();
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    assert_eq!(rig.accepted()[0].last().unwrap().peer.hello, "renamed.test", "{door:?}");
}

#[tokio::test]
async fn the_client_is_known_by_xclient_and_by_proxy_headers() {
    for how in ["xclient", "proxy-v2"] {
        let rig = Plan::replicated().mail(how, "").start(USERS).await;
        for door in Door::MAIL {
            seen(&rig, door).await;
        }
        rig.all_told().await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_honour_xclient_gets_no_mail() {
    let rig = Plan::replicated().mail("xclient", "").ceiling("2s").start(USERS).await;
    let mut clients = [rig.mailer(Door::Relay).await, rig.mailer(Door::Lmtp).await];
    let said = || ["relay MAIL", "lmtp MAIL"].map(|verb| rig.old_pool().counters().verbs.get(verb).copied());
    // The relay self-test's.
    let before = said();
    for trust in [Trust::Refused, Trust::Off] {
        rig.old_pool().reconfigure(|options| options.smtp.as_mut().unwrap().xclient = trust);
        for client in &mut clients {
            client.start("MAIL FROM:<a@example.net>").await.unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.finish().await.unwrap().code, 451, "{trust:?}");
        }
    }
    assert_eq!(said(), before);
    rig.old_pool().reconfigure(|options| options.smtp.as_mut().unwrap().xclient = Trust::Honoured);
    for door in [Door::Relay, Door::Lmtp] {
        assert!(rig.mail(&mut rig.mailer(door).await, &[BOB], 100).await);
    }
    rig.all_told().await;
}
