//! Whether a pool can be written to, shown by writing.
//!
//! Rule: only a write that took effect proves that a pool writes, and only refusals that it does not.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    checks::{
        Answer,
        canaries::by_mail,
        canary::Entrance,
        http::{self, by_http},
        mail::{
            self, Post,
            offer::{ByMail, tidy},
        },
        reader::ByImap,
        server::{Dial, GAP, NoEntry, Reach, enter, is_one, refused_everywhere},
        trial::{self, Write},
    },
    config::{Account, FenceKind, HttpWrites, Protocol},
    session::World,
    topology::PoolId,
};

/// The mailbox of the proofs; not that of the canaries, which must find theirs as they left it.
const FOLDER: &str = "bascule-probe";

/// Whether APPEND, STORE and EXPUNGE succeed on a fresh login, and mail to the account is taken. What is unclear is asked again until `within`
/// has passed, since a server that was just started needs a moment; a refusal is an answer at once.
pub async fn writes(world: &World, pool: PoolId, within: Duration) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    // The last account: the first one may still have a canary on the other pool.
    let Some(account) = config.probes.last() else {
        return Answer::Unknown(format!("pool {} has no probe account", config.name));
    };
    let (reach, name) = (Reach { world, pool }, format!("pool {}", config.name));
    let mail = async {
        let mut all = Answer::Pass;
        for protocol in mail::PROTOCOLS {
            let Some(post) = Post::of(world, pool, protocol) else { continue };
            let way = ByMail { post, account: account.clone() };
            all = all.and(until_known(within, || way.takes(&reach)).await);
        }
        all
    };
    let web = async {
        let ways = match by_http(world, pool, account) {
            Ok(ways) => ways,
            Err(why) => return Answer::Unknown(why),
        };
        let mut all = Answer::Pass;
        for (name, way) in ways {
            all = all.and(until_known(within, || way.takes()).await.named(&name));
        }
        all
    };
    let (imap, mail, web) = tokio::join!(writable(&reach, account, within), mail, web);
    imap.and(mail).and(web).named(&name)
}

/// Whether nobody can write to the pool, without sessions from before the fence: for a pool that was fenced
/// by an earlier life of the proxy, or promoted and fenced again.
pub async fn refuses(world: &World, pool: PoolId) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let (Some(fence), Some(account)) = (&config.fence, config.probes.first()) else {
        return Answer::Unknown(format!("pool {} has no fence or no probe account", config.name));
    };
    let dial = &Reach { world, pool };
    let imap = ByImap { dial, account, server: &config.imap.server, bait: None };
    let ways = by_mail(world, pool, account);
    let mail = async {
        let mut all = Answer::Pass;
        for (protocol, way) in &ways {
            all = all.and(shut(way, fence.kind).await.named(protocol.name()));
        }
        all
    };
    let web = async {
        let ways = match by_http(world, pool, account) {
            Ok(ways) => ways,
            Err(why) => return Answer::Unknown(why),
        };
        let mut all = Answer::Pass;
        for (name, way) in &ways {
            all = all.and(shut(way, fence.kind).await.named(name));
        }
        all
    };
    let (imap, mail, web) = tokio::join!(shut(&imap, fence.kind), mail, web);
    let answer = imap.and(mail).and(web).named(&format!("pool {}", config.name));
    if !answer.passed() && ways.iter().any(|(protocol, _)| *protocol == Protocol::Lmtp) {
        tidy(dial, account).await;
    }
    answer
}

/// Whether the proofs of a pool's fence ask all of it: every server has one address.
pub async fn asks_all(world: &World, pool: PoolId) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let mut servers = vec![config.imap.server.clone()];
    let mail = mail::own(&world.config, &config).into_iter().filter_map(|protocol| config.service(protocol));
    servers.extend(mail.map(|service| service.server.clone()));
    for (name, service) in &config.http {
        if service.proof.writes != HttpWrites::None {
            servers.extend(http::own(&world.config, &config, name));
        }
    }
    let mut all = Answer::Pass;
    for server in servers {
        all = all.and(is_one(&server).await);
    }
    all
}

