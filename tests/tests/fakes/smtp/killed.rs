//! A backend that dies at any point of a message, and another that takes its place.
//!
//! Rule: before the commit byte a death is nobody's business but ours; after it the policy decides, and what is told is
//! counted against what was done. Every case of a table is run, and all that fail are named.

use bascule_tests::{
    client::Result,
    fake::{Options, Reaction, Stall, smtp::Door},
    smtp::{Client, Reply},
};

use super::{
    super::rig::{BARRIER, through},
    ALICE, BOB, FROM, NOBODY, Plan, Rig, USERS,
    dialogue::{Form, Talk},
};

const SIZE: usize = 30_000;

/// A death.
#[derive(Debug, Clone)]
struct Kill {
    /// The step before which it is arranged.
    at: usize,
    /// Where it happens, as [`bascule_tests::fake::Platform::react`] names it.
    key: String,
    reaction: Reaction,
    /// It happens at the commit of this recipient (0: the first, or all of them).
    commit: Option<usize>,
}

impl Kill {
    fn executed(&self) -> bool {
        self.reaction.cut.is_some()
    }
}

/// Before a command is executed.
fn dies() -> Reaction {
    Reaction { drop: true, times: Some(1), ..Reaction::default() }
}

/// After it, before its answer.
fn unanswered() -> Reaction {
    Reaction { cut: Some(0), times: Some(1), ..Reaction::default() }
}

/// Every death that there is in this message.
fn kills(door: Door, talk: &Talk) -> Vec<Kill> {
    let hello = if door == Door::Lmtp { "LHLO" } else { "EHLO" };
    let mut kills = Vec::new();
    let mut add =
        |at, key: &str, reaction, commit| kills.push(Kill { at, key: key.into(), reaction, commit });
    for key in ["GREETING", hello] {
        add(0, key, dies(), None);
        add(0, key, unanswered(), None);
    }
    for (at, line) in talk.steps.iter().enumerate().filter_map(|(at, step)| Some((at, step.line.as_ref()?))) {
        let key = match line.split_once(" TO:<") {
            Some((verb, address)) => format!("{verb} {}", address.trim_end_matches('>')),
            None => line.split(' ').next().unwrap_or(line).to_owned(),
        };
        if key == "DATA" {
            for tenth in 0..=10 {
                add(at, "BODY", Reaction { at: Some(SIZE * tenth / 10), ..dies() }, None);
            }
        }
        if key == "BDAT" {
            add(at, "BODY", Reaction { at: Some(SIZE / 6), ..dies() }, None);
        }
        if line == "DOT" || line.ends_with("LAST") {
            match door {
                Door::Lmtp => [ALICE, BOB].into_iter().enumerate().for_each(|(place, to)| {
                    add(at, &format!("DOT {to}"), dies(), Some(place));
                    add(at, &format!("DOT {to}"), unanswered(), Some(place));
                }),
                Door::Imap | Door::Relay | Door::Submission => {
                    add(at, "DOT", dies(), Some(0));
                    add(at, "DOT", unanswered(), Some(0));
                }
            }
        }
        // What we say for an empty last chunk is the commit.
        let commit = (line == "BDAT 0 LAST").then_some(0);
        if line != "DOT" {
            add(at, &key, dies(), commit);
            add(at, &key, unanswered(), None);
        }
    }
    kills
}

/// One case: what the client was told at the end, and the copies that alice and bob have.
async fn killed(rig: &Rig, door: Door, form: Form, kill: &Kill) -> Result<(Vec<u16>, [usize; 2])> {
    let mut talk = Talk::new(rig.mailer(door).await, door, form, SIZE, &rig.ledger);
    talk.client.set_patience(std::time::Duration::from_secs(20));
    talk.until(kill.at).await?;
    let before = rig.old_pool().counters().accepted;
    rig.old_pool().react(&kill.key, kill.reaction.clone());
    if kill.key == "BODY" && form == Form::Data {
        // Whoever says the dot before the death is noticed does not know what became of it.
        talk.until(talk.steps.len() - 1).await?;
        rig.proxy.until(|_| rig.old_pool().counters().accepted > before).await.unwrap();
    }
    let sent = talk.finish(&rig.ledger).await?;
    let copies = [ALICE, BOB].map(|to| rig.copies(&talk.id, to));
    // The session is as good as new.
    assert!(rig.mail(&mut talk.client, &[BOB], 10).await, "{}: the next message", talk.name);
    Ok((sent.ends.iter().map(|r| r.code).collect(), copies))
}

