//! An IMAP client that believes nothing: every byte that arrives is counted, kept on request, and judged.
//!
//! Rule: a violation of the protocol ends the call that met it with an error; nothing is overlooked because
//! the answer that was waited for came all the same.

mod link;
mod response;

use std::{collections::VecDeque, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

pub(crate) use self::link::{Link, Taken, take_line};
pub use self::response::{Reply, Response, Status};
use crate::oracle::{Oracle, Stage, Violation};

/// How the connection is protected.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all.
    Plain,
    /// STARTTLS after the greeting.
    Starttls(Arc<rustls::ClientConfig>, ServerName<'static>),
    /// TLS first.
    Tls(Arc<rustls::ClientConfig>, ServerName<'static>),
}

/// Why a call failed.
#[derive(Debug)]
pub enum Error {
    /// The connection ended; with what the server said before, if it did.
    Closed(Option<String>),
    /// Something arrived that must not.
    Violation(Violation),
    /// Nothing arrived for as long as a test waits.
    Silence,
    /// Anything else.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(Some(bye)) => write!(f, "the server said goodbye: {bye}"),
            Self::Closed(None) => f.write_str("the connection ended without a word"),
            Self::Violation(violation) => violation.fmt(f),
            Self::Silence => f.write_str("no answer"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let ended = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        if ended.contains(&error.kind()) { Self::Closed(None) } else { Self::Io(error) }
    }
}

/// The result of every call.
pub type Result<T> = std::result::Result<T, Error>;

/// One session.
pub struct Client {
    link: Link,
    oracle: Oracle,
    /// Untagged responses that nobody asked for yet.
    notices: VecDeque<Response>,
    /// Replies to pipelined commands that were not asked for yet.
    replies: VecDeque<Reply>,
    partial: response::Partial,
    next_tag: u32,
    /// The tag of the IDLE in progress.
    idle: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("oracle", &self.oracle)
            .field("received", &self.link.received())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and reads the greeting; TLS stands when this returns.
    pub async fn connect(to: SocketAddr, security: Security) -> Result<Self> {
        match security {
            Security::Plain => Self::greeted(Link::plain(to).await?, Stage::Plain).await,
            Security::Tls(config, name) => {
                Self::greeted(Link::tls(to, config, name).await?, Stage::Tls).await
            }
            Security::Starttls(config, name) => {
                let mut client = Self::greeted(Link::plain(to).await?, Stage::Plain).await?;
                client.command("STARTTLS").await?.ok()?;
                client.link.secure(config, name).await?;
                client.oracle.secured();
                Ok(client)
            }
        }
    }

    async fn greeted(link: Link, stage: Stage) -> Result<Self> {
        let mut client = Self {
            link,
            oracle: Oracle::new(stage),
            notices: VecDeque::new(),
            replies: VecDeque::new(),
            partial: response::Partial::default(),
            next_tag: 1,
            idle: None,
        };
        client.notice().await?;
        Ok(client)
    }

    /// Keeps every byte from now on.
    pub fn keep_transcript(&mut self) {
        self.link.keep_transcript();
    }

    /// What was kept.
    pub fn transcript(&self) -> &[u8] {
        self.link.transcript()
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

    /// LOGIN with quoted strings.
    pub async fn login(&mut self, user: &str, password: &str) -> Result<Reply> {
        self.command(&format!("LOGIN {} {}", quote(user), quote(password))).await
    }

    /// LOGIN with synchronizing literals.
    pub async fn login_by_literals(&mut self, user: &str, password: &str) -> Result<Reply> {
        let tag = self.begin(&format!("LOGIN {{{}}}", user.len())).await?;
        if let Some(refused) = self.go_ahead(&tag).await? {
            return Ok(refused);
        }
        self.oracle.announced();
        self.write(format!("{user} {{{}}}\r\n", password.len()).as_bytes()).await?;
        if let Some(refused) = self.go_ahead(&tag).await? {
            return Ok(refused);
        }
        self.complete(&tag, password.as_bytes()).await?;
        self.finish(&tag).await
    }

    /// AUTHENTICATE PLAIN, with the response at once or after the continuation.
    pub async fn authenticate(
        &mut self,
        authzid: &str,
        user: &str,
        password: &str,
        at_once: bool,
    ) -> Result<Reply> {
        let response = STANDARD.encode(format!("{authzid}\0{user}\0{password}"));
        if at_once {
            return self.command(&format!("AUTHENTICATE PLAIN {response}")).await;
        }
        let tag = self.start("AUTHENTICATE PLAIN").await?;
        match self.go_ahead(&tag).await? {
            Some(refused) => Ok(refused),
            None => {
                self.write(format!("{response}\r\n").as_bytes()).await?;
                self.finish(&tag).await
            }
        }
    }

    /// SELECT
    pub async fn select(&mut self, mailbox: &str) -> Result<Reply> {
        self.command(&format!("SELECT {}", quote(mailbox))).await
    }

    /// Sends one command line and waits for its tagged reply.
    pub async fn command(&mut self, line: &str) -> Result<Reply> {
        let tag = self.start(line).await?;
        self.finish(&tag).await
    }

    /// Sends one command line and does not wait. Its tag.
    pub async fn start(&mut self, line: &str) -> Result<String> {
        let tag = self.tag();
        self.start_as(&tag, line).await?;
        Ok(tag)
    }

    /// The same under a tag of the test's choice.
    pub async fn start_as(&mut self, tag: &str, line: &str) -> Result<()> {
        self.oracle.sent(tag, line, true);
        self.write(format!("{tag} {line}\r\n").as_bytes()).await
    }

    /// Announces a command line that the test sends itself with [`Client::write`]: a whole one, or one that ends in a
    /// synchronizing literal's marker.
    pub fn announce(&mut self, tag: &str, line: &str) {
        let waits = line.ends_with('}');
        self.oracle.sent(tag, line, !waits);
        if waits {
            self.oracle.announced();
        }
    }

    /// Waits for the reply to a command that was started. Replies come in order; ask in that order.
    pub async fn finish(&mut self, tag: &str) -> Result<Reply> {
        loop {
            if let Some(reply) = self.take_reply(tag) {
                return Ok(reply);
            }
            self.receive().await?;
        }
    }

    /// Waits until an answer has begun to come, and takes nothing of it.
    pub async fn answered(&mut self) -> Result<()> {
        self.link.answered().await
    }

    /// APPEND with a synchronizing literal.
    pub async fn append(&mut self, mailbox: &str, message: &[u8]) -> Result<Reply> {
        let line = format!("APPEND {} {{{}}}", quote(mailbox), message.len());
        let tag = self.begin(&line).await?;
        match self.go_ahead(&tag).await? {
            Some(refused) => Ok(refused),
            None => {
                self.complete(&tag, message).await?;
                self.finish(&tag).await
            }
        }
    }

    /// APPEND with a literal that does not wait (LITERAL+, LITERAL-). Its tag.
    pub async fn start_append(&mut self, mailbox: &str, message: &[u8]) -> Result<String> {
        let tag = self.tag();
        let line = format!("APPEND {} {{{}+}}", quote(mailbox), message.len());
        self.oracle.sent(&tag, &line, false);
        self.write(format!("{tag} {line}\r\n").as_bytes()).await?;
        self.complete(&tag, message).await?;
        Ok(tag)
    }

    /// Sends a command line that ends in a synchronizing literal's marker. Its tag.
    pub async fn begin(&mut self, line: &str) -> Result<String> {
        let tag = self.tag();
        self.oracle.sent(&tag, line, false);
        self.oracle.announced();
        self.write(format!("{tag} {line}\r\n").as_bytes()).await?;
        Ok(tag)
    }

    /// Waits for `+`; a reply is what came instead.
    pub async fn go_ahead(&mut self, tag: &str) -> Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.take_reply(tag) {
                return Ok(Some(reply));
            }
            if self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Sends the last literal of a command and its line end.
    pub async fn complete(&mut self, tag: &str, literal: &[u8]) -> Result<()> {
        self.oracle.completed(tag);
        self.write(literal).await?;
        self.write(b"\r\n").await
    }

    /// IDLE; returns when the server says that it is idling, or with its refusal.
    pub async fn idle(&mut self) -> Result<Option<Reply>> {
        let tag = self.start("IDLE").await?;
        let refused = self.go_ahead(&tag).await?;
        self.idle = refused.is_none().then_some(tag);
        Ok(refused)
    }

    /// Ends IDLE.
    pub async fn done(&mut self) -> Result<Reply> {
        let tag = self.idle.take().unwrap_or_default();
        self.write(b"DONE\r\n").await?;
        self.finish(&tag).await
    }

    /// Ends IDLE and sends the next command line in the same packet. The tags of both.
    pub async fn done_and(&mut self, line: &str) -> Result<[String; 2]> {
        let (idle, tag) = (self.idle.take().unwrap_or_default(), self.tag());
        self.oracle.sent(&tag, line, true);
        self.write(format!("DONE\r\n{tag} {line}\r\n").as_bytes()).await?;
        Ok([idle, tag])
    }

    /// The next untagged response that belongs to no reply: in IDLE, or out of the blue.
    pub async fn notice(&mut self) -> Result<Response> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(notice);
            }
            self.receive().await?;
        }
    }

    /// The whole message with this UID; `None` if it is not there.
    pub async fn fetch_body(&mut self, uid: u32) -> Result<Option<Vec<u8>>> {
        let reply = self.command(&format!("UID FETCH {uid} (BODY.PEEK[])")).await?;
        Ok(reply.lines.iter().find_map(|r| r.literals().next().map(<[u8]>::to_vec)))
    }

    /// Every message of the selected mailbox, whole.
    pub async fn bodies(&mut self) -> Result<Vec<Vec<u8>>> {
        let reply = self.command("UID FETCH 1:* (BODY.PEEK[])").await?.ok()?;
        Ok(reply.lines.iter().filter_map(|r| r.literals().next().map(<[u8]>::to_vec)).collect())
    }

    /// The UIDs of the selected mailbox.
    pub async fn uids(&mut self) -> Result<Vec<u32>> {
        let reply = self.command("UID SEARCH ALL").await?;
        let found = reply.lines.iter().find_map(|r| r.bare().strip_prefix("* SEARCH").map(String::from));
        Ok(found.unwrap_or_default().split_whitespace().filter_map(|w| w.parse().ok()).collect())
    }

    /// LOGOUT, to the end of the connection.
    pub async fn logout(mut self) -> Result<()> {
        self.command("LOGOUT").await?;
        match self.receive().await {
            Err(Error::Closed(_)) => Ok(()),
            Err(other) => Err(other),
            Ok(_) => Err(Error::Violation(Violation("more after LOGOUT".into()))),
        }
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.link.write(bytes).await
    }

    fn take_reply(&mut self, tag: &str) -> Option<Reply> {
        let at = self.replies.iter().position(|r| r.tag == tag)?;
        self.replies.remove(at)
    }

    fn tag(&mut self) -> String {
        let tag = format!("t{}", self.next_tag);
        self.next_tag += 1;
        tag
    }

    /// Takes in one response; true if it was a continuation. Safe to drop while it waits.
    async fn receive(&mut self) -> Result<bool> {
        let response = match self.link.next(|chunk| self.partial.take(chunk)).await {
            Err(Error::Closed(_)) => return Err(Error::Closed(self.oracle.bye().map(String::from))),
            Err(other) => return Err(other),
            Ok(response) => response,
        };
        self.oracle.heard(&response).map_err(Error::Violation)?;
        if response.is_continuation() {
            return Ok(true);
        }
        match response.reply() {
            Some(mut reply) => {
                reply.lines = self.notices.drain(..).collect();
                self.replies.push_back(reply);
            }
            None => self.notices.push_back(response),
        }
        Ok(false)
    }
}

/// TLS that trusts one authority (PEM) and nobody else.
pub fn trusting(authority: &str) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
