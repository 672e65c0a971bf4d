//! Whether a pool can be written to, shown by writing.
//!
//! Rule: only a write that took effect proves that a pool writes, and only refusals that it does not.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    checks::{
        Answer,
        server::{Dial, GAP, NoEntry, Reach, enter, silent},
        trial::{self, Write},
    },
    config::{Account, FenceKind},
    session::World,
    topology::PoolId,
};

/// The mailbox of the proofs; not that of the canaries, which must find theirs as they left it.
const FOLDER: &str = "bascule-probe";

/// Whether APPEND, STORE and EXPUNGE succeed on a fresh login. What is unclear is asked again until `within`
/// has passed, since a server that was just started needs a moment; a refusal is an answer at once.
pub async fn writes(world: &World, pool: PoolId, within: Duration) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    // The last account: the first one may still have a canary on the other pool.
    let Some(account) = config.probes.last() else {
        return Answer::Unknown(format!("pool {} has no probe account", config.name));
    };
    writable(&Reach { world, pool }, account, within).await.named(&format!("pool {}", config.name))
}

/// Whether nobody can write to the pool, without sessions from before the fence: for a pool that was fenced
/// by an earlier life of the proxy, or promoted and fenced again.
pub async fn refuses(world: &World, pool: PoolId) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let (Some(fence), Some(account)) = (&config.fence, config.probes.first()) else {
        return Answer::Unknown(format!("pool {} has no fence or no probe account", config.name));
    };
    let answer = match fence.kind {
        FenceKind::Stop => silent(&config.imap.server).await,
        FenceKind::Refuse => refused(&Reach { world, pool }, account).await,
    };
    answer.named(&format!("pool {}", config.name))
}

async fn writable<D: Dial>(dial: &D, account: &Account, within: Duration) -> Answer {
    let until = Instant::now() + within;
    let mut saw = Answer::Unknown(format!("no answer within {within:?}"));
    while let Ok(answer) = timeout_at(until, written(dial, account)).await {
        match answer {
            Answer::Unknown(_) if Instant::now() + GAP < until => saw = answer,
            Answer::Pass | Answer::Fail(_) | Answer::Unknown(_) => return answer,
        }
        sleep(GAP).await;
    }
    saw
}

async fn written<D: Dial>(dial: &D, account: &Account) -> Answer {
    let mut mailbox = match enter(dial, account).await {
        Ok(mailbox) => mailbox,
        Err(NoEntry::Login { failure, .. }) => return Write::failed("LOGIN", &failure).wanted(),
        Err(NoEntry::Dial(error)) => return Answer::Unknown(error.to_string()),
    };
    let written = trial::succeed(&mut mailbox, FOLDER).await;
    if written.is_ok() {
        // Tidying up is no part of the proof.
        let _ = trial::empty(&mut mailbox).await;
    }
    mailbox.logout().await;
    written.map_or_else(Write::wanted, |_| Answer::Pass)
}

async fn refused<D: Dial>(dial: &D, account: &Account) -> Answer {
    let first = trial::afresh(dial, account, None).await;
    if !first.passed() {
        return first;
    }
    sleep(GAP).await;
    trial::afresh(dial, account, None).await
}
