//! `kind = "queue"` checks: mail for local mailboxes that is left in the queue of a platform's mail server.
//!
//! Rule: the list is read whole or not at all. A line that cannot be read may be the message that a switch would leave
//! behind, so it makes the answer Unknown.

use std::fmt;

use serde::Deserialize;

use crate::{
    checks::{
        Answer,
        hooks::{self, Outcome},
    },
    config::{Check, Queue},
};

/// Longest list that is read: some fifty thousand messages, long after which nobody wants to switch.
const LIST: usize = 16 << 20;
/// Messages that are named.
const NAMED: usize = 5;

/// One line of `postqueue -j` (postqueue(1), JSON OBJECT FORMAT); what is not needed is left out.
#[derive(Debug, Deserialize)]
struct Message {
    queue_name: String,
    queue_id: String,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    address: String,
    delay_reason: Option<String>,
}

/// Asks once.
pub(super) async fn ask(check: &Check, queue: &Queue, env: &[(&str, String)]) -> Answer {
    let mut list = Vec::new();
    let outcome = hooks::read(&check.hook, env, &mut list, LIST).await;
    judge(&outcome, &list, queue)
}

fn judge(outcome: &Outcome, list: &[u8], queue: &Queue) -> Answer {
    if !outcome.succeeded() {
        return Answer::Unknown(outcome.to_string());
    }
    if list.len() >= LIST {
        return Answer::Unknown(format!("the queue's list is longer than {LIST} bytes"));
    }
    match read(list) {
        Ok(messages) => left(&messages, queue),
        Err(why) => Answer::Unknown(why),
    }
}

fn read(list: &[u8]) -> Result<Vec<Message>, String> {
    let lines = match list {
        [] => return Ok(Vec::new()),
        [lines @ .., b'\n'] => lines,
        _ => return Err("the queue's list ends within a line".to_owned()),
    };
    let message = |(at, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| {
            format!("line {} of the queue's list is not as postqueue -j writes it: {error}", at + 1)
        })
    };
    lines.split(|b| *b == b'\n').enumerate().map(message).collect()
}

/// Whether no more messages for local recipients are left than may be.
fn left(messages: &[Message], queue: &Queue) -> Answer {
    let counts = |message: &&Message| !queue.ignore.contains(&message.queue_name);
    let local: Vec<Left<'_>> =
        messages.iter().filter(counts).filter_map(|message| Left::of(message, queue)).collect();
    if local.len() <= queue.allowed {
        return Answer::Pass;
    }
    let mut named: Vec<String> = local.iter().take(NAMED).map(Left::to_string).collect();
    if local.len() > NAMED {
        named.push(format!("{} more", local.len() - NAMED));
    }
    let allowed = if queue.allowed > 0 { format!(", {} may be", queue.allowed) } else { String::new() };
    Answer::Fail(format!(
        "{} messages for local recipients are queued{allowed}: {}",
        local.len(),
        named.join("; ")
    ))
}

/// A message that would be left behind, and the first of whom it is for.
struct Left<'a>(&'a Message, &'a Recipient);

impl<'a> Left<'a> {
    fn of(message: &'a Message, queue: &Queue) -> Option<Self> {
        let local = |recipient: &&Recipient| queue.is_local(&recipient.address);
        message.recipients.iter().find(local).map(|recipient| Self(message, recipient))
    }
}

impl fmt::Display for Left<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(message, recipient) = self;
        write!(f, "{} ({}, for {}", message.queue_id, message.queue_name, recipient.address)?;
        recipient.delay_reason.as_ref().map_or(Ok(()), |why| write!(f, ", {why}"))?;
        f.write_str(")")
    }
}

impl Queue {
    /// Whether mail to this address ends in a mailbox of the platform.
    fn is_local(&self, address: &str) -> bool {
        let Some((_, domain)) = address.rsplit_once('@') else { return true };
        self.local.iter().any(|local| domain.trim_end_matches('.').eq_ignore_ascii_case(local))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        checks::{self, exec::Phase},
        config::{CheckKind, Hook},
    };

    /// What `postqueue -j` of Postfix 3.7 wrote: five messages, four of them for example.org, one of these on hold.
    const RECORDED: &str = include_str!("testdata/postqueue.jsonl");

    fn queue(local: &[&str], allowed: usize, ignore: &[&str]) -> Queue {
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Queue { local: words(local), allowed, ignore: words(ignore) }
    }

    fn answer(list: &str, queue: &Queue) -> Answer {
        read(list.as_bytes()).map_or_else(Answer::Unknown, |messages| left(&messages, queue))
    }

