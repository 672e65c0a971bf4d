//! A cutover while messages are being said, at every point of them.
//!
//! Rule: one cutover with a session for each point; the client of none of them may notice.

use bascule_tests::{fake::smtp::Door, smtp::Sent};

use super::{
    super::rig::{BARRIER, through},
    BOB, Plan, Rig, USERS,
    dialogue::{Form, Talk},
};

/// Large enough for ten pieces, small enough to be kept always.
const SIZE: usize = 60_000;

/// Where a session is when the gate shuts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) door: Door,
    /// So many steps were answered.
    pub(super) at: usize,
    /// One more was sent while the gate was shut.
    pub(super) held: bool,
}

/// A session for every point of a message: between two steps, and with a step that is sent while the gate is shut.
async fn everywhere(rig: &Rig) -> Vec<(Talk, Position)> {
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
                talks.push((talk, Position { door, at, held }));
                if over {
                    break;
                }
            }
        }
    }
    talks
}

/// Everybody moves to `new`; the hold is stopped at this hook. What each client was told about its message.
pub(super) async fn moved(rig: &Rig, hook: &str) -> Vec<(Talk, Position, Sent)> {
    let mut talks = everywhere(rig).await;
    let stall = rig.hooks.stall(hook);
    let mut cutover = rig.begin("new");
    cutover.reaches(&stall).await;
    let (mut waits, mut commands) = (Vec::new(), 0);
    for (talk, Position { held, .. }) in &mut talks {
        let command = talk.next().is_some_and(|step| step.line.is_some());
        commands += u64::from(*held && command);
        waits.push(*held && talk.send().await.unwrap());
    }
    // A last chunk that a backend still answers is held behind it, as a message.
    rig.proxy.until(|status| status["held"].as_u64().is_some_and(|held| held >= commands)).await.unwrap();
    stall.release();
    let mut told = Vec::new();
    for ((mut talk, position), waits) in talks.into_iter().zip(waits) {
        if waits {
            talk.hear().await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        }
        let sent = talk.finish(&rig.ledger).await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        told.push((talk, position, sent));
    }
    through(cutover.end().await);
    told
}

/// Nobody noticed, and the sessions are as good as new.
async fn unnoticed(rig: &Rig, told: Vec<(Talk, Position, Sent)>) {
    for (mut talk, _, sent) in told {
        assert!(sent.ends.iter().all(|r| r.code == 250), "{}: {sent:?}", talk.name);
        assert!(rig.mail(&mut talk.client, &[BOB], 100).await, "{}", talk.name);
        talk.client.quit().await.unwrap();
    }
    rig.all_told().await;
}

#[tokio::test]
async fn a_session_at_every_point_of_a_message_moves() {
    let rig = Plan::replicated().mail("xclient", "").start(USERS).await;
    unnoticed(&rig, moved(&rig, BARRIER).await).await;
}

#[tokio::test]
async fn a_session_at_every_point_of_a_message_moves_on_shared_storage() {
    let rig = Plan::shared().mail("xclient", "").start(USERS).await;
    unnoticed(&rig, moved(&rig, "fence new off").await).await;
}
