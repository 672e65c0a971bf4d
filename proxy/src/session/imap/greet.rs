//! A connection from its greeting to its login.
//!
//! Rule: the greeting goes out at once, with every backend down too, and is never BYE.

use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

use bascule_protocols::imap::{
    capability::Stage,
    farewell::{BYE, answer, unavailable},
    login::{Credentials, PreAuth, Verdict},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use super::{super::door::Door, login, relay::Session};
use crate::{
    config::ListenerTls,
    net::stream::Leg,
    session::{
        registry::{Entry, Order, Progress},
        stays,
    },
};

/// How long a connection that ends may take to read what it was told.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What ended the not-authenticated state.
enum End {
    Gone,
    Starttls,
    LoggedIn(Box<login::LoggedIn>, Credentials, Option<Box<[u8]>>),
}

/// Greets and logs in. `None`: the connection has ended.
pub(super) async fn run(door: &Arc<Door>, mut client: Leg, entry: Entry) -> Option<Box<Session>> {
    let until = Instant::now() + door.world.config.limits.login;
    let mut end = greet(door, &mut client, &entry, until).await;
    if let End::Starttls = end {
        // What was read ahead of STARTTLS is gone with the plain leg.
        client = door.handshake(client.into_tcp()?).await?;
        let mut machine = PreAuth::new(Stage::Tls);
        end = converse(door, &mut client, &entry, &mut machine, until).await;
    }
    match end {
        End::Gone | End::Starttls => None,
        End::LoggedIn(backend, credentials, client_id) => {
            Some(Box::new(Session::new(door.clone(), client, entry, *backend, credentials, client_id)))
        }
    }
}

async fn greet(door: &Door, client: &mut Leg, entry: &Entry, until: Instant) -> End {
    let stage = match door.listener.tls {
        ListenerTls::Implicit => Stage::Tls,
        ListenerTls::Starttls => Stage::Plain { starttls: true },
        ListenerTls::None => Stage::Plain { starttls: false },
    };
    let mut machine = PreAuth::new(stage);
    let pinned = door.world.pinned.load_full();
    let Some(pinned) = &*pinned else {
        // Nothing is promised that nobody knows. A closed door is tried again, a BYE is shown to people.
        door.world.metrics.connections_refused.count("not_ready");
        return End::Gone;
    };
    let greeting = machine.greeting(pinned, &door.world.config.server.hostname);
    if say(client, &greeting).await.is_err() {
        return End::Gone;
    }
    converse(door, client, entry, &mut machine, until).await
}

async fn converse(
    door: &Door,
    client: &mut Leg,
    entry: &Entry,
    machine: &mut PreAuth,
    until: Instant,
) -> End {
    let pinned = door.world.pinned.load_full();
    let Some(pinned) = &*pinned else { return End::Gone };
    let mut failures = 0;
    loop {
        match wait(client, entry, until).await {
            Input::Bytes => {}
            Input::Gone => return End::Gone,
            Input::Told => {
                close(client, BYE).await;
                return End::Gone;
            }
            Input::Late => {
                door.world.metrics.limits_hit.count("login");
                close(client, b"* BYE Too slow to log in\r\n").await;
                return End::Gone;
            }
        }
        let Ok(input) = client.fill_buf().await else { return End::Gone };
        let (n, verdict) = machine.step(input, pinned);
        client.consume(n);
        match verdict {
            Verdict::NeedMore => {}
            Verdict::Answer(bytes) => {
                if say(client, &bytes).await.is_err() {
                    return End::Gone;
                }
            }
            Verdict::Starttls(bytes) => {
                // Bytes behind STARTTLS in the clear are nobody's: thrown away with the plain leg.
                return if say(client, &bytes).await.is_ok() { End::Starttls } else { End::Gone };
            }
            Verdict::Close(bytes) => {
                close(client, &bytes).await;
                return End::Gone;
            }
            Verdict::Login(tag, credentials) => match ask(door, client, entry, machine, &credentials).await {
                Some(login::Answer::Accepted(backend)) => {
                    let capabilities = pinned.bytes(Stage::Authenticated);
                    let ok = [tag.as_bytes(), b" OK [CAPABILITY ", capabilities, b"] Logged in\r\n"].concat();
                    if say(client, &ok).await.is_err() {
                        return End::Gone;
                    }
                    door.world.metrics.logins.count("ok");
                    let client_id = machine.client_id().map(Into::into);
                    return End::LoggedIn(Box::new(backend), credentials, client_id);
                }
                Some(login::Answer::Refused(text)) => {
                    door.world.metrics.logins.count("refused");
                    failures += 1;
                    let refusal = answer(&tag, &format!("NO {text}"));
                    if failures >= door.world.config.limits.failed_logins {
                        door.world.metrics.limits_hit.count("failed_logins");
                        close(client, &[&refusal[..], b"* BYE Too many failed logins\r\n"].concat()).await;
                        return End::Gone;
                    }
                    if say(client, &refusal).await.is_err() {
                        return End::Gone;
                    }
                }
                Some(login::Answer::Unavailable) => {
                    door.world.metrics.logins.count("unavailable");
                    if say(client, &unavailable(&tag)).await.is_err() {
                        return End::Gone;
                    }
                }
                None => return End::Gone,
            },
        }
    }
}

/// Logs in while watching the client. `None`: it left.
async fn ask(
    door: &Door,
    client: &mut Leg,
    entry: &Entry,
    machine: &PreAuth,
    credentials: &Credentials,
) -> Option<login::Answer> {
    let handle = &entry.handle;
    handle.describe(|info| info.identity = String::from_utf8_lossy(credentials.identity()).into_owned());
    let local = client.tcp().local_addr().ok();
    let held = HeldLogin::new(door, entry);
    let answer = {
        let login = login::login(&door.world, handle, local, credentials, machine.client_id());
        tokio::pin!(login);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = login.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            report(entry);
            match Pin::new(&mut *client).poll_fill_buf(cx) {
                // The login is under way on the old pool, and is seen to end there.
                Poll::Ready(_) if handle.word.read().backend.is_some() && stays::matters(&door.world) => {
                    Poll::Pending
                }
                Poll::Ready(Ok([]) | Err(_)) => Poll::Ready(None),
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    };
    drop(held);
    if !matches!(answer, Some(login::Answer::Accepted(_))) {
        handle.word.set(Default::default());
        handle.word_changed();
        handle.describe(|info| info.identity.clear());
    }
    answer
}

/// A login counts as held while it waits.
struct HeldLogin<'a>(&'a Door, &'a Entry);

impl<'a> HeldLogin<'a> {
    fn new(door: &'a Door, entry: &'a Entry) -> Self {
        door.world.metrics.held_commands.inc();
        entry.handle.describe(|info| info.held = 1);
        Self(door, entry)
    }
}

impl Drop for HeldLogin<'_> {
    fn drop(&mut self) {
        self.0.world.metrics.held_commands.dec();
        self.1.handle.describe(|info| info.held = 0);
    }
}

enum Input {
    Bytes,
    Gone,
    Told,
    Late,
}

/// Waits for bytes, and answers orders meanwhile: a connection without a login has nothing to move.
async fn wait(client: &mut Leg, entry: &Entry, until: Instant) -> Input {
    let ready = std::future::poll_fn(|cx| {
        entry.handle.register(cx.waker());
        if report(entry) == Order::End {
            return Poll::Ready(Input::Told);
        }
        match Pin::new(&mut *client).poll_fill_buf(cx) {
            Poll::Ready(Ok([]) | Err(_)) => Poll::Ready(Input::Gone),
            Poll::Ready(Ok(_)) => Poll::Ready(Input::Bytes),
            Poll::Pending => Poll::Pending,
        }
    });
    timeout_at(until, ready).await.unwrap_or(Input::Late)
}

fn report(entry: &Entry) -> Order {
    let (number, order) = entry.handle.order();
    if entry.handle.progress(number) == Progress::Working {
        entry.handle.report(number, Progress::Done);
    }
    order
}

async fn say(client: &mut Leg, bytes: &[u8]) -> std::io::Result<()> {
    client.write_all(bytes).await?;
    client.flush().await
}

/// Says the last words and ends; a client that does not read them is not waited for.
pub(super) async fn close(client: &mut Leg, bytes: &[u8]) {
    let _ = timeout(LAST_WORDS, async {
        say(client, bytes).await?;
        client.shutdown().await
    })
    .await;
}