    #[test]
    fn local_mail_is_counted_and_named() {
        let Answer::Fail(saw) = answer(RECORDED, &queue(&["example.org"], 0, &[])) else { panic!() };
        assert!(
            saw.starts_with("4 messages for local recipients are queued: 333F398C137 (deferred, for jörg@"),
            "{saw}"
        );
        assert!(
            saw.contains(
                "3037398C131 (deferred, for alice@Example.ORG, connect to 127.9.9.1[127.9.9.1]:24: "
            ),
            "{saw}"
        );
        assert!(saw.contains("3119F98C132 (hold, for \"odd \\\"name\\\" \\\\\"@example.org,"), "{saw}");
        assert!(!saw.contains("2DCF598C075"), "mail for others holds nothing up: {saw}");
    }

    #[test]
    fn what_may_be_left_and_what_does_not_count() {
        let org: &[&str] = &["example.org"];
        for (local, allowed, ignore, passes) in [
            (org, 3, &[][..], false),
            (org, 4, &[], true),
            (org, 3, &["hold"], true),
            (org, 0, &["hold"], false),
            (org, 0, &["hold", "deferred"], true),
            (&["example.com"], 1, &[], false),
            (&["example.com"], 2, &[], true),
            (&["example.net"], 0, &[], true),
        ] {
            let answer = answer(RECORDED, &queue(local, allowed, ignore));
            assert_eq!(answer.passed(), passes, "{local:?} {allowed} {ignore:?}: {answer}");
        }
        let bare = r#"{"queue_name": "active", "queue_id": "1", "recipients": [{"address": "root"}]}"#;
        assert!(matches!(answer(&format!("{bare}\n"), &queue(org, 0, &[])), Answer::Fail(_)));
    }

    #[test]
    fn only_the_first_are_named() {
        let line =
            r#"{"queue_name": "active", "queue_id": "ID", "recipients": [{"address": "a@example.org"}]}"#;
        let list: String = (0..7).map(|n| format!("{}\n", line.replace("ID", &format!("Q{n}")))).collect();
        let Answer::Fail(saw) = answer(&list, &queue(&["example.org"], 1, &[])) else { panic!() };
        assert!(
            saw.starts_with("7 messages for local recipients are queued, 1 may be: Q0 (active, for"),
            "{saw}"
        );
        assert!(saw.contains("Q4") && !saw.contains("Q5") && saw.ends_with("; 2 more"), "{saw}");
    }

    #[test]
    fn a_list_that_cannot_be_read_whole_is_no_answer() {
        let queue = queue(&["example.net"], 0, &[]);
        for list in [
            "Mail queue is empty\n",
            "{}\n",
            "\n",
            r#"{"queue_name": "active", "queue_id": "1", "recipients": [{}]}"#,
            r#"{"queue_name": "active", "queue_id": "1", "recipients": []}"#,
            &RECORDED[..RECORDED.len() - 7],
            &format!("{RECORDED}postqueue: fatal: Queue report unavailable\n"),
        ] {
            assert!(matches!(answer(list, &queue), Answer::Unknown(_)), "{list}");
        }
        let Answer::Unknown(saw) = answer(&format!("{RECORDED}nonsense\n"), &queue) else { panic!() };
        assert!(saw.contains("line 6"), "{saw}");
        assert_eq!(answer("", &queue), Answer::Pass);
    }

    #[tokio::test]
    async fn the_program_is_asked_as_guard_and_as_barrier() {
        let asked = |script: String| async move {
            let check = Check {
                name: "queue".into(),
                from: "v4".into(),
                to: "v5".into(),
                guard: true,
                barrier: true,
                hook: Hook {
                    exec: vec!["/bin/sh".into(), "-c".into(), script],
                    timeout: Duration::from_secs(5),
                },
                kind: CheckKind::Queue(queue(&["example.org"], 0, &[])),
            };
            let [guard, barrier] = [Phase::Guard, Phase::Barrier].map(|phase| checks::ask(&check, phase));
            (guard.await, barrier.await)
        };
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/checks/testdata/postqueue.jsonl");
        assert!(matches!(asked(format!("cat {file}")).await, (Answer::Fail(_), Answer::Fail(_))));
        let emptied = format!("[ $BASCULE_PHASE = barrier ] || cat {file}");
        let (guard, barrier) = asked(emptied).await;
        assert!(matches!(guard, Answer::Fail(_)) && barrier.passed(), "{guard} {barrier}");
        let (down, _) = asked("echo 'postqueue: fatal: Queue report unavailable' >&2; exit 69".into()).await;
        let Answer::Unknown(saw) = down else { panic!("{down}") };
        assert!(saw.starts_with("exit 69") && saw.ends_with("Queue report unavailable"), "{saw}");
    }
}
