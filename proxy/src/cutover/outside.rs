//! What a cutover asks of the world outside: hooks, checks, proofs.
//!
//! Rule: the driver knows the outside only through [`Outside`], so that every failure can be played to it.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::Mutex;

use crate::{
    checks::{
        self, Answer, answers,
        canaries::Canaries,
        capability,
        exec::Phase,
        hooks,
        http::portable::{self, Look},
        identity, keywords, proof, relays,
        unanswered::Unanswered,
    },
    config::{Check, Hook, Pool, Protocol},
    session::World,
    topology::PoolId,
};

/// An answer that takes time.
pub(super) type Asked<'a, T = Answer> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a hook does to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Act {
    /// The pool's fence.
    Engage,
    /// The fence's release.
    Release,
    /// The pool's promote.
    Promote,
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Self::Engage => "fence engage",
            Self::Release => "fence release",
            Self::Promote => "promote",
        }
    }

    fn hook(self, pool: &Pool) -> Option<&Hook> {
        match self {
            Self::Engage => pool.fence.as_ref().map(|fence| &fence.engage),
            Self::Release => pool.fence.as_ref().map(|fence| &fence.release),
            Self::Promote => pool.promote.as_ref(),
        }
    }
}

/// Everything outside that a cutover depends on.
pub(super) trait Outside: Send + Sync + std::fmt::Debug {
    /// Runs a hook of a pool to its end.
    fn act(&self, act: Act, pool: PoolId) -> Asked<'_>;
    /// Opens sessions on a pool that are to fail once it is fenced.
    fn open_canaries(&self, pool: PoolId) -> Asked<'_>;
    /// Opens anew those that have ended since: before the fence that proves nothing.
    fn keep_canaries(&self, pool: PoolId) -> Asked<'_>;
    /// Gives them up.
    fn close_canaries(&self) -> Asked<'_, ()>;
    /// Whether a pool is unable to write, by the canaries.
    fn fenced<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a>;
    /// Whether a pool is unable to write, by fresh logins alone.
    fn refuses<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a>;
    /// Whether proofs of a pool's fence ask all of its servers.
    fn asks_all(&self, pool: PoolId) -> Asked<'_>;
    /// Whether a pool writes, or begins to within this time.
    fn writes<'a>(&'a self, pool: PoolId, within: Duration, unanswered: &'a Unanswered) -> Asked<'a>;
    /// Whether a promoted pool has what clients are shown, and no more than it should: it relays for no stranger.
    fn offers<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a>;
    /// Whether servers of a pool by which mail is sent on refuse strangers, by protocol.
    fn relays(&self, pool: PoolId) -> Asked<'_, Vec<(&'static str, Answer)>>;
    /// Whether servers of a pool for mail and HTTP are there, by protocol or service.
    fn answers(&self, pool: PoolId) -> Asked<'_, Vec<(String, Look)>>;
    /// A configured check.
    fn check<'a>(&'a self, check: &'a Check, phase: Phase) -> Asked<'a>;
    /// Whether logins of a pool lead to the right mailboxes.
    fn identity(&self, pool: PoolId) -> Asked<'_>;
    /// What services of HTTP mean for people who are moved from one pool to the other; so many may lose their session.
    fn web(&self, from: PoolId, to: PoolId, allowed: usize) -> Asked<'_, Vec<(String, Look)>>;
    /// A pool's capabilities.
    fn capabilities(&self, pool: PoolId) -> Asked<'_, Result<Vec<String>, String>>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct Live {
    world: Arc<World>,
    canaries: Mutex<Option<Canaries>>,
}

