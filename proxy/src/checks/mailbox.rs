//! An IMAP connection of our own accounts: what probes, canaries and proofs need, and nothing more.
//!
//! Rule: it is always known whether the byte that makes a command take effect was sent; and a password
//! appears in nothing that can be printed.

use std::{io, time::Duration};

use bascule_protocols::imap::{
    fragment,
    response::{self, Response, Status},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use zeroize::Zeroizing;

use crate::{
    checks::command::Command,
    config::{Account, Secret},
};

/// Longest response, and longest answer to one command. Probe mailboxes are small.
const LIMIT: usize = 1 << 20;

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Tagged NO.
    #[error("NO {0}")]
    No(String),
    /// Tagged BAD.
    #[error("BAD {0}")]
    Bad(String),
    /// The server said goodbye instead of an answer.
    #[error("BYE {text}")]
    Bye {
        /// What it said.
        text: String,
        /// Whether the byte that makes the command take effect had been sent.
        committed: bool,
    },
    /// The connection ended instead of an answer.
    #[error("the connection ended {} the command was sent", if *.committed { "after" } else { "before" })]
    Eof {
        /// Whether the byte that makes the command take effect had been sent.
        committed: bool,
    },
    /// No answer in time.
    #[error("no answer")]
    Timeout,
    /// An answer that cannot be understood.
    #[error("{0}")]
    Nonsense(String),
}

/// A tagged OK and the untagged data before it.
#[derive(Debug)]
pub(super) struct Done {
    text: String,
    data: Vec<String>,
}

impl Done {
    /// Whether a message changed its flags.
    pub(super) fn flagged(&self) -> bool {
        self.responses().any(|response| matches!(response, Response::Fetch(..)))
    }

    /// Whether a message is gone.
    pub(super) fn expunged(&self) -> bool {
        self.responses().any(|response| matches!(response, Response::Expunge(_) | Response::Vanished { .. }))
    }

    fn responses(&self) -> impl Iterator<Item = Response<'_>> {
        self.data.iter().filter_map(|line| Response::parse(line.as_bytes()).ok())
    }

    /// The words of the untagged responses of this kind.
    fn words(&self, kind: &str) -> Vec<&str> {
        let of_kind = |line: &&String| line.split(' ').nth(1).is_some_and(|w| w.eq_ignore_ascii_case(kind));
        self.data.iter().filter(of_kind).flat_map(|line| line.split(' ').skip(2)).collect()
    }
}

/// What a mailbox is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// SELECT
    Write,
    /// EXAMINE: leaves no trace.
    Look,
}

/// What opening a mailbox found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    /// Messages in it.
    pub(super) exists: u32,
    /// Whether the server lets us write.
    pub(super) read_only: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Mailbox<S> {
    stream: S,
    unread: Vec<u8>,
    tags: u32,
    limit: Duration,
}

/// What the server says while a command runs.
enum Said {
    /// `+`: go on.
    More,
    /// Tagged OK.
    Done(String),
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Mailbox<S> {
    /// Takes a greeted connection; each command may take `limit`.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, unread: Vec::new(), tags: 0, limit }
    }

    /// LOGIN with the account's own name.
    pub(super) async fn login(&mut self, account: &Account) -> Result<(), Failure> {
        let command = Command::new("LOGIN").string(account.user.as_bytes()).string(&account.password.0);
        self.run(command).await.map(drop).map_err(|failure| without(&account.password, failure))
    }

