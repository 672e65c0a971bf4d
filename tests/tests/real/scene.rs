//! What most tests here begin with: a rig, a proxy before it, and checks that answer when the test says.
//!
//! Rule: a cutover stops at its barrier and at its promotion until the test lets it go on, so that "during the
//! hold" is an event and not a time.

use std::{future::Future, pin::pin};

use bascule_tests::{
    bascule::{Bascule, Ran, Setup},
    client::Client,
    dovecot::{Action, Dovecot, Options, Pair},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

pub(super) const MESSAGE: &[u8] = b"Subject: bascule\r\n\r\nbody\r\n";

/// Shares of `max_hold` that suffice on a machine that does ten other things.
pub(super) const PATIENT: &str = "max_hold = \"42s\"\ndrain = \"5s\"\nfence = \"10s\"\nbarrier = \"15s\"\ndecide = \"4s\"\n\
                       abort_reserve = \"8s\"\nguard_interval = \"50ms\"\nsoak = \"100ms\"";

/// Dovecot 2.3, Dovecot 2.4, and a proxy that serves from 2.3.
pub(super) struct Scene {
    // Ends before the servers do.
    pub(super) proxy: Bascule,
    pub(super) pair: Pair,
    desk: TcpListener,
}

/// A hook or a check that waits for its answer.
#[must_use]
pub(super) struct Question(TcpStream);

impl Question {
    /// The next one at this desk.
    pub(super) async fn at(desk: &TcpListener) -> Self {
        Self(desk.accept().await.unwrap().0)
    }

    /// Lets it exit with this code.
    pub(super) async fn answer(mut self, code: u8) {
        self.0.write_all(format!("{code}\n").as_bytes()).await.unwrap();
    }
}

impl Scene {
    pub(super) async fn new() -> Self {
        let pair = Pair::shared(Options::default()).await.unwrap();
        let setup = patient(&pair);
        Self::start(pair, &setup).await
    }

    /// With a barrier that asks the test.
    pub(super) async fn with_barrier() -> Self {
        Self::asking(Options::default(), |pair, port| barrier(patient(pair), port, "barrier")).await
    }

    /// With a proxy whose hooks and checks ask at this port.
    pub(super) async fn asking(options: Options, setup: impl FnOnce(&Pair, u16) -> Setup) -> Self {
        let pair = Pair::shared(options).await.unwrap();
        Self::asking_of(pair, setup).await
    }

    /// The same with a rig that was changed.
    pub(super) async fn asking_of(pair: Pair, setup: impl FnOnce(&Pair, u16) -> Setup) -> Self {
        let desk = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let setup = setup(&pair, desk.local_addr().unwrap().port());
        let proxy = Bascule::start(&setup, "old").await.unwrap();
        Self { proxy, pair, desk }
    }

    /// With exactly this setup.
    pub(super) async fn start(pair: Pair, setup: &Setup) -> Self {
        Self::asking_of(pair, |_, _| setup.clone()).await
    }

    /// The next hook or check that asks. When a barrier does, the gate is shut and the old server is gone.
    pub(super) async fn asked(&self) -> Question {
        Question::at(&self.desk).await
    }

    /// The question of the [`guard`] while Armed, the last before the gate shuts; the plans before it have their
    /// answer.
    pub(super) async fn armed(&self) -> Question {
        loop {
            let question = self.asked().await;
            if self.proxy.status().await.unwrap()["state"] == "armed" {
                return question;
            }
            question.answer(0).await;
        }
    }

    /// Runs a cutover, and `inside` meanwhile, which ends before the cutover can.
    pub(super) async fn cutover_while<T>(&self, inside: impl Future<Output = T>) -> (Ran, T) {
        cutover_while(&self.proxy, "new", inside).await
    }

    /// Runs a cutover that succeeds, keeps every session, and stops at its barrier for `inside`.
    pub(super) async fn moved_while<T>(&self, inside: impl Future<Output = T>) -> T {
        let held = async {
            let barrier = self.asked().await;
            let seen = inside.await;
            barrier.answer(0).await;
            seen
        };
        let (ran, seen) = self.cutover_while(held).await;
        all_moved(&ran);
        seen
    }

    /// Runs a cutover that succeeds and keeps every session.
    pub(super) async fn moved(&self) -> Ran {
        let ran = self.proxy.cutover("new").await.unwrap();
        all_moved(&ran);
        ran
    }

    /// Waits until so many commands are held at the gate.
    pub(super) async fn held(&self, commands: u64) {
        self.proxy.until(|status| status["held"] == commands).await.unwrap();
    }

    /// A session with so many messages in its selected INBOX.
    pub(super) async fn selected(&self, user: &str, messages: usize) -> Client {
        let mut client = self.proxy.session(user, "pass").await.unwrap();
        for _ in 0..messages {
            client.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
        }
        client.select("INBOX").await.unwrap().ok().unwrap();
        client
    }

    /// The same in IDLE.
    pub(super) async fn idle(&self, user: &str, messages: usize) -> Client {
        let mut client = self.selected(user, messages).await;
        assert!(client.idle().await.unwrap().is_none());
        client
    }
}

/// Runs a cutover to this pool, and `inside` meanwhile, which ends before the cutover can.
pub(super) async fn cutover_while<T>(proxy: &Bascule, to: &str, inside: impl Future<Output = T>) -> (Ran, T) {
    let mut cutover = pin!(proxy.cutover(to));
    tokio::select! {
        seen = inside => (cutover.await.unwrap(), seen),
        ran = &mut cutover => panic!("ended too early: {:?}\n{}", ran.unwrap(), proxy.log()),
    }
}

/// The report says that all went well and that nobody was lost.
pub(super) fn all_moved(ran: &Ran) {
    let report = &ran.json;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!([&report["kept"], &report["moved"]], [&report["sessions"]; 2], "{ran:?}");
    assert_eq!(report["unmovable"], serde_json::json!({}), "{ran:?}");
}

/// A setup for a machine that is slow today.
pub(super) fn patient(pair: &Pair) -> Setup {
    Setup { cutover: PATIENT.to_owned(), ..pair.setup(Action::Stop) }
}

/// The same with a guard that asks at this port.
pub(super) fn guard(pair: &Pair, port: u16) -> Setup {
    let setup = barrier(patient(pair), port, "guard");
    Setup { cutover: setup.cutover + "\nguard_passes = 1", ..setup }
}

/// Adds a check that asks at this port.
pub(super) fn barrier(mut setup: Setup, port: u16, role: &str) -> Setup {
    let exec = question(port, "");
    setup.tables += &format!(
        "[cutover.check.{role}]\nkind = \"exec\"\nexec = {exec:?}\ntimeout = \"15s\"\n\
         from = \"old\"\nto = \"new\"\nas = [{role:?}]\n"
    );
    setup
}

/// A program that runs these shell commands, asks at this port, and exits as it is told.
pub(super) fn question(port: u16, before: &str) -> Vec<String> {
    let ask = format!("{before}\nexec 3<>/dev/tcp/127.0.0.1/{port} && read -r code <&3 && exit $code");
    ["/bin/bash", "-c", &ask].map(str::to_owned).to_vec()
}

/// Delivers a message as an MTA does.
pub(super) async fn deliver(server: &Dovecot, user: &str) {
    let mut stream = BufReader::new(TcpStream::connect(server.lmtp()).await.unwrap());
    expect(&mut stream, "220").await;
    let message = String::from_utf8_lossy(MESSAGE);
    for (command, reply) in [
        ("LHLO test".to_owned(), "250"),
        ("MAIL FROM:<>".to_owned(), "250"),
        (format!("RCPT TO:<{user}>"), "250"),
        ("DATA".to_owned(), "354"),
        (format!("{message}."), "250"),
        ("QUIT".to_owned(), "221"),
    ] {
        stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        expect(&mut stream, reply).await;
    }
}

/// Reads a reply of one line or more.
async fn expect(stream: &mut BufReader<TcpStream>, code: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with(code), "{line:?} instead of {code}");
        if line.as_bytes().get(3) != Some(&b'-') {
            return;
        }
    }
}
