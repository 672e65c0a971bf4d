//! The fake, seen by its own client: what it promises, and that its faults are caught.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::ServerName;

use super::{Fence, Options, Platform, Reaction, Replication, Stall, Store, Tls, control};
use crate::{
    client::{self, Client, Error, Security, Status},
    ledger::{Fate, Ledger},
};

const MESSAGE: &[u8] = b"From: a@example.org\r\nSubject: hello\r\n\r\ntext\r\n";

fn store() -> Arc<Store> {
    let store = Store::new("secret");
    store.add_user("anna");
    for _ in 0..3 {
        store.deliver("anna", "INBOX", MESSAGE);
    }
    store
}

async fn platform(store: &Arc<Store>) -> Platform {
    Platform::start(store.clone(), Options { transcripts: true, ..Options::default() }).await.unwrap()
}

async fn login(platform: &Platform) -> Client {
    let mut client = Client::connect(platform.address(), Security::Plain).await.unwrap();
    client.login("anna", "secret").await.unwrap().ok().unwrap();
    client
}

async fn selected(platform: &Platform) -> Client {
    let mut client = login(platform).await;
    client.select("INBOX").await.unwrap().ok().unwrap();
    client
}

async fn ok(client: &mut Client, line: &str) -> Vec<String> {
    client.command(line).await.unwrap().ok().unwrap().texts()
}

#[tokio::test]
async fn a_session_reads_and_writes() {
    let store = store();
    let platform = platform(&store).await;
    let mut c = selected(&platform).await;
    assert_eq!(c.oracle().selected().unwrap().uids.len(), 3);
    assert_eq!(
        ok(&mut c, "FETCH 2 (UID FLAGS RFC822.SIZE)").await,
        ["* 2 FETCH (UID 2 FLAGS (\\Recent) RFC822.SIZE 45)"]
    );
    assert_eq!(
        ok(&mut c, "UID STORE 2 +FLAGS (\\flagged kw)").await,
        ["* 2 FETCH (UID 2 FLAGS (\\Flagged kw \\Recent))"]
    );
    assert_eq!(ok(&mut c, "SEARCH FLAGGED").await, ["* SEARCH 2"]);
    assert_eq!(
        ok(&mut c, "UID SEARCH RETURN (ALL COUNT) 1:*").await,
        ["* ESEARCH (TAG \"t6\") UID ALL 1:3 COUNT 3"]
    );
    assert_eq!(ok(&mut c, "FETCH 1 BODY.PEEK[TEXT]<1.3>").await, ["* 1 FETCH (BODY[TEXT]<1> {3}\r\next)"]);
    let fields = ok(&mut c, "FETCH 1 BODY.PEEK[HEADER.FIELDS (subject)]").await;
    assert_eq!(fields, ["* 1 FETCH (BODY[HEADER.FIELDS (subject)] {18}\r\nSubject: hello\r\n\r\n)"]);
    assert_eq!(ok(&mut c, "SEARCH UNSEEN HEADER subject HELL NOT 2").await, ["* SEARCH 1 3"]);
    let appended = c.append("INBOX", b"Subject: new\r\n\r\nx").await.unwrap().ok().unwrap();
    assert_eq!(appended.text, "[APPENDUID 1700000000 4] appended");
    assert_eq!(appended.texts(), ["* 4 EXISTS", "* 4 RECENT"]);
    assert_eq!(c.fetch_body(4).await.unwrap().unwrap(), b"Subject: new\r\n\r\nx");
    ok(&mut c, "CREATE box").await;
    assert_eq!(c.command("UID COPY 1:2 box").await.unwrap().text, "[COPYUID 1700000001 1:2 1:2] copied");
    let moved = ok(&mut c, "UID MOVE 1 box").await;
    assert_eq!(moved, ["* OK [COPYUID 1700000001 1 3] moved", "* 1 EXPUNGE"]);
    ok(&mut c, "STORE 1 +FLAGS.SILENT (\\Deleted)").await;
    assert_eq!(ok(&mut c, "EXPUNGE").await, ["* 1 EXPUNGE"]);
    assert_eq!(
        ok(&mut c, "STATUS box (MESSAGES UIDNEXT)").await,
        ["* STATUS \"box\" (MESSAGES 3 UIDNEXT 4)"]
    );
    assert_eq!(ok(&mut c, "LIST \"\" %").await.len(), 2);
    assert_eq!(c.uids().await.unwrap(), [3, 4]);
    c.logout().await.unwrap();
    assert_eq!(store.messages("anna", "box").len(), 3);
    platform.connections(0).await;
}

