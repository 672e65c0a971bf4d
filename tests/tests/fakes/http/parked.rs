//! Connections in clear text whose clients ask for nothing for a while: they are parked, and cost next to nothing.
//!
//! Rule: a client cannot tell. Each test sees that the connection was parked before it uses it.

use bascule_tests::http::Client;
use rustix::process::Signal;

use super::{
    super::rig::{Rig, through},
    USERS, plan,
};

impl Rig {
    async fn parked(&self, count: f64) {
        self.metric("bascule_http_parked", |parked| parked == count).await;
    }

    /// So many connections that have had an answer, and are parked.
    async fn parked_browsers(&self, count: u32) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = self.browser().await;
            assert_eq!(client.ask("GET", "/before", b"").await.unwrap().text(), "old /before");
            clients.push(client);
        }
        self.parked(count.into()).await;
        clients
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_parked_is_served_like_anybody_and_parked_again() {
    let rig = plan().start(USERS).await;
    let mut clients = rig.parked_browsers(3).await;
    let sessions = "bascule_sessions{listener=\"http\"}";
    let count = rig.proxy.metric(sessions).await.unwrap();
    assert_eq!(rig.proxy.status().await.unwrap()["sessions"], 3);
    let [get, post, two] = &mut clients[..] else { unreachable!("three") };
    assert_eq!(get.ask("GET", "/again", b"").await.unwrap().text(), "old /again");
    // A body, and a head that comes in two pieces.
    let head = Client::head("POST", "/effect", "", 4);
    post.write(&head[..20]).await.unwrap();
    rig.parked(1.0).await;
    post.write([&head.as_bytes()[20..], b"body"].concat()).await.unwrap();
    assert_eq!(post.answer().await.unwrap().status, 201);
    // Two requests at once.
    two.write(Client::head("GET", "/one", "", 0) + &Client::head("GET", "/two", "", 0)).await.unwrap();
    assert_eq!(two.answer().await.unwrap().text(), "old /one");
    assert_eq!(two.answer().await.unwrap().text(), "old /two");
    assert_eq!(rig.shelf.effects().len(), 1);
    rig.parked(3.0).await;
    assert_eq!(rig.proxy.metric(sessions).await.unwrap(), count);
    drop(clients);
    rig.parked(0.0).await;
    rig.metric(sessions, |left| left == count - 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_does_not_concern_who_is_parked() {
    let rig = plan().start(USERS).await;
    let mut clients = rig.parked_browsers(2).await;
    through(rig.begin("new").end().await);
    assert_eq!(rig.proxy.metric("bascule_http_parked").await.unwrap(), 2.0);
    for client in &mut clients {
        assert_eq!(client.ask("GET", "/after", b"").await.unwrap().text(), "new /after");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_while_the_gate_is_shut_is_held() {
    let rig = plan().start(USERS).await;
    let mut clients = rig.parked_browsers(1).await;
    let fence = rig.hooks.stall(super::super::rig::FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    clients[0].write(Client::head("GET", "/held", "", 0)).await.unwrap();
    rig.metric("bascule_held_commands", |held| held == 1.0).await;
    fence.release();
    through(cutover.end().await);
    assert_eq!(clients[0].answer().await.unwrap().text(), "new /held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_the_idle_and_of_slow_heads_is_the_same_for_them() {
    let rig = plan().limits("http.idle = \"4s\"\nhttp.header = \"1s\"\n").start(USERS).await;
    let mut clients = rig.parked_browsers(2).await;
    clients[0].write("GET / HTTP/1.1\r\n").await.unwrap();
    for client in &mut clients {
        assert!(client.ended().await);
    }
    rig.parked(0.0).await;
    assert_eq!(rig.proxy.metric("bascule_limits_hit_total{limit=\"http_header\"}").await.unwrap(), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_client_logged_in_with_it_is_not_parked() {
    let rig = plan().start(USERS).await;
    let mut bound = rig.browser().await;
    let ntlm = "Authorization: NTLM TlRMTVNTUAAB\r\n";
    assert_eq!(bound.ask_with("GET", "/bound", ntlm, b"").await.unwrap().status, 200);
    // One that was silent for a shorter time is.
    let _other = rig.parked_browsers(1).await;
    assert_eq!(rig.proxy.status().await.unwrap()["sessions"], 2);
    assert_eq!(bound.ask("GET", "/bound", b"").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_parked_is_left_when_the_process_ends_and_not_when_it_asks() {
    let rig = plan().start(USERS).await;
    let read = rig.web()[0].stall("/read");
    let mut reader = rig.browser().await;
    reader.write(Client::head("GET", "/read", "", 0)).await.unwrap();
    read.reached(1).await;
    let mut clients = rig.parked_browsers(1).await;
    rig.proxy.signal(Signal::TERM).unwrap();
    assert!(clients[0].ended().await);
    // The process was still there: it waits for whoever has asked.
    read.release();
    assert_eq!(reader.answer().await.unwrap().text(), "old /read");
}
