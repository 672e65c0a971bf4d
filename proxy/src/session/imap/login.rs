//! The first login of a connection: always at the active pool, always with the client's own words.
//!
//! Rule: a refusal reaches the client only from a pool that was active and whose gate was open after it had
//! answered; everything else is asked again, or told as unavailable (P3, design §4.3).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bascule_protocols::imap::{
    capability::Capabilities,
    login::{Credentials, harmless_id},
    restore::{Failure, Login, Outcome, Plan},
};

use super::converse::{converse, cut, leave};
use crate::{
    config::{ClientAddress, Service},
    gate::Standing,
    net::stream::Leg,
    session::{World, registry::Handle, stays},
    topology::{Epoch, PoolId},
};

/// A backend that accepted somebody.
#[derive(Debug)]
pub(super) struct LoggedIn {
    pub(super) leg: Leg,
    pub(super) pool: PoolId,
    pub(super) epoch: Epoch,
    pub(super) capabilities: Capabilities,
}

/// What a login came to.
#[derive(Debug)]
pub(super) enum Answer {
    Accepted(LoggedIn),
    /// The active pool's own words.
    Refused(String),
    Unavailable,
}

/// First pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A login hears of the gate from its beginning to its end.
const WAITING: Standing =
    Standing { backend: None, spare: None, writes: 0, reads: 0, costly: false, waits: true };