/// What is right.
fn right(door: Door, kill: &Kill, replay: bool) -> (Vec<u16>, [usize; 2]) {
    let lmtp = door == Door::Lmtp;
    let ok = vec![250; if lmtp { 2 } else { 1 }];
    let Some(place) = kill.commit else { return (ok, [1, 1]) };
    let at_commit = if replay { 1 + usize::from(kill.executed()) } else { usize::from(kill.executed()) };
    if !lmtp {
        return (if replay { ok } else { vec![451] }, [at_commit; 2]);
    }
    let copies = [0, 1].map(|at| match at {
        _ if at < place => 1,
        _ if at == place => at_commit,
        _ => usize::from(replay),
    });
    let told = (0..2).map(|at| if at < place || replay { 250 } else { 451 }).collect();
    (told, copies)
}

async fn everywhere(replay: bool) {
    let lines = if replay { "ambiguous = \"replay\"" } else { "ambiguous = \"tempfail\"" };
    let rig = Plan::replicated().mail("none", lines).start(USERS).await;
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for door in Door::MAIL {
        for form in Form::ALL {
            let example = Talk::new(rig.mailer(door).await, door, form, SIZE, &rig.ledger);
            for kill in kills(door, &example) {
                cases += 1;
                let (got, right) = (killed(&rig, door, form, &kill).await, right(door, &kill, replay));
                if !got.as_ref().is_ok_and(|got| *got == right) {
                    wrong.push(format!(
                        "{door:?} {form:?} {} {}: {got:?}, not {right:?}",
                        kill.at,
                        what(&kill)
                    ));
                }
                rig.old_pool().calm();
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(rig.old_pool().counters().violations, Vec::<String>::new());
}

fn what(kill: &Kill) -> String {
    let Reaction { drop, at, .. } = kill.reaction;
    let how = if drop { "before" } else { "after" };
    format!("{how} {} {}", kill.key, at.map(|at| at.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn a_backend_that_dies_is_replaced_and_doubt_is_told() {
    everywhere(false).await;
}

#[tokio::test]
async fn a_backend_that_dies_is_replaced_and_doubt_is_said_again() {
    everywhere(true).await;
}

#[tokio::test]
async fn every_pipelined_command_is_answered_once_whatever_dies() {
    pipelined(&Plan::replicated().mail("none", "").start(USERS).await).await;
}

#[tokio::test]
async fn every_pipelined_command_is_answered_once_where_backends_know_no_pipelining() {
    let plain = |options: &mut Options| {
        options.smtp.as_mut().unwrap().keywords.retain(|keyword| keyword != "PIPELINING");
    };
    pipelined(&Plan::replicated().platforms(plain, plain).mail("none", "").start(USERS).await).await;
}

async fn pipelined(rig: &Rig) {
    let mail = format!("MAIL FROM:<{FROM}>");
    let [alice, nobody, bob] = [ALICE, NOBODY, BOB].map(|to| format!("RCPT TO:<{to}>"));
    let refused = "MAIL FROM:<refused@example.net>";
    let scripts: [&[&str]; 7] = [
        &[&mail, &alice, &nobody, &bob, "DATA"],
        &[&mail, &alice, "RSET", &mail, &bob, "DATA"],
        &[&mail, &alice, "RSET", "NOOP"],
        &[&mail, "RSET", refused, &alice, "DATA", &mail, &bob],
        &[refused, &alice, "DATA", &mail, &bob, "DATA"],
        &[&mail, &nobody, "DATA", "RSET", &mail, &bob, "DATA"],
        &[&mail, &alice, refused, "RSET", "RSET", &mail, &nobody],
    ];
    let mut wrong = Vec::new();
    for door in Door::MAIL {
        for script in scripts {
            let run = async |kill: Option<(&str, Reaction)>| -> Result<Vec<_>> {
                let mut client = rig.mailer(door).await;
                client.set_patience(std::time::Duration::from_secs(20));
                rig.old_pool().react(&format!("MAIL {}", "refused@example.net"), refusing());
                if let Some((key, reaction)) = kill {
                    rig.old_pool().react(key, reaction);
                }
                let codes = client.pipeline(script).await?.iter().map(Reply::class).collect::<Vec<_>>();
                if codes.last() == Some(&3) {
                    let ends = client.content(b"x\r\n").await?;
                    assert!(ends.iter().all(|r| r.code == 250), "{script:?} {ends:?}");
                }
                rig.old_pool().calm();
                Ok(codes)
            };
            let right = run(None).await.unwrap();
            let keys = [
                format!("MAIL {FROM}"),
                format!("RCPT {ALICE}"),
                format!("RCPT {NOBODY}"),
                format!("RCPT {BOB}"),
            ];
            for key in keys.iter().map(String::as_str).chain(["DATA", "RSET"]) {
                for reaction in [dies(), unanswered()] {
                    let got = run(Some((key, reaction.clone()))).await;
                    if !got.as_ref().is_ok_and(|got| *got == right) {
                        wrong.push(format!(
                            "{door:?} {script:?} {key} {:?}: {got:?}, not {right:?}",
                            reaction.drop
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(rig.old_pool().counters().violations, Vec::<String>::new());
}

fn refusing() -> Reaction {
    Reaction { refuse: Some("550 5.7.1 not you".into()), ..Reaction::default() }
}

#[tokio::test]
async fn an_empty_last_chunk_that_waited_for_a_backend_is_committed_though_nothing_else_happens() {
    let rig = Plan::replicated().mail("none", "").start(USERS).await;
    for (door, hello) in [(Door::Relay, "EHLO"), (Door::Submission, "EHLO"), (Door::Lmtp, "LHLO")] {
        let mut talk = Talk::new(rig.mailer(door).await, door, Form::Empty, SIZE, &rig.ledger);
        talk.until(talk.steps.len() - 1).await.unwrap();
        let stall = Stall::default();
        rig.old_pool().react(hello, Reaction { stall: Some(stall.clone()), ..Reaction::default() });
        rig.old_pool().cut();
        stall.reached(1).await;
        talk.send().await.unwrap();
        rig.held(1).await;
        stall.release();
        talk.hear().await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        let sent = talk.finish(&rig.ledger).await.unwrap();
        assert!(sent.ends.iter().all(|r| r.code == 250), "{}: {sent:?}", talk.name);
    }
    rig.all_told().await;
}

/// A rig whose spool has no room, and the client that has filled it.
async fn full() -> (Rig, Client) {
    let limits = "upload_memory = \"16KiB\"\nupload = \"150KB\"\nspool = \"150KB\"\nspool_memory = \"0B\"\n";
    let rig = Plan::replicated().limits(limits).mail("none", "").start(USERS).await;
    let mut other = rig.mailer(Door::Relay).await;
    other.begin(FROM, &[ALICE]).await.unwrap();
    other.write(&b"0123456\r\n".repeat(13_000)).await.unwrap();
    rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes >= 117_000.0).await;
    (rig, other)
}

#[tokio::test]
async fn a_message_for_which_the_spool_has_no_room_does_not_move() {
    let (rig, _other) = full().await;
    let mut talks = Vec::new();
    for door in Door::MAIL {
        let mut talk = Talk::new(rig.mailer(door).await, door, Form::Data, 100_000, &rig.ledger);
        talk.until(5).await.unwrap();
        talks.push(talk);
    }
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    for talk in &mut talks {
        while !talk.send().await.unwrap() {}
    }
    rig.held(3).await;
    barrier.release();
    for talk in &mut talks {
        talk.hear().await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        let sent = talk.finish(&rig.ledger).await.unwrap();
        assert!(sent.ends.iter().all(|r| r.code == 451), "{}: {sent:?}", talk.name);
        assert!(rig.mail(&mut talk.client, &[BOB], 10).await, "{}", talk.name);
    }
    through(cutover.end().await);
    assert!(rig.accepted()[0].is_empty());
    assert!(rig.accepted()[1].iter().all(|message| message.recipients == [BOB]), "the next messages");
    rig.all_told().await;
}

#[tokio::test]
async fn a_message_for_which_the_spool_has_no_room_ends_with_its_backend() {
    let (rig, _other) = full().await;
    let wrote = |bytes: usize| rig.old_pool().transcripts().iter().any(|t| t.received.len() > bytes);
    for (door, form) in Door::MAIL.into_iter().flat_map(|door| Form::ALL.map(|form| (door, form))) {
        let mut talk = Talk::new(rig.mailer(door).await, door, form, 100_000, &rig.ledger);
        // Before the last step: DATA's dot, the rest of a last chunk, or nothing but the word LAST.
        talk.until(talk.steps.len() - 1).await.unwrap();
        rig.proxy.until(|_| wrote(60_000)).await.unwrap();
        let before = rig.old_pool().counters().accepted;
        rig.old_pool().cut();
        rig.proxy.until(|_| rig.old_pool().counters().accepted > before).await.unwrap();
        let sent = talk.finish(&rig.ledger).await.unwrap_or_else(|error| panic!("{}: {error:?}", talk.name));
        assert!(sent.ends.iter().all(|r| r.code == 451), "{}: {sent:?}", talk.name);
        assert_eq!([ALICE, BOB].map(|to| rig.copies(&talk.id, to)), [0, 0], "{}", talk.name);
        assert!(rig.mail(&mut talk.client, &[BOB], 10).await, "{}", talk.name);
    }
    rig.all_told().await;
}
