//! JMAP's push over a cutover: clients that have heard of something are told to ask for it again, and nobody else is.
//!
//! Rule: whoever serves such a stream says nothing of what happened before it began.

use bascule_tests::http::{Event, Events};
use serde_json::{Value, json};

use super::{
    super::rig::Rig,
    USERS, plan,
    streams::{cutover, moved},
};

const PUSH: &str = "/jmap/eventsource/?types=*&closeafter=no&ping=30";

/// Who hears of mail hears of all of these.
const MAIL: &[&str] = &["Email", "Mailbox", "Thread"];

/// A server's event.
fn state(changed: Value) -> String {
    format!("event: state\ndata: {}", json!({"@type": "StateChange", "changed": changed}))
}

/// What a state says has changed.
fn changed(event: Option<Event>) -> Value {
    let event = event.expect("the stream goes on");
    assert_eq!(event.name, "state");
    let mut change: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(change["@type"], "StateChange");
    change["changed"].take()
}

/// The one state that these types of these accounts have, which no server gave.
fn one_state(changed: &Value, wanted: &[(&str, &[&str])]) -> String {
    let accounts = changed.as_object().unwrap();
    assert_eq!(
        accounts.keys().collect::<Vec<_>>(),
        wanted.iter().map(|(account, _)| account).collect::<Vec<_>>()
    );
    let mut states = vec![];
    for (account, types) in wanted {
        let said = accounts[*account].as_object().unwrap();
        assert_eq!(said.keys().collect::<Vec<_>>(), types.iter().collect::<Vec<_>>());
        states.extend(said.values().map(|state| state.as_str().unwrap().to_owned()));
    }
    states.dedup();
    assert_eq!(states.len(), 1, "{changed}");
    assert!(states[0].starts_with("bascule-"), "{changed}");
    states.remove(0)
}

