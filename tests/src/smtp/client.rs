//! A client for SMTP, submission and LMTP: transactions in one call, or step by step and byte by byte.
//!
//! Rule: nothing is sent that was not announced to the oracle, but by [`Client::write`], whose bytes are the test's own
//! affair: say with [`Client::announce`] which of them are to be answered.

use std::{collections::VecDeque, fmt, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::{Dialect, Oracle, Reply, Stage, reply::Partial, stuffed};
use crate::{
    client::{Error, Link, Result, Security},
    oracle::Violation,
};

/// One session.
pub struct Client {
    link: Link,
    oracle: Oracle,
    dialect: Dialect,
    partial: Partial,
    /// Replies that were not asked for yet.
    replies: VecDeque<Reply>,
    name: String,
}

/// The replies to one message, each in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// To MAIL.
    pub mail: Reply,
    /// To each RCPT.
    pub rcpts: Vec<Reply>,
    /// To DATA.
    pub data: Reply,
    /// To the message: none where DATA was refused, several in LMTP.
    pub ends: Vec<Reply>,
}

impl Sent {
    /// Whether all was accepted, for every recipient.
    pub fn accepted(&self) -> bool {
        let all = std::iter::once(&self.mail).chain(&self.rcpts).chain(&self.ends);
        { all }.all(|r| r.class() == 2) && !self.ends.is_empty()
    }

