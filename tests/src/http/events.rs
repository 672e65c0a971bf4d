//! A client of a stream of events, as the standard has it, that never comes back by itself.
//!
//! Rule: what is no whole event at the end is told, not thrown away.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Client, Two};

/// Longer than any hold of a test.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The last id that was said.
    pub id: String,
    /// Its name, where it has one.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// A stream.
#[derive(Debug)]
pub struct Events {
    from: From,
    came: Vec<u8>,
    ready: VecDeque<Event>,
    id: String,
    name: String,
    data: Option<String>,
    /// Comments that came, in their order.
    pub comments: Vec<String>,
}

#[derive(Debug)]
enum From {
    One(Client),
    Two(Incoming),
}

impl Events {
    /// Opens it on a connection of HTTP/1.1.
    pub async fn one(client: Client, target: &str) -> Result<Self> {
        Self::one_with(client, target, "Accept: text/event-stream\r\n").await
    }

    /// The same, asked for with these fields.
    pub async fn one_with(mut client: Client, target: &str, fields: &str) -> Result<Self> {
        client.write(Client::head("GET", target, fields, 0)).await?;
        let head = client.answer_head().await?;
        ensure!(head.status == 200 && head.field("content-type") == Some("text/event-stream"), "{head:?}");
        ensure!(head.field("transfer-encoding") == Some("chunked"), "{head:?}");
        Ok(Self::over(From::One(client)))
    }

    /// Opens it as a stream of HTTP/2.
    pub async fn two(two: &mut Two, target: &str) -> Result<Self> {
        let (status, body) = two.listen(target).await?;
        ensure!(status == 200, "{status}");
        Ok(Self::over(From::Two(body)))
    }

    fn over(from: From) -> Self {
        Self {
            from,
            came: vec![],
            ready: VecDeque::new(),
            id: String::new(),
            name: String::new(),
            data: None,
            comments: vec![],
        }
    }

    /// The next event; `None`: the stream has ended as streams end.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        while self.ready.is_empty() {
            if !self.more().await? {
                ensure!(self.came.is_empty() && self.data.is_none(), "it ended in an event: {self:?}");
                return Ok(None);
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Waits until so many comments have come.
    pub async fn comments(&mut self, count: usize) -> Result<()> {
        while self.comments.len() < count {
            ensure!(self.more().await?, "it has ended");
        }
        Ok(())
    }

    /// The connection, after the stream's end.
    pub fn into_client(self) -> Option<Client> {
        match self.from {
            From::One(client) => Some(client),
            From::Two(_) => None,
        }
    }

    async fn more(&mut self) -> Result<bool> {
        let piece = match &mut self.from {
            From::One(client) => client.chunk().await?,
            From::Two(body) => match timeout(PATIENCE, body.frame()).await? {
                None => vec![],
                Some(frame) => frame?.into_data().map(|data| data.to_vec()).unwrap_or_default(),
            },
        };
        self.came.extend_from_slice(&piece);
        while let Some(end) = memchr::memchr(b'\n', &self.came) {
            let line: Vec<u8> = self.came.drain(..=end).collect();
            self.line(std::str::from_utf8(&line[..end])?)?;
        }
        Ok(!piece.is_empty())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        match line.split_once(':') {
            None if line.is_empty() => {
                let name = std::mem::take(&mut self.name);
                if let Some(data) = self.data.take() {
                    self.ready.push_back(Event { id: self.id.clone(), name, data });
                }
            }
            Some(("", comment)) => self.comments.push(comment.trim().to_owned()),
            Some(("id", id)) => id.trim().clone_into(&mut self.id),
            Some(("data", data)) => self.data = Some(self.data.take().unwrap_or_default() + data.trim()),
            Some(("event", name)) => name.trim().clone_into(&mut self.name),
            Some(("retry", _)) => {}
            _ => bail!("what is {line:?}?"),
        }
        Ok(())
    }
}
