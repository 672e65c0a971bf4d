//! Very many large messages at once, none of them whole.
//!
//! Rule: what is kept lies in the spool and not in memory, and is gone when its message is, or when the proxy is.

use std::{io::Write as _, sync::Arc, time::Duration};

use bascule_tests::{
    client::Security,
    fake::Options,
    smtp::{Client, Dialect},
};
use tokio::task::JoinSet;

use super::{
    super::{ALICE, FROM, Plan, Rig, USERS},
    report::spooled,
};
use crate::fakes::windows::{duration, memory};

/// What memory may grow by for each message under way: what a read took, on both sides, and what of a message is always
/// kept in memory.
const EACH: u64 = 512 * 1024;
/// What all of them together may have of it beside that.
const MEMORY: u64 = 16 * 1024 * 1024;

/// How many, and how large.
fn measure() -> (usize, usize) {
    if duration() < Duration::from_secs(60) { (50, 2_000_000) } else { (500, 20_000_000) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_lie_in_the_spool_and_leave_nothing_behind() {
    let (count, size) = measure();
    let discards = |options: &mut Options| {
        options.transcripts = false;
        options.smtp.as_mut().unwrap().discards = true;
    };
    let plan = Plan::replicated().mail("none", "").platforms(discards, discards);
    let mut rig = plan.limits("spool = \"12GiB\"\nspool_memory = \"16MiB\"\n").start(USERS).await;
    let before = memory(&rig.proxy, "VmRSS");

    let clients = under_way(&rig, count, size).await;
    let kept = spooled(&rig.proxy).await.unwrap();
    let [now, most] = ["VmRSS", "VmHWM"].map(|key| memory(&rig.proxy, key));
    say(&format!(
        "{count} bodies of {size} bytes under way: memory {before} before, {now} now, {most} at most; spool {kept}"
    ));
    assert!(kept >= in_files(count, size), "the spool has {kept}");
    rig.metric("bascule_uploads_memory_bytes", |bytes| bytes > 0.0 && bytes <= MEMORY as f64).await;
    assert!(most < before + MEMORY + count as u64 * EACH, "memory: {before} before, {most} at most");

    finish(clients).await;
    rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes == 0.0).await;
    rig.metric("bascule_uploads_memory_bytes", |bytes| bytes == 0.0).await;
    say(&format!("all acknowledged: memory {}, spool 0", memory(&rig.proxy, "VmRSS")));

    let clients = under_way(&rig, count, size).await;
    let proxy = Arc::get_mut(&mut rig.proxy).unwrap();
    proxy.kill().await.unwrap();
    drop(clients);
    let left: Vec<_> = std::fs::read_dir(proxy.state_dir().join("spool")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    proxy.serve().await.unwrap();
    assert_eq!(spooled(proxy).await.unwrap(), 0);
    say("killed with as many under way, and begun again: nothing is left of them");
    let mut client = Client::ready(rig.proxy.smtp(), Security::Plain, Dialect::Smtp).await.unwrap();
    assert!(client.send(FROM, &[ALICE], b"Subject: after\r\n\r\n").await.unwrap().accepted());
}

/// Clients that have sent everything but the final dot.
async fn under_way(rig: &Rig, count: usize, size: usize) -> Vec<Client> {
    let line = "All work and no play makes a dull message.\r\n";
    let piece: Arc<str> = line.repeat((64 * 1024_usize).div_ceil(line.len())).into();
    let mut sending = JoinSet::new();
    for _ in 0..count {
        let (piece, door) = (piece.clone(), rig.proxy.smtp());
        sending.spawn(async move {
            let mut client = Client::ready(door, Security::Plain, Dialect::Smtp).await.unwrap();
            client.set_patience(Duration::from_secs(600));
            client.begin(FROM, &[ALICE]).await.unwrap();
            for _ in 0..size.div_ceil(piece.len()) {
                client.write(piece.as_bytes()).await.unwrap();
            }
            client
        });
    }
    let clients = sending.join_all().await;
    // What the last ones sent is on its way through the kernel.
    rig.metric("bascule_uploads_spooled_bytes", |bytes| bytes >= in_files(count, size) as f64).await;
    clients
}

/// How much of so many bodies is in files at least.
fn in_files(count: usize, size: usize) -> u64 {
    (count * size) as u64 - MEMORY
}

async fn finish(clients: Vec<Client>) {
    let mut ending = JoinSet::new();
    for mut client in clients {
        ending.spawn(async move {
            client.dot().await.unwrap();
            assert_eq!(client.ends().await.unwrap()[0].code, 250);
            client.quit().await.unwrap();
        });
    }
    ending.join_all().await;
}

fn say(text: &str) {
    std::io::stderr().write_all(format!("load: {text}\n").as_bytes()).unwrap();
}