    /// AUTHENTICATE PLAIN as `user` with a master's name and password.
    pub(super) async fn login_as(&mut self, user: &str, master: &Account) -> Result<(), Failure> {
        let names = format!("{user}\0{}\0", master.user);
        let plain = Zeroizing::new([names.as_bytes(), &master.password.0].concat());
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(&*plain));
        let command = Command::new("AUTHENTICATE PLAIN").answer(encoded.as_bytes());
        self.run(command).await.map(drop).map_err(|failure| without(&master.password, failure))
    }

    /// The capabilities as they are now.
    pub(super) async fn capabilities(&mut self) -> Result<Vec<String>, Failure> {
        let done = self.run(Command::new("CAPABILITY")).await?;
        Ok(done.words("CAPABILITY").into_iter().map(str::to_owned).collect())
    }

    /// The prefix of the account's own namespace (RFC 2342), where there is one.
    pub(super) async fn prefix(&mut self) -> Result<String, Failure> {
        let done = self.run(Command::new("NAMESPACE")).await?;
        let personal = done.data.iter().find_map(|line| line.strip_prefix("* NAMESPACE ((\""));
        Ok(personal.and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned())
    }

    /// SELECT or EXAMINE.
    pub(super) async fn open(&mut self, name: &str, access: Access) -> Result<Selected, Failure> {
        let verb = match access {
            Access::Write => "SELECT",
            Access::Look => "EXAMINE",
        };
        let done = self.run(Command::new(verb).string(name.as_bytes())).await?;
        let exists = done
            .responses()
            .filter_map(|response| if let Response::Exists(count) = response { Some(count) } else { None });
        Ok(Selected { exists: exists.last().unwrap_or_default(), read_only: code(&done.text) == "READ-ONLY" })
    }

    /// CREATE.
    pub(super) async fn create(&mut self, name: &str) -> Result<(), Failure> {
        self.run(Command::new("CREATE").string(name.as_bytes())).await.map(drop)
    }

    /// APPEND; the new message's UID where the server tells it (RFC 4315).
    pub(super) async fn append(&mut self, name: &str, message: &str) -> Result<Option<u32>, Failure> {
        let done =
            self.run(Command::new("APPEND").string(name.as_bytes()).literal(message.as_bytes())).await?;
        let told =
            response::code(done.text.as_bytes()).filter(|(name, _)| name.eq_ignore_ascii_case(b"APPENDUID"));
        Ok(told.and_then(|(_, numbers)| response::number(numbers.split(|b| *b == b' ').nth(1)?)))
    }

    /// STORE of messages of the selected mailbox, e.g. `+FLAGS (\Deleted)`.
    pub(super) async fn store(&mut self, uids: &str, flags: &str) -> Result<Done, Failure> {
        self.run(Command::new("UID STORE ").text(uids).text(" ").text(flags)).await
    }

    /// EXPUNGE.
    pub(super) async fn expunge(&mut self) -> Result<Done, Failure> {
        self.run(Command::new("EXPUNGE")).await
    }

    /// UIDs of the messages of the selected mailbox whose header field contains `text`.
    pub(super) async fn search(&mut self, field: &str, text: &str) -> Result<Vec<u32>, Failure> {
        let command = Command::new("UID SEARCH HEADER").string(field.as_bytes()).string(text.as_bytes());
        let done = self.run(command).await?;
        Ok(done.words("SEARCH").into_iter().filter_map(|uid| uid.parse().ok()).collect())
    }

    /// LOGOUT, and waits until the server has closed: on shared storage only then it has let go.
    pub(super) async fn logout(mut self) {
        let limit = self.limit;
        if !matches!(self.run(Command::new("LOGOUT")).await, Err(Failure::Eof { .. } | Failure::Timeout)) {
            self.ended(limit).await;
        }
    }

    /// Whether the server ends the connection within `wait`, with nothing sent by us. What it says until
    /// then is read and dropped; a reset is not an end, for anything on the way could have made it.
    pub(super) async fn ended(&mut self, wait: Duration) -> bool {
        let end = async {
            loop {
                match self.response().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(error) => return error.kind() == io::ErrorKind::UnexpectedEof,
                }
            }
        };
        timeout(wait, end).await.unwrap_or(false)
    }

    async fn run(&mut self, command: Command) -> Result<Done, Failure> {
        let limit = self.limit;
        timeout(limit, self.talk(command)).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn talk(&mut self, command: Command) -> Result<Done, Failure> {
        self.tags += 1;
        let tag = format!("p{}", self.tags);
        let chunks = command.chunks(&tag);
        let last = chunks.len().saturating_sub(1);
        let mut data = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            let committed = at == last;
            let sent = async {
                self.stream.write_all(chunk).await?;
                self.stream.flush().await
            };
            // Where it fails the server has closed, and may have said why before that.
            let _ = sent.await;
            match self.said(&tag, &mut data, committed).await? {
                Said::More if !committed => {}
                Said::Done(text) if committed => return Ok(Done { text, data }),
                Said::More => return Err(Failure::Nonsense("asked for more than there is".into())),
                Said::Done(_) => return Err(Failure::Nonsense("OK before the command was complete".into())),
            }
        }
        Err(Failure::Nonsense("an empty command".into()))
    }

    /// Reads until the server answers the command or asks for the rest of it.
    async fn said(&mut self, tag: &str, data: &mut Vec<String>, committed: bool) -> Result<Said, Failure> {
        let mut size = 0;
        loop {
            let response = match self.response().await {
                Ok(Some(response)) => response,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(Failure::Nonsense(error.to_string()));
                }
                Ok(None) | Err(_) => return Err(Failure::Eof { committed }),
            };
            size += response.len();
            if size > LIMIT {
                return Err(Failure::Nonsense("an answer without end".into()));
            }
            let line = fragment::text(&response);
            match Response::parse(line) {
                Ok(Response::Untagged { status: Status::Bye, text }) => {
                    return Err(Failure::Bye { text: words(text), committed });
                }
                Ok(Response::Continue) => return Ok(Said::More),
                Ok(Response::Tagged { tag: theirs, status, text }) if theirs == tag.as_bytes() => {
                    return match status {
                        Status::Ok => Ok(Said::Done(words(text))),
                        Status::No => Err(Failure::No(words(text))),
                        Status::Bad | Status::Bye | Status::Preauth => Err(Failure::Bad(words(text))),
                    };
                }
                Ok(Response::Tagged { .. }) | Err(_) => {
                    return Err(Failure::Nonsense(format!("not an answer: {}", words(line))));
                }
                Ok(_) => data.push(words(line)),
            }
        }
    }

    /// One whole response; `None` at the end of the stream. Cancelling it loses nothing.
    async fn response(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = response_end(&self.unread) {
                return Ok(Some(self.unread.drain(..end).collect()));
            }
            if self.unread.len() > LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a response without end"));
            }
            let read = self.stream.fill_buf().await?;
            if read.is_empty() {
                return Ok(None);
            }
            self.unread.extend_from_slice(read);
            let used = read.len();
            self.stream.consume(used);
        }
    }
}

