//! What the other tests take for granted about the servers and their fences.
//!
//! Rule: no proxy here; the positive controls of the fences that do not hold are as important as the one that does.

use bascule_tests::{
    client::{Client, Reply, Security},
    dovecot::{Action, Format, Options, Pair},
};

const MESSAGE: &[u8] = b"Subject: rig\r\n\r\nrig\r\n";

#[tokio::test]
async fn rig_serves_the_same_store() {
    for format in [Format::Mdbox, Format::Maildir] {
        let pair = Pair::shared(Options { format, ..Options::default() }).await.unwrap();
        let mut uidvalidity = None;
        // There and back twice: what either wrote, both number alike.
        for (turn, server) in [&pair.old, &pair.new, &pair.old, &pair.new].into_iter().enumerate() {
            server.act(Action::Start).await.unwrap();
            let mut session = server.session("alice").await.unwrap();
            let select = session.select("INBOX").await.unwrap();
            let found = code(&select, "UIDVALIDITY");
            assert_eq!(*uidvalidity.get_or_insert(found), found, "{format:?}, turn {turn}");
            assert_eq!(code(&select, "UIDNEXT"), turn as u32 + 1);
            session.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
            let uids: Vec<u32> = (1..=turn as u32 + 1).collect();
            assert_eq!(session.uids().await.unwrap(), uids);
            server.act(Action::Stop).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stopped_server_is_gone() {
    let pair = both().await;
    for server in [&pair.old, &pair.new] {
        // A session in IDLE would live on for ten seconds.
        let mut session = server.session("alice").await.unwrap();
        session.select("INBOX").await.unwrap();
        assert!(session.idle().await.unwrap().is_none());
        server.act(Action::Stop).await.unwrap();
        assert!(Client::connect(server.imap(), Security::Plain).await.is_err());
        assert!(session.done().await.is_err());
        server.act(Action::Start).await.unwrap();
        server.session("alice").await.unwrap();
    }
}

#[tokio::test]
async fn stop_early_leaves_a_session_that_writes() {
    let pair = both().await;
    for server in [&pair.old, &pair.new] {
        let mut session = server.session("alice").await.unwrap();
        server.act(Action::StopEarly).await.unwrap();
        assert!(Client::connect(server.imap(), Security::Plain).await.is_err(), "it looks fenced");
        session.append("INBOX", MESSAGE).await.unwrap().ok().expect("and is not");
        server.act(Action::Start).await.unwrap();
        assert!(session.command("NOOP").await.is_err());
        server.session("alice").await.unwrap();
    }
}

#[tokio::test]
async fn refused_logins_leave_a_session_that_writes() {
    let pair = both().await;
    for server in [&pair.old, &pair.new] {
        let mut session = server.session("alice").await.unwrap();
        server.act(Action::Refuse).await.unwrap();
        let refused = server.session("alice").await.unwrap_err();
        assert!(refused.to_string().contains("maintenance"), "{refused}");
        session.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
        server.act(Action::Start).await.unwrap();
        session.append("INBOX", MESSAGE).await.unwrap().ok().expect("no restart released it");
        server.session("alice").await.unwrap();
    }
}

#[tokio::test]
async fn what_2_4_is_declared_to_be_capable_of_is_so() {
    let pair = both().await;
    let answer = pair.new.session("alice").await.unwrap().command("CAPABILITY").await.unwrap();
    let setup = pair.setup(Action::Stop);
    let declared = setup.pools[1].capabilities.join(" ");
    assert_eq!(answer.texts(), [format!("* CAPABILITY {declared}")]);
}

#[tokio::test]
async fn a_rig_leaves_nothing_behind() {
    let pair = both().await;
    let (server, mail) = (pair.old.imap(), pair.mail("alice"));
    let mut session = pair.old.session("alice").await.unwrap();
    session.select("INBOX").await.unwrap();
    assert!(mail.exists());
    drop(pair);
    assert!(!mail.exists());
    assert!(Client::connect(server, Security::Plain).await.is_err());
    assert!(session.command("NOOP").await.is_err());
}

/// A rig whose servers both run; fit only where they share no user at the same time.
async fn both() -> Pair {
    let pair = Pair::shared(Options::default()).await.unwrap();
    pair.new.act(Action::Start).await.unwrap();
    pair
}

/// The number in a response code.
fn code(select: &Reply, name: &str) -> u32 {
    let texts = select.texts();
    let code = texts.iter().find_map(|line| line.split_once(&format!("[{name} "))).unwrap();
    code.1.split_once(']').unwrap().0.parse().unwrap()
}
