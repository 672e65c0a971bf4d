//! One connection of a mail server: reads a command, does what it says or what the test asked for, answers.
//!
//! Rule: one command at a time, in the order of arrival; its effect is complete before a byte of its answer leaves.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use super::{Door, Options, Peer, Trust, commands::Transaction};
use crate::{
    fake::{
        knobs::Reaction,
        platform::{self, Said, Shared, Tls},
        wire::Wire,
    },
    smtp::enhanced,
};

/// These may only be the last of what is sent in one go (RFC 2920 §3.1; AUTH, STARTTLS and XCLIENT by their own rules).
const SYNCHRONISE: &[&str] =
    &["EHLO", "LHLO", "HELO", "DATA", "VRFY", "EXPN", "NOOP", "QUIT", "AUTH", "STARTTLS", "XCLIENT"];

/// One client.
pub(in crate::fake) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) platform: Arc<platform::Options>,
    pub(super) door: Door,
    pub(super) wire: Wire,
    pub(super) peer: Peer,
    pub(super) transaction: Transaction,
    /// EHLO, LHLO or HELO was said, since STARTTLS and XCLIENT.
    pub(super) greeted: bool,
    out: Vec<u8>,
    said: watch::Receiver<Said>,
}

impl Session {
    pub(in crate::fake) async fn run(
        mut stream: TcpStream,
        door: Door,
        shared: Arc<Shared>,
    ) -> io::Result<()> {
        let recorder = shared.records.open();
        let platform = shared.options();
        let said = shared.said.subscribe();
        let mut peer = Peer::new(stream.peer_addr()?);
        if platform.smtp.as_ref().is_some_and(|o| o.proxy_v2)
            && let Err(error) = peer.proxied(&mut stream).await
        {
            recorder.violation(&error.to_string());
            return Err(error);
        }
        let (wire, tls) = Wire::accept(stream, &platform.tls, recorder).await?;
        peer.tls = tls;
        let transaction = Transaction::default();
        let mut this =
            Self { shared, platform, door, wire, peer, transaction, greeted: false, out: Vec::new(), said };
        if this.greet().await? { this.serve().await } else { this.goodbye().await }
    }

    /// What the doors for mail were set up with.
    pub(super) fn options(&self) -> &Options {
        static DEFAULT: std::sync::OnceLock<Options> = std::sync::OnceLock::new();
        self.platform.smtp.as_ref().unwrap_or_else(|| DEFAULT.get_or_init(Options::default))
    }

    /// False if the client is turned away.
    async fn greet(&mut self) -> io::Result<bool> {
        let reaction = self.react("GREETING", "").await?;
        if self.early().await {
            self.violation("bytes before the greeting");
        }
        let (reply, stays) = match &reaction.refuse {
            Some(refusal) => (refusal.clone(), false),
            None if !self.shared.posture().logins() => {
                (format!("421 4.3.2 {} not now", self.options().hostname), false)
            }
            None => (self.greeting(), true),
        };
        self.answer(&reply, &reaction).await?;
        Ok(stays)
    }

