//! What the other tests take for granted about the servers and their fences.
//!
//! Rule: no proxy here; the positive controls of the fences that do not hold are as important as the one that does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use bascule_tests::dovecot::{Action, Format, Options, Pair};

#[tokio::test]
async fn rig_serves_the_same_store() {
    for format in [Format::Mdbox, Format::Maildir] {
        let pair = Pair::shared(Options { format, ..Options::default() }).await.unwrap();
        let mut uidvalidity = None;
        // There and back twice: what either wrote, both number alike.
        for (turn, server) in [&pair.old, &pair.new, &pair.old, &pair.new].into_iter().enumerate() {
            server.act(Action::Start).await.unwrap();
            let mut session = Session::login(server.imap(), "alice");
            let select = session.command("SELECT INBOX");
            let found = code(&select, "UIDVALIDITY");
            assert_eq!(*uidvalidity.get_or_insert(found), found, "{format:?}, turn {turn}");
            assert_eq!(code(&select, "UIDNEXT"), turn as u32 + 1);
            assert!(session.append("INBOX").contains(" OK [APPENDUID"));
            let uids: String = (1..=turn + 1).map(|uid| format!(" {uid}")).collect();
            assert!(session.command("UID SEARCH ALL").contains(&format!("* SEARCH{uids}\r\n")));
            server.act(Action::Stop).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stopped_server_is_gone() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    pair.new.act(Action::Start).await.unwrap();
    for server in [&pair.old, &pair.new] {
        // A session in IDLE would live on for ten seconds.
        let mut session = Session::login(server.imap(), server.name());
        session.command("SELECT INBOX");
        session.send("i IDLE\r\n");
        session.until("+ ");
        server.act(Action::Stop).await.unwrap();
        assert!(TcpStream::connect(server.imap()).is_err());
        assert!(!session.rest().contains(" OK"));
        server.act(Action::Start).await.unwrap();
        Session::login(server.imap(), server.name());
    }
}

#[tokio::test]
async fn stop_early_leaves_a_session_that_writes() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    pair.new.act(Action::Start).await.unwrap();
    for server in [&pair.old, &pair.new] {
        let mut session = Session::login(server.imap(), server.name());
        session.command("SELECT INBOX");
        server.act(Action::StopEarly).await.unwrap();
        assert!(TcpStream::connect(server.imap()).is_err(), "it looks fenced");
        assert!(session.append("INBOX").contains(" OK [APPENDUID"), "and is not");
        server.act(Action::Start).await.unwrap();
        assert!(!session.rest().contains(" OK"));
        Session::login(server.imap(), server.name());
    }
}

#[tokio::test]
async fn refused_logins_leave_a_session_that_writes() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    pair.new.act(Action::Start).await.unwrap();
    for server in [&pair.old, &pair.new] {
        let mut session = Session::login(server.imap(), server.name());
        server.act(Action::Refuse).await.unwrap();
        let mut late = Session::connect(server.imap());
        let answer = late.command("LOGIN late pass");
        assert!(answer.contains(" NO ") && answer.contains("maintenance"), "{answer}");
        assert!(session.append("INBOX").contains(" OK [APPENDUID"), "{}", server.name());
        server.act(Action::Start).await.unwrap();
        assert!(session.append("INBOX").contains(" OK [APPENDUID"), "released without a restart");
        Session::login(server.imap(), server.name());
    }
}

#[tokio::test]
async fn what_2_4_is_declared_to_be_capable_of_is_so() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    pair.new.act(Action::Start).await.unwrap();
    let mut session = Session::login(pair.new.imap(), "alice");
    let answer = session.command("CAPABILITY");
    let [_, declared] = &pair.setup(Action::Stop).pools[..] else { panic!("two pools") };
    assert!(answer.contains(&format!("* CAPABILITY {}\r\n", declared.capabilities.join(" "))), "{answer}");
}

#[tokio::test]
async fn a_rig_leaves_nothing_behind() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    let (server, mail) = (pair.old.imap(), pair.mail("alice"));
    let mut session = Session::login(server, "alice");
    session.command("SELECT INBOX");
    assert!(mail.exists());
    drop(pair);
    assert!(!mail.exists());
    assert!(TcpStream::connect(server).is_err());
    assert_eq!(session.rest(), "");
}

/// As little of a client as these tests need.
struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    fn connect(server: SocketAddr) -> Self {
        let mut session = Self { stream: BufReader::new(TcpStream::connect(server).unwrap()) };
        session.until("* OK ");
        session
    }

    fn login(server: SocketAddr, user: &str) -> Self {
        let mut session = Self::connect(server);
        let answer = session.command(&format!("LOGIN {user} pass"));
        assert!(answer.contains("t OK "), "{answer}");
        session
    }

    fn command(&mut self, command: &str) -> String {
        self.send(&format!("t {command}\r\n"));
        self.until("t ")
    }

    fn append(&mut self, mailbox: &str) -> String {
        self.command(&format!("APPEND {mailbox} {{14+}}\r\nSubject: x\r\n\r\n"))
    }

    fn send(&mut self, bytes: &str) {
        self.stream.get_mut().write_all(bytes.as_bytes()).unwrap();
    }

    /// Lines up to the one that begins so.
    fn until(&mut self, start: &str) -> String {
        let mut all = String::new();
        loop {
            let begin = all.len();
            assert!(self.stream.read_line(&mut all).unwrap() > 0, "the server closed after {all:?}");
            if all[begin..].starts_with(start) {
                return all;
            }
        }
    }

    /// All that comes before the connection ends.
    fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = self.stream.read_to_end(&mut all); // a reset ends it as well
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// The number in a response code.
fn code(response: &str, name: &str) -> u32 {
    let (_, rest) = response.split_once(&format!("[{name} ")).unwrap();
    rest.split_once(']').unwrap().0.parse().unwrap()
}
