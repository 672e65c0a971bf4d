//! Inputs that once showed defects: each test states what holds.
//!
//! Rule: a defect found by reading gets its input here before it is mended.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use super::{
    capability::{Pinned, Stage},
    command, fragment,
    login::{PreAuth, Verdict as PreVerdict},
    relay::{Event, Own, Relay, Verdict},
    restore::{Dialogue, Mailbox, Next, Plan},
    tag::TagMaker,
};

fn relay() -> Relay {
    Relay::new(TagMaker::new(7), 1000)
}

fn commit(relay: &mut Relay, line: &[u8]) {
    let sent = match relay.client(line).1 {
        Verdict::Command(sent, _) => sent,
        other => panic!("{other:?}"),
    };
    relay.commit(sent);
}

fn server(relay: &mut Relay, mut input: &[u8]) -> (Vec<u8>, Vec<Event>) {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let step = relay.server(input);
        out.extend(step.owned);
        out.extend_from_slice(&input[..step.forward]);
        input = &input[step.forward + step.swallow..];
        events.extend(step.event);
        if matches!(events.last(), Some(Event::Lost(_))) {
            break;
        }
    }
    (out, events)
}

fn select(relay: &mut Relay, exists: u32) {
    commit(relay, b"s SELECT INBOX\r\n");
    server(
        relay,
        format!("* {exists} EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 100] x\r\ns OK done\r\n")
            .as_bytes(),
    );
}

#[test]
fn d01_leading_zeros_are_a_literal() {
    assert_eq!(fragment::literal(b"a APPEND x {000000000000000000010+}").map(|l| l.size), Some(10));
    assert!(fragment::literal(b"a APPEND x {123456789012345678901+}").is_some());
}

#[test]
fn d02_marker_within_an_atom_is_refused() {
    let mut relay = relay();
    let (_, verdict) = relay.client(b"a NOOP x{5+}\r\n");
    assert!(!matches!(verdict, Verdict::Literal { .. }), "{verdict:?}");
}

#[test]
fn d03_uid_before_other_verbs_is_no_such_verb() {
    for line in [&b"a UID SELECT foo"[..], b"a UID IDLE", b"a UID LOGOUT", b"a UID LOGIN u p", b"a UID CLOSE"]
    {
        assert_eq!(
            command::head(line).unwrap().verb,
            command::Verb::Other,
            "{}",
            String::from_utf8_lossy(line)
        );
    }
}

#[test]
fn d03b_uid_select_does_not_deselect() {
    let mut relay = relay();
    select(&mut relay, 3);
    commit(&mut relay, b"a UID SELECT foo\r\n");
    server(&mut relay, b"a BAD what\r\n");
    assert!(relay.state.selected.is_some());
}

#[test]
fn d04_pipelined_select_does_not_take_the_old_mailboxes_data() {
    let mut relay = relay();
    select(&mut relay, 5);
    commit(&mut relay, b"a NOOP\r\n");
    commit(&mut relay, b"b SELECT other\r\n");
    server(&mut relay, b"* 6 EXISTS\r\na OK\r\n* 3 EXISTS\r\n* OK [UIDVALIDITY 8] x\r\nb OK\r\n");
    let selected = relay.state.selected.as_ref().unwrap();
    assert_eq!((selected.exists, selected.diverged), (3, false));
}

#[test]
fn d05_the_plus_of_idle_is_not_an_uploads() {
    let mut relay = relay();
    let (_, v) = relay.client(b"i IDLE\r\n");
    let Verdict::Own(Own::Idle(tag)) = v else { panic!() };
    relay.begin_idle(tag);
    relay.idle_backend().unwrap();
    relay.client(b"DONE\r\n");
    relay.end_idle(true);
    relay.await_go(super::tag::Tag::new(b"c"));
    let (_, events) = server(&mut relay, b"+ idling\r\n");
    assert!(!events.iter().any(|e| matches!(e, Event::Go)), "{events:?}");
}

#[test]
fn d06_mail_that_arrives_in_the_search_costs_no_view() {
    let mut relay = relay();
    select(&mut relay, 2);
    let line = relay.probe().unwrap();
    let tag = String::from_utf8(line).unwrap().split(' ').next().unwrap().to_string();
    server(
        &mut relay,
        format!("* ESEARCH (TAG \"{tag}\") UID COUNT 2 ALL 5,9\r\n* 3 EXISTS\r\n{tag} OK\r\n").as_bytes(),
    );
    let view = relay.state.selected.as_ref().unwrap().view.as_ref().expect("a view");
    assert_eq!((view.len(), view.unknown()), (3, 1));
}

fn opened(answers: &str) -> Result<super::reconcile::Found, String> {
    outcome(answers).map(|outcome| outcome.found.unwrap())
}

fn outcome(answers: &str) -> Result<super::restore::Outcome, String> {
    let mut tags = TagMaker::new(7);
    let mailbox = Mailbox { name: b"INBOX"[..].into(), examine: false, condstore: false };
    let (mut dialogue, first) = Dialogue::new(Plan { mailbox: Some(mailbox), ..Plan::default() }, &mut tags);
    let first = String::from_utf8(first.unwrap().to_vec()).unwrap();
    let own: Vec<&str> = first.lines().map(|l| l.split(' ').next().unwrap()).collect();
    let answers = answers.replace("@SELECT", own[0]).replace("@FIND", own[1]);
    let mut input = answers.as_bytes();
    while !input.is_empty() {
        let (n, next) = dialogue.step(input, &mut tags);
        input = &input[n..];
        match next {
            Next::More => {}
            Next::Done(outcome) => return Ok(outcome),
            other => return Err(format!("{other:?}")),
        }
    }
    Err("more".into())
}