async fn writable<D: Dial>(dial: &D, account: &Account, within: Duration) -> Answer {
    until_known(within, || written(dial, account)).await
}

async fn until_known<F: Future<Output = Answer>>(within: Duration, ask: impl Fn() -> F) -> Answer {
    let until = Instant::now() + within;
    let mut saw = Answer::Unknown(format!("no answer within {within:?}"));
    while let Ok(answer) = timeout_at(until, ask()).await {
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

/// Whether a way in is shut, asked twice.
async fn shut<E: Entrance>(at: &E, kind: FenceKind) -> Answer {
    let once = async || match kind {
        FenceKind::Stop => refused_everywhere(at.server()).await,
        FenceKind::Refuse => at.afresh().await,
    };
    let first = once().await;
    if !first.passed() {
        return first;
    }
    sleep(GAP).await;
    once().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::{Fake, Habit, account};

    const SOON: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn writes_that_take_effect_pass_and_leave_nothing() {
        for habit in [Habit::Serves, Habit::NoUidplus, Habit::Prefixed] {
            let fake = Fake::new(habit);
            assert_eq!(writable(&fake, &account("probe2"), SOON).await, Answer::Pass, "{habit:?}");
            assert_eq!(fake.messages(), 0, "{habit:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_fails_and_the_rest_is_unknown() {
        for habit in [Habit::RefusesWrites, Habit::RefusesLogins, Habit::ReadOnly] {
            let answer = writable(&Fake::new(habit), &account("probe2"), SOON).await;
            assert!(matches!(answer, Answer::Fail(_)), "{habit:?}: {answer}");
        }
        for habit in [Habit::Hangs, Habit::Drops, Habit::SaysBye] {
            let answer = writable(&Fake::new(habit), &account("probe2"), SOON).await;
            assert_eq!(matches!(answer, Answer::Fail(_)), habit == Habit::SaysBye, "{habit:?}: {answer}");
            assert!(!answer.passed(), "{habit:?}");
        }
    }

    /// Refuses so many dials, as a service that is just starting does.
    struct Starting(Fake, std::sync::atomic::AtomicU32);

    impl Dial for Starting {
        type Stream = <Fake as Dial>::Stream;

        async fn dial(&self) -> Result<Self::Stream, crate::session::imap::open::OpenError> {
            let left = &self.1;
            if left.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                return self.0.dial().await;
            }
            left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            let stopped = Fake::new(Habit::Serves);
            stopped.stop();
            stopped.dial().await
        }
    }

    #[tokio::test]
    async fn a_server_that_is_just_starting_is_waited_for() {
        let starting = Starting(Fake::new(Habit::Serves), 3.into());
        assert_eq!(writable(&starting, &account("probe2"), Duration::from_secs(60)).await, Answer::Pass);
        let never = Starting(Fake::new(Habit::Serves), u32::MAX.into());
        let Answer::Unknown(saw) = writable(&never, &account("probe2"), SOON).await else { panic!() };
        assert!(saw.contains("refused"), "{saw}");
    }

    #[tokio::test]
    async fn refusals_without_a_canary() {
        for (habit, passes) in [
            (Habit::RefusesAll, true),
            (Habit::RefusesWrites, true),
            (Habit::RefusesLogins, true),
            (Habit::Serves, false),
            (Habit::Full, false),
            (Habit::Drops, false),
        ] {
            let at = ByImap { dial: &Fake::new(habit), account: &account("probe1"), server: "", bait: None };
            let answer = shut(&at, FenceKind::Refuse).await;
            assert_eq!(answer.passed(), passes, "{habit:?}: {answer}");
            assert_eq!(matches!(answer, Answer::Fail(_)), habit == Habit::Serves, "{habit:?}: {answer}");
        }
    }
}