/// The next event, which comes from a server.
async fn next_is(events: &mut Events, rig: &Rig, text: &str) {
    rig.shelf.publish(text);
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(text.lines().last().unwrap(), format!("data: {}", event.data));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_each_cutover_a_client_hears_once_that_all_it_knows_of_has_changed() {
    let rig = plan().start(USERS).await;
    let mut two = rig.two().await;
    let mut clients = [
        Events::one(rig.browser().await, PUSH).await.unwrap(),
        Events::one(rig.secure_browser().await, PUSH).await.unwrap(),
        Events::two(&mut two, PUSH).await.unwrap(),
        // It is one by what it says.
        Events::one(rig.browser().await, "/jmap/push").await.unwrap(),
    ];
    let changes =
        [json!({"a": {"Email": "1", "Mailbox": "1"}}), json!({"b": {"Email": "1"}, "a": {"Email": "2"}})];
    for change in changes {
        rig.shelf.publish(&state(change.clone()));
        for events in &mut clients {
            assert_eq!(changed(events.next().await.unwrap()), change);
        }
    }
    let mut states = vec![];
    for (n, to) in ["new", "old"].into_iter().enumerate() {
        cutover(&rig, to).await;
        for events in &mut clients {
            let told = changed(events.next().await.unwrap());
            states.push(one_state(&told, &[("a", MAIL), ("b", MAIL)]));
        }
        // The next event is the server's own.
        let own = format!("event: ping\ndata: {{\"interval\":{n}}}");
        rig.shelf.publish(&own);
        for events in &mut clients {
            assert_eq!(events.next().await.unwrap().unwrap().data, format!("{{\"interval\":{n}}}"));
        }
    }
    states.sort();
    states.dedup();
    assert_eq!(states.len(), 8, "one for each client after each cutover: {states:?}");
    assert_eq!((moved(&rig, "events_told").await, moved(&rig, "events_moved").await), (8.0, 8.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_has_no_id_and_no_pool_is_asked_with_another_ones() {
    let rig = plan().start(USERS).await;
    let mut events = Events::one(rig.browser().await, PUSH).await.unwrap();
    // Above all that the other pool has: with it that one would say nothing at all.
    rig.shelf.publish(&format!("id: 5000\n{}", state(json!({"a": {"Email": "1"}}))));
    assert_eq!(events.next().await.unwrap().unwrap().id, "5000");
    for (to, at) in [("new", 1), ("old", 0)] {
        cutover(&rig, to).await;
        let event = events.next().await.unwrap();
        assert_eq!(event.as_ref().unwrap().id, "5000");
        one_state(&changed(event), &[("a", MAIL)]);
        let asked = rig.web()[at].seen().last().unwrap().head.to_ascii_lowercase();
        assert!(!asked.contains("last-event-id"), "{asked}");
        next_is(&mut events, &rig, &state(json!({"a": {"Email": to}}))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_breaks_tells_after_its_own_id_what_was_missed_and_without_one_it_is_told_for_it() {
    let rig = plan().start(USERS).await;
    let mut plain = Events::one(rig.browser().await, PUSH).await.unwrap();
    next_is(&mut plain, &rig, &state(json!({"a": {"Email": "1"}}))).await;
    rig.web()[0].stop().await;
    rig.web()[0].serve();
    one_state(&changed(plain.next().await.unwrap()), &[("a", MAIL)]);
    assert_eq!(moved(&rig, "events_told").await, 1.0);
    // From here on the server gives ids.
    next_is(&mut plain, &rig, &format!("id: 2\n{}", state(json!({"a": {"Thread": "2"}})))).await;
    rig.web()[0].stop().await;
    rig.shelf.publish(&format!("id: 3\n{}", state(json!({"a": {"Email": "3"}}))));
    rig.web()[0].serve();
    assert_eq!(changed(plain.next().await.unwrap()), json!({"a": {"Email": "3"}}), "by the server");
    assert_eq!(moved(&rig, "events_told").await, 1.0);
    // That id is the old pool's, so the new one cannot speak for itself, before or after a loss.
    cutover(&rig, "new").await;
    one_state(&changed(plain.next().await.unwrap()), &[("a", MAIL)]);
    rig.web()[1].stop().await;
    rig.web()[1].serve();
    one_state(&changed(plain.next().await.unwrap()), &[("a", MAIL)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_wants_some_types_is_told_of_these() {
    let rig = plan().start(USERS).await;
    let target = "/jmap/eventsource/?types=Email%2CThread&closeafter=no&ping=0";
    let mut events = Events::one(rig.browser().await, target).await.unwrap();
    next_is(&mut events, &rig, &state(json!({"a": {"Email": "1", "Mailbox": "1"}, "b": {"Mailbox": "1"}})))
        .await;
    cutover(&rig, "new").await;
    one_state(&changed(events.next().await.unwrap()), &[("a", &["Email", "Thread"])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_state_ends_a_stream_that_ends_after_one() {
    let rig = plan().start(USERS).await;
    let target = "/jmap/eventsource/?types=*&closeafter=state&ping=0";
    let mut heard = Events::one(rig.browser().await, target).await.unwrap();
    next_is(&mut heard, &rig, &state(json!({"a": {"Email": "1"}}))).await;
    let unheard = Events::one(rig.browser().await, target).await.unwrap();
    cutover(&rig, "new").await;
    one_state(&changed(heard.next().await.unwrap()), &[("a", MAIL)]);
    for mut events in [heard, unheard] {
        assert_eq!(events.next().await.unwrap(), None);
        let mut client = events.into_client().unwrap();
        assert!(client.ask("GET", "/page", b"").await.unwrap().ok(), "its connection is kept");
    }
    assert_eq!(moved(&rig, "events_ended").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_heard_of_nothing_finds_out_by_itself_once_somebody_serves_it() {
    let rig = plan().start(USERS).await;
    let mut events = Events::one(rig.browser().await, PUSH).await.unwrap();
    next_is(&mut events, &rig, "event: ping\ndata: {\"interval\":30}").await;
    cutover(&rig, "new").await;
    assert_eq!(events.next().await.unwrap(), None);
    assert_eq!((moved(&rig, "events_ended").await, moved(&rig, "events_told").await), (1.0, 0.0));
    assert!(rig.web()[1].seen().iter().any(|seen| seen.head.contains(PUSH)), "it was served before it ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_heard_of_too_much_is_not_told_half_of_it() {
    let rig = plan().start(USERS).await;
    let many: serde_json::Map<_, _> =
        (0..2000).map(|n| (format!("account-{n:032}"), json!({"Email": "1"}))).collect();
    for target in [PUSH, "/jmap/push"] {
        let mut events = Events::one(rig.browser().await, target).await.unwrap();
        next_is(&mut events, &rig, &state(Value::Object(many.clone()))).await;
        let to = if target == PUSH { "new" } else { "old" };
        cutover(&rig, to).await;
        assert_eq!(events.next().await.unwrap(), None);
    }
    let limit = rig.proxy.metric("bascule_limits_hit_total{limit=\"http_heard\"}").await.unwrap();
    assert_eq!((limit, moved(&rig, "events_told").await), (2.0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_another_kind_are_told_nothing() {
    let rig = plan().start(USERS).await;
    let mut events = Events::one(rig.browser().await, "/jmap/other?types=*").await.unwrap();
    next_is(&mut events, &rig, "event: state\ndata: {\"door\":\"open\"}").await;
    cutover(&rig, "new").await;
    rig.metric("bascule_http_streams_total{outcome=\"events_moved\"}", |count| count == 1.0).await;
    next_is(&mut events, &rig, "event: state\ndata: {\"door\":\"shut\"}").await;
    assert_eq!(moved(&rig, "events_told").await, 0.0);
}
