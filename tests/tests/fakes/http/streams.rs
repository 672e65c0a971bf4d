//! Streams of events and long polls that outlive their server.
//!
//! Rule: nobody waits for them, and their clients notice nothing: every event once and in its order, no error, no second
//! connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bascule_tests::{
    fake::{Stall, http::At},
    http::{Client, Events, Uploads},
};
use serde_json::Value;
use tokio::task::{JoinHandle, JoinSet};

use super::{
    super::rig::{BARRIER, Plan, Rig, Spoken, aborted, through},
    USERS, plan,
};

const NEWS: &str = "/news";
pub(super) const PING: &str = "/Microsoft-Server-ActiveSync?User=alice&DeviceId=1&Cmd=Ping";

/// Publishes something every few milliseconds until it is told to stop; comes to how many there are.
fn publisher(rig: &Arc<Rig>) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let stop: Arc<AtomicBool> = Arc::default();
    let (shelf, stopped) = (rig.shelf.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            count = shelf.publish(&format!("news {}", count + 1));
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8))).await;
        }
        shelf.end_news();
        count
    });
    (stop, task)
}

/// Listens to the end; comes to how many events there were. Each comes once, in its order, with its id.
async fn listen(mut events: Events) -> usize {
    let mut count = 0;
    while let Some(event) = events.next().await.unwrap() {
        count += 1;
        assert_eq!((event.id, event.data), (count.to_string(), format!("news {count}")));
    }
    count
}

pub(super) async fn moved(rig: &Rig, outcome: &str) -> f64 {
    rig.proxy.metric(&format!("bascule_http_streams_total{{outcome=\"{outcome}\"}}")).await.unwrap()
}

/// A cutover that nobody was given up for.
pub(super) async fn cutover(rig: &Rig, to: &'static str) -> Value {
    let report = rig.cutover(to).await;
    assert_eq!(report["unmovable"], serde_json::json!({}), "{report:#}");
    report
}