impl Live {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self { world, canaries: Mutex::default() }
    }

    fn no_canary(&self, pool: PoolId) -> Answer {
        let name = self.world.topology.load().pool(pool).name.clone();
        Answer::Unknown(format!("no canary was opened on pool {name}"))
    }

    async fn run(&self, act: Act, pool: PoolId) -> Answer {
        let pool = self.world.topology.load().pool(pool).clone();
        let Some(hook) = act.hook(&pool) else {
            return Answer::Fail(format!("pool {} has no hook for {}", pool.name, act.name()));
        };
        let env = [("BASCULE_POOL", pool.name.clone()), ("BASCULE_ACTION", act.name().to_owned())];
        let outcome = hooks::run_noted(hook, &env, &self.world.config.server.state_dir).await;
        if outcome.succeeded() {
            return Answer::Pass;
        }
        Answer::Fail(format!("{} of pool {}: {outcome}", act.name(), pool.name))
    }
}

impl Outside for Live {
    fn act(&self, act: Act, pool: PoolId) -> Asked<'_> {
        Box::pin(self.run(act, pool))
    }

    fn open_canaries(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(async move {
            match Canaries::open(&self.world, pool).await {
                Ok(canaries) => {
                    *self.canaries.lock().await = Some(canaries);
                    Answer::Pass
                }
                Err(why) => Answer::Fail(why),
            }
        })
    }

    fn keep_canaries(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(async move {
            match &mut *self.canaries.lock().await {
                Some(canaries) => {
                    canaries.stand(&self.world).await.map_or_else(Answer::Fail, |()| Answer::Pass)
                }
                None => self.no_canary(pool),
            }
        })
    }

    fn close_canaries(&self) -> Asked<'_, ()> {
        Box::pin(async move {
            if let Some(canaries) = self.canaries.lock().await.take() {
                canaries.close(&self.world).await;
            }
        })
    }

    fn fenced<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a> {
        Box::pin(async move {
            match &mut *self.canaries.lock().await {
                Some(canaries) => canaries.prove_fenced(&self.world, unanswered).await,
                None => self.no_canary(pool),
            }
        })
    }

    fn refuses<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a> {
        Box::pin(proof::refuses(&self.world, pool, unanswered))
    }

    fn asks_all(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(proof::asks_all(&self.world, pool))
    }

    fn writes<'a>(&'a self, pool: PoolId, within: Duration, unanswered: &'a Unanswered) -> Asked<'a> {
        Box::pin(proof::writes(&self.world, pool, within, unanswered))
    }

    fn offers<'a>(&'a self, pool: PoolId, unanswered: &'a Unanswered) -> Asked<'a> {
        Box::pin(async move {
            let imap = unanswered.until("imap", capability::prove(&self.world, pool));
            let mail = unanswered.until("mail", keywords::prove(&self.world, pool));
            let (imap, mail) = tokio::join!(imap, mail);
            let name = self.world.topology.load().pool(pool).name.clone();
            let relays = unanswered.until("relay test", self.relays(pool)).await.into_iter();
            let all = relays.fold(imap.and(mail), |all, (protocol, answer)| all.and(answer.named(protocol)));
            all.named(&format!("pool {name}"))
        })
    }

    fn relays(&self, pool: PoolId) -> Asked<'_, Vec<(&'static str, Answer)>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for protocol in Protocol::RELAYS {
                if keywords::listens(&self.world.config, protocol) {
                    answers.push((protocol.name(), relays::ask(&self.world, pool, protocol).await));
                }
            }
            answers
        })
    }

    fn answers(&self, pool: PoolId) -> Asked<'_, Vec<(String, Look)>> {
        Box::pin(answers::ask(&self.world, pool))
    }

    fn check<'a>(&'a self, check: &'a Check, phase: Phase) -> Asked<'a> {
        Box::pin(async move { checks::ask(check, phase).await.named(&format!("check {}", check.name)) })
    }

    fn identity(&self, pool: PoolId) -> Asked<'_> {
        Box::pin(identity::prove(&self.world, pool))
    }

    fn web(&self, from: PoolId, to: PoolId, allowed: usize) -> Asked<'_, Vec<(String, Look)>> {
        Box::pin(portable::look(&self.world, from, to, allowed))
    }

    fn capabilities(&self, pool: PoolId) -> Asked<'_, Result<Vec<String>, String>> {
        Box::pin(capability::learn(&self.world, pool))
    }
}
