//! ActiveSync in a hold that lasts, and where a server is away for longer than that.
//!
//! Rule: a phone is never told of a fault, for after a few of them it fetches everything anew: it waits, or is asked to come
//! back, and no connection ends that was not said to end.

use std::time::Duration;

use bascule_tests::{
    fake::http::At,
    http::{Answer, Client, Two},
};
use tokio::task::JoinHandle;

use super::{
    super::rig::{BARRIER, Plan, Rig, Spoken, aborted, through},
    USERS, plan,
    streams::{CHANGES, PING, WAITS, moved},
};

const SYNC: &str = "/Microsoft-Server-ActiveSync?User=alice&DeviceId=1&Cmd=Sync";

impl Rig {
    /// A phone that has asked this on a connection of its own.
    async fn phone(&self, target: &str, body: &[u8]) -> Client {
        let mut phone = self.secure_browser().await;
        ask(&mut phone, target, body).await;
        phone
    }

    /// The same over HTTP/2.
    /// One that speaks HTTP/2, with its answer. It stays, so that a report counts it.
    async fn phone_of_two(&self, target: &'static str, body: &'static [u8]) -> JoinHandle<(Answer, Two)> {
        let mut phone = self.two().await;
        tokio::spawn(async move { (phone.ask("POST", target, body).await.unwrap(), phone) })
    }

    async fn again(&self, reason: &str) -> f64 {
        self.proxy.metric(&format!("bascule_http_again_total{{reason=\"{reason}\"}}")).await.unwrap()
    }
}

async fn ask(phone: &mut Client, target: &str, body: &[u8]) {
    phone.write([Client::head("POST", target, "", body.len()).as_bytes(), body].concat()).await.unwrap();
}

