//! Every way to log in, every way to reach a backend and to restore a session, and wrong passwords in all of them.
//!
//! Rule: a right password beside each wrong one, so that a refusal means what it says.

use bascule_tests::{
    bascule::{Bascule, Setup},
    client::{Client, Reply, Security, Status, trusting},
    dovecot::{Options, Pair},
};
use tokio::task::JoinSet;

use super::scene::{MESSAGE, Scene, patient};

/// The words of a login.
#[derive(Debug, Clone, Copy)]
enum Words {
    Quoted,
    Literals,
    Plain,
    PlainAtOnce,
}

const WORDS: [Words; 4] = [Words::Quoted, Words::Literals, Words::Plain, Words::PlainAtOnce];

impl Words {
    async fn say(self, client: &mut Client, user: &str, password: &str) -> Reply {
        let said = match self {
            Self::Quoted => client.login(user, password).await,
            Self::Literals => client.login_by_literals(user, password).await,
            Self::Plain => client.authenticate("", user, password, false).await,
            Self::PlainAtOnce => client.authenticate("", user, password, true).await,
        };
        said.unwrap()
    }
}

#[tokio::test]
async fn every_login_moves() {
    let scene = Scene::new().await;
    let mut clients = Vec::new();
    for tls_first in [true, false] {
        for words in WORDS {
            let user = format!("user{}", clients.len());
            let mut client = connect(&scene.proxy, tls_first).await;
            words.say(&mut client, &user, "pass").await.ok().unwrap();
            client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
            client.select("INBOX").await.unwrap().ok().unwrap();
            clients.push((user, client));
        }
    }
    scene.moved().await;
    for (user, client) in &mut clients {
        client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
        let mut direct = scene.pair.new.session(user).await.unwrap();
        direct.select("INBOX").await.unwrap().ok().unwrap();
        assert_eq!(direct.uids().await.unwrap(), [1, 2], "{user}");
    }
    // And all of them on the new server.
    for tls_first in [true, false] {
        for words in WORDS {
            let mut client = connect(&scene.proxy, tls_first).await;
            words.say(&mut client, "user0", "pass").await.ok().unwrap();
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_every_configuration() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    // A refusal takes Dovecot two seconds: all at once.
    let mut attempts = JoinSet::new();
    for leg in ["none", "starttls", "implicit"] {
        for restore in ["client", "master"] {
            let proxy = Bascule::start(&configured(&pair, leg, restore), "old").await.unwrap();
            attempts.spawn(async move {
                for words in WORDS {
                    let mut client = connect(&proxy, true).await;
                    for wrong in ["wrong", "", "master", "passs"] {
                        refused(words.say(&mut client, "alice", wrong).await, (leg, restore, words, wrong));
                    }
                    words.say(&mut client, "alice", "pass").await.ok().unwrap();
                }
            });
        }
    }
    attempts.join_all().await;
}

#[tokio::test]
async fn a_master_restores_and_never_logs_in_first() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    let setup = configured(&pair, "implicit", "master");
    let scene = Scene::start(pair, &setup).await;
    let mut alice = scene.idle("alice", 1).await;
    let mut bob = scene.selected("bob", 1).await;
    let heard = [alice.received(), bob.received()];
    scene.moved().await;
    assert_eq!([alice.received(), bob.received()], heard);
    assert!(scene.pair.new.log().contains("master"), "2.4 saw no master login: {}", scene.pair.new.log());

    // Each is still in a mailbox of its own.
    alice.done().await.unwrap().ok().unwrap();
    alice.append("INBOX", b"Subject: of alice\r\n\r\n").await.unwrap().ok().unwrap();
    bob.append("INBOX", b"Subject: of bob\r\n\r\n").await.unwrap().ok().unwrap();
    for user in ["alice", "bob"] {
        let mut direct = scene.pair.new.session(user).await.unwrap();
        direct.select("INBOX").await.unwrap().ok().unwrap();
        let body = direct.fetch_body(2).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&body).contains(&format!("of {user}")));
    }
    // A session of alice's does not open the door for her next connection.
    for words in [Words::Quoted, Words::PlainAtOnce] {
        let mut next = scene.proxy.connect().await.unwrap();
        refused(words.say(&mut next, "alice", "wrong").await, words);
        refused(words.say(&mut next, "alice", "master").await, words);
        words.say(&mut next, "alice", "pass").await.ok().unwrap();
    }
}

/// Refused as the server refuses, and by a server that is there.
fn refused(reply: Reply, how: impl std::fmt::Debug) {
    assert_eq!(reply.status, Status::No, "{how:?}: {reply:?}");
    assert!(reply.text.starts_with("[AUTHENTICATIONFAILED]"), "{how:?}: {reply:?}");
}

async fn connect(proxy: &Bascule, tls_first: bool) -> Client {
    if tls_first {
        return proxy.connect().await.unwrap();
    }
    let config = trusting(&proxy.authority.pem()).unwrap();
    let security = Security::Starttls(config, Bascule::HOST.try_into().unwrap());
    Client::connect(proxy.imap(), security).await.unwrap()
}

/// How both servers are reached, and how sessions are restored on them.
fn configured(pair: &Pair, leg: &str, restore: &str) -> Setup {
    let mut setup = patient(pair);
    let secret = pair.path("master.password");
    std::fs::write(&secret, "master").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for (pool, server) in setup.pools.iter_mut().zip([&pair.old, &pair.new]) {
        match leg {
            "none" => pool.tls = None,
            "implicit" => pool.server = server.imaps(),
            _ => {}
        }
        if restore == "master" {
            setup.tables += &format!(
                "[pool.{}.imap.restore]\nmode = \"master\"\nuser = \"bascule\"\npassword_file = {secret:?}\n",
                pool.name
            );
        }
    }
    setup
}
