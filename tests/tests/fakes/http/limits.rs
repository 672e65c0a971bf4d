//! So much at once, and so much in a minute.
//!
//! Rule: whoever is turned away is told when to come back, and nothing happened; every limit that is reached is counted.

use bascule_tests::{fake::http::At, http::Client};

use super::{
    super::rig::{BARRIER, Rig, Twins, through},
    USERS, plan,
};

impl Rig {
    /// Waits until so many requests queue.
    async fn queued(&self, count: f64) {
        self.metric("bascule_http_queued", |queued| queued == count).await;
    }

    async fn hit(&self, limit: &str) -> f64 {
        self.proxy.metric(&format!("bascule_limits_hit_total{{limit=\"{limit}\"}}")).await.unwrap()
    }

    async fn outcome(&self, outcome: &str) -> f64 {
        self.proxy.metric(&format!("bascule_http_requests_total{{outcome=\"{outcome}\"}}")).await.unwrap()
    }

    /// A request that is on its way.
    async fn asking(&self, method: &str, target: &str) -> Client {
        let mut client = self.browser().await;
        client.write(Client::head(method, target, "", 0)).await.unwrap();
        client
    }
}

/// Whether an answer sends its client away for a while.
async fn is_away(client: &mut Client, status: u16) -> bool {
    let answer = client.answer().await.unwrap();
    let after: Option<u64> = answer.field("retry-after").and_then(|after| after.parse().ok());
    answer.status == status && after.is_some_and(|after| (5..=10).contains(&after))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_are_served_at_once_and_the_urgent_go_first() {
    let rig = plan().service("concurrency = 1\nqueue = 3\n").start(USERS).await;
    let first = rig.web()[0].stall("/first");
    let mut one = rig.asking("GET", "/first").await;
    first.reached(1).await;
    let mut waiting = Vec::new();
    for (n, (method, target)) in
        [("PROPFIND", "/dav/a"), ("PROPFIND", "/dav/b"), ("GET", "/page")].into_iter().enumerate()
    {
        waiting.push(rig.asking(method, target).await);
        rig.queued((n + 1) as f64).await;
    }
    // No room for its like; the more urgent takes the place of the last that is less so.
    let mut like = rig.asking("PROPFIND", "/dav/c").await;
    assert!(is_away(&mut like, 503).await);
    let mut urgent = rig.asking("GET", "/urgent").await;
    assert!(is_away(&mut waiting[1], 503).await);
    assert_eq!(rig.hit("http_queue").await, 2.0);
    first.release();
    assert_eq!(one.answer().await.unwrap().status, 200);
    assert_eq!(waiting[2].answer().await.unwrap().status, 200);
    assert_eq!(urgent.answer().await.unwrap().status, 200);
    assert_eq!(waiting[0].answer().await.unwrap().status, 404);
    // In which order is the queue's own affair, and tested there.
    assert_eq!(rig.web()[0].seen().len(), 4);
    // Connections of those that were turned away are as good as before.
    assert_eq!(like.ask("GET", "/page", b"").await.unwrap().status, 200);
    rig.queued(0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_queues_moves_with_the_others_and_whoever_goes_is_forgotten() {
    let rig = plan().service("concurrency = 1\n").start(USERS).await;
    // A socket takes its place until it is one, and is then in nobody's way.
    let mut socket = rig.browser().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(socket.ask_with("GET", "/ws", upgrade, b"").await.unwrap().status, 101);
    let first = rig.web()[0].stall("/first");
    let mut one = rig.asking("GET", "/first").await;
    first.reached(1).await;
    let gone = rig.asking("GET", "/gone").await;
    rig.queued(1.0).await;
    drop(gone);
    rig.queued(0.0).await;
    let mut waits = rig.asking("POST", "/effect").await;
    rig.queued(1.0).await;
    rig.cutover("new").await;
    first.release();
    assert_eq!(one.answer().await.unwrap().status, 200);
    assert_eq!(waits.answer().await.unwrap().text(), "new");
    assert_eq!(rig.shelf.effects().len(), 1);
    assert_eq!(rig.web()[0].count("/gone") + rig.web()[1].count("/gone"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_of_its_request_takes_it_out_of_no_queue() {
    let rig = plan().service("concurrency = 1\n").start(USERS).await;
    let first = rig.web()[0].stall("/first");
    let mut one = rig.asking("GET", "/first").await;
    first.reached(1).await;
    let mut others = Vec::new();
    for (n, (method, fields)) in [
        ("GET", "Accept: text/event-stream, */*\r\n"),
        ("POST", "Accept: text/event-stream, */*\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: x\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = rig.browser().await;
        client.write(Client::head(method, "/page", fields, 0)).await.unwrap();
        rig.queued((n + 1) as f64).await;
        others.push(client);
    }
    first.release();
    assert_eq!(one.answer().await.unwrap().status, 200);
    for client in &mut others {
        assert!(client.answer().await.unwrap().ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_full_holds_up_no_cutover() {
    let rig = plan().twins(Twins::Dav).service("concurrency = 1\n").start(USERS).await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let slow = rig.webs[3].stall("/cal");
    let mut held = [rig.asking("GET", "/cal/one").await, rig.asking("GET", "/cal/two").await];
    rig.held(2).await;
    barrier.release();
    slow.reached(1).await;
    through(cutover.end().await);
    rig.queued(1.0).await;
    slow.release();
    for client in &mut held {
        assert!(client.answer().await.unwrap().ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_much_in_a_minute() {
    let rig = plan().listener("rates = { address_requests = 3 }\n").start(USERS).await;
    let mut client = rig.browser().await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/page", b"").await.unwrap().status, 200);
    }
    client.write([Client::head("POST", "/effect", "", 4).as_bytes(), b"body"].concat()).await.unwrap();
    assert!(is_away(&mut client, 429).await);
    // By the other listener it may do as much again.
    assert_eq!(rig.secure_browser().await.ask("GET", "/page", b"").await.unwrap().status, 200);
    assert_eq!((rig.hit("address_requests").await, rig.shelf.effects().len()), (1.0, 0));
    assert_eq!(rig.outcome("limited").await, 1.0);

    let rig = plan().listener("rates = { address_connections = 2 }\n").start(USERS).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        // One after the other: two that come at once are looked at by two threads, and where the one that read its clock
        // first comes second, the last of the burst is not had yet.
        let mut client = rig.browser().await;
        assert_eq!(client.ask("GET", "/page", b"").await.unwrap().status, 200);
        kept.push(client);
    }
    assert!(rig.browser().await.ended().await);
    assert_eq!(kept[0].ask("GET", "/page", b"").await.unwrap().status, 200);
    assert_eq!(rig.hit("address_connections").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_counted_where_it_is_known_to_be_its_owners() {
    let rig = plan().listener("rates = { identity_requests = 2 }\n").start(USERS).await;
    let anna = "Authorization: Basic YW5uYTpwdw==\r\n";
    let liar = "Authorization: Basic YW5uYTp4\r\n";
    let mut client = rig.browser().await;
    rig.web()[0].fault("/page", At::Say(401, ""), 20);
    for _ in 0..20 {
        assert_eq!(client.ask_with("GET", "/page", liar, b"").await.unwrap().status, 401);
    }
    // The first one shows whose it is.
    for _ in 0..3 {
        assert_eq!(client.ask_with("GET", "/page", anna, b"").await.unwrap().status, 200);
    }
    client.write(Client::head("GET", "/page", anna, 0)).await.unwrap();
    assert!(is_away(&mut client, 429).await);
    assert_eq!((rig.hit("identity_requests").await, rig.outcome("limited").await), (1.0, 1.0));
    assert_eq!(client.ask("GET", "/page", b"").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_long_is_queued_for_a_place() {
    let rig = plan().service("concurrency = 1\n").ceiling("2s").start(USERS).await;
    let first = rig.web()[0].stall("/first");
    let mut one = rig.asking("GET", "/first").await;
    first.reached(1).await;
    let mut waits = rig.asking("POST", "/effect").await;
    assert!(is_away(&mut waits, 503).await);
    assert_eq!((rig.hit("http_queue_wait").await, rig.outcome("busy").await), (1.0, 1.0));
    rig.queued(0.0).await;
    first.release();
    assert_eq!(one.answer().await.unwrap().status, 200);
    // Its connection is as good as before, and nothing of it has happened.
    assert_eq!(waits.ask("GET", "/page", b"").await.unwrap().status, 200);
    assert_eq!((rig.web()[0].count("/effect"), rig.shelf.effects().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_the_end_of_several_servers_is_said_to_no_further_one() {
    let rig = plan().start(USERS).await;
    rig.web()[0].fault("/poison", At::Whole, usize::MAX);
    let mut client = rig.asking("GET", "/poison").await;
    assert!(is_away(&mut client, 503).await);
    // A question that waits for its answer is a request like any other here.
    let mut poll = rig.asking("POST", "/poll/poison").await;
    assert!(is_away(&mut poll, 503).await);
    let again = rig.proxy.metric("bascule_http_again_total{reason=\"poisoned\"}").await.unwrap();
    assert_eq!((again, rig.outcome("busy").await, rig.outcome("answered").await), (2.0, 2.0, 0.0));
    assert_eq!((rig.web()[0].count("GET /poison"), rig.web()[0].count("POST /poll/poison")), (3, 3));
}
