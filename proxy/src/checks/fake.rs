//! A small IMAP server for the tests of the probes.
//!
//! Rule: it does what its habit says at the moment of the command, so that a test can change its mind
//! between two commands of one session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bascule_protocols::imap::command::{astring, word};
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, copy_bidirectional, duplex},
    net::TcpListener,
    sync::watch,
};

use crate::{
    checks::server::Dial,
    config::{Account, Secret},
    session::imap::open::OpenError,
};

/// What the server does with logins and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// All that is asked.
    Serves,
    /// NO to every write, APPEND before its literal.
    RefusesWrites,
    /// NO to every login; who is in may write.
    RefusesLogins,
    /// NO to logins and to writes.
    RefusesAll,
    /// NO, but only because the mailbox is full.
    Full,
    /// OK to STORE and EXPUNGE, which change nothing; NO to APPEND.
    Pretends,
    /// Selected mailboxes are read-only, and writes refused.
    ReadOnly,
    /// Never answers a write.
    Hangs,
    /// Closes without a word after a whole APPEND.
    Drops,
    /// Says BYE where APPEND would go on with its literal.
    SaysBye,
    /// Gives a master his own mailbox, whoever he asks for.
    IgnoresAuthzid,
    /// Gives everybody the same mailbox.
    Mixes,
    /// Does not tell UIDs of new messages.
    NoUidplus,
    /// All mailboxes live below INBOX.
    Prefixed,
    /// Every mailbox is there, and none can be opened: Cyrus 3.6, of one that 3.10 made.
    Unreadable,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub(super) struct Fake {
    store: Arc<Mutex<Store>>,
    stop: watch::Sender<bool>,
}

struct Store {
    habit: Habit,
    boxes: HashMap<String, Vec<Message>>,
    uid: u32,
}

struct Message {
    uid: u32,
    deleted: bool,
    text: String,
}

pub(super) fn account(user: &str) -> Account {
    Account {
        user: user.into(),
        address: format!("{user}@example.org"),
        password: Secret(Arc::new(b"pass".to_vec().into())),
    }
}

impl Fake {
    pub(super) fn new(habit: Habit) -> Self {
        let store = Store { habit, boxes: HashMap::new(), uid: 0 };
        Self { store: Arc::new(Mutex::new(store)), stop: watch::Sender::new(false) }
    }

    pub(super) fn becomes(&self, habit: Habit) {
        self.store().habit = habit;
    }

    /// Every session ends, dials are refused.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Serves by TCP too; where.
    pub(super) async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, fake) = (listener.local_addr().unwrap().to_string(), self.clone());
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let mut inner = fake.dial().await.unwrap();
                tokio::spawn(async move {
                    tcp.write_all(b"* OK ready\r\n").await?;
                    copy_bidirectional(&mut tcp, &mut inner).await
                });
            }
        });
        address
    }

    /// Messages in all mailboxes.
    pub(super) fn messages(&self) -> usize {
        self.store().boxes.values().map(Vec::len).sum()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }
}

impl Dial for Fake {
    type Stream = BufReader<DuplexStream>;

    async fn dial(&self) -> Result<Self::Stream, OpenError> {
        if *self.stop.borrow() {
            let error = std::io::ErrorKind::ConnectionRefused.into();
            return Err(OpenError::Dial { server: "fake".into(), error });
        }
        let (ours, theirs) = duplex(4096);
        let mut stopped = self.stop.subscribe();
        let mut connection = Connection {
            fake: self.clone(),
            stream: BufReader::new(theirs),
            user: String::new(),
            open: None,
        };
        tokio::spawn(async move {
            let end = async { stopped.wait_for(|stop| *stop).await.is_ok() };
            let stopped = tokio::select! {
                stopped = end => stopped,
                _ = connection.serve() => false,
            };
            if stopped {
                let _ = connection.say("* BYE stopping").await;
            }
        });
        Ok(BufReader::new(ours))
    }
}

struct Connection {
    fake: Fake,
    stream: BufReader<DuplexStream>,
    user: String,
    open: Option<String>,
}

/// `None`: the connection ends.
type Go = Option<()>;

