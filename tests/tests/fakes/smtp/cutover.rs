//! A cutover while messages are being said, at every point of them.
//!
//! Rule: one cutover with a session for each point; the client of none of them may notice.

use bascule_tests::fake::smtp::Door;

use super::{
    super::rig::{BARRIER, through},
    BOB, Plan, Rig, USERS,
    dialogue::{Form, Talk},
};

/// Large enough for ten pieces, small enough to be kept always.
const SIZE: usize = 60_000;

/// A session for every point of a message: between two steps, and with a step that is sent while the gate is shut.
async fn everywhere(rig: &Rig) -> Vec<(Talk, bool)> {
    let mut talks = Vec::new();
    for door in Door::MAIL {
        for form in Form::ALL {
            for (at, held) in (0..).flat_map(|at| [(at, false), (at, true)]) {
                let mut talk = Talk::new(rig.mailer(door).await, door, form, SIZE, &rig.ledger);
                if at == talk.steps.len() && held {
                    break;
                }
                talk.name += &format!(" after {at} steps, held: {held}");
                talk.until(at).await.unwrap();
                let over = at == talk.steps.len();
                talks.push((talk, held));
                if over {
                    break;
                }
            }
        }
    }
    talks
}

/// Everybody moves to `new`; the hold is stopped at this hook.
async fn moved(rig: &Rig, hook: &str) {
    let mut talks = everywhere(rig).await;
    let stall = rig.hooks.stall(hook);
    let mut cutover = rig.begin("new");
    cutover.reaches(&stall).await;
    let (mut waits, mut commands) = (Vec::new(), 0);
    for (talk, held) in &mut talks {
        let command = talk.next().is_some_and(|step| step.line.is_some());
        commands += u64::from(*held && command);
        waits.push(*held && talk.send().await.unwrap());
    }
    // A last chunk that a backend still answers is held behind it, as a message.
    rig.proxy.until(|status| status["held"].as_u64().is_some_and(|held| held >= commands)).await.unwrap();
    stall.release();
    for ((talk, _), waits) in talks.iter_mut().zip(waits) {
        if waits {
            talk.hear().await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        }
        let sent = talk.finish(&rig.ledger).await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        assert!(sent.ends.iter().all(|r| r.code == 250), "{}: {sent:?}", talk.name);
        assert!(rig.mail(&mut talk.client, &[BOB], 100).await, "{}", talk.name);
    }
    through(cutover.end().await);
    for (talk, _) in talks {
        talk.client.quit().await.unwrap();
    }
    rig.all_told().await;
}

#[tokio::test]
async fn a_session_at_every_point_of_a_message_moves() {
    let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
    moved(&rig, BARRIER).await;
}

#[tokio::test]
async fn a_session_at_every_point_of_a_message_moves_on_shared_storage() {
    let rig = Plan::shared().mail("xclient", "").start(USERS).await;
    moved(&rig, "fence new off").await;
}
