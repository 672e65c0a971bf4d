//! A connection of our own to a server for mail, and what is said on it.
//!
//! Rule: nothing is pipelined, so that it is always known which command an answer is for; and a server that asked for a
//! message is given one only where that is the point.

use std::{io, time::Duration};

use bascule_protocols::smtp::reply::{Class, Replies, Reply};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::net::stream::Leg;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::checks) enum Lost {
    /// The connection ended.
    #[error("the connection ended instead of an answer")]
    Ended,
    /// No answer in time.
    #[error("no answer")]
    Late,
    /// Not an answer.
    #[error("{0}")]
    Nonsense(String),
}

/// What a command that must be refused or must succeed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checks) enum No {
    /// 4yz or 5yz.
    Said(Reply),
    /// Nobody knows.
    Lost(Lost),
}

/// One connection, introduced.
#[derive(Debug)]
pub(in crate::checks) struct Line {
    leg: Leg,
    replies: Replies,
    limit: Duration,
}

impl Line {
    /// Each command may take `limit`.
    pub(in crate::checks) fn new(leg: Leg, limit: Duration) -> Self {
        Self { leg, replies: Replies::default(), limit }
    }

    /// Says a command and wants 2yz, or 3yz to DATA.
    pub(in crate::checks) async fn expect(&mut self, command: &str) -> Result<(), No> {
        let reply = self.ask(command).await.map_err(No::Lost)?;
        match reply.class() {
            Class::Done | Class::Go => Ok(()),
            Class::Later | Class::Never => Err(No::Said(reply)),
        }
    }

    /// Gives the message that the server asked for, with its final dot, and wants the reply to it.
    pub(in crate::checks) async fn give(&mut self, message: &str) -> Result<(), No> {
        self.expect(&format!("{message}.")).await
    }

    async fn ask(&mut self, command: &str) -> Result<Reply, Lost> {
        let limit = self.limit;
        let talk = async {
            let sent = async {
                self.leg.write_all(format!("{command}\r\n").as_bytes()).await?;
                self.leg.flush().await
            };
            // Where it fails the server has closed, and may have said why before that.
            let _ = sent.await;
            self.reply().await
        };
        timeout(limit, talk).await.unwrap_or(Err(Lost::Late))
    }

    async fn reply(&mut self) -> Result<Reply, Lost> {
        loop {
            let input = self.leg.fill_buf().await.map_err(|_| Lost::Ended)?;
            if input.is_empty() {
                return Err(Lost::Ended);
            }
            let (n, reply) = self.replies.next(input);
            self.leg.consume(n);
            if let Some(reply) = reply.map_err(|error| Lost::Nonsense(error.to_string()))? {
                return Ok(reply);
            }
        }
    }

    /// Whether the server ends the connection within `wait`, with nothing sent by us. What it says until then (421) is
    /// read and dropped; a reset is not an end, for anything on the way could have made it.
    pub(in crate::checks) async fn ended(&mut self, wait: Duration) -> bool {
        let end = async {
            loop {
                match self.leg.fill_buf().await {
                    Ok([]) => return true,
                    Ok(input) => {
                        let n = input.len();
                        self.leg.consume(n);
                    }
                    Err(error) => return error.kind() == io::ErrorKind::UnexpectedEof,
                }
            }
        };
        timeout(wait, end).await.unwrap_or(false)
    }

    /// QUIT, and waits for its answer: nothing of a connection for mail stands behind it.
    pub(in crate::checks) async fn quit(mut self) {
        // Who does not answer it is left all the same.
        let _ = self.ask("QUIT").await;
    }
}
