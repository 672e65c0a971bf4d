//! WebSockets across a cutover.
//!
//! Rule: a client is told to come back, between two frames, and what it said while it was kept waiting goes nowhere or to
//! the server that it spoke to.

use bascule_tests::{
    fake::{Stall, http::At},
    http::Client,
};
use serde_json::{Value, json};

use super::{
    super::rig::{BARRIER, Plan, Rig, Running, Spoken, aborted},
    USERS, plan,
};

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
/// 1012 from a server, and what a client says to it.
const RESTART: &[u8] = b"\x88\x02\x03\xf4";
const AGREED: &[u8] = b"\x88\x82\0\0\0\0\x03\xf4";

/// A WebSocket to a server that says everything again.
async fn socket(rig: &Rig) -> Client {
    let mut client = rig.secure_browser().await;
    let answer = client.ask_with("GET", "/ws", UPGRADE, b"").await.unwrap();
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client
}

/// A frame comes back as it went.
async fn speaks(client: &mut Client, frame: &[u8]) {
    client.write(frame).await.unwrap();
    assert_eq!(client.bytes(frame.len()).await.unwrap(), frame);
}

async fn is_told(client: &mut Client) {
    assert_eq!(client.bytes(RESTART.len()).await.unwrap(), RESTART);
    client.write(AGREED).await.unwrap();
    assert!(client.ended().await);
}

/// A cutover whose sessions may end, but for nothing else than their sockets.
async fn ends(running: Running) -> Value {
    let ran = running.end().await;
    assert_eq!((&ran.json["outcome"], &ran.json["unmovable"]), (&"done".into(), &json!({})), "{ran:?}");
    ran.json
}

async fn told(rig: &Rig) -> f64 {
    rig.proxy.metric("bascule_http_streams_total{outcome=\"sockets_told\"}").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_115th_scenario() {
    for plan in [plan(), plan().stops(), Plan::replicated().web("", Spoken::Tls)] {
        let rig = plan.start(USERS).await;
        let mut sockets = [socket(&rig).await, socket(&rig).await];
        for client in &mut sockets {
            speaks(client, b"\x81\x05hello").await;
        }
        let plan = rig.proxy.run(&["cutover", "plan", "new", "--json"]).await.unwrap();
        let saw = "0 streams of events and 0 long polls move unseen, 2 WebSockets are told to come back";
        assert!(plan.json["items"].to_string().contains(saw), "{plan:?}");
        let report = ends(rig.begin("new")).await;
        assert_eq!(report["streams"], json!({"sockets_told": 2}), "{report:#}");
        for client in &mut sockets {
            is_told(client).await;
        }
        assert_eq!(told(&rig).await, 2.0);
        // The server heard a masked 1001 between two frames, and the end.
        rig.web()[0].seen_of("/ws", |seen| seen.whole && seen.body == 7 + 8).await;
        let mut again = socket(&rig).await;
        speaks(&mut again, b"\x82\x01x").await;
        rig.web()[1].seen_of("/ws", |seen| seen.body == 3).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_comes_to_its_end_before_the_client_is_told() {
    let rig = plan().start(USERS).await;
    let mut client = socket(&rig).await;
    speaks(&mut client, b"\x81\x01a").await;
    let half = Stall::default();
    rig.web()[0].fault("/ws", At::Pause(5, half.clone()), 1);
    let mut torn = socket(&rig).await;
    torn.write(b"\x82\x08torn it.").await.unwrap();
    half.reached(1).await;
    let running = rig.begin("new");
    is_told(&mut client).await;
    half.release();
    assert_eq!(torn.bytes(10).await.unwrap(), b"\x82\x08torn it.");
    is_told(&mut torn).await;
    ends(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_without_an_end_keeps_nobody() {
    let rig = plan().stops().start(USERS).await;
    let half = Stall::default();
    rig.web()[0].fault("/ws", At::Pause(5, half.clone()), 1);
    let mut torn = socket(&rig).await;
    torn.write(b"\x82\x08torn it.").await.unwrap();
    half.reached(1).await;
    ends(rig.begin("new")).await;
    assert_eq!(torn.bytes(5).await.unwrap(), b"\x82\x08tor");
    assert!(torn.ended().await);
    rig.metric("bascule_http_streams_total{outcome=\"sockets_cut\"}", |count| count == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_shut_gate_nothing_goes_to_the_server_and_an_abort_lets_it() {
    let rig = plan().start(USERS).await;
    let mut client = socket(&rig).await;
    speaks(&mut client, b"\x81\x01a").await;
    let barrier = rig.hooks.stall(BARRIER);
    let mut running = rig.begin("new");
    running.reaches(&barrier).await;
    client.write(b"\x81\x01b").await.unwrap();
    let mut held = rig.browser().await;
    held.write(Client::head("GET", "/page", "", 0)).await.unwrap();
    rig.held(1).await;
    assert_eq!(rig.web()[0].seen()[0].body, 3);
    rig.abort().await;
    barrier.release();
    aborted(running.end().await);
    assert_eq!(client.bytes(3).await.unwrap(), b"\x81\x01b");
    speaks(&mut client, b"\x81\x01c").await;
    assert_eq!((held.answer().await.unwrap().text(), told(&rig).await), ("old /page".to_owned(), 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_may_end_it() {
    let rig = plan().start(USERS).await;
    let mut client = socket(&rig).await;
    // The server says it again, and so has closed as well.
    speaks(&mut client, b"\x88\x02\x03\xe8").await;
    drop(client);
    rig.web()[0].seen_of("/ws", |seen| seen.whole).await;
    let mut client = socket(&rig).await;
    speaks(&mut client, b"\x81\x01a").await;
    rig.web()[0].stop().await;
    is_told(&mut client).await;
    rig.metric("bascule_http_sockets", |count| count == 0.0).await;
}
