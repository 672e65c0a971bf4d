//! Who sends: servers, users and whoever delivers, with messages of all sizes said in all ways.
//!
//! Rule: how long each reply took goes into the book, and what was told into the ledger.

use std::sync::Arc;

use bascule_tests::{
    client::{Result, Security},
    fake::smtp::Door,
    smtp::{Client, Dialect, Reply, Sent, stuffed},
};
use tokio::{sync::watch, time::Instant};

use super::{
    super::{FROM, PASSWORD, Rig},
    report::Book,
};

/// Sends until it is told to leave.
pub(super) async fn send(
    rig: Arc<Rig>,
    users: Vec<String>,
    book: Arc<Book>,
    leaving: watch::Receiver<bool>,
) -> Result<()> {
    while !*leaving.borrow() {
        let user = fastrand::choice(&users).expect("there are users");
        let door = fastrand::choice(Door::MAIL).expect("there are doors");
        let mut session = Session { client: open(&rig, door, user, &book).await?, book: book.clone() };
        for _ in 0..fastrand::usize(1..12) {
            session.message(&rig, &users).await?;
            if *leaving.borrow() {
                break;
            }
        }
        session.client.quit().await?;
    }
    Ok(())
}

async fn open(rig: &Rig, door: Door, user: &str, book: &Book) -> Result<Client> {
    match door {
        Door::Lmtp => Client::ready(rig.proxy.lmtp(), Security::Plain, Dialect::Lmtp).await,
        Door::Imap | Door::Relay => Client::ready(rig.proxy.smtp(), Security::Plain, Dialect::Smtp).await,
        Door::Submission => {
            let (to, security) = match fastrand::bool() {
                true => (rig.proxy.submissions(), rig.proxy.tls().unwrap()),
                false => (rig.proxy.submission(), rig.proxy.starttls().unwrap()),
            };
            let mut client = Client::ready(to, security, Dialect::Smtp).await?;
            let since = Instant::now();
            client.auth_plain(user, PASSWORD, fastrand::bool()).await?.ok()?;
            book.note("AUTH", since);
            Ok(client)
        }
    }
}

/// Mostly letters, sometimes what hangs on them, now and then as much as is allowed.
fn size() -> usize {
    match fastrand::u32(0..1000) {
        0..700 => fastrand::usize(1_000..10_000),
        700..940 => fastrand::usize(10_000..200_000),
        940..996 => fastrand::usize(200_000..2_000_000),
        _ => 20_000_000,
    }
}

struct Session {
    client: Client,
    book: Arc<Book>,
}

impl Session {
    async fn message(&mut self, rig: &Rig, users: &[String]) -> Result<()> {
        let to: Vec<&str> =
            fastrand::choose_multiple(users, fastrand::usize(1..6)).into_iter().map(String::as_str).collect();
        let (id, message) = rig.ledger.mail(size(), &to);
        let lines: Vec<String> = std::iter::once(format!("MAIL FROM:<{FROM}>"))
            .chain(to.iter().map(|to| format!("RCPT TO:<{to}>")))
            .collect();
        let sent = match fastrand::u32(0..4) {
            0 => self.one_by_one(&lines, &message).await?,
            1 => self.at_once(&lines, &message).await?,
            2 => self.chunks(&lines, &message, 1).await?,
            _ => self.chunks(&lines, &message, fastrand::usize(2..6)).await?,
        };
        rig.ledger.record(&id, &to, &sent);
        self.book.sent(message.len());
        Ok(())
    }

    /// The reply to a command that was sent at `since`.
    async fn reply(&mut self, line: &str, since: Instant) -> Result<Reply> {
        let reply = self.client.finish().await?;
        self.book.note(line.split(' ').next().unwrap_or_default(), since);
        Ok(reply)
    }

    async fn ends(&mut self, since: Instant) -> Result<Vec<Reply>> {
        let ends = self.client.ends().await?;
        self.book.note("end of message", since);
        Ok(ends)
    }

    async fn one_by_one(&mut self, lines: &[String], message: &[u8]) -> Result<Sent> {
        let mut replies = Vec::new();
        for line in lines {
            let since = Instant::now();
            self.client.start(line).await?;
            replies.push(self.reply(line, since).await?);
        }
        let since = Instant::now();
        self.client.start("DATA").await?;
        let data = self.reply("DATA", since).await?.ok()?;
        self.content(replies, data, message).await
    }

    async fn at_once(&mut self, lines: &[String], message: &[u8]) -> Result<Sent> {
        let all: Vec<&str> = lines.iter().map(String::as_str).chain(["DATA"]).collect();
        let since = Instant::now();
        self.client.start_all(&all).await?;
        let mut replies = Vec::new();
        for line in lines {
            replies.push(self.reply(line, since).await?);
        }
        let data = self.reply("DATA", since).await?.ok()?;
        self.content(replies, data, message).await
    }

    async fn content(&mut self, replies: Vec<Reply>, data: Reply, message: &[u8]) -> Result<Sent> {
        self.client.write(&stuffed(message)).await?;
        let since = Instant::now();
        self.client.dot().await?;
        Ok(sent(replies, data, self.ends(since).await?))
    }

    /// MAIL, RCPT and all chunks before the first reply.
    async fn chunks(&mut self, lines: &[String], message: &[u8], count: usize) -> Result<Sent> {
        let all: Vec<&str> = lines.iter().map(String::as_str).collect();
        let since = Instant::now();
        self.client.start_all(&all).await?;
        let pieces: Vec<&[u8]> = message.chunks(message.len().div_ceil(count)).collect();
        let mut last = since;
        for (at, piece) in pieces.iter().enumerate() {
            last = Instant::now();
            self.client.start_chunk(piece, at + 1 == pieces.len()).await?;
        }
        let mut replies = Vec::new();
        for line in lines {
            replies.push(self.reply(line, since).await?);
        }
        for _ in 1..pieces.len() {
            self.reply("BDAT", since).await?.ok()?;
        }
        let ends = self.ends(last).await?;
        Ok(sent(replies, ends[0].clone(), ends))
    }
}

fn sent(mut replies: Vec<Reply>, data: Reply, ends: Vec<Reply>) -> Sent {
    let rcpts = replies.split_off(1);
    Sent { mail: replies.remove(0), rcpts, data, ends }
}
