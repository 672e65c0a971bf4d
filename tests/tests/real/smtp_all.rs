//! IMAP, submission, port 25, LMTP and HTTP, all of them busy, while everything moves to the new version at once.
//!
//! Rule: one cutover, one report; nobody is disconnected, and what was acknowledged is looked up past the proxy. How long
//! it took is printed and never asserted.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bascule_tests::{
    client::{Client, Result, Security, Status},
    http,
    ledger::Fate,
    sites::Site,
    smtp::{self, Dialect},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    crowd,
    smtp_rig::{FROM, Post, Sender, went_well},
};

/// Sessions in IDLE, sessions that append, and sessions that send, of each kind.
const SESSIONS: usize = 30;
const SENDERS: usize = 10;
/// What each gets done before the cutover, and again after it.
const ROUNDS: u64 = 5;
const MAILBOXES: [&str; 5] = ["mail0", "mail1", "mail2", "mail3", "mail4"];

/// alice:pass
const CALENDAR: &str =
    "Authorization: Basic YWxpY2U6cGFzcw==\r\nContent-Type: text/calendar\r\nIf-None-Match: *\r\n";

fn ics(event: &str) -> String {
    format!(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:test\r\nBEGIN:VEVENT\r\nUID:{event}\r\nDTSTAMP:20260101T000000Z\r\n\
         DTSTART:20260101T100000Z\r\nSUMMARY:{event}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
}

/// What a session does until it is told to leave, and how far it is.
struct Work {
    post: Arc<Post>,
    leaving: watch::Receiver<bool>,
    rounds: watch::Sender<u64>,
}

impl Work {
    async fn goes_on(&self) -> bool {
        self.rounds.send_modify(|n| *n += 1);
        // People and queues think between two messages.
        sleep(Duration::from_millis(fastrand::u64(50..250))).await;
        !*self.leaving.borrow()
    }

    async fn append(self, mut client: Client) -> Result<()> {
        while self.goes_on().await {
            let (id, message) = self.post.ledger.message(fastrand::usize(500..20_000));
            let reply = client.append("INBOX", &message).await?;
            assert_eq!(reply.status, Status::Ok, "{reply:?}");
            self.post.ledger.settle(&id, Fate::Acknowledged);
        }
        client.logout().await
    }

    /// Events into a calendar, and pages.
    async fn browse(self, mut client: http::Client, me: usize, put: Arc<Mutex<Vec<String>>>) -> Result<()> {
        let mut n = 0;
        while self.goes_on().await {
            n += 1;
            let event = format!("event-{me}-{n}");
            let target = format!("/alice/calendar/{event}.ics");
            let said = client.ask_with("PUT", &target, CALENDAR, ics(&event).as_bytes()).await?;
            assert_eq!(said.status, 201, "{said:?}");
            put.lock().unwrap().push(event);
            client.write(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", Site::PAGES)).await?;
            let said = client.answer().await?;
            assert!(said.ok() && said.text().starts_with("<title>"), "{said:?}");
        }
        Ok(())
    }

    async fn send(self, mut client: smtp::Client, from: &'static str) -> Result<()> {
        while self.goes_on().await {
            let users = fastrand::choose_multiple(MAILBOXES, fastrand::usize(1..4));
            let to: Vec<String> = users.iter().map(|user| format!("{user}@example.org")).collect();
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            let (id, message) = self.post.ledger.mail(fastrand::usize(1_000..200_000), &to);
            let sent = client.send(from, &to, &message).await?;
            assert!(sent.accepted(), "{sent:?}");
            self.post.ledger.record(&id, &to, &sent);
        }
        client.quit().await
    }
}

#[tokio::test]
async fn imap_submission_port_25_lmtp_and_http_move_together() {
    let post = Arc::new(Post::with_sites(Sender::Postfix).await);
    let put = Arc::new(Mutex::new(Vec::new()));
    let (leave, leaving) = watch::channel(false);
    let (mut crowd, mut progress, mut idle) = (JoinSet::new(), Vec::new(), Vec::new());
    let mut work = || {
        let (rounds, done) = watch::channel(0);
        progress.push(done);
        Work { post: post.clone(), leaving: leaving.clone(), rounds }
    };
    // Dovecot fails where two deliveries make a mailbox at once: "Mailbox already exists", or it ends without an answer.
    for user in MAILBOXES {
        let mut client = post.proxy.session(user, "pass").await.unwrap();
        client.select("INBOX").await.unwrap().ok().unwrap();
        client.logout().await.unwrap();
    }
    for n in 0..SESSIONS {
        let mut client = post.proxy.session(&format!("idle{n}"), "pass").await.unwrap();
        client.select("INBOX").await.unwrap().ok().unwrap();
        assert!(client.idle().await.unwrap().is_none());
        idle.push(client);
        let client = post.proxy.session(&format!("busy{n}"), "pass").await.unwrap();
        crowd.spawn(work().append(client));
    }
    for me in 0..SENDERS {
        let browser = http::Client::connect(post.proxy.https(), post.proxy.tls().unwrap()).await.unwrap();
        crowd.spawn(work().browse(browser, me, put.clone()));
        let relay = smtp::Client::ready(post.proxy.smtp(), Security::Plain, Dialect::Smtp).await.unwrap();
        crowd.spawn(work().send(relay, FROM));
        let lmtp = smtp::Client::ready(post.proxy.lmtp(), Security::Plain, Dialect::Lmtp).await.unwrap();
        crowd.spawn(work().send(lmtp, FROM));
        let tls = post.proxy.tls().unwrap();
        let mut user = smtp::Client::ready(post.proxy.submissions(), tls, Dialect::Smtp).await.unwrap();
        user.auth_plain("alice", "pass", true).await.unwrap().ok().unwrap();
        crowd.spawn(work().send(user, "alice@example.org"));
    }
    everybody_gets_on(&mut crowd, &mut progress).await;
    let heard: Vec<_> = idle.iter().map(Client::received).collect();
    let ran = post.proxy.cutover("new").await.unwrap();
    went_well(&ran);
    crowd::print("everything at once", &ran.json);
    everybody_gets_on(&mut crowd, &mut progress).await;
    leave.send_replace(true);
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap().unwrap();
    }
    assert_eq!(idle.iter().map(Client::received).collect::<Vec<_>>(), heard, "those in IDLE");
    for client in &mut idle {
        client.done().await.unwrap().ok().unwrap();
    }
    let busy: Vec<String> = (0..SESSIONS).map(|n| format!("busy{n}")).collect();
    let mut found = Vec::new();
    for user in &busy {
        found.extend(post.bodies(&post.pair.new, user).await.into_iter().map(|body| (String::new(), body)));
    }
    let verdict = post.judged(&post.pair.new, &MAILBOXES, found).await;
    assert!(verdict.clean() && verdict.unknown == 0 && verdict.refused == 0, "{verdict:?}");
    crowd::say(&format!(
        "everything at once: acknowledged and found {}, nothing lost, doubled or changed\n",
        verdict.acknowledged
    ));
    let (put, found) = (put.lock().unwrap().clone(), post.sites[0].events("alice").unwrap());
    assert_eq!(found.len(), put.len(), "{found:?}");
    assert!(put.iter().all(|event| found.get(event) == Some(&1)), "{found:?}");
    crowd::say(&format!("everything at once: {} events put by HTTP, each found once\n", put.len()));
}

/// Every session gets some more done.
async fn everybody_gets_on(crowd: &mut JoinSet<Result<()>>, progress: &mut [watch::Receiver<u64>]) {
    let goals: Vec<u64> = progress.iter().map(|done| *done.borrow() + ROUNDS).collect();
    let gets_on = async {
        for (done, goal) in progress.iter_mut().zip(goals) {
            if done.wait_for(|rounds| *rounds >= goal).await.is_err() {
                std::future::pending::<()>().await; // the session has ended, and the crowd says why
            }
        }
    };
    tokio::select! {
        () = gets_on => {}
        ended = crowd.join_next() => panic!("a session ended: {ended:?}"),
    }
}
