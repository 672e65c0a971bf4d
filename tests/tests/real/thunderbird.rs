//! A real Thunderbird, with its inbox on the screen, while the servers behind the proxy are exchanged.
//!
//! Rule: what it did is looked up past the proxy, message by message; what it suffered, in its logs and on its screen.

use std::collections::BTreeSet;

use bascule_tests::{
    bascule::{Bascule, Setup},
    client::Security,
    dovecot::Dovecot,
    smtp::{Client, Dialect},
    thunderbird::Thunderbird,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    time::{Duration, sleep, timeout},
};

use super::{
    scene::{Question, barrier, cutover_while},
    smtp_rig::{FROM, Post, Sender, went_well},
};

/// Longest wait for what it does by itself.
const PATIENCE: Duration = Duration::from_secs(90);
const ALICE: &str = "alice@example.org";
const BOB: &str = "bob@example.org";
/// The longest hold that there is, most of it for the barrier.
const LONG: &str = "max_hold = \"60s\"\ndrain = \"3s\"\nfence = \"10s\"\nbarrier = \"38s\"\ndecide = \"4s\"\n\
                    abort_reserve = \"5s\"\nguard_interval = \"50ms\"\nsoak = \"100ms\"";
/// How it says that a message was sent, and a copy saved.
const WELL: [&str; 2] = ["sent 0", "copied 0"];

#[tokio::test]
async fn scenarios_87_and_88_thunderbird_does_not_notice() {
    let mut desktop = Desktop::new().await;
    desktop.receives("arrived 0").await;
    desktop.sends("plain 0").await;
    let sessions = desktop.sessions("imap").await;

    for (n, to) in [(1, "new"), (2, "old"), (3, "new")] {
        match n {
            1 => desktop.works_through_a_cutover(n, to, 0).await,
            // What it sends in the hold needs a connection and a login of its own, and what it saves there takes longer than
            // it waits without a word, which is 20 seconds: two sessions are told of it at least twice, and one three times.
            2 => {
                desktop.hangs_up().await;
                desktop.works_through_a_cutover(n, to, 5).await;
            }
            _ => desktop.hears_nothing_of_a_cutover(to).await,
        }
        desktop.receives(&format!("arrived {n}")).await;
        desktop.sends(&format!("plain {n}")).await;
        desktop.did_each_thing_once(to).await;
    }
    assert!(desktop.sessions("imap").await.is_superset(&sessions), "a session was lost");
    desktop.was_not_bothered().await;

    // So would it have looked.
    desktop.post.proxy.kill().await.unwrap();
    desktop.thunderbird.send(BOB, "never").await.unwrap();
    desktop.is_bothered().await;
}

/// A Thunderbird before the rig, with a barrier in either direction that waits for the test.
struct Desktop {
    // Ends before the servers do.
    thunderbird: Thunderbird,
    post: Post,
    desk: TcpListener,
    done: Done,
}

/// What was done, by the subjects: what came to the inbox, what of it was read, what was sent and what was saved.
#[derive(Default)]
struct Done {
    arrived: Vec<String>,
    read: Vec<String>,
    sent: Vec<String>,
    saved: Vec<String>,
}

impl Desktop {
    async fn new() -> Self {
        let desk = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = desk.local_addr().unwrap().port();
        let post = Post::with(Sender::Dovecot, |setup| *setup = barriers(setup, port)).await;
        let thunderbird = Thunderbird::start(&post.proxy, "alice", "pass").await.unwrap();
        Self { thunderbird, post, desk, done: Done::default() }
    }

    /// A message comes to the inbox, and onto the screen because the session in IDLE heard of it.
    async fn receives(&mut self, subject: &str) {
        self.idles().await;
        let mut client = Client::ready(self.post.proxy.lmtp(), Security::Plain, Dialect::Lmtp).await.unwrap();
        let message = format!("Subject: {subject}\r\nFrom: {FROM}\r\nTo: {ALICE}\r\n\r\n{subject}\r\n");
        let sent = client.send(FROM, &[ALICE], message.as_bytes()).await.unwrap();
        assert!(sent.accepted(), "{sent:?}");
        client.quit().await.unwrap();
        self.thunderbird.shows(subject).await.unwrap();
        self.done.arrived.push(subject.to_owned());
    }