/// Asks until somebody answers or `limits.login_ceiling` has passed. Cancel by dropping: the word is the
/// caller's to clear.
pub(super) async fn login(
    world: &World,
    handle: &Handle,
    local: Option<SocketAddr>,
    credentials: &Credentials,
    client_id: Option<&[u8]>,
) -> Answer {
    let asked = async {
        let mut pause = PAUSE;
        let held = Instant::now();
        let mut was_held = false;
        loop {
            was_held |= wait_for_gate(world, handle).await;
            match ask(world, handle, local, credentials, client_id).await {
                Tried::Answered(answer) => {
                    if was_held {
                        world.metrics.held(world.holds.record(held, Instant::now()));
                    }
                    return answer;
                }
                Tried::GateShut => was_held = true,
                Tried::Failed => {
                    // Level: whoever opens the gate wakes us, and so does the end of the pause.
                    let _ = tokio::time::timeout(pause, opened_after_shut(world, handle)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    };
    tokio::time::timeout(world.config.limits.login_ceiling, asked).await.unwrap_or(Answer::Unavailable)
}

enum Tried {
    Answered(Answer),
    GateShut,
    Failed,
}

/// Announces the connection, waits while the gate does not admit it. True if it had to wait.
async fn wait_for_gate(world: &World, handle: &Handle) -> bool {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        handle.register(cx.waker());
        let topology = world.topology.load();
        if handle.word.announce(
            Standing { backend: Some(topology.active), ..WAITING },
            &world.gate,
            topology.epoch,
        ) {
            return std::task::Poll::Ready(());
        }
        clear(handle);
        waited = true;
        std::task::Poll::Pending
    })
    .await;
    waited
}

async fn ask(
    world: &World,
    handle: &Handle,
    local: Option<SocketAddr>,
    credentials: &Credentials,
    client_id: Option<&[u8]>,
) -> Tried {
    let topology = world.topology.load();
    let (pool, epoch) = (topology.active, topology.epoch);
    // What the gate interrupts is dropped and sent again to whoever wins (design §5.2, Holding).
    let opened = tokio::select! {
        opened = super::open::reach(world, pool) => opened,
        () = until_shut(world, handle, epoch) => return shut(handle),
    };
    let plan = Plan {
        id: id_arguments(&topology.active().imap, handle, local, client_id),
        login: Some(Login::Client(credentials.clone())),
        ..Plan::default()
    };
    let result = match opened {
        Ok(leg) => match introduce(world, handle, epoch, leg, plan).await {
            Some(result) => result,
            None => return shut(handle),
        },
        Err(error) => Err(Failure::Unavailable(error.to_string())),
    };
    match result {
        Ok((leg, outcome)) => Tried::Answered(Answer::Accepted(LoggedIn {
            leg,
            pool,
            epoch,
            capabilities: world.said.share(pool, outcome.capabilities.unwrap_or_default()),
        })),
        Err(Failure::Refused(text)) => {
            clear(handle);
            Tried::Answered(Answer::Refused(text))
        }
        Err(failure) => {
            clear(handle);
            tracing::debug!(%failure, "login");
            Tried::Failed
        }
    }
}

/// Logs in. `None`: the gate shut meanwhile. The server may have let the user in, so the connection is seen to its end.
async fn introduce(
    world: &World,
    handle: &Handle,
    epoch: Epoch,
    mut leg: Leg,
    plan: Plan,
) -> Option<Result<(Leg, Outcome), Failure>> {
    let answered = tokio::select! {
        answered = converse(&mut leg, plan, world.config.limits.login_ceiling) => Some(answered),
        () = until_shut(world, handle, epoch) => None,
    };
    let ended = match answered {
        Some(answered) if world.gate.admits(epoch) => return Some(answered.map(|outcome| (leg, outcome))),
        Some(Ok(_)) => leave(leg, false).await,
        Some(Err(_)) | None if stays::matters(world) => cut(leg).await,
        Some(Err(_)) | None => true,
    };
    if !ended {
        stays::until_open(world, handle).await;
    }
    None
}

fn shut(handle: &Handle) -> Tried {
    clear(handle);
    Tried::GateShut
}

fn clear(handle: &Handle) {
    handle.word.set(WAITING);
    handle.word_changed();
}

async fn until_shut(world: &World, handle: &Handle, epoch: Epoch) {
    std::future::poll_fn(|cx| {
        handle.register(cx.waker());
        if world.gate.admits(epoch) { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
}

/// Resolves when the gate was seen shut: the pause before another try need not be waited out.
async fn opened_after_shut(world: &World, handle: &Handle) {
    let epoch = world.topology.load().epoch;
    until_shut(world, handle, epoch).await;
}

/// The arguments of the first ID: the client's address for servers that trust us (Dovecot's keys), then what of
/// the client's own list no server takes for ours.
pub(super) fn id_arguments(
    service: &Service,
    handle: &Handle,
    local: Option<SocketAddr>,
    client_id: Option<&[u8]>,
) -> Option<Vec<u8>> {
    if service.client_address != ClientAddress::Id {
        return None;
    }
    let mut out = format!(
        "(\"x-session-id\" \"{}\" \"x-originating-ip\" \"{}\" \"x-originating-port\" \"{}\" \"x-proxy-ttl\" \"4\"",
        handle.id.0,
        handle.peer.ip().to_canonical(),
        handle.peer.port()
    );
    if let Some(local) = local {
        out += &format!(
            " \"x-connected-ip\" \"{}\" \"x-connected-port\" \"{}\"",
            local.ip().to_canonical(),
            local.port()
        );
    }
    let mut out = out.into_bytes();
    out.extend(client_id.and_then(harmless_id).unwrap_or_default());
    out.push(b')');
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        config::{Protocol, Storage},
        cutover::testing::{Rig, V4, config},
        session::imap::end::tests::credentials,
    };

    #[tokio::test]
    async fn a_client_says_nothing_about_its_address_that_a_server_would_believe() {
        let world = Rig::new(config(Storage::Shared)).await.world;
        let entry = world.registry.enter("192.0.2.7:1".parse().unwrap(), "imap".into(), Protocol::Imap);
        let mut service = world.topology.load().active().imap.clone();
        service.client_address = ClientAddress::Id;
        let list = br#"("name" "x" "X-Originating-IP" "127.0.0.1")"#;
        let told = id_arguments(&service, &entry.handle, None, Some(list)).unwrap();
        let told = String::from_utf8(told).unwrap().to_ascii_lowercase();
        assert_eq!(told.matches("x-originating-ip").count(), 1, "{told}");
        assert!(told.contains("192.0.2.7") && told.ends_with(r#" "name" "x")"#), "{told}");
    }

    #[tokio::test]
    async fn a_login_that_the_gate_interrupts_is_there_until_its_connection_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(Storage::Shared);
        let mut v4 = (*config.pools[0]).clone();
        v4.imap.server = listener.local_addr().unwrap().to_string();
        config.pools[0] = Arc::new(v4);
        let world = Rig::new(config).await.world;
        let entry = world.registry.enter("127.0.0.1:1".parse().unwrap(), "imap".into(), Protocol::Imap);
        let handle = entry.handle.clone();
        let mut watch = world.registry.watch();
        let asks = world.clone();
        tokio::spawn(async move {
            let credentials = credentials(&Capabilities::parse(b"IMAP4rev1"));
            login(&asks, &entry.handle, None, &credentials, None).await
        });
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"* OK ready\r\n").await.unwrap();
        let mut said = [0; 64];
        assert!(server.read(&mut said).await.unwrap() > 0, "the login");
        world.gate.shut(Instant::now(), Duration::from_secs(60)).unwrap();
        handle.wake();
        while server.read(&mut said).await.unwrap() > 0 {}
        assert!(handle.word.read().touches(V4), "the user may be logged in");
        drop(server);
        while handle.word.read().touches(V4) {
            watch.next().await;
        }
    }
}