impl Connection {
    async fn serve(&mut self) -> Go {
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line).await.ok()? == 0 {
                return None;
            }
            let text = String::from_utf8(line).ok()?;
            let (tag, command) = text.trim_end().split_once(' ')?;
            let (verb, arguments) = command.split_once(' ').unwrap_or((command, ""));
            let habit = self.fake.store().habit;
            let full = "NO [OVERQUOTA] full";
            match (verb, habit) {
                ("APPEND" | "EXPUNGE" | "UID", Habit::Hangs)
                    if verb != "UID" || arguments.starts_with("STORE") =>
                {
                    std::future::pending().await
                }
                ("APPEND", Habit::SaysBye) => {
                    self.say("* BYE go away").await?;
                    return None;
                }
                ("LOGIN", Habit::RefusesLogins | Habit::RefusesAll) => {
                    self.say(&format!("{tag} NO [AUTHENTICATIONFAILED] not now")).await?;
                }
                ("APPEND" | "EXPUNGE", Habit::Full) => self.say(&format!("{tag} {full}")).await?,
                ("APPEND", Habit::RefusesWrites | Habit::RefusesAll | Habit::ReadOnly | Habit::Pretends)
                | ("EXPUNGE", Habit::RefusesWrites | Habit::RefusesAll) => {
                    self.say(&format!("{tag} NO [UNAVAILABLE] fenced")).await?;
                }
                _ => self.obey(tag, verb, arguments, habit).await?,
            }
        }
    }

    async fn obey(&mut self, tag: &str, verb: &str, arguments: &str, habit: Habit) -> Go {
        match verb {
            "LOGIN" => {
                let (user, rest) = astring(arguments.as_bytes())?;
                let ok = astring(rest)?.0 == b"pass";
                self.user =
                    if habit == Habit::Mixes { "all".into() } else { String::from_utf8(user).ok()? };
                self.say(&format!("{tag} {}", if ok { "OK in" } else { "NO [AUTHENTICATIONFAILED] wrong" }))
                    .await
            }
            "AUTHENTICATE" => {
                self.say("+ ").await?;
                let mut line = String::new();
                self.stream.read_line(&mut line).await.ok()?;
                let plain = String::from_utf8(BASE64_STANDARD.decode(line.trim()).ok()?).ok()?;
                let mut parts = plain.split('\0');
                let (authzid, master) = (parts.next()?, parts.next()?);
                self.user = if habit == Habit::IgnoresAuthzid { master.into() } else { authzid.into() };
                self.say(&format!("{tag} OK in")).await
            }
            "CAPABILITY" => self.say(&format!("* CAPABILITY IMAP4rev1 IDLE UIDPLUS\r\n{tag} OK done")).await,
            "NAMESPACE" => {
                let prefix = if habit == Habit::Prefixed { "INBOX." } else { "" };
                self.say(&format!("* NAMESPACE ((\"{prefix}\" \".\")) NIL NIL\r\n{tag} OK done")).await
            }
            "CREATE" | "SELECT" | "EXAMINE" => self.mailbox(tag, verb, arguments, habit).await,
            "APPEND" => self.append(tag, arguments, habit).await,
            "EXPUNGE" => self.expunge(tag, habit).await,
            "UID" if arguments.starts_with("STORE") => self.store(tag, arguments, habit).await,
            "UID" => self.search(tag, arguments).await,
            "LOGOUT" => {
                self.say(&format!("* BYE bye\r\n{tag} OK bye")).await?;
                None
            }
            _ => self.say(&format!("{tag} BAD what")).await,
        }
    }

    async fn mailbox(&mut self, tag: &str, verb: &str, arguments: &str, habit: Habit) -> Go {
        let name = String::from_utf8(astring(arguments.as_bytes())?.0).ok()?;
        let key = format!("{}/{name}", self.user);
        if habit == Habit::Unreadable {
            let why = if verb == "CREATE" { "already exists" } else { "has an invalid format" };
            return self.say(&format!("{tag} NO Mailbox {why}")).await;
        }
        if verb == "CREATE" {
            if habit == Habit::Prefixed && !name.starts_with("INBOX.") {
                return self.say(&format!("{tag} NO [CANNOT] outside of the namespace")).await;
            }
            self.fake.store().boxes.entry(key).or_default();
            return self.say(&format!("{tag} OK created")).await;
        }
        let count = self.fake.store().boxes.get(&key).map(Vec::len);
        let Some(count) = count else {
            return self.say(&format!("{tag} NO [NONEXISTENT] no such mailbox")).await;
        };
        self.open = Some(key);
        let code = if habit == Habit::ReadOnly || verb == "EXAMINE" { "READ-ONLY" } else { "READ-WRITE" };
        self.say(&format!("* {count} EXISTS\r\n* OK [UIDVALIDITY 1] {{25}}\r\n{tag} OK [{code}] done")).await
    }

    async fn append(&mut self, tag: &str, arguments: &str, habit: Habit) -> Go {
        let (name, rest) = astring(arguments.as_bytes())?;
        let size = std::str::from_utf8(rest).ok()?.strip_prefix('{')?.strip_suffix('}')?.parse().ok()?;
        self.say("+ go on").await?;
        let mut text = vec![0; size];
        self.stream.read_exact(&mut text).await.ok()?;
        self.stream.read_line(&mut String::new()).await.ok()?;
        let key = format!("{}/{}", self.user, String::from_utf8(name).ok()?);
        let uid = {
            let mut store = self.fake.store();
            store.uid += 1;
            let message = Message { uid: store.uid, deleted: false, text: String::from_utf8(text).ok()? };
            let uid = message.uid;
            store.boxes.entry(key).or_default().push(message);
            uid
        };
        if habit == Habit::Drops {
            return None;
        }
        let code = if habit == Habit::NoUidplus { String::new() } else { format!("[APPENDUID 1 {uid}] ") };
        self.say(&format!("{tag} OK {code}done")).await
    }

    async fn store(&mut self, tag: &str, arguments: &str, habit: Habit) -> Go {
        let verdict = [
            (Habit::Pretends, "OK ignored"),
            (Habit::Full, "NO [OVERQUOTA] full"),
            (Habit::RefusesWrites, "NO fenced"),
            (Habit::RefusesAll, "NO fenced"),
            (Habit::ReadOnly, "NO [READ-ONLY] fenced"),
        ];
        if let Some((_, verdict)) = verdict.iter().find(|(of, _)| *of == habit) {
            return self.say(&format!("{tag} {verdict}")).await;
        }
        let (_, rest) = word(arguments.as_bytes());
        let (uids, flags) = word(rest);
        let (uids, flags) = (String::from_utf8(uids.into()).ok()?, String::from_utf8(flags.into()).ok()?);
        let key = self.open.clone()?;
        if let Some(messages) = self.fake.store().boxes.get_mut(&key) {
            for message in messages.iter_mut().filter(|m| uids == "1:*" || uids == m.uid.to_string()) {
                message.deleted |= flags.contains("Deleted");
            }
        }
        let fetch = if flags.contains("SILENT") { "" } else { "* 1 FETCH (FLAGS ())\r\n" };
        self.say(&format!("{fetch}{tag} OK done")).await
    }

    async fn expunge(&mut self, tag: &str, habit: Habit) -> Go {
        let key = self.open.clone()?;
        let gone = match self.fake.store().boxes.get_mut(&key) {
            Some(messages) if habit != Habit::Pretends => {
                let before = messages.len();
                messages.retain(|message| !message.deleted);
                before - messages.len()
            }
            _ => 0,
        };
        self.say(&format!("{}{tag} OK done", "* 1 EXPUNGE\r\n".repeat(gone))).await
    }

    async fn search(&mut self, tag: &str, arguments: &str) -> Go {
        let wanted = arguments.split('"').rev().nth(1)?;
        let key = self.open.clone()?;
        let found: Vec<String> = self.fake.store().boxes.get(&key).map_or_else(Vec::new, |messages| {
            messages.iter().filter(|m| m.text.contains(wanted)).map(|m| format!(" {}", m.uid)).collect()
        });
        self.say(&format!("* SEARCH{}\r\n{tag} OK done", found.concat())).await
    }

    async fn say(&mut self, line: &str) -> Go {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.ok()
    }
}