/// What it is told is an answer of this pool.
fn is_of(answer: &Answer, pool: &str) {
    assert_eq!((answer.status, &*answer.text()), (201, pool), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_outlasts_heartbeats_is_not_noticed_by_phones() {
    for plan in [plan(), plan().stops(), Plan::replicated().web("", Spoken::Two)] {
        let rig = plan.start(USERS).await;
        let before = rig.web()[0].stall("Cmd=Ping");
        let mut patient = rig.phone(PING, b"patient").await;
        let impatient = rig.phone(PING, b"impatient").await;
        let two = rig.phone_of_two(PING, b"two").await;
        let mut busy = rig.phone(SYNC, b"busy").await;
        is_of(&busy.answer().await.unwrap(), "old");
        before.reached(3).await;
        let barrier = rig.hooks.stall(BARRIER);
        let mut running = rig.begin("new");
        running.reaches(&barrier).await;
        // Its heartbeat is over; it asks anew. Others ask for the first time, or have something to bring.
        drop(impatient);
        rig.metric("bascule_http_polls", |count| count == 2.0).await;
        let mut impatient = rig.phone(PING, b"impatient again").await;
        ask(&mut busy, PING, b"busy").await;
        let mut syncs = [rig.phone(SYNC, CHANGES).await, rig.phone(SYNC, WAITS).await];
        let sync_of_two = rig.phone_of_two(SYNC, CHANGES).await;
        rig.held(5).await;
        let news = rig.web()[1].stall("Cmd=Ping");
        barrier.release();
        // One of them went, which is its own affair: no check for everybody being kept.
        let ran = running.end().await;
        assert_eq!((ran.code, &ran.json["unmovable"]), (0, &serde_json::json!({})), "{ran:?}");
        for phone in &mut syncs {
            is_of(&phone.answer().await.unwrap(), "new");
        }
        is_of(&sync_of_two.await.unwrap().0, "new");
        news.reached(4).await;
        // There is new mail.
        news.release();
        for phone in [&mut patient, &mut impatient, &mut busy] {
            is_of(&phone.answer().await.unwrap(), "new");
        }
        is_of(&two.await.unwrap().0, "new");
        let effects = rig.shelf.effects();
        let mut done: Vec<_> = effects.iter().map(|effect| (effect.server, effect.body.as_slice())).collect();
        done.sort_unstable();
        let pings = [&b"patient"[..], b"impatient again", b"busy", b"two"];
        let asked = pings.into_iter().chain([CHANGES, CHANGES, WAITS]);
        let mut wanted: Vec<_> = asked.map(|body| ("new", body)).chain([("old", &b"busy"[..])]).collect();
        wanted.sort_unstable();
        assert_eq!(done, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_pool_that_is_left_is_not_the_answer_to_a_ping() {
    let rig = plan().start(USERS).await;
    let before = rig.web()[0].stall("Cmd=Ping");
    let mut phone = rig.phone(PING, b"one").await;
    let two = rig.phone_of_two(PING, b"two").await;
    before.reached(2).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut running = rig.begin("new");
    running.reaches(&barrier).await;
    // It cannot write any more, and says so.
    before.release();
    rig.metric("bascule_http_streams_total{outcome=\"polls_again\"}", |count| count == 2.0).await;
    barrier.release();
    through(running.end().await);
    is_of(&phone.answer().await.unwrap(), "new");
    is_of(&two.await.unwrap().0, "new");
    assert_eq!(rig.shelf.effects().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phones_that_waited_for_a_cutover_in_vain_are_where_they_were() {
    for plan in [plan(), plan().stops()] {
        let rig = plan.start(USERS).await;
        let news = rig.web()[0].stall("Cmd=Ping");
        let mut phone = rig.phone(PING, b"before").await;
        news.reached(1).await;
        let barrier = rig.hooks.stall(BARRIER);
        let mut running = rig.begin("new");
        running.reaches(&barrier).await;
        let mut late = rig.phone(PING, b"in the hold").await;
        let mut sync = rig.phone(SYNC, CHANGES).await;
        rig.held(2).await;
        rig.abort().await;
        barrier.release();
        aborted(running.end().await);
        is_of(&sync.answer().await.unwrap(), "old");
        rig.web()[0].seen_of("Cmd=Ping", |seen| seen.whole && rig.web()[0].count("Cmd=Ping") >= 2).await;
        news.release();
        for phone in [&mut phone, &mut late] {
            is_of(&phone.answer().await.unwrap(), "old");
        }
        assert_eq!((rig.web()[1].seen().len(), rig.shelf.effects().len()), (0, 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phones_without_a_server_are_asked_to_come_back_and_no_connection_ends_unsaid() {
    let rig = plan().ceiling("2s").start(USERS).await;
    let news = rig.web()[0].stall("Cmd=Ping");
    let mut phones = vec![rig.phone(PING, b"before").await];
    news.reached(1).await;
    rig.web()[0].stop().await;
    phones.extend([rig.phone(PING, b"ping").await, rig.phone(SYNC, CHANGES).await]);
    phones.push(rig.phone(SYNC, WAITS).await);
    let two = [rig.phone_of_two(PING, b"ping").await, rig.phone_of_two(SYNC, CHANGES).await];
    let mut said = Vec::new();
    for phone in &mut phones {
        said.push(phone.answer().await.unwrap());
    }
    for phone in two {
        said.push(phone.await.unwrap().0);
    }
    for answer in &said {
        let after = answer.field("retry-after").and_then(|after| after.parse::<u64>().ok());
        assert!(answer.status == 503 && after.is_some_and(|after| after >= 5), "{answer:?}");
    }
    assert_eq!(rig.proxy.metric("bascule_limits_hit_total{limit=\"http_hold\"}").await.unwrap(), 6.0);
    news.release();
    rig.web()[0].serve();
    for (phone, answer) in phones.iter_mut().zip(&said) {
        // What is not said to end is as good as before.
        if answer.field("connection") == Some("close") {
            assert!(phone.ended().await);
            *phone = rig.secure_browser().await;
        }
        is_of(&phone.ask("POST", SYNC, CHANGES).await.unwrap(), "old");
    }
    assert_eq!(rig.shelf.effects().len(), phones.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_whose_server_was_lost_with_it_is_begun_again_by_its_phone_alone() {
    let rig = plan().start(USERS).await;
    for (at, done) in [(At::Whole, 0), (At::Done, 1)] {
        let before = rig.web()[0].count("Cmd=Sync");
        rig.web()[0].fault("Cmd=Sync", at, 1);
        let answer = rig.secure_browser().await.ask("POST", SYNC, CHANGES).await.unwrap();
        assert!(answer.status == 503 && answer.field("retry-after").is_some(), "{answer:?}");
        assert_eq!((rig.web()[0].count("Cmd=Sync") - before, rig.shelf.effects().len()), (1, done));
    }
    is_of(&rig.secure_browser().await.ask("POST", SYNC, CHANGES).await.unwrap(), "old");
    // A message has no such key.
    rig.web()[0].fault("Cmd=SendMail", At::Done, 1);
    let send = "/Microsoft-Server-ActiveSync?Cmd=SendMail&User=alice";
    let answer = rig.secure_browser().await.ask("POST", send, b"mail").await.unwrap();
    assert_eq!((answer.status, answer.field("retry-after")), (502, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_that_was_served_for_long_waits_as_long_as_any_other_when_its_server_is_lost() {
    let limit = Duration::from_secs(4);
    let rig = plan().ceiling("4s").start(USERS).await;
    let news = rig.web()[0].stall("Cmd=Ping");
    rig.web()[0].stop().await;
    let mut phone = rig.phone(PING, b"ping").await;
    rig.metric("bascule_http_again_total{reason=\"dial\"}", |count| count > 0.0).await;
    rig.web()[0].serve();
    news.reached(1).await;
    // What it waited for in the beginning is long ago.
    tokio::time::sleep(limit).await;
    rig.web()[0].stop().await;
    rig.web()[0].serve();
    tokio::select! {
        answer = phone.answer() => panic!("{answer:?}"),
        () = news.reached(2) => news.release(),
    }
    is_of(&phone.answer().await.unwrap(), "old");
    assert_eq!((rig.again("lost").await, moved(&rig, "polls_again").await), (1.0, 0.0));
}