/// Streams on all kinds of connections, through these cutovers.
async fn outlive(plan: Plan, cutovers: &[&'static str]) {
    let rig = Arc::new(plan.start(USERS).await);
    let (stop, published) = publisher(&rig);
    let mut listeners = JoinSet::new();
    let mut two = rig.two().await;
    for _ in 0..2 {
        listeners.spawn(listen(Events::one(rig.browser().await, NEWS).await.unwrap()));
        listeners.spawn(listen(Events::one(rig.secure_browser().await, NEWS).await.unwrap()));
        listeners.spawn(listen(Events::two(&mut two, NEWS).await.unwrap()));
    }
    for (n, to) in cutovers.iter().enumerate() {
        cutover(&rig, to).await;
        rig.metric("bascule_http_streams_total{outcome=\"events_moved\"}", |count| {
            count == (n + 1) as f64 * 6.0
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let count = published.await.unwrap();
    while let Some(heard) = listeners.join_next().await {
        assert_eq!(heard.unwrap(), count);
    }
    let served: usize = rig.web().iter().map(|web| web.seen().len()).sum();
    assert_eq!(served, 6 * (1 + cutovers.len()), "six at the start, and six after each cutover");
    assert_eq!(moved(&rig, "events_reopened").await + moved(&rig, "events_ended").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_outlive_three_cutovers() {
    outlive(plan(), &["new", "old", "new"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_outlive_servers_that_are_stopped() {
    outlive(plan().stops(), &["new"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_outlive_servers_behind_tls() {
    outlive(Plan::replicated().web("", Spoken::Tls), &["new", "old"]).await;
}

/// curl sends no Accept. What the first server has said by then is not asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_that_no_head_asks_for_outlive_cutovers_too() {
    for plan in [plan(), plan().stops(), Plan::replicated().web("", Spoken::Tls)] {
        let rig = Arc::new(plan.start(USERS).await);
        let (stop, published) = publisher(&rig);
        let mut listeners = JoinSet::new();
        for fields in ["", "Accept: */*\r\n", "Connection: keep-alive\r\n"] {
            let events = Events::one_with(rig.secure_browser().await, "/news?unasked", fields).await.unwrap();
            listeners.spawn(listen(events));
        }
        assert_eq!(rig.proxy.metric("bascule_http_events").await.unwrap(), 3.0);
        cutover(&rig, "new").await;
        rig.metric("bascule_http_streams_total{outcome=\"events_moved\"}", |count| count == 3.0).await;
        stop.store(true, Ordering::Relaxed);
        let count = published.await.unwrap();
        while let Some(heard) = listeners.join_next().await {
            assert_eq!(heard.unwrap(), count);
        }
        assert_eq!(rig.web().iter().map(|web| web.seen().len()).sum::<usize>(), 6);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_event_is_never_told() {
    let rig = plan().start(USERS).await;
    let half = Stall::default();
    rig.web()[0].fault(NEWS, At::Pause(12, half.clone()), 1);
    let fields =
        "Accept: text/event-stream\r\nCookie: a=1\r\nAuthorization: Basic YTpi\r\nAccept-Encoding: gzip\r\n";
    let mut browser = rig.browser().await;
    browser.write(Client::head("GET", NEWS, fields, 0)).await.unwrap();
    assert_eq!(browser.answer_head().await.unwrap().status, 200);
    rig.shelf.publish("one");
    half.reached(1).await;
    cutover(&rig, "new").await;
    for chunk in [": old\n", ": new\n", "id: 1\ndata: one\n\n"] {
        assert_eq!(browser.chunk().await.unwrap(), chunk.as_bytes());
    }
    for web in rig.web() {
        let head = web.seen()[0].head.to_ascii_lowercase();
        assert!(head.contains("cookie: a=1\r\n") && head.contains("authorization: basic ytpi\r\n"), "{head}");
        assert!(!head.contains("accept-encoding") && !head.contains("last-event-id"), "{head}");
        assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comments_keep_a_stream_alive_while_there_is_no_server() {
    let rig = plan().stops().limits("keepalive = \"20ms\"\n").start(USERS).await;
    rig.shelf.publish("one");
    let mut events = Events::one(rig.browser().await, NEWS).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().id, "1");
    let barrier = rig.hooks.stall(BARRIER);
    let mut running = rig.begin("new");
    running.reaches(&barrier).await;
    events.comments(3).await.unwrap();
    assert_eq!(events.comments, ["old", "", ""]);
    rig.shelf.publish("two");
    barrier.release();
    let report = through(running.end().await);
    assert_eq!(events.next().await.unwrap().unwrap().id, "2");
    assert_eq!(events.comments.last().unwrap(), "new");
    assert_eq!(
        (&report["unmovable"], &report["hold"]["count"]),
        (&serde_json::json!({}), &0.into()),
        "{report:#}"
    );
    let again = rig.web()[1].seen()[0].head.to_ascii_lowercase();
    assert!(again.contains("last-event-id: 1\r\n"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_cutover_leaves_streams_where_they_are() {
    let rig = plan().start(USERS).await;
    let mut events = Events::one(rig.browser().await, NEWS).await.unwrap();
    let barrier = rig.hooks.stall(BARRIER);
    let mut running = rig.begin("new");
    running.reaches(&barrier).await;
    rig.shelf.publish("in the hold");
    assert_eq!(events.next().await.unwrap().unwrap().data, "in the hold", "this fence keeps reads");
    rig.abort().await;
    barrier.release();
    aborted(running.end().await);
    rig.shelf.publish("after it");
    assert_eq!(events.next().await.unwrap().unwrap().data, "after it");
    assert_eq!(rig.web()[0].seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_breaks_is_not_noticed_and_its_own_end_is() {
    let rig = plan().start(USERS).await;
    let mut streams = [Events::one(rig.browser().await, NEWS).await.unwrap(), {
        let mut two = rig.two().await;
        Events::two(&mut two, NEWS).await.unwrap()
    }];
    rig.shelf.publish("one");
    for events in &mut streams {
        assert_eq!(events.next().await.unwrap().unwrap().id, "1");
    }
    rig.web()[0].stop().await;
    rig.shelf.publish("two");
    rig.web()[0].serve();
    for events in &mut streams {
        assert_eq!(events.next().await.unwrap().unwrap().id, "2");
    }
    rig.metric("bascule_http_streams_total{outcome=\"events_reopened\"}", |count| count >= 2.0).await;
    rig.shelf.end_news();
    let [mut one, mut two] = streams;
    assert_eq!((one.next().await.unwrap(), two.next().await.unwrap()), (None, None));
    let mut client = one.into_client().unwrap();
    assert_eq!(client.ask("GET", "/page", b"").await.unwrap().text(), "old /page", "its connection is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_the_stream_ends_it_as_streams_end() {
    let rig = plan().start(USERS).await;
    let mut one = Events::one(rig.browser().await, NEWS).await.unwrap();
    let mut two = rig.two().await;
    let mut two = Events::two(&mut two, NEWS).await.unwrap();
    rig.web()[1].fault(NEWS, At::NoEvents, 2);
    cutover(&rig, "new").await;
    assert_eq!((one.next().await.unwrap(), two.next().await.unwrap()), (None, None));
    assert_eq!(moved(&rig, "events_ended").await, 2.0);
    // And what is no stream is an answer like any other.
    rig.web()[1].fault(NEWS, At::NoEvents, 1);
    let mut client = one.into_client().unwrap();
    let answer = client.ask_with("GET", NEWS, "Accept: text/event-stream\r\n", b"").await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "new /news".to_owned()));
}

/// A Sync of ActiveSync that may be kept waiting, and brings nothing.
pub(super) const WAITS: &[u8] =
    b"\x03\x01\x6a\x00\x45\x5c\x4f\x4b\x031\x00\x01\x52\x035\x00\x01\x01\x01\x64\x0310\x00\x01\x01";
/// One that brings a change.
pub(super) const CHANGES: &[u8] =
    b"\x03\x01\x6a\x00\x45\x5c\x4f\x4b\x031\x00\x01\x56\x48\x4d\x035\x00\x01\x01\x01\x01\x01\x64\x0310\x00\x01\x01";

/// The long polls: target, fields, body.
fn polls() -> [(&'static str, &'static str, &'static [u8]); 5] {
    [
        (PING, "", b"\x03\x01\x6a\x00\x00\x0d\x45"),
        ("/Microsoft-Server-ActiveSync?Cmd=Sync&User=alice", "", WAITS),
        ("/Microsoft-Server-ActiveSync?Cmd=Sync&User=bob", "", b""),
        ("/mapi/emsmdb/?MailboxId=1", "X-RequestType: NotificationWait\r\n", b"\0\0\0\0\0\0\0\0"),
        ("/poll/inbox", "", b"since=3"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_are_asked_again_of_the_new_pool() {
    for plan in [plan(), plan().stops(), Plan::replicated().web("", Spoken::Two)] {
        let rig = plan.start(USERS).await;
        let stalls =
            [rig.web()[0].stall("/Microsoft"), rig.web()[0].stall("/mapi"), rig.web()[0].stall("/poll")];
        let mut phones = Vec::new();
        for (target, fields, body) in polls() {
            let mut phone = rig.secure_browser().await;
            phone
                .write([Client::head("POST", target, fields, body.len()).as_bytes(), body].concat())
                .await
                .unwrap();
            phones.push(phone);
        }
        let mut two = rig.two().await;
        let two = tokio::spawn(async move { (two.ask("POST", PING, b"two").await.unwrap().text(), two) });
        for (stall, count) in stalls.iter().zip([4, 1, 1]) {
            stall.reached(count).await;
        }
        assert_eq!(rig.proxy.metric("bascule_http_polls").await.unwrap(), 6.0);
        let report = cutover(&rig, "new").await;
        for phone in &mut phones {
            let answer = phone.answer().await.unwrap();
            assert_eq!((answer.status, answer.text()), (201, "new".to_owned()));
        }
        assert_eq!(two.await.unwrap().0, "new");
        assert_eq!(report["hold"]["count"], 0, "nobody felt it: {report:#}");
        let effects = rig.shelf.effects();
        let mut bodies: Vec<_> = effects.iter().map(|effect| effect.body.clone()).collect();
        bodies.sort();
        let mut asked: Vec<_> =
            polls().iter().map(|(.., body)| body.to_vec()).chain([b"two".to_vec()]).collect();
        asked.sort();
        assert_eq!(bodies, asked);
        assert!(effects.iter().all(|effect| effect.server == "new"), "{effects:?}");
        assert_eq!(moved(&rig, "polls_again").await, 6.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_brings_a_change_is_a_write_like_any_other() {
    let rig = plan().start(USERS).await;
    let sync = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=alice";
    let stall = rig.web()[0].stall("Cmd=Sync");
    let mut phone = rig.browser().await;
    phone.write([Client::head("POST", sync, "", CHANGES.len()).as_bytes(), CHANGES].concat()).await.unwrap();
    stall.reached(1).await;
    let running = rig.begin("new");
    rig.state("holding").await;
    rig.proxy
        .until(|status| status["cutover"]["waits_for"].to_string().contains("unanswered writes"))
        .await
        .unwrap();
    stall.release();
    assert_eq!(phone.answer().await.unwrap().text(), "old");
    through(running.end().await);
    assert_eq!(rig.shelf.effects()[0].body, CHANGES);
    // And one that waits for nothing is passed on as it is.
    let answer = phone.ask("POST", sync, b"\x03\x01\x6a\x00\x45\x01").await.unwrap();
    assert_eq!(answer.text(), "new");
    let two = rig.two().await.ask("POST", sync, CHANGES).await.unwrap();
    assert_eq!((two.text(), rig.shelf.effects().len()), ("new".to_owned(), 3));
    assert_eq!(rig.shelf.effects()[2].body, CHANGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_goes_takes_its_poll_along() {
    let rig = plan().start(USERS).await;
    let _stall = rig.web()[0].stall("Cmd=Ping");
    let mut phone = rig.browser().await;
    phone.write(format!("{}x", Client::head("POST", PING, "", 1))).await.unwrap();
    let mut events = rig.browser().await;
    events.write(Client::head("GET", NEWS, "Accept: text/event-stream\r\n", 0)).await.unwrap();
    rig.metric("bascule_http_polls", |count| count == 1.0).await;
    rig.metric("bascule_http_events", |count| count == 1.0).await;
    drop((phone, events));
    rig.metric("bascule_http_polls", |count| count == 0.0).await;
    rig.metric("bascule_http_events", |count| count == 0.0).await;
    cutover(&rig, "new").await;
    assert_eq!(rig.web()[1].seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_finishes_where_it_began() {
    let rig = plan().start(USERS).await;
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    assert_eq!(rig.browser().await.ask("PUT", "/dav/large", &large).await.unwrap().status, 201);
    let pause = Stall::default();
    rig.web()[0].fault("/dav/large", At::Pause(1_000_000, pause.clone()), 2);
    let mut one = rig.secure_browser().await;
    one.write(Client::head("GET", "/dav/large", "", 0)).await.unwrap();
    let mut two = rig.two().await;
    let two = tokio::spawn(async move { two.ask("GET", "/dav/large", b"").await.unwrap().body });
    pause.reached(2).await;
    cutover(&rig, "new").await;
    pause.release();
    assert!(one.answer().await.unwrap().body == large && two.await.unwrap() == large);
    assert_eq!(rig.web()[1].seen().len(), 0);
    assert_eq!(one.ask("GET", "/page", b"").await.unwrap().text(), "new /page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_streams_are_told_whose_they_are_whatever_the_client_names() {
    let rig = plan().start(USERS).await;
    let mut client = rig.browser().await;
    let fields = "Accept: text/event-stream, */*\r\nX-Forwarded-For: 192.0.2.1\r\nX-Own: 1\r\n\
                  Connection: x-forwarded-for, x-real-ip, forwarded, x-own\r\n";
    assert!(client.ask_with("GET", "/page", fields, b"").await.unwrap().ok());
    let head = rig.web()[0].seen()[0].head.to_ascii_lowercase();
    for field in ["x-forwarded-for: 127.0.0.1\r\n", "x-real-ip: 127.0.0.1\r\n", "forwarded: for=127.0.0.1;"] {
        assert!(head.contains(field), "{field} {head}");
    }
    assert!(!head.contains("192.0.2.1") && !head.contains("x-own"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_sync_of_no_known_length_passes() {
    let rig = plan().start(USERS).await;
    let connection = Uploads::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
    let sync = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=alice";
    let mut upload = connection.begin("POST", sync, None).await.unwrap();
    for end in [false, true] {
        upload.send(vec![b'x'; 60_000], end).unwrap();
    }
    assert_eq!(upload.answer().await.unwrap(), (201, b"old".to_vec()));
    assert_eq!(rig.shelf.effects()[0].body.len(), 120_000);
}
