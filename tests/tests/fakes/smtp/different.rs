//! A new platform that thinks otherwise about senders and recipients than the old one did.
//!
//! Rule: what a client was promised is kept or openly withdrawn, never for a part of the recipients (semantics §2.4).

use bascule_tests::fake::Reaction;

use super::{
    super::rig::BARRIER,
    ALICE, BOB, FROM, NOBODY, Plan, Rig, USERS,
    cutover::{Position, moved},
    dialogue::Talk,
};

/// MAIL, alice, nobody, bob.
const ENVELOPE: usize = 4;

fn refusing(reply: &str) -> Reaction {
    Reaction { refuse: Some(reply.into()), ..Reaction::default() }
}

async fn rig() -> Rig {
    Plan::replicated().mail("none", "").start(USERS).await
}

/// The message was withdrawn once and for all its recipients.
fn withdrawn(rig: &Rig, talk: &Talk, codes: &[u16]) {
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == 451), "{}: {codes:?}", talk.name);
    assert_eq!([ALICE, BOB].map(|to| rig.copies(&talk.id, to)), [0, 0], "{}", talk.name);
}

/// All sessions send another message.
async fn go_on(rig: &Rig, talks: Vec<Talk>) {
    rig.new_pool().calm();
    for mut talk in talks {
        assert!(rig.mail(&mut talk.client, &[ALICE, BOB], 100).await, "{}", talk.name);
        talk.client.quit().await.unwrap();
    }
    rig.all_told().await;
}

#[tokio::test]
async fn a_recipient_that_is_refused_after_all_withdraws_the_message_wherever_it_stands() {
    let rig = rig().await;
    rig.new_pool().react(&format!("RCPT {BOB}"), refusing("550 5.1.1 no such user"));
    let mut talks = Vec::new();
    for (talk, Position { at, .. }, sent) in moved(&rig, BARRIER).await {
        let codes: Vec<u16> = sent.ends.iter().map(|r| r.code).collect();
        let rcpts: Vec<u16> = sent.rcpts.iter().map(|r| r.code).collect();
        if at < ENVELOPE {
            assert_eq!((rcpts, codes), (vec![250, 550, 550], vec![250]), "{}", talk.name);
            assert_eq!([ALICE, BOB].map(|to| rig.copies(&talk.id, to)), [1, 0], "{}", talk.name);
        } else if at < talk.steps.len() {
            assert_eq!(rcpts, [250, 550, 250], "{}", talk.name);
            withdrawn(&rig, &talk, &codes);
        }
        talks.push(talk);
    }
    go_on(&rig, talks).await;
}

#[tokio::test]
async fn a_sender_that_is_refused_after_all_withdraws_the_message_wherever_it_stands() {
    let rig = rig().await;
    rig.new_pool().react(&format!("MAIL {FROM}"), refusing("452 4.3.1 no room"));
    let mut talks = Vec::new();
    for (talk, Position { at, .. }, sent) in moved(&rig, BARRIER).await {
        let codes: Vec<u16> = sent.ends.iter().map(|r| r.code).collect();
        if at == 0 {
            assert_eq!(sent.mail.code, 452, "{}", talk.name);
        } else if at < talk.steps.len() {
            assert_eq!(sent.mail.code, 250, "{}", talk.name);
            withdrawn(&rig, &talk, &codes);
        }
        talks.push(talk);
    }
    go_on(&rig, talks).await;
}

#[tokio::test]
async fn a_recipient_that_was_refused_stays_refused() {
    let rig = Plan::replicated().stores(|_, new| new.add_user(NOBODY)).mail("none", "").start(USERS).await;
    let mut talks = Vec::new();
    for (talk, Position { at, held, door }, sent) in moved(&rig, BARRIER).await {
        // Who was not answered before is answered by the new platform.
        let known = at < ENVELOPE - 1;
        let code = if known { 250 } else { 550 };
        assert_eq!(sent.rcpts[1].code, code, "{} {held} {door:?}", talk.name);
        assert!(sent.ends.iter().all(|r| r.code == 250), "{}: {sent:?}", talk.name);
        assert_eq!(
            [ALICE, NOBODY].map(|to| rig.copies(&talk.id, to)),
            [1, usize::from(known)],
            "{}",
            talk.name
        );
        talks.push(talk);
    }
    go_on(&rig, talks).await;
}