    /// The recipients of `to` for whom the message was acknowledged.
    pub fn acknowledged<'a>(&self, to: &[&'a str]) -> Vec<&'a str> {
        let taken = to.iter().zip(&self.rcpts).filter(|(_, r)| r.class() == 2).map(|(to, _)| *to);
        let mut ends = self.ends.iter();
        let mut last = None;
        { taken }
            .filter(|_| {
                last = ends.next().or(last);
                last.is_some_and(|r| r.class() == 2)
            })
            .collect()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("oracle", &self.oracle).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and reads the greeting; TLS stands when this returns, and EHLO is still to be said.
    pub async fn connect(to: SocketAddr, security: Security, dialect: Dialect) -> Result<Self> {
        match security {
            Security::Plain => Self::greeted(Link::plain(to).await?, dialect, Stage::Plain).await,
            Security::Tls(config, name) => {
                Self::greeted(Link::tls(to, config, name).await?, dialect, Stage::Tls).await
            }
            Security::Starttls(config, name) => {
                let mut client = Self::greeted(Link::plain(to).await?, dialect, Stage::Plain).await?;
                client.hello().await?.ok()?;
                client.command("STARTTLS").await?.ok()?;
                client.secure(config, name).await?;
                Ok(client)
            }
        }
    }

    /// Connects and says EHLO or LHLO.
    pub async fn ready(to: SocketAddr, security: Security, dialect: Dialect) -> Result<Self> {
        let mut client = Self::connect(to, security, dialect).await?;
        client.hello().await?.ok()?;
        Ok(client)
    }

    async fn greeted(link: Link, dialect: Dialect, stage: Stage) -> Result<Self> {
        let mut client = Self {
            link,
            oracle: Oracle::new(dialect, stage),
            dialect,
            partial: Partial::default(),
            replies: VecDeque::new(),
            name: "client.test".into(),
        };
        let greeting = client.finish().await?;
        if greeting.class() == 2 {
            return Ok(client);
        }
        Err(Error::Closed(Some(format!("{} {}", greeting.code, greeting.text()))))
    }

    /// TLS from here on, after a STARTTLS that was answered.
    pub async fn secure(&mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<()> {
        self.link.secure(config, name).await?;
        self.oracle.secured();
        Ok(())
    }

    /// The name that EHLO gives; `client.test` if none was set.
    pub fn set_name(&mut self, name: &str) {
        self.name = name.into();
    }

    /// Keeps every byte that arrives from now on.
    pub fn keep_transcript(&mut self) {
        self.link.keep_transcript();
    }

    /// What was kept.
    pub fn transcript(&self) -> &[u8] {
        self.link.transcript()
    }

    /// The address that the server sees.
    pub fn local(&self) -> SocketAddr {
        self.link.local()
    }

    /// How many bytes have arrived, read or not; of what nobody has read TLS is not taken off.
    pub fn received(&self) -> u64 {
        self.link.received()
    }

    /// How long one call may wait before it fails with [`Error::Silence`].
    pub fn set_patience(&mut self, patience: Duration) {
        self.link.set_patience(patience);
    }

    /// What the session must believe.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// EHLO or LHLO.
    pub async fn hello(&mut self) -> Result<Reply> {
        self.command(&format!("{} {}", self.dialect.hello(), self.name)).await
    }

    /// Sends one command line and waits for its reply.
    pub async fn command(&mut self, line: &str) -> Result<Reply> {
        self.start(line).await?;
        self.finish().await
    }

    /// Sends one command line and does not wait.
    pub async fn start(&mut self, line: &str) -> Result<()> {
        self.announce(line);
        self.write(format!("{line}\r\n").as_bytes()).await
    }

    /// Sends command lines in one packet and waits for all replies, of which each line must have one.
    pub async fn pipeline(&mut self, lines: &[&str]) -> Result<Vec<Reply>> {
        self.start_all(lines).await?;
        let mut replies = Vec::new();
        for _ in lines {
            replies.push(self.finish().await?);
        }
        Ok(replies)
    }

    /// Sends command lines in one packet.
    pub async fn start_all(&mut self, lines: &[&str]) -> Result<()> {
        lines.iter().for_each(|line| self.announce(line));
        self.write((lines.join("\r\n") + "\r\n").as_bytes()).await
    }

    /// Tells the oracle of a command that the test sends itself; `DOT` is the end of a message.
    pub fn announce(&mut self, line: &str) {
        self.oracle.sent(line);
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.link.write(bytes).await
    }

    /// The next reply.
    pub async fn finish(&mut self) -> Result<Reply> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Ok(reply);
            }
            if self.oracle.unanswered() == 0 {
                return Err(Error::Violation(Violation("the test waits for a reply to nothing".into())));
            }
            self.receive().await?;
        }
    }

    /// Waits until a reply has begun to come, and takes nothing of it.
    pub async fn answered(&mut self) -> Result<()> {
        self.link.answered().await
    }

    /// The replies to a message whose end was sent.
    pub async fn ends(&mut self) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        while replies.last().is_none_or(|r: &Reply| !r.last) {
            replies.push(self.finish().await?);
        }
        Ok(replies)
    }

    /// Sends a message: MAIL, RCPT, DATA in one packet where the server shows PIPELINING.
    pub async fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> Result<Sent> {
        let lines = envelope(from, to);
        let mut replies = Vec::new();
        if self.oracle.shows("PIPELINING") {
            let all: Vec<&str> = lines.iter().map(String::as_str).chain(["DATA"]).collect();
            replies = self.pipeline(&all).await?;
        } else {
            for line in &lines {
                replies.push(self.command(line).await?);
            }
            replies.push(self.command("DATA").await?);
        }
        let mut replies = replies.into_iter();
        let mail = replies.next().ok_or(Error::Closed(None))?;
        let data = replies.next_back().ok_or(Error::Closed(None))?;
        let ends = if data.code == 354 { self.content(message).await? } else { Vec::new() };
        Ok(Sent { mail, rcpts: replies.collect(), data, ends })
    }

    /// MAIL, RCPT and DATA up to its 354; the content is the test's.
    pub async fn begin(&mut self, from: &str, to: &[&str]) -> Result<()> {
        for line in envelope(from, to).iter().map(String::as_str).chain(["DATA"]) {
            self.command(line).await?.ok()?;
        }
        Ok(())
    }

    /// Sends a whole message after a 354.
    pub async fn content(&mut self, message: &[u8]) -> Result<Vec<Reply>> {
        self.write(&stuffed(message)).await?;
        self.dot().await?;
        self.ends().await
    }

    /// The final dot, behind content that ended in CRLF.
    pub async fn dot(&mut self) -> Result<()> {
        self.announce("DOT");
        self.write(b".\r\n").await
    }

    /// One chunk, and does not wait.
    pub async fn start_chunk(&mut self, chunk: &[u8], last: bool) -> Result<()> {
        let line = format!("BDAT {}{}", chunk.len(), if last { " LAST" } else { "" });
        self.announce(&line);
        self.write(&[line.as_bytes(), b"\r\n", chunk].concat()).await
    }

    /// One chunk and its replies.
    pub async fn chunk(&mut self, chunk: &[u8], last: bool) -> Result<Vec<Reply>> {
        self.start_chunk(chunk, last).await?;
        self.ends().await
    }

    /// AUTH PLAIN, with the response at once or after 334.
    pub async fn auth_plain(&mut self, user: &str, password: &str, at_once: bool) -> Result<Reply> {
        let response = STANDARD.encode(format!("\0{user}\0{password}"));
        match at_once {
            true => self.command(&format!("AUTH PLAIN {response}")).await,
            false => self.challenged("AUTH PLAIN", &[&response]).await,
        }
    }

    /// AUTH LOGIN
    pub async fn auth_login(&mut self, user: &str, password: &str) -> Result<Reply> {
        self.challenged("AUTH LOGIN", &[&STANDARD.encode(user), &STANDARD.encode(password)]).await
    }

    /// AUTH XOAUTH2; after a refusal by 334 the empty response that Google's protocol asks for.
    pub async fn auth_xoauth2(&mut self, user: &str, token: &str) -> Result<Reply> {
        let response = STANDARD.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01"));
        self.challenged(&format!("AUTH XOAUTH2 {response}"), &[""]).await
    }

    /// A command whose 334s are answered with these lines.
    async fn challenged(&mut self, line: &str, responses: &[&str]) -> Result<Reply> {
        let mut reply = self.command(line).await?;
        for response in responses {
            if reply.code != 334 {
                return Ok(reply);
            }
            self.write(format!("{response}\r\n").as_bytes()).await?;
            reply = self.finish().await?;
        }
        Ok(reply)
    }

    /// QUIT, to the end of the connection.
    pub async fn quit(mut self) -> Result<()> {
        self.command("QUIT").await?.ok()?;
        match self.closed().await? {
            None => Ok(()),
            Some(more) => Err(Error::Violation(Violation(format!("after QUIT: {more}")))),
        }
    }

    /// Waits for the end of the connection; the 421 that came before it.
    pub async fn closed(&mut self) -> Result<Option<String>> {
        loop {
            match self.receive().await {
                Err(Error::Closed(farewell)) => return Ok(farewell),
                Err(other) => return Err(other),
                Ok(()) => {}
            }
        }
    }

    /// Takes in one reply. Safe to drop while it waits.
    async fn receive(&mut self) -> Result<()> {
        let (code, lines) = match self.link.next(|chunk| self.partial.take(chunk)).await {
            Err(Error::Closed(_)) => return Err(Error::Closed(self.oracle.farewell().map(String::from))),
            Err(other) => return Err(other),
            Ok(reply) => reply,
        };
        let asked = self.oracle.unanswered() > 0;
        let reply = self.oracle.heard(code, lines).map_err(Error::Violation)?;
        if asked {
            self.replies.push_back(reply);
        }
        Ok(())
    }
}

fn envelope(from: &str, to: &[&str]) -> Vec<String> {
    let rcpts = to.iter().map(|to| format!("RCPT TO:<{to}>"));
    std::iter::once(format!("MAIL FROM:<{from}>")).chain(rcpts).collect()
}