#[tokio::test]
async fn several_messages_in_one_append() {
    let store = store();
    let platform = platform(&store).await;
    let mut c = login(&platform).await;
    c.write(b"").await.unwrap();
    let tag = c.begin("APPEND INBOX (\\Seen) \"17-Jul-1996 02:44:25 +0000\" {3}").await.unwrap();
    assert!(c.go_ahead(&tag).await.unwrap().is_none());
    c.write(b"one {3+}\r\n").await.unwrap();
    c.complete(&tag, b"two").await.unwrap();
    let reply = c.finish(&tag).await.unwrap().ok().unwrap();
    assert_eq!(reply.text, "[APPENDUID 1700000000 4:5] appended");
    let messages = store.messages("anna", "INBOX");
    assert_eq!((messages[3].date, messages[3].flags.len(), messages[4].flags.len()), (837_571_465, 1, 0));
}

#[tokio::test]
async fn idle_tells_what_happens() {
    let store = store();
    let platform = platform(&store).await;
    let mut c = selected(&platform).await;
    assert!(c.idle().await.unwrap().is_none());
    store.deliver("anna", "INBOX", MESSAGE);
    assert_eq!(c.notice().await.unwrap().text(), "* 4 EXISTS");
    assert_eq!(c.notice().await.unwrap().text(), "* 4 RECENT");
    store.expunge("anna", "INBOX", 2);
    assert_eq!(c.notice().await.unwrap().text(), "* 2 EXPUNGE");
    store.flag("anna", "INBOX", 3, "\\Answered");
    assert_eq!(c.notice().await.unwrap().text(), "* 2 FETCH (FLAGS (\\Answered \\Recent))");
    c.done().await.unwrap().ok().unwrap();
    assert_eq!(ok(&mut c, "UID FETCH 3 (UID)").await, ["* 2 FETCH (UID 3)"]);
}

#[tokio::test]
async fn what_is_gone_keeps_its_number_until_it_may_be_told() {
    let store = store();
    let platform = platform(&store).await;
    let mut c = selected(&platform).await;
    store.expunge("anna", "INBOX", 2);
    assert_eq!(ok(&mut c, "FETCH 3 (UID)").await, ["* 3 FETCH (UID 3)"]);
    assert_eq!(
        ok(&mut c, "UID SEARCH RETURN (ALL COUNT) 1:*").await,
        ["* ESEARCH (TAG \"t4\") UID ALL 1:3 COUNT 3"]
    );
    assert!(c.command("FETCH 2 (UID)").await.unwrap().text.starts_with("[EXPUNGEISSUED]"));
    assert_eq!(ok(&mut c, "NOOP").await, ["* 2 EXPUNGE"]);
}

#[tokio::test]
async fn an_illegal_expunge_is_caught() {
    let store = store();
    let platform = platform(&store).await;
    let mut c = selected(&platform).await;
    store.expunge("anna", "INBOX", 2);
    platform.react("FETCH", Reaction { illegal_expunge: true, ..Reaction::default() });
    let caught = c.command("FETCH 3 (UID)").await;
    assert!(matches!(caught, Err(Error::Violation(_))), "{caught:?}");
}

