//! Sixty busy sessions while everything moves there and back, twice.
//!
//! Rule: a client does what mail programs do and never helps the proxy: no retry, no patience with a refusal, and
//! a lost connection fails the test.

use std::{sync::Arc, time::Duration};

use bascule_tests::client::{Client, Result, Status};
use tokio::{sync::watch, task::JoinSet};

use super::rig::{PASSWORD, Plan, Rig};

const SESSIONS: usize = 60;
const HABITS: usize = 5;
/// What every session gets done on each side, besides those in IDLE.
const ROUNDS: u64 = 30;

/// One session of the crowd.
struct Session {
    rig: Arc<Rig>,
    client: Client,
    habit: usize,
    leaving: watch::Receiver<bool>,
}

impl Session {
    async fn live(mut self, rounds: watch::Sender<u64>) -> Result<()> {
        while !*self.leaving.borrow_and_update() {
            self.act().await?;
            rounds.send_modify(|n| *n += 1);
            // Mail programs think between two commands.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(20..120))).await;
        }
        self.client.logout().await
    }

    async fn act(&mut self) -> Result<()> {
        match self.habit {
            0 => self.idle().await,
            1 => self.poll().await,
            2 => self.fetch().await,
            3 => self.append().await,
            _ => self.flag().await,
        }
    }

    /// To the next news of its mailbox.
    async fn idle(&mut self) -> Result<()> {
        assert_eq!(self.client.idle().await?, None);
        tokio::select! {
            notice = self.client.notice() => drop(notice?),
            _ = self.leaving.changed() => {}
        }
        self.client.done().await?.ok().map(drop)
    }

    async fn poll(&mut self) -> Result<()> {
        self.client.command("NOOP").await?.ok()?;
        self.client.command("STATUS INBOX (MESSAGES UIDNEXT UNSEEN)").await?.ok().map(drop)
    }

    async fn fetch(&mut self) -> Result<()> {
        let uid = self.some_uid().await?;
        let body = self.client.fetch_body(uid).await?;
        assert!(body.is_some_and(|body| !body.is_empty()), "nobody expunges");
        Ok(())
    }

    async fn append(&mut self) -> Result<()> {
        let waits = fastrand::bool();
        // A literal that does not wait is small (LITERAL-).
        let largest = if waits { 20_000 } else { 3000 };
        let (id, message) = self.rig.ledger.message(fastrand::usize(200..largest));
        let reply = if waits {
            self.client.append("INBOX", &message).await?
        } else {
            let tag = self.client.start_append("INBOX", &message).await?;
            self.client.finish(&tag).await?
        };
        self.rig.settle(&id, &reply);
        assert_eq!(reply.status, Status::Ok, "{reply:?}");
        Ok(())
    }

    async fn flag(&mut self) -> Result<()> {
        let uid = self.some_uid().await?;
        let sign = if fastrand::bool() { '+' } else { '-' };
        self.client.command(&format!("UID STORE {uid} {sign}FLAGS (\\Flagged)")).await?.ok().map(drop)
    }

    async fn some_uid(&mut self) -> Result<u32> {
        Ok(fastrand::choice(self.client.uids().await?).expect("nobody expunges"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_sessions_go_there_and_back_twice_and_nothing_is_lost_or_doubled() {
    let users: Vec<String> = (0..SESSIONS / HABITS).map(|n| format!("user{n}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let rig = Arc::new(Plan::replicated().lag(Duration::from_millis(5)).start(&names).await);
    let (leave, leaving) = watch::channel(false);
    let mut crowd = JoinSet::new();
    let mut progress = Vec::new();
    for n in 0..SESSIONS {
        let mut client = rig.proxy.session(names[n / HABITS], PASSWORD).await.unwrap();
        client.select("INBOX").await.unwrap().ok().unwrap();
        let session = Session { rig: rig.clone(), client, habit: n % HABITS, leaving: leaving.clone() };
        let (rounds, done) = watch::channel(0);
        progress.push(done);
        crowd.spawn(session.live(rounds));
    }
    for to in ["new", "old", "new", "old"] {
        everybody_gets_on(&mut crowd, &mut progress).await;
        let report = rig.cutover(to).await;
        assert_eq!(report["moved"], SESSIONS, "{report}");
    }
    everybody_gets_on(&mut crowd, &mut progress).await;
    leave.send_replace(true);
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap().unwrap();
    }
    rig.unharmed().await;
}

/// Every session gets some more done; one in IDLE hears at least one piece of news.
async fn everybody_gets_on(crowd: &mut JoinSet<Result<()>>, progress: &mut [watch::Receiver<u64>]) {
    let rounds = |n: usize| if n.is_multiple_of(HABITS) { 1 } else { ROUNDS };
    let goals: Vec<u64> = progress.iter().enumerate().map(|(n, done)| *done.borrow() + rounds(n)).collect();
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
