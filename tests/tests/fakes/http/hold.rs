//! Requests at a shut gate, and across a cutover.
//!
//! Rule: one gate, one epoch, one report with IMAP: whoever waited is answered by the pool that won.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bascule_tests::{
    fake::{Stall, http::At},
    http::{Client, Frame, Frames, Uploads},
    ledger::Fate,
};
use tokio::{sync::watch, task::JoinSet};

use super::{
    super::rig::{BARRIER, FENCE, Rig, aborted, through},
    USERS, plan,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_the_switch_and_go_to_the_new_pool() {
    let rig = plan().start(USERS).await;
    let mut mail = rig.inbox("alice").await;
    let mut page = rig.browser().await;
    assert_eq!(page.ask("GET", "/page", b"").await.unwrap().text(), "old /page");
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    page.write(Client::head("GET", "/page", "", 0)).await.unwrap();
    let mut post = rig.secure_browser().await;
    post.write([Client::head("POST", "/effect", "", 4).as_bytes(), b"body"].concat()).await.unwrap();
    let mut asking = rig.browser().await;
    asking.write(Client::head("PUT", "/dav/asked", "Expect: 100-continue\r\n", 4)).await.unwrap();
    let two = rig.two().await;
    let mut streams = JoinSet::new();
    for n in 0..5 {
        let mut two = two.clone();
        streams.spawn(async move { two.ask("GET", &format!("/two/{n}"), b"").await.unwrap().text() });
    }
    rig.held(8).await;
    assert_eq!(rig.web()[0].seen().len(), 1, "nothing of what waits");
    barrier.release();
    let report = through(cutover.end().await);
    assert_eq!(page.answer().await.unwrap().text(), "new /page");
    assert_eq!((post.answer().await.unwrap().status, rig.shelf.effects()[0].server), (201, "new"));
    // 116: asked for the body after the hold, by the new pool, once.
    assert_eq!(asking.any_answer().await.unwrap().status, 100);
    asking.write("body").await.unwrap();
    assert_eq!(asking.answer().await.unwrap().status, 201);
    while let Some(text) = streams.join_next().await {
        assert!(text.unwrap().starts_with("new /two/"));
    }
    mail.command("NOOP").await.unwrap().ok().unwrap();
    assert!(report["hold"]["count"].as_u64().unwrap() >= 8, "{report:#}");
    assert_eq!(rig.web()[0].seen().len(), 1, "{:?}", rig.web()[0].seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_cutover_releases_requests_on_the_old_pool() {
    let rig = plan().start(USERS).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let mut page = rig.browser().await;
    page.write(Client::head("GET", "/page", "", 0)).await.unwrap();
    rig.held(1).await;
    rig.abort().await;
    barrier.release();
    aborted(cutover.end().await);
    assert_eq!(page.answer().await.unwrap().text(), "old /page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_in_flight_is_waited_for_and_a_read_is_not() {
    let rig = plan().start(USERS).await;
    let (write, read) = (rig.web()[0].stall("/write"), rig.web()[0].stall("/read"));
    let (mut writer, mut reader) = (rig.browser().await, rig.browser().await);
    writer.write([Client::head("POST", "/write", "", 4).as_bytes(), b"body"].concat()).await.unwrap();
    reader.write(Client::head("GET", "/read", "", 0)).await.unwrap();
    write.reached(1).await;
    read.reached(1).await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    rig.state("holding").await;
    rig.proxy
        .until(|status| status["cutover"]["waits_for"].to_string().contains("unanswered writes"))
        .await
        .unwrap();
    write.release();
    assert_eq!(writer.answer().await.unwrap().text(), "old");
    // The read may stay: this fence keeps reads.
    cutover.reaches(&fence).await;
    fence.release();
    through(cutover.end().await);
    read.release();
    assert_eq!(reader.answer().await.unwrap().text(), "old /read");
    assert_eq!(reader.ask("GET", "/next", b"").await.unwrap().text(), "new /next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_may_not_stay_begins_again_on_the_new_pool() {
    let rig = plan().stops().cutover("unmovable = 1\n").start(USERS).await;
    let read = rig.web()[0].stall("/read");
    let mut reader = rig.secure_browser().await;
    reader.write(Client::head("GET", "/read", "", 0)).await.unwrap();
    read.reached(1).await;
    // One answer has begun: that one can only be cut.
    let pause = Stall::default();
    rig.web()[0].fault("/begun", At::Pause(80, pause.clone()), 1);
    let mut cut = rig.browser().await;
    cut.write(Client::head("GET", &format!("/begun{}", "x".repeat(400)), "", 0)).await.unwrap();
    pause.reached(1).await;
    let ran = rig.begin("new").end().await;
    assert_eq!(ran.json["outcome"], "done", "{ran:?}");
    assert_eq!(ran.json["unmovable"]["read_in_flight"], 1, "{ran:?}");
    assert_eq!(reader.answer().await.unwrap().text(), "new /read");
    assert!(cut.answer().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_has_begun_is_not_cut_for_a_cutover_that_turns_back_for_it() {
    let rig = plan().stops().start(USERS).await;
    // Of a request, and of a long poll.
    let mut begun = Vec::new();
    for (target, pause) in [("/begun", Stall::default()), ("/poll/inbox?", Stall::default())] {
        rig.web()[0].fault(target, At::Pause(80, pause.clone()), 1);
        let mut client = rig.browser().await;
        client.write(Client::head("GET", &format!("{target}{}", "x".repeat(400)), "", 0)).await.unwrap();
        pause.reached(1).await;
        begun.push((client, pause));
    }
    let report = aborted(rig.begin("new").end().await);
    assert_eq!(report["unmovable"]["read_in_flight"], 2, "{report:#}");
    for (mut client, pause) in begun {
        pause.release();
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_kept_moves_and_its_last_byte_counts_once() {
    let rig = plan().start(USERS).await;
    let mut client = rig.browser().await;
    let body = [7; 40_000];
    client
        .write([Client::head("POST", "/effect", "", body.len()).as_bytes(), &body[..20_000]].concat())
        .await
        .unwrap();
    rig.web()[0].seen_of("/effect", |seen| seen.body == 20_000).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    client.write(&body[20_000..]).await.unwrap();
    rig.held(1).await;
    barrier.release();
    through(cutover.end().await);
    assert_eq!(client.answer().await.unwrap().text(), "new");
    let effects = rig.shelf.effects();
    assert_eq!((effects.len(), &effects[0].body[..]), (1, &body[..]));
    assert_eq!(rig.web()[0].count("/effect"), 0, "its last byte went to one pool");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_not_kept_is_turned_away_and_aborts_nothing() {
    let rig = plan().start(USERS).await;
    let mut client = rig.browser().await;
    let body = [7; 200_000];
    client
        .write([Client::head("POST", "/effect", "", body.len()).as_bytes(), &body[..150_000]].concat())
        .await
        .unwrap();
    rig.web()[0].seen_of("/effect", |seen| seen.body == 150_000).await;
    let report = rig.cutover("new").await;
    assert_eq!(report["outcome"], "done");
    let answer = client.answer().await.unwrap();
    assert!(answer.status == 503 && answer.field("retry-after").is_some(), "{answer:?}");
    assert!(rig.shelf.effects().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_while_it_waits_is_forgotten() {
    let rig = plan().start(USERS).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let mut gone = Vec::new();
    for request in [
        Client::head("GET", "/gone", "", 0),
        format!("{}bo", Client::head("POST", "/gone", "", 4)),
        format!("{}body", Client::head("POST", "/gone", "", 4)),
    ] {
        let mut client = rig.browser().await;
        client.write(request).await.unwrap();
        gone.push(client);
    }
    let mut two = rig.two().await;
    let stream = tokio::spawn(async move { drop(two.ask("GET", "/gone", b"").await) });
    rig.held(4).await;
    drop(gone);
    stream.abort();
    rig.held(0).await;
    barrier.release();
    through(cutover.end().await);
    assert!(rig.web().iter().all(|web| web.count("/gone") == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_may_wait_and_for_so_long() {
    let rig = plan().limits("http.held_requests = 2\n").start(USERS).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = rig.browser().await;
        client.write(Client::head("GET", "/page", "", 0)).await.unwrap();
        waiting.push(client);
    }
    rig.held(2).await;
    let mut third = rig.browser().await;
    let answer = third.ask("POST", "/effect", b"body").await.unwrap();
    let after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    assert_eq!((answer.status, (5..=10).contains(&after)), (503, true));
    barrier.release();
    through(cutover.end().await);
    for mut client in waiting {
        assert_eq!(client.answer().await.unwrap().text(), "new /page");
    }
    // Its connection is as good as before.
    assert_eq!(third.ask("GET", "/page", b"").await.unwrap().text(), "new /page");
}

/// What one browser does until it is told to stop: reads and posts, and never tries twice.
async fn browse(rig: Arc<Rig>, n: usize, mut stop: watch::Receiver<bool>, done: Arc<AtomicU64>) {
    let mut one = if n.is_multiple_of(2) { rig.browser().await } else { rig.secure_browser().await };
    let mut two = rig.two().await;
    while !*stop.borrow_and_update() {
        let (id, message) = rig.ledger.message(fastrand::usize(100..100_000));
        let answer = match (n % 3, fastrand::bool()) {
            (0, _) => two.ask("POST", "/effect", &message).await.unwrap(),
            (_, true) => one.ask("POST", "/effect", &message).await.unwrap(),
            (_, false) => {
                let page = one.ask("GET", "/page", b"").await.unwrap();
                assert!(page.ok(), "{page:?}");
                one.ask("POST", "/effect", &message).await.unwrap()
            }
        };
        assert!(answer.ok(), "{answer:?}");
        rig.ledger.settle(&id, Fate::Acknowledged);
        done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_refused_while_everything_moves_to_and_fro() {
    let rig = Arc::new(plan().start(USERS).await);
    let (stop, stopped) = watch::channel(false);
    let done: Arc<AtomicU64> = Arc::default();
    let mut browsers = JoinSet::new();
    for n in 0..12 {
        browsers.spawn(browse(rig.clone(), n, stopped.clone(), done.clone()));
    }
    let progress = async |count: u64| {
        let goal = done.load(Ordering::Relaxed) + count;
        while done.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for to in ["new", "old", "new"] {
        progress(60).await;
        rig.cutover(to).await;
    }
    progress(60).await;
    stop.send_replace(true);
    while let Some(ended) = browsers.join_next().await {
        ended.unwrap();
    }
    let verdict = rig.ledger.judge(rig.shelf.effects().into_iter().map(|effect| effect.body));
    assert!(verdict.clean() && verdict.unknown == 0, "{verdict:?}");
    assert!(rig.shelf.effects().iter().any(|effect| effect.server == "new"));
}

#[tokio::test]
async fn an_upload_that_drains_is_not_kept_from_it_by_what_waits_on_its_connection() {
    let rig = plan().start(USERS).await;
    let connection = Uploads::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
    let mut begun = connection.begin("POST", "/effect/begun", Some(200_000)).await.unwrap();
    begun.send(vec![b'x'; 100_000], false).unwrap();
    rig.web()[0].seen_of("/effect/begun", |seen| seen.body >= 100_000).await;
    let cutover = rig.begin("new");
    rig.state("holding").await;
    // More of it than one window of a connection has room for, and nobody reads it.
    let mut waits = connection.begin("POST", "/effect/waits", Some(150_000)).await.unwrap();
    waits.send(vec![b'y'; 150_000], true).unwrap();
    rig.held(1).await;
    begun.send(vec![b'x'; 100_000], true).unwrap();
    assert_eq!(begun.answer().await.unwrap(), (201, b"old".to_vec()));
    through(cutover.end().await);
    assert_eq!(waits.answer().await.unwrap(), (201, b"new".to_vec()));
    let sizes: Vec<usize> = rig.shelf.effects().iter().map(|effect| effect.body.len()).collect();
    assert_eq!(sizes, [200_000, 150_000]);
}

#[tokio::test]
async fn a_body_is_whole_with_its_last_byte_however_late_its_stream_ends() {
    let rig = plan().start(USERS).await;
    let answer = Stall::default();
    rig.web()[0].fault("/effect", At::Withhold(answer.clone()), 1);
    let connection = Uploads::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
    let mut upload = connection.begin("POST", "/effect/mail", Some(4)).await.unwrap();
    upload.send(b"mail".to_vec(), false).unwrap();
    answer.reached(1).await;
    let cutover = rig.begin("new");
    // It was carried out: that is what the drain waits for.
    rig.proxy
        .until(|status| status["cutover"]["waits_for"].to_string().contains("unanswered writes"))
        .await
        .unwrap();
    upload.send(Vec::new(), true).unwrap();
    answer.release();
    assert_eq!(upload.answer().await.unwrap(), (201, b"old".to_vec()));
    through(cutover.end().await);
    assert_eq!(rig.shelf.effects().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_keeps_nobody_from_leaving() {
    for two in [false, true] {
        let rig = plan().stops().cutover("unmovable = 2\n").start(USERS).await;
        let page = vec![b'x'; 64_000_000];
        let mut client = rig.secure_browser().await;
        assert_eq!(client.ask("PUT", "/dav/large", &page).await.unwrap().status, 201);
        let (connection, mut upload);
        if two {
            connection = Uploads::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
            upload = connection.begin("GET", "/dav/large", None).await.unwrap();
            upload.send(Vec::new(), true).unwrap();
        } else {
            client.write(Client::head("GET", "/dav/large", "", 0)).await.unwrap();
        }
        rig.web()[0].seen_of("GET /dav/large", |seen| seen.whole).await;
        let ran = rig.begin("new").end().await;
        assert_eq!((ran.code, &ran.json["outcome"]), (0, &"done".into()), "{ran:?}");
    }
}

/// What a server has said to its end needs no server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_has_come_whole_is_not_cut_with_its_server() {
    // Whole with its head or not, a request goes different ways. Of the last answer more than is read ahead is still with
    // the system: nobody knows that it is whole.
    for (whole, size, lost) in [(true, 3_000, 0), (false, 3_000, 0), (true, 50_000, 1)] {
        let rig = plan().stops().cutover("unmovable = 1\n").start(USERS).await;
        let page = vec![b'x'; size];
        assert_eq!(rig.browser().await.ask("PUT", "/dav/page", &page).await.unwrap().status, 201);
        let connection = Uploads::reading(rig.proxy.https(), rig.proxy.tls().unwrap(), 1_000).await.unwrap();
        let answer = if whole {
            connection.ask("GET", "/dav/page").await.unwrap()
        } else {
            let mut asked = connection.begin("GET", "/dav/page", None).await.unwrap();
            asked.send(Vec::new(), true).unwrap();
            asked
        };
        let answer = answer.begins().await.unwrap();
        let ran = rig.begin("new").end().await;
        assert_eq!(ran.json["outcome"], "done", "{ran:?}");
        assert_eq!(ran.json["unmovable"]["read_in_flight"].as_u64().unwrap_or_default(), lost, "{ran:?}");
        assert_eq!(answer.whole().await.unwrap(), page);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_upload_that_was_sent_whole_has_all_of_the_drain() {
    let rig = plan().start(USERS).await;
    let answer = Stall::default();
    rig.web()[0].fault("/effect", At::Withhold(answer.clone()), 1);
    let mut client = rig.browser().await;
    let body = vec![b'x'; 100_000];
    client
        .write([Client::head("POST", "/effect/long", "", body.len()).as_bytes(), &body].concat())
        .await
        .unwrap();
    answer.reached(1).await;
    let cutover = rig.begin("new");
    // Half of the drain is what an upload may use that does not come to its end.
    rig.proxy
        .until(|status| {
            status["cutover"]["budget_left_ms"].as_u64().is_some_and(|left| left < 50_000 - 5_000)
        })
        .await
        .unwrap();
    answer.release();
    assert_eq!(client.answer().await.unwrap().text(), "old");
    through(cutover.end().await);
    assert_eq!(rig.shelf.effects().len(), 1);
}

/// Whoever asks whether the connection lives (gRPC, OkHttp, browsers) gives it up where nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_a_held_request_answers_pings() {
    let rig = plan().start(USERS).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let mut frames = Frames::connect(rig.proxy.https(), rig.proxy.tls().unwrap()).await.unwrap();
    let head = [
        (&b":method"[..], &b"GET"[..]),
        (b":scheme", b"https"),
        (b":authority", b"mail.bascule.test"),
        (b":path", b"/page"),
    ];
    let held = frames.head(&head, true).await.unwrap();
    rig.held(1).await;
    for _ in 0..2 {
        frames.ping().await.unwrap();
        assert_eq!(frames.next().await, Frame::Pong);
    }
    barrier.release();
    through(cutover.end().await);
    assert_eq!(frames.next().await, Frame::Answer(held));
}