    async fn sends(&mut self, subject: &str) {
        self.thunderbird.send(BOB, subject).await.unwrap();
        assert_eq!(self.thunderbird.posted(subject).await.unwrap(), WELL, "{subject}");
        self.done.sent.push(subject.to_owned());
    }

    /// It keeps a connection for submission for some seconds, in case that there is more to send.
    async fn hangs_up(&self) {
        let gone = async {
            while !self.sessions("submission").await.is_empty() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("it hangs up");
    }

    /// In the hold one message is read, one sent and one saved. All of that waits, until Thunderbird has been told so many
    /// times that it is worked on, and all of that succeeds.
    async fn works_through_a_cutover(&mut self, n: usize, to: &str, told: usize) {
        let [read, sent, saved] =
            [self.done.arrived.last().unwrap(), &format!("held {n}"), &format!("draft {n}")];
        let (proxy, thunderbird) = (&self.post.proxy, &mut self.thunderbird);
        let inside = async {
            let barrier = Question::at(&self.desk).await;
            thunderbird.read(read).await.unwrap();
            thunderbird.send(BOB, sent).await.unwrap();
            thunderbird.save(BOB, saved).await.unwrap();
            proxy.until(|status| status["held"].as_u64() >= Some(3)).await.unwrap();
            // The first time it looks for the mailbox, and that waits; then it is the APPEND itself.
            let saves = if n == 1 { 0 } else { n };
            while heard(thunderbird, "* OK Still working") < told
                || logged(thunderbird, "append \"Drafts\"") < saves
            {
                sleep(Duration::from_millis(50)).await;
            }
            barrier.answer(0).await;
        };
        let (ran, ()) = cutover_while(proxy, to, inside).await;
        went_well(&ran);
        assert_eq!(thunderbird.posted(sent).await.unwrap(), WELL, "{sent}");
        assert_eq!(thunderbird.posted(saved).await.unwrap(), WELL[1..], "{saved}");
        self.done.read.push(read.clone());
        self.done.sent.push(sent.clone());
        self.done.saved.push(saved.clone());
    }

    /// It does nothing, and nothing is said to it.
    async fn hears_nothing_of_a_cutover(&mut self, to: &str) {
        self.idles().await;
        let before = news(&self.thunderbird);
        let inside = async { Question::at(&self.desk).await.answer(0).await };
        let (ran, ()) = cutover_while(&self.post.proxy, to, inside).await;
        went_well(&ran);
        assert_eq!(news(&self.thunderbird), before);
    }

    async fn idles(&self) {
        let inbox = |session: &Value| session["idle"] == true && session["mailbox"] == "INBOX";
        self.post.proxy.until_session(inbox).await.unwrap();
    }

    /// This server has everything that it did, once.
    async fn did_each_thing_once(&self, server: &str) {
        self.post.delivered().await;
        let pair = &self.post.pair;
        let server = if server == "old" { &pair.old } else { &pair.new };
        // Queues have an order of their own.
        let [mut delivered, mut sent] = [found(server, "bob", "INBOX", "ALL").await, self.done.sent.clone()];
        delivered.sort();
        sent.sort();
        assert_eq!(delivered, sent);
        assert_eq!(found(server, "alice", "Sent", "ALL").await, self.done.sent);
        assert_eq!(found(server, "alice", "Drafts", "ALL").await, self.done.saved);
        assert_eq!(found(server, "alice", "INBOX", "ALL").await, self.done.arrived);
        assert_eq!(found(server, "alice", "INBOX", "SEEN").await, self.done.read);
    }

    /// Its sessions at the proxy.
    async fn sessions(&self, protocol: &str) -> BTreeSet<u64> {
        let list = self.post.proxy.run(&["sessions", "list"]).await.unwrap().json;
        let ours = list.as_array().unwrap().iter().filter(|session| session["protocol"] == protocol);
        ours.map(|session| session["id"].as_u64().unwrap()).collect()
    }

    /// Nothing was said or asked on the screen, nothing complained of in the console, and no session ended.
    async fn was_not_bothered(&mut self) {
        assert_eq!(self.thunderbird.troubles().await.unwrap(), [""; 0]);
        assert_eq!(self.complaints().await, [""; 0]);
        assert_eq!(heard(&self.thunderbird, "* BYE"), 0);
        assert_eq!(
            logged(&self.thunderbird, "login succeeded"),
            self.sessions("imap").await.len(),
            "it connected again"
        );
    }

    /// Waits until there is a dialog.
    async fn is_bothered(&mut self) {
        // It also ends the command that it comes in the middle of.
        let bothered = async {
            while self.thunderbird.troubles().await.is_ok_and(|troubles| troubles.is_empty()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, bothered).await.expect("a dialog");
        let troubles = self.thunderbird.troubles().await.unwrap();
        assert!(
            troubles.iter().any(|trouble| trouble.contains("Sending of the message failed")),
            "{troubles:?}"
        );
        assert!(!self.complaints().await.is_empty());
    }

    /// What its console says of servers that is not merely a report.
    async fn complaints(&mut self) -> Vec<String> {
        let mut lines = self.thunderbird.console().await.unwrap();
        lines.retain(|line| {
            !line.starts_with("debug ") && ["mailnews", Bascule::HOST].iter().any(|of| line.contains(of))
        });
        lines
    }
}

/// How often it was told in IDLE that there is something new in the inbox. Servers say from time to time that they are
/// there.
fn news(thunderbird: &Thunderbird) -> usize {
    logged(thunderbird, "S-INBOX:HandleIdleResponses: idle response")
        - logged(thunderbird, "S-INBOX:CreateNewLineFromSocket: * OK Still here")
}

/// How often its IMAP sessions heard a line that begins so.
fn heard(thunderbird: &Thunderbird, line: &str) -> usize {
    logged(thunderbird, &format!("CreateNewLineFromSocket: {line}"))
}

/// How many lines of its log of IMAP have this.
fn logged(thunderbird: &Thunderbird, what: &str) -> usize {
    thunderbird.imap().unwrap().iter().filter(|line| line.contains(what)).count()
}

/// Holds may be long here, and the way back asks too.
fn barriers(setup: &Setup, port: u16) -> Setup {
    let mut setup = barrier(setup.clone(), port, "barrier");
    setup.cutover = LONG.to_owned();
    let there = setup.tables.replace("timeout = \"15s\"", "timeout = \"38s\"");
    let back = there.replace("check.barrier", "check.back");
    let back = back.replace("from = \"old\"\nto = \"new\"", "from = \"new\"\nto = \"old\"");
    setup.tables = there + &back + "[limits]\nlogin_ceiling = \"60s\"\n";
    setup
}

/// The subjects of these messages in a mailbox of a server.
async fn found(server: &Dovecot, user: &str, mailbox: &str, which: &str) -> Vec<String> {
    let mut session = server.session(user).await.unwrap();
    session.select(mailbox).await.unwrap().ok().unwrap();
    let uids =
        session.command(&format!("UID SEARCH RETURN (ALL) {which}")).await.unwrap().ok().unwrap().texts();
    let Some((_, uids)) = uids[0].split_once("ALL ") else { return Vec::new() };
    let headers = format!("UID FETCH {uids} (BODY.PEEK[HEADER.FIELDS (SUBJECT)])");
    let reply = session.command(&headers).await.unwrap().ok().unwrap();
    let headers = reply.lines.iter().flat_map(|line| line.literals().map(<[u8]>::to_vec).collect::<Vec<_>>());
    headers.map(|header| String::from_utf8(header).unwrap().trim().replace("Subject: ", "")).collect()
}