    pub(super) fn greeting(&self) -> String {
        let protocol = if self.door == Door::Lmtp { "LMTP" } else { "ESMTP" };
        format!("220 {} {protocol} {}", self.options().hostname, self.platform.greeting)
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            tokio::select! {
                line = self.wire.line() => {
                    let Some(line) = line? else { return Ok(()) };
                    if self.command(&String::from_utf8_lossy(&line)).await? {
                        return self.goodbye().await;
                    }
                }
                Ok(()) = self.said.changed() => {
                    let said = self.said.borrow_and_update().clone();
                    self.out.extend_from_slice(said.line.as_bytes());
                    self.flush(None).await?;
                    if said.close {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// True after QUIT.
    async fn command(&mut self, line: &str) -> io::Result<bool> {
        let (verb, args) = line.split_once(' ').unwrap_or((line, ""));
        let verb = verb.to_ascii_uppercase();
        self.wire.recorder.command(&format!("{} {verb}", self.door.name()));
        let alone = SYNCHRONISE.contains(&verb.as_str()) || !self.options().shows("PIPELINING");
        if alone && verb != "BDAT" && !self.wire.io.buffer().is_empty() {
            self.violation(&format!("bytes behind {verb}"));
        }
        let reaction = self.react(&verb, &whom(&verb, args)).await?;
        match verb.as_str() {
            "BDAT" => self.bdat(args, &reaction).await?,
            _ if reaction.refuse.is_some() => {
                let refusal = reaction.refuse.clone().unwrap_or_default();
                self.refused(&verb);
                self.answer(&refusal, &reaction).await?;
            }
            "DATA" => self.data(&reaction).await?,
            "STARTTLS" => self.starttls(&reaction).await?,
            "AUTH" => {
                let reply = self.auth(args).await?;
                self.answer(&reply, &reaction).await?;
            }
            _ => {
                let reply = self.plain_command(&verb, args);
                self.answer(&reply, &reaction).await?;
            }
        }
        Ok(verb == "QUIT")
    }

    /// What the test asked for at this point has happened; what it asked for instead of the answer is in the result.
    pub(super) async fn react(&mut self, verb: &str, whom: &str) -> io::Result<Reaction> {
        let keys = [format!("{verb} {whom}"), format!("{} {verb}", self.door.name()), verb.to_owned()];
        let reaction = self.shared.reaction(&keys.each_ref().map(String::as_str));
        self.suffer(&reaction).await?;
        Ok(reaction)
    }

    /// Waits, babbles, dies.
    pub(super) async fn suffer(&mut self, reaction: &Reaction) -> io::Result<()> {
        reaction.wait().await;
        if let Some(raw) = &reaction.raw {
            self.out.extend_from_slice(raw.as_bytes());
            self.flush(None).await?;
        }
        if reaction.drop { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Sends an answer, or as much of it as the test wants.
    pub(super) async fn answer(&mut self, reply: &str, reaction: &Reaction) -> io::Result<()> {
        if let Some(stall) = &reaction.withhold {
            stall.wait().await;
        }
        let coded = self.options().shows("ENHANCEDSTATUSCODES");
        self.out.extend_from_slice(if coded { reply.to_owned() } else { bare(reply) }.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.flush(reaction.cut).await?;
        if reaction.cut.is_some() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    async fn flush(&mut self, cut: Option<usize>) -> io::Result<()> {
        let end = cut.map_or(self.out.len(), |left| left.min(self.out.len()));
        self.wire.io.write_all(&self.out[..end]).await?;
        self.wire.io.flush().await?;
        self.out = Vec::new();
        Ok(())
    }

    async fn goodbye(&mut self) -> io::Result<()> {
        self.wire.io.shutdown().await
    }

    async fn starttls(&mut self, reaction: &Reaction) -> io::Result<()> {
        let Tls::Starttls(config) = self.platform.tls.clone() else {
            return self.answer("502 5.5.1 no TLS here", reaction).await;
        };
        if self.peer.tls || self.transaction.open() {
            self.violation("STARTTLS at the wrong time");
            return self.answer("503 5.5.1 not now", reaction).await;
        }
        self.answer("220 2.0.0 begin", reaction).await?;
        self.wire.secure(config).await?;
        self.peer.tls = true;
        self.greeted = false;
        Ok(())
    }

    /// Whether the client speaks before it may.
    pub(super) async fn early(&mut self) -> bool {
        tokio::select! {
            biased;
            ready = self.wire.io.fill_buf() => ready.is_ok_and(|bytes| !bytes.is_empty()),
            () = tokio::task::yield_now() => false,
        }
    }

    /// Something that a good client never does.
    pub(super) fn violation(&self, what: &str) {
        self.wire.recorder.violation(&format!("{}: {what}", self.door.name()));
    }

    /// EHLO's answer.
    pub(super) fn keywords(&self) -> String {
        let options = self.options();
        let mut lines = vec![options.hostname.clone()];
        lines.extend(options.keywords.iter().cloned());
        let starttls = matches!(self.platform.tls, Tls::Starttls(_));
        if starttls && !self.peer.tls {
            lines.push("STARTTLS".into());
        }
        if self.offers_auth() {
            lines.push(format!("AUTH {}", options.mechanisms.join(" ")));
        }
        if options.xclient != Trust::Off {
            lines.push("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT".into());
        }
        if options.xforward != Trust::Off {
            lines.push("XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE".into());
        }
        let last = lines.pop().unwrap_or_default();
        lines.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + "250 " + &last
    }

    /// AUTH is shown in submission, where a password is safe, until somebody has logged in.
    pub(super) fn offers_auth(&self) -> bool {
        let safe = self.peer.tls || matches!(self.platform.tls, Tls::Off);
        self.door == Door::Submission
            && safe
            && self.peer.user.is_none()
            && !self.options().mechanisms.is_empty()
    }
}

/// Whom a command is about, for reactions that name a recipient.
fn whom(verb: &str, args: &str) -> String {
    let path =
        || args.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned());
    if matches!(verb, "RCPT" | "MAIL") { path().unwrap_or_default() } else { String::new() }
}

/// A reply without its enhanced code.
fn bare(reply: &str) -> String {
    match reply.split_at_checked(4) {
        Some((code, text)) => match enhanced(text) {
            Some(found) => code.to_owned() + text[found.len()..].trim_start(),
            None => reply.to_owned(),
        },
        None => reply.to_owned(),
    }
}
