//! Every wait has an end: a server that is gone for good, one that says nothing, one that hangs up each time.
//!
//! Rule: whoever was asked something is answered within the ceiling, once and in order, and the session goes on.

use bascule_tests::{
    fake::{
        Reaction, Stall,
        smtp::{Door, Queue},
    },
    smtp::{Client, Dialect, Reply},
};

use super::{
    super::rig::{Plan, through},
    ALICE, BOB, FROM, PASSWORD, Rig, USERS,
};

fn stalled(stall: &Stall) -> Reaction {
    Reaction { stall: Some(stall.clone()), times: Some(1), ..Reaction::default() }
}

async fn rig() -> Rig {
    Plan::replicated().mail("xclient", "").ceiling("2s").start(USERS).await
}

/// What is said, what of it never gets an answer, and the classes of all replies.
const UNANSWERED: &[(&[&str], &str, &[u16])] = &[
    (&["MAIL FROM:<someone@example.net>"], "MAIL", &[4]),
    (
        &[
            "MAIL FROM:<someone@example.net>",
            "RCPT TO:<alice@example.org>",
            "RCPT TO:<bob@example.org>",
            "DATA",
        ],
        "MAIL",
        &[4, 4, 4, 4],
    ),
    (
        &[
            "MAIL FROM:<someone@example.net>",
            "RCPT TO:<alice@example.org>",
            "RCPT TO:<bob@example.org>",
            "DATA",
        ],
        "RCPT",
        &[2, 4, 4, 4],
    ),
    (&["MAIL FROM:<someone@example.net>", "RCPT TO:<alice@example.org>", "NOOP"], "RCPT", &[2, 4, 2]),
    (&["MAIL FROM:<someone@example.net>", "RCPT TO:<alice@example.org>", "DATA"], "DATA", &[2, 2, 4]),
];

async fn unanswered(rig: &Rig, dies: bool) {
    let mut asked = Vec::new();
    for (door, case) in
        Door::MAIL.into_iter().flat_map(|door| UNANSWERED.iter().map(move |case| (door, case)))
    {
        let mut client = rig.mailer(door).await;
        let stall = Stall::default();
        rig.old_pool().react(case.1, stalled(&stall));
        client.start_all(case.0).await.unwrap();
        stall.reached(1).await;
        asked.push((client, door, case, stall));
    }
    if dies {
        rig.old_pool().die(Queue::Kept).await;
    }
    for (client, door, (lines, verb, expected), stall) in &mut asked {
        let mut classes = Vec::new();
        for _ in *lines {
            classes.push(client.finish().await.unwrap().class());
        }
        assert_eq!(classes, *expected, "{door:?} {lines:?} {verb}");
        stall.release();
    }
    rig.old_pool().calm();
    rig.old_pool().resume().await.unwrap();
    for (client, door, (lines, ..), _) in &mut asked {
        client.command("RSET").await.unwrap().ok().unwrap();
        assert!(rig.mail(client, &[BOB], 100).await, "{door:?} {lines:?}");
    }
    rig.all_told().await;
}

#[tokio::test]
async fn what_was_passed_on_is_answered_though_no_server_comes_back() {
    unanswered(&rig().await, true).await;
}

#[tokio::test]
async fn what_was_passed_on_is_answered_though_the_server_says_nothing() {
    unanswered(&rig().await, false).await;
}

#[tokio::test]
async fn a_chunk_that_waited_too_long_is_never_read_as_commands() {
    let rig = rig().await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        client.command(&format!("MAIL FROM:<{FROM}>")).await.unwrap().ok().unwrap();
        client.command(&format!("RCPT TO:<{ALICE}>")).await.unwrap().ok().unwrap();
        rig.old_pool().die(Queue::Kept).await;
        let inside = format!("RSET\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<{ALICE}>\r\nNOOP\r\n");
        client.start_chunk(inside.as_bytes(), false).await.unwrap();
        assert_eq!(client.finish().await.unwrap().class(), 4, "{door:?}");
        // Of the content nothing was answered: the next reply is the one to this.
        let reply: Reply = client.command("VRFY alice").await.unwrap();
        assert_eq!(reply.code, 252, "{door:?}");
        rig.old_pool().resume().await.unwrap();
        client.command("RSET").await.unwrap().ok().unwrap();
        assert!(rig.mail(&mut client, &[BOB], 100).await);
        client.quit().await.unwrap();
    }
    rig.all_told().await;
}