#[tokio::test]
async fn faults_come_when_asked_for() {
    let platform = platform(&store()).await;
    let once = |reaction: Reaction| Reaction { times: Some(1), ..reaction };
    let raw = |text: &str| once(Reaction { raw: Some(text.into()), ..Reaction::default() });

    let mut c = login(&platform).await;
    platform.react("NOOP", raw("* OK see {25}\r\n"));
    assert_eq!(ok(&mut c, "NOOP").await, ["* OK see {25}"]);
    ok(&mut c, "NOOP").await;
    platform.react("NOOP", raw("zz9 OK who?\r\n"));
    assert!(matches!(c.command("NOOP").await, Err(Error::Violation(_))));

    let mut c = Client::connect(platform.address(), Security::Plain).await.unwrap();
    let no = Some("NO [AUTHENTICATIONFAILED] no".into());
    platform.react("AUTHENTICATE", once(Reaction { refuse: no, ..Reaction::default() }));
    assert_eq!(c.authenticate("", "anna", "secret", false).await.unwrap().status, Status::No);
    assert_eq!(c.authenticate("", "anna", "secret", true).await.unwrap().status, Status::Ok);

    platform.react("NOOP", once(Reaction { cut: Some(4), ..Reaction::default() }));
    c.keep_transcript();
    assert!(matches!(c.command("NOOP").await, Err(Error::Closed(None))));
    assert_eq!(c.transcript(), b"t3 O");

    let mut c = login(&platform).await;
    platform.say("* BYE [ALERT] going down", true);
    assert!(matches!(c.notice().await, Err(Error::Violation(_))));
}

#[tokio::test]
async fn a_stall_holds_a_command_until_it_is_released() {
    let store = store();
    let platform = platform(&store).await;
    let mut c = login(&platform).await;
    let stall = Stall::default();
    platform.react("APPEND", Reaction { stall: Some(stall.clone()), ..Reaction::default() });
    let tag = c.start_append("INBOX", MESSAGE).await.unwrap();
    stall.reached(1).await;
    assert_eq!(store.messages("anna", "INBOX").len(), 3);
    stall.release();
    c.finish(&tag).await.unwrap().ok().unwrap();
    assert_eq!(store.messages("anna", "INBOX").len(), 4);
}

