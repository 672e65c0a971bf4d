//! Cyrus: an upgrade from 3.6 to 3.10, and two sites with 3.10, on one spool.
//!
//! Rule: what its clients know of their mailboxes is true on the other server too, and nobody is sent back to a version that
//! cannot read them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bascule_tests::{
    bascule::{Bascule, Setup},
    client::{Client, Security, Status},
    cyrus::Pair,
    http::{self, Events},
    smtp::{self, Dialect},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{
    crowd,
    scene::{MESSAGE, PATIENT, Question, all_moved, barrier, cutover_while},
};

/// In IDLE, and as many that work.
const SESSIONS: usize = 30;

/// 3.6 cannot open a mailbox that 3.10 made, and to run it on them for a moment broke calendars for 3.10 as well.
const NO_WAY_BACK: &str = "[cutover.check.no-way-back]\nkind = \"exec\"\nexec = [\"/bin/false\"]\n\
                           from = \"new\"\nto = \"old\"\nas = [\"guard\"]\n";

/// alice:pass
const ALICE: &str = "Authorization: Basic YWxpY2U6cGFzcw==\r\n";

fn setup(pair: &Pair) -> Setup {
    let tables = "[limits.http]\nhold = \"60s\"\n".to_owned();
    Setup { cutover: PATIENT.to_owned(), tables, ..pair.setup() }
}

/// A session with three messages in its selected INBOX.
async fn selected(proxy: &Bascule, user: &str, enable: &str) -> Client {
    let mut client = proxy.session(user, "pass").await.unwrap();
    for _ in 0..3 {
        client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
    }
    if !enable.is_empty() {
        client.command(&format!("ENABLE {enable}")).await.unwrap().ok().unwrap();
    }
    client.select("INBOX").await.unwrap().ok().unwrap();
    client
}

/// What a session is told of its messages; whose turn it was to find them recent is no client's matter (RFC 9051 §2.3.2).
async fn messages(client: &mut Client) -> Vec<String> {
    let told = client.command("UID FETCH 1:* (FLAGS MODSEQ INTERNALDATE RFC822.SIZE)").await.unwrap().texts();
    told.iter().map(|line| line.replace("\\Recent ", "").replace("\\Recent", "")).collect()
}

#[tokio::test]
async fn sessions_move_from_3_6_to_3_10_and_hear_nothing_and_not_back() {
    let pair = Pair::upgrade().await.unwrap();
    let desk = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = barrier(setup(&pair), desk.local_addr().unwrap().port(), "barrier");
    setup.tables += NO_WAY_BACK;
    let proxy = Bascule::start(&setup, "old").await.unwrap();

    let mut idle = selected(&proxy, "alice", "").await;
    assert!(idle.idle().await.unwrap().is_none());
    let mut resync = selected(&proxy, "bob", "QRESYNC").await;
    resync.command("STORE 2 +FLAGS (\\Flagged $Label1)").await.unwrap().ok().unwrap();
    let known = messages(&mut resync).await;
    let mut other = proxy.session("bob", "pass").await.unwrap();
    let mut carol = proxy.session("carol", "pass").await.unwrap();
    carol.command("CREATE Work").await.unwrap().ok().unwrap();
    let heard = [idle.received(), resync.received()];

    // With the old server gone a message is uploaded, and one is delivered.
    let held = async {
        let asked = Question::at(&desk).await;
        let tag = carol.start_append("Work", MESSAGE).await.unwrap();
        let mut post = smtp::Client::ready(proxy.lmtp(), Security::Plain, Dialect::Lmtp).await.unwrap();
        let post = tokio::spawn(async move { post.send("", &["alice@example.org"], MESSAGE).await });
        proxy.until(|status| status["held"].as_u64() >= Some(2)).await.unwrap();
        assert_eq!([idle.received(), resync.received()], heard);
        asked.answer(0).await;
        (tag, post)
    };
    let (ran, (tag, post)) = cutover_while(&proxy, "new", held).await;
    all_moved(&ran);
    assert_eq!(carol.finish(&tag).await.unwrap().status, Status::Ok);
    assert!(post.await.unwrap().unwrap().accepted());
    assert_eq!(resync.received(), heard[1]);

    assert_eq!(idle.notice().await.unwrap().text(), "* 4 EXISTS");
    assert_eq!(messages(&mut resync).await, known);
    other.select("INBOX").await.unwrap().ok().unwrap();
    other.command("UID STORE 1 +FLAGS.SILENT (\\Deleted)").await.unwrap().ok().unwrap();
    other.command("EXPUNGE").await.unwrap().ok().unwrap();
    let told = resync.command("NOOP").await.unwrap().texts();
    assert!(told.contains(&"* VANISHED 1".to_owned()), "{told:?}");
    assert_eq!(
        carol.command("STATUS Work (MESSAGES)").await.unwrap().texts(),
        ["* STATUS Work (MESSAGES 1)"]
    );

    let ran = proxy.cutover("old").await.unwrap();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.json["why"].to_string().contains("no-way-back"), "{ran:?}");
    assert_eq!(proxy.status().await.unwrap()["active"], "new");
    assert_eq!(messages(&mut resync).await.len(), 2);
    idle.done().await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn a_crowd_moves_to_the_other_site_and_back() {
    let pair = Pair::sites().await.unwrap();
    let proxy = Bascule::start(&setup(&pair), "old").await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for n in 0..SESSIONS {
        let mut client = selected(&proxy, &format!("idle{n}"), "").await;
        assert!(client.idle().await.unwrap().is_none());
        idle.push(client);
        let client = selected(&proxy, &format!("busy{n}"), "CONDSTORE").await;
        busy.push(tokio::spawn(crowd::work(client, n, stopped.clone())));
    }
    let heard: Vec<_> = idle.iter().map(Client::received).collect();
    for to in ["new", "old"] {
        let ran = proxy.cutover(to).await.unwrap();
        if let Some(at) = busy.iter().position(JoinHandle::is_finished) {
            panic!("session {at} has ended: {:?}", busy.swap_remove(at).await);
        }
        all_moved(&ran);
        crowd::print("Cyrus", &ran.json);
    }
    stop.send_replace(true);
    assert_eq!(idle.iter().map(Client::received).collect::<Vec<_>>(), heard);
    for (n, busy) in busy.into_iter().enumerate() {
        let (mut client, appended) = busy.await.unwrap().unwrap();
        let uids: Vec<u32> = (1..=3 + appended).collect();
        assert_eq!(client.uids().await.unwrap(), uids, "session {n}: nothing lost, nothing doubled");
        let mut direct = pair.old.session(&format!("busy{n}")).await.unwrap();
        direct.select("INBOX").await.unwrap().ok().unwrap();
        assert_eq!(direct.uids().await.unwrap(), uids, "session {n}");
    }
    for client in &mut idle {
        client.done().await.unwrap().ok().unwrap();
        assert_eq!(client.uids().await.unwrap(), [1, 2, 3]);
    }
}

