//! Programs that send mail, each stopped in the middle of its dialogue while everything moves to the new version.
//!
//! Rule: a program knows nothing of the test; what it sent is looked up in the mailboxes, and whose it was in the
//! servers' logs.

use std::net::{Ipv4Addr, SocketAddr};

use bascule_tests::{
    ledger::Fate,
    smtp::{Client, Dialect},
    tools::{Ran, curl, msmtp, smtp_source, smtplib, swaks},
};
use tokio::task::JoinHandle;

use super::{
    brake::{Brake, Stop},
    smtp_rig::{FROM, Post, Sender, went_well},
};

const ALICE: &str = "alice@example.org";
const BOB: &str = "bob@example.org";
const LOGIN: [&str; 2] = ["alice", "pass"];
/// Large enough that a program is stopped in the middle of it.
const LARGE: usize = 400_000;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Swaks,
    Smtplib,
    Msmtp,
    Curl,
}

/// How it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Starttls,
    Implicit,
    Lmtp,
}

impl Program {
    async fn send(self, door: SocketAddr, way: Way, to: &[&str], message: &[u8]) -> Ran {
        let login = matches!(way, Way::Starttls | Way::Implicit).then_some(LOGIN);
        let from = if login.is_some() { ALICE } else { FROM };
        match self {
            Self::Swaks => swaks(door, from, &to.join(","), message, &swaks_options(way)).await,
            Self::Smtplib => smtplib(door, smtplib_mode(way), from, to, message, login).await,
            Self::Msmtp => msmtp(door, from, to, message, login, msmtp_options(way)).await,
            Self::Curl => {
                let scheme = if way == Way::Implicit { "smtps" } else { "smtp" };
                let user = login.map(|login| login.join(":")).unwrap_or_default();
                let mut more = vec!["--insecure"];
                if way == Way::Starttls {
                    more.push("--ssl-reqd");
                }
                if login.is_some() {
                    more.extend(["--user", &user]);
                }
                curl(&format!("{scheme}://{door}/curl.test"), from, to, message, &more).await
            }
        }
        .unwrap()
    }
}

fn swaks_options(way: Way) -> Vec<&'static str> {
    let login = ["--auth", "PLAIN", "--auth-user", "alice", "--auth-password", "pass"];
    match way {
        Way::Plain => Vec::new(),
        Way::Lmtp => vec!["--protocol", "LMTP"],
        Way::Starttls => [&["-tls"], &login[..]].concat(),
        Way::Implicit => [&["-tlsc"], &login[..]].concat(),
    }
}

fn smtplib_mode(way: Way) -> &'static str {
    match way {
        Way::Plain => "smtp",
        Way::Starttls => "starttls",
        Way::Implicit => "ssl",
        Way::Lmtp => "lmtp",
    }
}

fn msmtp_options(way: Way) -> &'static [&'static str] {
    match way {
        Way::Plain => &[],
        Way::Lmtp => &["--protocol=lmtp"],
        Way::Starttls => &["--tls=on", "--tls-certcheck=off"],
        Way::Implicit => &["--tls=on", "--tls-starttls=off", "--tls-certcheck=off"],
    }
}

/// A program that runs, stopped or about to be.
struct Sending {
    brake: Brake,
    name: String,
    from: Ipv4Addr,
    id: String,
    to: Vec<&'static str>,
    ran: JoinHandle<Ran>,
}

