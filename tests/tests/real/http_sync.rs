//! Programs that keep a copy of a calendar by sync tokens, while it moves to a server that knows none of them.
//!
//! Rule: each server has a store of its own, and the new one gets what an operator copies once nothing can be written;
//! what the programs have in the end is what lies in the new store, once.

use std::net::SocketAddr;

use bascule_tests::{
    bascule::Bascule,
    client::Security,
    dovecot::{Options, Pair},
    http,
    sites::Site,
    tools::calendar_copy,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout},
};

use super::{
    http_clients::next,
    scene::{Question, barrier, cutover_while, patient},
    smtp_rig::{sites_apart, went_well},
};

/// alice:pass
const FIELDS: &str = "Authorization: Basic YWxpY2U6cGFzcw==\r\nContent-Type: application/xml\r\nDepth: 1\r\n";

/// A program with a copy of alice's calendar.
struct Copy {
    program: Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Copy {
    /// One that has read the calendar.
    async fn of(server: SocketAddr) -> Self {
        let mut program = calendar_copy(&format!("https://{server}/alice/"), "alice", "pass").unwrap();
        let (orders, said) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
        let mut copy = Self { program, orders, said: BufReader::new(said).lines() };
        copy.hear().await;
        copy
    }

    async fn tell(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&next(&mut self.said, &mut self.program).await).unwrap()
    }

    async fn ask(&mut self, order: &str) -> Value {
        self.tell(order).await;
        self.hear().await
    }

    /// Its token is known to the server, and these have changed since.
    async fn finds(&mut self, changed: &[&str]) {
        assert_eq!(self.ask("sync").await, json!({"refused": null, "changed": changed, "gone": []}));
    }

    /// It has these, each of them once, and so has the server.
    async fn is_as(&mut self, site: &Site, events: &[&str]) {
        assert_eq!(self.ask("show").await["events"], json!(events));
        let found = site.events("alice").unwrap();
        assert_eq!(found, events.iter().map(|event| ((*event).to_owned(), 1)).collect());
    }
}

/// What the server itself says to a program's request, against what the program heard by the proxy.
async fn is_the_servers_word(refused: &Value, server: &Site) {
    let text = |name: &str| refused[name].as_str().unwrap();
    let mut direct = http::Client::connect(server.calendars(), Security::Plain).await.unwrap();
    let asked = text("asked").as_bytes();
    let said = direct.ask_with("REPORT", "/alice/calendar/", FIELDS, asked).await.unwrap();
    assert_eq!(refused["status"], said.status);
    assert_eq!((text("text"), Some(text("type"))), (&*said.text(), said.field("content-type")));
    assert!(said.text().contains("valid-sync-token"), "{said:?}");
}

#[tokio::test]
async fn a_token_of_the_old_server_is_refused_by_the_new_one_and_every_event_is_there_once() {
    let desk = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = Pair::shared(Options::default()).await.unwrap();
    let mut setup = barrier(patient(&pair), desk.local_addr().unwrap().port(), "barrier");
    let sites = sites_apart(&pair, &mut setup).await;
    let proxy = Bascule::start(&setup, "old").await.unwrap();
    let (mut phone, mut laptop) = (Copy::of(proxy.https()).await, Copy::of(proxy.https()).await);
    for order in ["put kept", "put moved", "put dropped"] {
        laptop.ask(order).await;
    }
    for copy in [&mut phone, &mut laptop] {
        copy.finds(&["dropped", "kept", "moved"]).await;
    }
    laptop.ask("put later").await;
    phone.finds(&["later"]).await;
    // The phone hears of these from the new server only.
    for order in ["put unheard", "delete dropped"] {
        laptop.ask(order).await;
    }
    let in_the_hold = async {
        let barrier = Question::at(&desk).await;
        phone.tell("sync").await;
        proxy.until(|status| status["held"] == 1).await.unwrap();
        barrier.answer(0).await;
    };
    went_well(&cutover_while(&proxy, "new", in_the_hold).await.0);
    let said = phone.hear().await;
    is_the_servers_word(&said["refused"], &sites[1]).await;
    // An ETag is of the content: what both servers have is no change.
    assert_eq!((&said["changed"], &said["gone"]), (&json!(["unheard"]), &json!(["dropped"])), "{said:#}");
    phone.is_as(&sites[1], &["kept", "later", "moved", "unheard"]).await;
    // So that one of the old server is good for a change, once.
    for status in [201, 412] {
        assert_eq!(laptop.ask("change moved elsewhere").await, json!({"status": status}));
    }
    laptop.ask("put after").await;
    phone.finds(&["after", "moved"]).await;
    let said = laptop.ask("sync").await;
    is_the_servers_word(&said["refused"], &sites[1]).await;
    assert_eq!(said["changed"], json!(["after", "later", "moved", "unheard"]));
    for copy in [&mut phone, &mut laptop] {
        copy.finds(&[]).await;
        copy.is_as(&sites[1], &["after", "elsewhere", "kept", "later", "unheard"]).await;
    }
    let old: Vec<String> = sites[0].events("alice").unwrap().into_keys().collect();
    assert_eq!(old, ["kept", "later", "moved", "unheard"], "nothing of it went there");
    // Nor was anything asked twice: a refusal is an answer.
    for (metric, values) in [
        ("requests_total{outcome", &["busy", "unknown", "cut"][..]),
        ("again_total{reason", &["doubted", "settled", "unauthorized", "lost"]),
    ] {
        for value in values {
            let count = proxy.metric(&format!("bascule_http_{metric}=\"{value}\"}}")).await.unwrap();
            assert_eq!(count, 0.0, "{value}");
        }
    }
}
