//! Whether a pool can be written to, shown by writing.
//!
//! Rule: only a write that took effect proves that a pool writes, and only refusals that it does not.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    checks::{
        Answer, Asked,
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
        unanswered::Unanswered,
    },
    config::{Account, FenceKind, HttpWrites, Pool, Protocol},
    session::World,
    topology::PoolId,
};

/// The mailbox of the proofs; not that of the canaries, which must find theirs as they left it.
const FOLDER: &str = "bascule-probe";

/// Whose proofs these are: the last account's, since the first one may still have a canary on the other pool. A login that
/// is refused counts as a refusal, whatever its reason is said to be: fences fail logins, and in the words for a wrong
/// password too. So who is refused must be the one who was seen to write.
pub(super) fn prover(pool: &Pool) -> Option<&Account> {
    pool.probes.last()
}

/// Whether APPEND, STORE and EXPUNGE succeed on a fresh login, and every other protocol takes what it is for. All are
/// asked at once. What is unclear is asked again until `within` has passed, since a server that was just started needs a
/// moment, and so is what such a server says by SMTP and HTTP (4yz, 503); any other refusal is an answer at once, whatever
/// the others say.
pub async fn writes(world: &World, pool: PoolId, within: Duration, unanswered: &Unanswered) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let Some(account) = prover(&config) else {
        return Answer::Unknown(format!("pool {} has no probe account", config.name));
    };
    let web = match by_http(world, pool, account) {
        Ok(ways) => ways,
        Err(why) => return Answer::Unknown(why),
    };
    let posts = mail::PROTOCOLS.into_iter().filter_map(|protocol| Post::of(world, pool, protocol));
    let mail: Vec<_> = posts.map(|post| ByMail { post, account: account.clone() }).collect();
    let (reach, asking) = (Reach { world, pool }, Asking { within, unanswered });
    let mut asked: Vec<Asked<'_>> =
        vec![Box::pin(asking.until_known("imap".to_owned(), || written(&reach, account)))];
    for way in &mail {
        let who = way.post.protocol.name().to_owned();
        asked.push(Box::pin(asking.until_known(who, || way.takes(&reach))));
    }
    for (name, way) in &web {
        let who = format!("{name} at {}", way.server());
        asked.push(Box::pin(asking.until_known(who, || async { way.takes().await.named(name) })));
    }
    Answer::worst(asked).await.named(&format!("pool {}", config.name))
}

/// Whether nobody can write to the pool, without sessions from before the fence: for a pool that was fenced
/// by an earlier life of the proxy, or promoted and fenced again.
pub async fn refuses(world: &World, pool: PoolId, unanswered: &Unanswered) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let Some(account) = prover(&config) else {
        return Answer::Unknown(format!("pool {} has no probe account", config.name));
    };
    // A pool without a fence is asked too, after a promote that nothing undoes: one that refuses is no less a proof.
    let kind = config.fence.as_ref().map_or(FenceKind::Refuse, |fence| fence.kind);
    let dial = &Reach { world, pool };
    let imap = ByImap { dial, account, server: &config.imap.server, bait: None };
    let ways = by_mail(world, pool, account);
    let mail = async {
        let mut all = Answer::Pass;
        for (protocol, way) in &ways {
            let answer = unanswered.until(protocol.name(), shut(way, kind)).await;
            all = all.and(answer.named(protocol.name()));
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
            all = all.and(unanswered.until(name, shut(way, kind)).await.named(name));
        }
        all
    };
    let (imap, mail, web) = tokio::join!(unanswered.until("imap", shut(&imap, kind)), mail, web);
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

/// How a proof is asked that must pass.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    /// How long what is unclear is asked again.
    pub(crate) within: Duration,
    /// Told what was seen meanwhile.
    pub(crate) unanswered: &'a Unanswered,
}

impl Asking<'_> {
    /// The answer of `who`, asked again as long as it is unclear and there is time.
    pub(crate) async fn until_known<F: Future<Output = Answer>>(
        self,
        who: String,
        ask: impl Fn() -> F,
    ) -> Answer {
        let Self { within, unanswered } = self;
        let asking = async {
            let until = Instant::now() + within;
            let mut saw = Answer::Unknown(format!("{who}: no answer within {within:?}"));
            while let Ok(answer) = timeout_at(until, ask()).await {
                match answer {
                    Answer::Unknown(why) if Instant::now() + GAP < until => {
                        unanswered.saw(&who, &why);
                        saw = Answer::Unknown(why);
                    }
                    Answer::Pass | Answer::Fail(_) | Answer::Unknown(_) => return answer,
                }
                sleep(GAP).await;
            }
            saw
        };
        unanswered.until(&who, asking).await
    }
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
    use std::sync::Arc;

    use super::*;
    use crate::{
        checks::fake::{Fake, Habit, account},
        config::{Secret, Storage},
        cutover::testing::{Rig, V4, config},
    };

    const SOON: Duration = Duration::from_millis(300);

    async fn writable<D: Dial>(dial: &D, account: &Account, within: Duration) -> Answer {
        let asking = Asking { within, unanswered: &Unanswered::unheard() };
        asking.until_known("imap".into(), || written(dial, account)).await
    }

    #[tokio::test]
    async fn writes_that_take_effect_pass_and_leave_nothing() {
        for habit in [Habit::Serves, Habit::NoUidplus, Habit::Prefixed] {
            let fake = Fake::new(habit);
            assert_eq!(writable(&fake, &account("probe2"), SOON).await, Answer::Pass, "{habit:?}");
            assert_eq!(fake.messages(), 0, "{habit:?}");
        }
    }

    #[tokio::test]
    async fn a_mailbox_that_cannot_be_opened_says_why() {
        let answer = writable(&Fake::new(Habit::Unreadable), &account("probe2"), SOON).await;
        let why = "SELECT bascule-probe: NO Mailbox has an invalid format; CREATE: NO Mailbox already exists";
        assert_eq!(answer, Answer::Fail(why.into()));
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

    /// Whether v4, which is this fake, refuses.
    async fn v4_refuses(fake: &Fake, change: impl Fn(&mut Pool)) -> Answer {
        let mut config = config(Storage::Shared);
        let mut v4 = (*config.pools[0]).clone();
        v4.imap.server = fake.listen().await;
        v4.probes = vec![account("probe1"), account("probe2")];
        change(&mut v4);
        config.pools[0] = Arc::new(v4);
        refuses(&Rig::new(config).await.world, V4, &Unanswered::unheard()).await
    }

    #[tokio::test]
    async fn a_pool_without_a_fence_is_seen_to_refuse_as_well() {
        let standby = Fake::new(Habit::RefusesWrites);
        assert_eq!(v4_refuses(&standby, |v4| v4.fence = None).await, Answer::Pass);
        let answer = v4_refuses(&Fake::new(Habit::Serves), |v4| v4.fence = None).await;
        assert!(matches!(answer, Answer::Fail(_)), "{answer}");
        assert!(matches!(v4_refuses(&standby, |v4| v4.probes.clear()).await, Answer::Unknown(_)));
    }

    /// The first one is refused as by a fence that fails logins, and v4 writes.
    #[tokio::test]
    async fn a_wrong_password_of_an_account_that_shows_no_writes_is_no_refusal() {
        let wrong = Secret(Arc::new(b"wrong".to_vec().into()));
        let pool = Fake::new(Habit::Serves);
        let answer = v4_refuses(&pool, |v4| v4.probes[0].password = wrong.clone()).await;
        assert!(matches!(&answer, Answer::Fail(saw) if saw.contains("APPEND was answered OK")), "{answer}");
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