/// Starts a program that will be stopped.
async fn begin(
    post: &Post,
    (program, way, stop): (Program, Way, Stop),
    to: &[&'static str],
    at: usize,
) -> Sending {
    let door = match way {
        Way::Plain => post.proxy.smtp(),
        Way::Starttls => post.proxy.submission(),
        Way::Implicit => post.proxy.submissions(),
        Way::Lmtp => post.proxy.lmtp(),
    };
    let from = Ipv4Addr::new(127, 200, 0, 1 + u8::try_from(at).unwrap());
    let brake = Brake::new(door, from, stop).await;
    let (id, message) = post.ledger.mail(if matches!(stop, Stop::Before(_)) { 3000 } else { LARGE }, to);
    let (door, to) = (brake.door, to.to_vec());
    let name = format!("{program:?} {way:?} {stop:?}");
    let recipients = to.clone();
    let ran = tokio::spawn(async move { program.send(door, way, &recipients, &message).await });
    Sending { brake, name, from, id, to, ran }
}

/// Each program is stopped where it is to be, everything moves, and each goes on to its end.
async fn through(post: &Post, programs: &[(Program, Way, Stop)], to: &[&'static str]) -> Vec<Ipv4Addr> {
    let mut sending = Vec::new();
    for (at, program) in programs.iter().enumerate() {
        sending.push(begin(post, *program, to, at).await);
    }
    for one in &mut sending {
        tokio::select! {
            () = one.brake.reached() => {}
            ran = &mut one.ran => panic!("{} ended before it was stopped: {ran:?}", one.name),
        }
    }
    post.moved().await;
    sending.iter().for_each(|one| one.brake.release());
    let mut addresses = Vec::new();
    for one in sending {
        let ran = one.ran.await.unwrap();
        assert_eq!(ran.code, 0, "{}: {}\n{}", one.name, ran.output, post.proxy.log());
        for to in one.to {
            post.ledger.settle_for(&one.id, to, Fate::Acknowledged);
        }
        addresses.push(one.from);
    }
    addresses
}

#[tokio::test]
async fn servers_send_to_port_25_and_hear_nothing_of_a_cutover() {
    let post = Post::new(Sender::Postfix).await;
    let programs = [
        (Program::Swaks, Way::Plain, Stop::Before("MAIL")),
        (Program::Smtplib, Way::Plain, Stop::Before("RCPT")),
        (Program::Msmtp, Way::Plain, Stop::Before("DATA")),
        (Program::Curl, Way::Plain, Stop::After(LARGE / 2)),
        (Program::Smtplib, Way::Plain, Stop::After(LARGE / 2)),
        (Program::Swaks, Way::Plain, Stop::Before(".\r\n")),
    ];
    let clients = through(&post, &programs, &[ALICE, BOB]).await;
    post.holds(&post.pair.new, &["alice", "bob"], 2 * programs.len()).await;
    seen(&post.postfixes[1].log(), &clients, "client=unknown");
}

#[tokio::test]
async fn users_send_through_postfix_and_hear_nothing_of_a_cutover() {
    users_send(Sender::Postfix).await;
}

#[tokio::test]
async fn users_send_through_dovecot_and_hear_nothing_of_a_cutover() {
    users_send(Sender::Dovecot).await;
}

async fn users_send(sender: Sender) {
    let post = Post::new(sender).await;
    let middle = Stop::After(LARGE / 2);
    let programs = [
        (Program::Swaks, Way::Starttls, middle),
        (Program::Swaks, Way::Implicit, middle),
        (Program::Smtplib, Way::Starttls, middle),
        (Program::Smtplib, Way::Implicit, middle),
        (Program::Msmtp, Way::Starttls, middle),
        (Program::Msmtp, Way::Implicit, middle),
        (Program::Curl, Way::Starttls, middle),
        (Program::Curl, Way::Implicit, middle),
    ];
    let clients = through(&post, &programs, &[BOB]).await;
    post.holds(&post.pair.new, &["bob"], programs.len()).await;
    match sender {
        Sender::Postfix => seen(&post.postfixes[1].log(), &clients, "client=unknown"),
        Sender::Dovecot => seen(&post.pair.new.log(), &clients, "rip="),
    }
}

#[tokio::test]
async fn deliveries_hear_nothing_of_a_cutover() {
    let post = Post::new(Sender::Postfix).await;
    let programs = [
        (Program::Swaks, Way::Lmtp, Stop::Before("RCPT")),
        (Program::Smtplib, Way::Lmtp, Stop::Before("DATA")),
        (Program::Smtplib, Way::Lmtp, Stop::After(LARGE / 2)),
        (Program::Msmtp, Way::Lmtp, Stop::After(LARGE / 2)),
        (Program::Msmtp, Way::Lmtp, Stop::Before(".\r\n")),
    ];
    let clients = through(&post, &programs, &[ALICE, BOB]).await;
    post.holds(&post.pair.new, &["alice", "bob"], 2 * programs.len()).await;
    seen(&post.pair.new.log(), &clients, "");
}

#[tokio::test]
async fn crowds_send_while_everything_moves() {
    let post = Post::new(Sender::Postfix).await;
    let (relay, lmtp) = (post.proxy.smtp(), post.proxy.lmtp());
    let options = ["-f", FROM, "-t", ALICE, "-l", "20000"];
    let deliveries = [&["-L"], &options[..]].concat();
    let crowds = async {
        let (relayed, delivered) =
            tokio::join!(smtp_source(relay, 60, 6, &options), smtp_source(lmtp, 60, 6, &deliveries));
        for ran in [relayed.unwrap(), delivered.unwrap()] {
            assert_eq!(ran.code, 0, "{}", ran.output);
        }
    };
    let (ran, ()) = tokio::join!(post.proxy.cutover("new"), crowds);
    went_well(&ran.unwrap());
    post.delivered().await;
    assert_eq!(post.bodies(&post.pair.new, "alice").await.len(), 120);
}

#[tokio::test]
async fn what_2_4_and_postfix_are_declared_to_be_capable_of_is_so() {
    let post = Post::new(Sender::Dovecot).await;
    post.moved().await;
    let doors = [
        (post.postfixes[1].relay(), Dialect::Smtp, &bascule_tests::postfix::Postfix::KEYWORDS[..]),
        (post.pair.new.submission(), Dialect::Smtp, &bascule_tests::dovecot::Pair::SUBMISSION_24),
        (post.pair.new.lmtp(), Dialect::Lmtp, &bascule_tests::dovecot::Pair::LMTP_24),
    ];
    for (door, dialect, declared) in doors {
        let plain = bascule_tests::client::Security::Plain;
        let client = Client::ready(door, plain, dialect).await.unwrap();
        for line in declared {
            let word = line.split(' ').next().unwrap();
            assert!(client.oracle().shows(word), "{word}: {client:?}");
        }
    }
}

/// The log has each of these addresses, with this before it on the line.
fn seen(log: &str, clients: &[Ipv4Addr], before: &str) {
    for client in clients {
        let client = client.to_string();
        assert!(
            log.lines().any(|line| line.contains(before) && line.contains(&client)),
            "{before} {client} in\n{log}"
        );
    }
}