/// Asks a JMAP server for what a method comes to.
async fn jmap(client: &mut http::Client, method: &str, arguments: Value) -> Value {
    let using = ["urn:ietf:params:jmap:core", "urn:ietf:params:jmap:mail"];
    let body = json!({ "using": using, "methodCalls": [[method, arguments, "0"]] }).to_string();
    let fields = format!("{ALICE}Content-Type: application/json\r\n");
    let answer = client.ask_with("POST", "/jmap/", &fields, body.as_bytes()).await.unwrap();
    assert!(answer.ok(), "{answer:?}");
    let mut said: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(said["methodResponses"][0][0], method, "{said}");
    said["methodResponses"][0][1].take()
}

/// Makes mailboxes until it is told to stop. Their names.
async fn makes(mut client: http::Client, who: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut made = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("box {who} {}", made.len());
        let said = jmap(&mut client, "Mailbox/set", json!({ "create": { "new": { "name": name } } })).await;
        assert!(said["created"]["new"]["id"].is_string(), "{said}");
        made.push(name);
        // People think between two.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    made
}

/// What the next event that names mailboxes says of them; those of streams that were told come without an id.
async fn mailboxes(events: &mut Events) -> String {
    loop {
        let event = events.next().await.unwrap().expect("the stream goes on");
        let said: Value = serde_json::from_str(&event.data).unwrap();
        if let Some(state) = said["changed"]["alice"]["Mailbox"].as_str() {
            return state.to_owned();
        }
    }
}

#[tokio::test]
async fn jmap_and_its_push_move_there_and_back() {
    let pair = Pair::sites().await.unwrap();
    let proxy = Bascule::start(&setup(&pair), "old").await.unwrap();
    let browser = || http::Client::connect(proxy.https(), proxy.tls().unwrap());
    // Who comes first has a mailbox.
    proxy.session("alice", "pass").await.unwrap().logout().await.unwrap();
    let mut client = browser().await.unwrap();
    let all = json!({ "ids": null, "properties": ["name"] });
    let before = jmap(&mut client, "Mailbox/get", all.clone()).await;

    // As curl asks for it.
    let source = "/jmap/eventsource/?types=*&closeafter=no&ping=0";
    let mut push = Events::one_with(browser().await.unwrap(), source, ALICE).await.unwrap();
    let (stop, mut crowd) = (Arc::<AtomicBool>::default(), JoinSet::new());
    for who in 0..3 {
        crowd.spawn(makes(browser().await.unwrap(), who, stop.clone()));
    }
    mailboxes(&mut push).await;
    for to in ["new", "old"] {
        let ran = proxy.cutover(to).await.unwrap();
        all_moved(&ran);
        assert_eq!(ran.json["streams"]["events_moved"], 1, "{ran:?}");
        // First that there may be something, and then what the new server has.
        while !mailboxes(&mut push).await.starts_with("bascule-") {}
        assert!(!mailboxes(&mut push).await.starts_with("bascule-"));
    }
    stop.store(true, Ordering::Relaxed);
    let mut made: Vec<String> = crowd.join_all().await.into_iter().flatten().collect();
    made.sort();
    assert!(made.len() > 10, "{made:?}");
    let names = |said: &Value| -> Vec<String> {
        let list = said["list"].as_array().unwrap();
        let mut names: Vec<_> = list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let after = names(&jmap(&mut client, "Mailbox/get", all).await);
    let mut wanted = [names(&before), made].concat();
    wanted.sort();
    assert_eq!(after, wanted, "each once");
}