#[test]
fn d07_an_expunge_during_the_restore_renumbers() {
    let found = opened(
        "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n@SELECT OK\r\n* ESEARCH (TAG \"@FIND\") UID COUNT 3 ALL 5,6,9\r\n* 1 EXPUNGE\r\n@FIND OK\r\n",
    );
    // UID 5 is gone: the server now calls UID 6 message 1. Whoever goes on with 5,6,9 acts on the wrong messages.
    assert!(
        found.as_ref().is_ok_and(|f| f.uids.as_ref().unwrap().to_string() == "6,9") || found.is_err(),
        "{found:?}"
    );
}

#[test]
fn d08_mail_that_arrives_during_the_restore_is_announced() {
    let outcome = outcome("* 2 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n@SELECT OK\r\n* ESEARCH (TAG \"@FIND\") UID COUNT 2 ALL 5,9\r\n* 3 EXISTS\r\n@FIND OK\r\n").unwrap();
    // The server has said 3 and will not say it again.
    assert_eq!((outcome.found.unwrap().exists, outcome.arrived), (2, Some(3)));
}

#[test]
fn d09_a_scattered_mailbox_is_no_protocol_error() {
    let set: Vec<String> = (1..=40_000).map(|n| (2 * n).to_string()).collect();
    let found = opened(&format!(
        "* 40000 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n@SELECT OK\r\n* ESEARCH (TAG \"@FIND\") UID COUNT 40000 ALL {}\r\n@FIND OK\r\n",
        set.join(",")
    ));
    assert!(found.is_ok(), "{found:?}");
}

#[test]
fn d10_a_name_with_line_ends_is_no_command() {
    let mut tags = TagMaker::new(7);
    let mailbox = Mailbox { name: b"a\r\nx DELETE b"[..].into(), examine: false, condstore: false };
    let (_, first) = Dialogue::new(Plan { mailbox: Some(mailbox), ..Plan::default() }, &mut tags);
    let first = first.map(|f| f.to_vec()).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&first).contains("\nx DELETE"));
}

#[test]
fn d11_condstore_of_the_session_outlives_the_mailbox() {
    let mut relay = relay();
    commit(&mut relay, b"a SELECT one (CONDSTORE)\r\n");
    server(&mut relay, b"* 0 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\na OK\r\n");
    commit(&mut relay, b"b SELECT two\r\n");
    server(&mut relay, b"* 0 EXISTS\r\n* OK [UIDVALIDITY 8] x\r\nb OK\r\n");
    let plan = Plan::of(&relay.state, None, false);
    assert!(plan.mailbox.unwrap().condstore);
}

#[test]
fn d12_login_with_nul_is_refused() {
    let mut pre = PreAuth::new(Stage::Tls);
    let pinned = Pinned::default();
    let mut input = &b"a LOGIN {9+}\r\nbob\0secre pw\r\n"[..];
    while !input.is_empty() {
        let (n, verdict) = pre.step(input, &pinned);
        input = &input[n..];
        assert!(!matches!(verdict, PreVerdict::Login(..)), "{verdict:?}");
    }
}

#[test]
fn d13_pipelined_saved_search_belongs_to_the_new_mailbox() {
    let mut relay = relay();
    commit(&mut relay, b"a SELECT one\r\n");
    commit(&mut relay, b"b UID SEARCH RETURN (SAVE) ALL\r\n");
    server(&mut relay, b"* 0 EXISTS\r\na OK\r\nb OK\r\n");
    assert!(relay.state.selected.as_ref().unwrap().saved_search);
}

#[test]
fn d15_context_update_with_a_literal_is_denied() {
    let relay = relay();
    let whole = b"a SEARCH RETURN (UPDATE COUNT) SUBJECT {3+}\r\nabc";
    // The driver gets a plain read for it.
    assert!(relay.sent(whole).is_err());
}

#[test]
fn d16_language_and_comparator_are_denied() {
    for line in [&b"a LANGUAGE de\r\n"[..], b"a COMPARATOR x\r\n"] {
        let mut relay = relay();
        let (_, v) = relay.client(line);
        assert!(matches!(v, Verdict::Own(Own::Refuse(_))), "{v:?}");
    }
}

#[test]
fn d17_enable_of_what_is_not_shown_does_not_pass() {
    let mut relay = relay();
    let (_, v) = relay.client(b"a ENABLE IMAP4rev2 UIDONLY\r\n");
    assert!(!matches!(&v, Verdict::Command(_, bytes) if bytes.windows(7).any(|w| w == b"UIDONLY")), "{v:?}");
}

#[test]
fn d18_fewer_uids_than_messages_is_not_a_smaller_mailbox() {
    let found = opened(
        "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n@SELECT OK\r\n* ESEARCH (TAG \"@FIND\") UID COUNT 2 ALL 5,9\r\n@FIND OK\r\n",
    );
    // The server still numbers three messages; a client that is left with two acts on the wrong ones.
    assert!(found.as_ref().map_or(true, |f| f.exists == 3), "{found:?}");
}
