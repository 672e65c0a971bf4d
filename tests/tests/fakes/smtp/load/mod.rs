//! Mail under load while everything moves there and back: `tests/run load smtp MINUTES`, half a minute of it otherwise.
//!
//! Rule: a client does what mail programs do and never helps the proxy: no retry, no patience with a refusal, and a lost
//! connection fails the test. What was found is counted while it runs, so that no mailbox grows.

mod bodies;
mod crowd;
mod report;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bascule_tests::{
    fake::Options,
    ledger::{Tally, id_of},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Plan, Rig};
use crate::fakes::windows::{cutover, duration};
use report::{Book, Peak};

/// Sessions at once.
const SENDERS: usize = 48;
const USERS: usize = 24;

fn users() -> Vec<String> {
    (0..USERS).map(|n| format!("user{n}@example.org")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_all_kinds_while_everything_moves_there_and_back() {
    let users = users();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let forgets = |options: &mut Options| options.transcripts = false;
    let plan = Plan::replicated().mail("xclient", "").lag(Duration::from_millis(5));
    let rig = plan.platforms(forgets, forgets).start(&names).await;
    let (rig, book) = (Arc::new(rig), Arc::new(Book::default()));
    let (leave, leaving) = watch::channel(false);
    let mut crowd = JoinSet::new();
    for _ in 0..SENDERS {
        crowd.spawn(crowd::send(rig.clone(), users.clone(), book.clone(), leaving.clone()));
    }
    let peak = Peak::watch(rig.proxy.clone());
    let end = Instant::now() + duration();
    let (mut tally, mut windows) = (Tally::default(), Vec::new());
    for to in ["new", "old"].into_iter().cycle() {
        tokio::select! {
            () = sleep(Duration::from_millis(fastrand::u64(500..3000))) => {}
            ended = crowd.join_next() => panic!("a session ended: {ended:?}"),
        }
        windows.push(cutover(&rig, to).await);
        sweep(&rig, &users, &mut tally).await;
        // Everybody back where they began.
        if to == "old" && Instant::now() > end {
            break;
        }
    }
    leave.send_replace(true);
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap().unwrap();
    }
    sweep(&rig, &users, &mut tally).await;
    let verdict = rig.ledger.judge_tally(&tally);
    report::print(&book, &windows, &verdict, &tally, &peak.end().await);
    assert!(verdict.clean() && verdict.unknown == 0 && verdict.refused == 0, "{verdict:?}");
    assert!(verdict.acknowledged > 0 && windows.len() > 1);
    for platform in [rig.old_pool(), rig.new_pool()] {
        assert_eq!(platform.counters().violations, Vec::<String>::new());
    }
}

/// Counts what is in the mailboxes of the platform that serves, and empties them.
async fn sweep(rig: &Rig, users: &[String], tally: &mut Tally) {
    let serving = rig.pair.platform(&rig.active().await).unwrap();
    // The recipients of one message have one copy: it is looked at once.
    let mut found: HashMap<*const u8, (Arc<[u8]>, Vec<&str>)> = HashMap::new();
    for user in users {
        for message in serving.store().messages(user, "INBOX") {
            if id_of(&message.body).is_some() {
                serving.store().expunge(user, "INBOX", message.uid);
                let copy = found.entry(message.body.as_ptr()).or_insert_with(|| (message.body, Vec::new()));
                copy.1.push(user);
            }
        }
    }
    for (body, recipients) in found.into_values() {
        tally.add(&recipients, &body);
    }
    for platform in [rig.old_pool(), rig.new_pool()] {
        platform.forget();
    }
}