#[tokio::test]
async fn a_server_that_hangs_up_at_every_message_is_not_dialled_without_a_pause() {
    let rig = rig().await;
    for verb in ["MAIL", "RCPT"] {
        let mut client = rig.mailer(Door::Relay).await;
        let busy = Reaction { refuse: Some("421 4.3.2 too busy".to_owned()), ..Reaction::default() };
        rig.old_pool().react(verb, busy);
        let before = rig.old_pool().counters().accepted;
        client.start_all(&[&format!("MAIL FROM:<{FROM}>"), &format!("RCPT TO:<{BOB}>")]).await.unwrap();
        let replies = [client.finish().await.unwrap(), client.finish().await.unwrap()];
        let dialled = rig.old_pool().counters().accepted - before;
        assert_eq!(replies[1].class(), 4, "{verb} {replies:?}");
        assert!((2..=12).contains(&dialled), "{verb}: {dialled} connections in two seconds");
        rig.old_pool().calm();
        client.command("RSET").await.unwrap().ok().unwrap();
        assert!(rig.mail(&mut client, &[BOB], 100).await);
    }
    rig.all_told().await;
}

#[tokio::test]
async fn a_client_whose_greeting_is_awaited_holds_no_cutover_up() {
    let rig = Plan::shared().mail("none", "dial = \"before-greeting\"").start(USERS).await;
    let stall = Stall::default();
    rig.old_pool().react("GREETING", stalled(&stall));
    let waiting = async { rig.mailer(Door::Relay).await };
    let moving = async {
        stall.reached(1).await;
        through(rig.begin("new").end().await);
        stall.release();
    };
    let (mut client, ()) = tokio::join!(waiting, moving);
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    assert_eq!(rig.accepted().map(|all| all.len()), [0, 1]);
    rig.all_told().await;
}

/// A login that was told 454 is over: what comes of it later is no answer to the next one.
#[tokio::test]
async fn what_comes_of_a_login_too_late_says_nothing_of_the_next_one() {
    let rig = Plan::replicated().mail("xclient", "").ceiling("2s").start(USERS).await;
    for late in ["wrong", PASSWORD] {
        let stall = Stall::default();
        rig.old_pool().react("AUTH", stalled(&stall));
        let tls = rig.proxy.tls().unwrap();
        let mut client = Client::ready(rig.proxy.submissions(), tls, Dialect::Smtp).await.unwrap();
        let reply = client.auth_plain(ALICE, late, true).await.unwrap();
        assert_eq!(reply.code, 454, "{reply:?}");
        // The server says what it thinks of the first one while the second one is asked.
        stall.release();
        let reply = client.auth_plain(BOB, PASSWORD, true).await.unwrap();
        assert_eq!(reply.code, 235, "{late}: {reply:?}");
        assert!(rig.mail(&mut client, &[BOB], 100).await);
        assert_eq!(rig.accepted()[0].last().unwrap().peer.user.as_deref(), Some(BOB));
    }
    rig.all_told().await;
}

/// A server that takes the envelope and hangs up at the content, each time: the clock is the client's, not the server's.
#[tokio::test]
async fn replies_that_the_client_does_not_hear_renew_no_wait() {
    let rig = Plan::replicated().mail("xclient", "").ceiling("6s").start(USERS).await;
    let mut client = rig.mailer(Door::Relay).await;
    client.command(&format!("MAIL FROM:<{FROM}>")).await.unwrap().ok().unwrap();
    let busy = Reaction { refuse: Some("421 4.3.2 too busy".to_owned()), ..Reaction::default() };
    rig.old_pool().react("RCPT", busy);
    let reply = client.command(&format!("RCPT TO:<{BOB}>")).await.unwrap();
    assert_eq!(reply.class(), 4, "{reply:?}");
    rig.old_pool().calm();
    client.command("RSET").await.unwrap().ok().unwrap();
    assert!(rig.mail(&mut client, &[BOB], 100).await);
    rig.all_told().await;
}

/// Policy "replay": once. A server that dies of the message each time is not to queue it each time.
#[tokio::test]
async fn a_message_of_which_nobody_knows_is_said_again_once() {
    let rig = Plan::replicated().mail("xclient", "ambiguous = \"replay\"").ceiling("6s").start(USERS).await;
    let dies = Reaction { cut: Some(0), ..Reaction::default() };
    rig.old_pool().react("DOT", dies);
    let mut client = rig.mailer(Door::Relay).await;
    let (_, message) = rig.ledger.mail(100, &[BOB]);
    let sent = client.send(FROM, &[BOB], &message).await.unwrap();
    assert_eq!(sent.ends[0].code, 451, "{sent:?}");
    assert_eq!(rig.accepted()[0].len(), 2);
}