#[tokio::test]
async fn a_fence_refuses_and_a_leaky_one_does_not() {
    let platform = platform(&store()).await;
    let mut c = login(&platform).await;
    platform.fence(Fence::ReadOnly).await.unwrap();
    assert!(c.append("INBOX", MESSAGE).await.unwrap().text.starts_with("[UNAVAILABLE]"));
    let mut other = login(&platform).await;
    other.select("INBOX").await.unwrap().ok().unwrap();
    assert!(other.command("STORE 1 +FLAGS (x)").await.unwrap().text.starts_with("[UNAVAILABLE]"));

    platform.fence(Fence::Refuse).await.unwrap();
    let mut refused = Client::connect(platform.address(), Security::Plain).await.unwrap();
    assert!(refused.login("anna", "secret").await.unwrap().text.starts_with("[UNAVAILABLE]"));
    platform.leak(true);
    c.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
    platform.leak(false);

    platform.fence(Fence::Stop).await.unwrap();
    assert!(matches!(c.command("NOOP").await, Err(Error::Closed(None))));
    assert!(Client::connect(platform.address(), Security::Plain).await.is_err());
    assert_eq!(platform.counters().connections, 0);
    platform.fence(Fence::Off).await.unwrap();
    login(&platform).await.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn a_standby_writes_when_promoted() {
    let options = Options { standby: true, standby_refuses_logins: true, ..Options::default() };
    let platform = Platform::start(store(), options).await.unwrap();
    let mut c = Client::connect(platform.address(), Security::Plain).await.unwrap();
    assert!(c.login("anna", "secret").await.unwrap().text.starts_with("[UNAVAILABLE]"));
    platform.promote();
    c.login("anna", "secret").await.unwrap().ok().unwrap();
    c.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn a_master_is_whom_it_asks_to_be_unless_that_is_ignored() {
    let store = store();
    store.add_user("master");
    let options = Options { master: Some("master".into()), ..Options::default() };
    let platform = Platform::start(store, options).await.unwrap();
    let exists = async |platform: &Platform| {
        let mut c = Client::connect(platform.address(), Security::Plain).await.unwrap();
        c.authenticate("anna", "master", "secret", true).await.unwrap().ok().unwrap();
        c.select("INBOX").await.unwrap().ok().unwrap();
        c.oracle().selected().unwrap().uids.len()
    };
    assert_eq!(exists(&platform).await, 3);
    platform.reconfigure(|o| o.ignores_authzid = true);
    assert_eq!(exists(&platform).await, 0);
    let mut c = Client::connect(platform.address(), Security::Plain).await.unwrap();
    assert!(c.authenticate("anna", "somebody", "secret", true).await.unwrap().ok().is_err());
}

#[tokio::test]
async fn replication_is_complete_in_order_and_late() {
    let (a, b) = (store(), store());
    let replication = Replication::start(&a, &b, Duration::ZERO);
    let back = Replication::start(&b, &a, Duration::ZERO);
    let platform = platform(&a).await;
    let mut c = selected(&platform).await;
    for line in
        ["CREATE box", "UID MOVE 2 box", "STORE 1 +FLAGS (\\Seen)", "RENAME box other", "SUBSCRIBE other"]
    {
        ok(&mut c, line).await;
    }
    replication.drained().await;
    assert!(replication.caught_up() && back.caught_up());
    for mailbox in ["INBOX", "other"] {
        let content = |s: &Store| {
            s.messages("anna", mailbox).into_iter().map(|m| (m.uid, m.flags, m.body)).collect::<Vec<_>>()
        };
        assert!(!content(&a).is_empty());
        assert_eq!(content(&a), content(&b));
    }
    replication.pause();
    a.deliver("anna", "INBOX", MESSAGE);
    assert_eq!(replication.behind(), 1);
    replication.resume();
    replication.drained().await;
    assert_eq!(b.messages("anna", "INBOX").len(), 3);
}

#[tokio::test]
async fn what_arrived_is_on_record() {
    let platform = platform(&store()).await;
    let mut c = login(&platform).await;
    ok(&mut c, "NOOP").await;
    c.write(b"x NOOP\n").await.unwrap();
    platform.connections(0).await;
    let counters = platform.counters();
    assert_eq!((counters.accepted, counters.logins["anna"], counters.verbs["NOOP"]), (1, 1, 1));
    assert_eq!(counters.violations.len(), 1, "a bare LF is one");
    let transcript = &platform.transcripts()[0];
    assert_eq!(transcript.user.as_deref(), Some("anna"));
    assert!(transcript.contains(b"t2 NOOP\r\n") && !transcript.contains(b"t3"));
}

#[tokio::test]
async fn a_pair_obeys_and_answers_with_exit_codes() {
    let pair =
        control::Pair::replicated(["old", "new"], [store(), store()], Duration::ZERO, Options::default())
            .await
            .unwrap();
    let code = async |order: &str| pair.obey(order).await.code;
    assert_eq!(code("caught-up old").await, 0);
    assert_eq!(code("pause old").await, 0);
    let mut c = login(pair.platform("old").unwrap()).await;
    let ledger = Ledger::default();
    let (id, message) = ledger.message(50);
    c.append("INBOX", &message).await.unwrap().ok().unwrap();
    ledger.settle(&id, Fate::Acknowledged);
    assert_eq!(code("caught-up old").await, 2);
    let at_new = || pair.platform("new").unwrap().store().bodies();
    assert_eq!(ledger.judge(at_new()).lost, [id.as_str()]);
    assert_eq!(code("resume old").await, 0);
    pair.replication("old").unwrap().drained().await;
    assert!(ledger.judge(at_new()).clean());
    assert_eq!(
        (code("fence old nonsense").await, code("fly old").await, code("promote moon").await),
        (1, 1, 1)
    );
    assert_eq!(code("fence old stop").await, 0);
    assert!(c.command("NOOP").await.is_err());
}

#[tokio::test]
async fn sessions_inside_tls() {
    let authority = bascule_certs::testing::Authority::new();
    let server = authority.issue(&["localhost"]).serving().unwrap();
    let client = client::trusting(&authority.pem()).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    for (tls, security) in [
        (Tls::Implicit(server.clone()), Security::Tls(client.clone(), name.clone())),
        (Tls::Starttls(server.clone()), Security::Starttls(client.clone(), name.clone())),
    ] {
        let options = Options { tls, ..Options::default() };
        let platform = Platform::start(store(), options).await.unwrap();
        let mut c = Client::connect(platform.address(), security).await.unwrap();
        ok(&mut c, "CAPABILITY").await;
        c.login("anna", "secret").await.unwrap().ok().unwrap();
        c.append("INBOX", &[b'x'; 100_000]).await.unwrap().ok().unwrap();
        c.logout().await.unwrap();
    }
}