/// The name of a text's response code, in capitals: `"[OVERQUOTA] full"` has `OVERQUOTA`.
pub(super) fn code(text: &str) -> String {
    let name = response::code(text.as_bytes()).map_or(&b""[..], |(name, _)| name);
    words(name).to_ascii_uppercase()
}

/// Where the first response ends, its literals included.
fn response_end(bytes: &[u8]) -> Option<usize> {
    let mut end = line_end(bytes, 0)?;
    let first = fragment::text(&bytes[..end]);
    let mut literal = Response::parse(first).map_or(0, |response| response::literal_after(&response, first));
    while literal > 0 {
        let at = end.checked_add(usize::try_from(literal).ok()?)?;
        end = line_end(bytes, at)?;
        literal = fragment::literal(fragment::text(&bytes[at..end])).map_or(0, |next| next.size);
    }
    Some(end)
}

fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    Some(from + bytes.get(from..)?.iter().position(|&b| b == b'\n')? + 1)
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server may repeat what it did not understand; a password it repeats goes no further.
fn without(password: &Secret, failure: Failure) -> Failure {
    let password = String::from_utf8_lossy(&password.0);
    let clean = |text: String| if text.contains(&*password) { String::new() } else { text };
    match failure {
        Failure::No(text) => Failure::No(clean(text)),
        Failure::Bad(text) => Failure::Bad(clean(text)),
        Failure::Bye { text, committed } => Failure::Bye { text: clean(text), committed },
        Failure::Nonsense(text) => Failure::Nonsense(clean(text)),
        Failure::Eof { .. } | Failure::Timeout => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, BufReader, DuplexStream, duplex};

    use super::*;

    /// A mailbox whose server says `lines` whatever it is told, and then closes or stays silent.
    fn scripted(lines: &'static str, closes: bool) -> Mailbox<BufReader<DuplexStream>> {
        let (ours, mut theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            theirs.write_all(lines.as_bytes()).await.unwrap();
            if !closes {
                // Until the client has gone.
                while theirs.read(&mut [0; 512]).await.is_ok_and(|read| read > 0) {}
            }
        });
        Mailbox::new(BufReader::new(ours), Duration::from_millis(200))
    }

    async fn append(lines: &'static str, closes: bool) -> Result<Option<u32>, Failure> {
        scripted(lines, closes).append("box", "message").await
    }

    #[tokio::test]
    async fn every_kind_of_answer_has_its_name() {
        let bye = |committed| Failure::Bye { text: "so long".into(), committed };
        assert_eq!(append("+ go\r\np1 OK [APPENDUID 7 42] done\r\n", false).await, Ok(Some(42)));
        assert_eq!(append("+ go\r\n* 1 EXISTS\r\np1 OK done\r\n", false).await, Ok(None));
        assert_eq!(append("p1 NO [X] no\r\n", false).await, Err(Failure::No("[X] no".into())));
        assert_eq!(append("+\r\np1 BAD why\r\n", false).await, Err(Failure::Bad("why".into())));
        assert_eq!(append("* BYE so long\r\n", true).await, Err(bye(false)));
        assert_eq!(append("+ go\r\n* BYE so long\r\n", true).await, Err(bye(true)));
        assert_eq!(append("", true).await, Err(Failure::Eof { committed: false }));
        assert_eq!(append("+ go\r\n* 1 EX", true).await, Err(Failure::Eof { committed: true }));
        assert_eq!(append("+ go\r\n", false).await, Err(Failure::Timeout));
        for nonsense in ["p1 OK too early\r\n", "+ go\r\n+ more\r\n", "x OK\r\n", "HTTP/1.1 400\r\n"] {
            let failure = append(nonsense, false).await;
            assert!(matches!(failure, Err(Failure::Nonsense(_))), "{nonsense}: {failure:?}");
        }
    }

    #[tokio::test]
    async fn text_is_no_literal_and_data_is() {
        let mut mailbox = scripted("* NO see {25}\r\n* SEARCH 3 5\r\np1 OK {9}\r\n", false);
        assert_eq!(mailbox.search("Message-ID", "x").await, Ok(vec![3, 5]));
        let list = "* LIST () \"/\" {14}\r\np1 OK forged\r\n\r\n* SEARCH 8\r\np1 OK done\r\n";
        assert_eq!(scripted(list, false).search("Message-ID", "x").await, Ok(vec![8]));
        for endless in
            ["* 1 FETCH (BODY[] {18446744073709551615}\r\n", "* 1 FETCH (BODY[] {99999999999999999999}\r\n"]
        {
            assert_eq!(scripted(endless, false).expunge().await.unwrap_err(), Failure::Timeout);
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let (ours, mut theirs) = duplex(1 << 16);
        tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
        let mut mailbox = Mailbox::new(BufReader::new(ours), Duration::from_secs(60));
        assert!(matches!(mailbox.expunge().await, Err(Failure::Nonsense(_))));
    }

    #[tokio::test]
    async fn only_an_end_is_an_end() {
        assert!(scripted("* BYE stopping\r\n", true).ended(Duration::from_secs(60)).await);
        assert!(scripted("", true).ended(Duration::from_secs(60)).await);
        assert!(!scripted("* BYE stopping\r\n", false).ended(Duration::from_millis(50)).await);
    }

    #[tokio::test]
    async fn what_was_read_while_listening_is_not_lost() {
        let (ours, mut theirs) = duplex(4096);
        let mut mailbox = Mailbox::new(BufReader::new(ours), Duration::from_secs(60));
        theirs.write_all(b"* 1 EXI").await.unwrap();
        assert!(!mailbox.ended(Duration::from_millis(50)).await);
        theirs.write_all(b"STS\r\n* 1 EXPUNGE\r\np1 OK done\r\n").await.unwrap();
        assert!(mailbox.expunge().await.unwrap().expunged());
    }

    #[tokio::test]
    async fn a_password_that_is_repeated_goes_no_further() {
        let account = Account {
            user: "u".into(),
            address: String::new(),
            password: Secret(Arc::new(b"s3cret".to_vec().into())),
        };
        for reply in
            ["p1 NO wrong s3cret\r\n", "p1 BAD LOGIN u s3cret?\r\n", "* BYE s3cret\r\n", "s3cret\r\n"]
        {
            let failure = scripted(reply, false).login(&account).await.unwrap_err();
            assert!(!format!("{failure} {failure:?}").contains("s3cret"), "{reply}");
        }
        assert!(!format!("{account:?}").contains("s3cret"));
    }
}
