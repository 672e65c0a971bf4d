//! Checks, hooks and the proofs around a fence.
//!
//! Rule: an answer comes from something that was seen. What was not seen is Unknown, and Unknown blocks like
//! a failure (design §5.3).

pub mod answers;
pub mod canaries;
mod canary;
pub mod capability;
mod command;
pub mod exec;
#[cfg(test)]
mod fake;
pub mod hooks;
pub mod http;
pub mod identity;
pub mod keywords;
mod mail;
mod mailbox;
pub(crate) mod note;
pub mod proof;
mod queue;
mod reader;
pub mod relays;
mod server;
mod trial;
pub mod unanswered;

use std::{fmt, future::poll_fn, mem, pin::Pin, task::Poll};

use self::exec::Phase;
use crate::config::{Check, CheckKind};

/// An answer that takes time.
type Asked<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What a check or a proof says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was seen to be as it must be.
    Pass,
    /// It was seen to be otherwise; the text says what was seen.
    Fail(String),
    /// It could not be seen; the text says why.
    Unknown(String),
}

impl Answer {
    /// Whether it may be relied on.
    pub fn passed(&self) -> bool {
        *self == Self::Pass
    }

    /// The worse one of two; of two equals the first.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if other.weight() > self.weight() { other } else { self }
    }

    /// The same answer with the name of who was asked before its text.
    #[must_use]
    pub fn named(self, who: &str) -> Self {
        match self {
            Self::Pass => Self::Pass,
            Self::Fail(saw) => Self::Fail(format!("{who}: {saw}")),
            Self::Unknown(saw) => Self::Unknown(format!("{who}: {saw}")),
        }
    }

    /// The worst one of those that are asked at the same time; a failure at once, since no other answer changes it.
    pub(crate) async fn worst(mut asked: Vec<Asked<'_>>) -> Self {
        let mut worst = Self::Pass;
        poll_fn(|cx| {
            asked.retain_mut(|one| {
                let Poll::Ready(answer) = one.as_mut().poll(cx) else { return true };
                worst = mem::replace(&mut worst, Self::Pass).and(answer);
                false
            });
            let settled = asked.is_empty() || matches!(worst, Self::Fail(_));
            if settled { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        worst
    }

    fn weight(&self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Unknown(_) => 1,
            Self::Fail(_) => 2,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail(saw) => write!(f, "fail: {saw}"),
            Self::Unknown(saw) => write!(f, "unknown: {saw}"),
        }
    }
}

/// Asks a configured check once.
pub async fn ask(check: &Check, phase: Phase) -> Answer {
    let env = [
        ("BASCULE_FROM", check.from.clone()),
        ("BASCULE_TO", check.to.clone()),
        ("BASCULE_PHASE", phase.name().to_owned()),
    ];
    match &check.kind {
        CheckKind::Exec => exec::ask(check, &env).await,
        CheckKind::Queue(queue) => queue::ask(check, queue, &env).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checks::unanswered::Unanswered, session::World, topology::PoolId};

    /// The control plane spawns them.
    #[test]
    fn every_proof_may_run_in_a_task_of_its_own() {
        fn sends<F: Future + Send>(_: impl Fn(&'static World, PoolId) -> F) {}
        sends(canaries::Canaries::open);
        sends(|world, pool| async move {
            let unanswered = Unanswered::unheard();
            proof::writes(world, pool, std::time::Duration::ZERO, &unanswered)
                .await
                .and(proof::refuses(world, pool, &unanswered).await)
        });
        sends(identity::prove);
        sends(capability::learn);
        sends(|world, _| capability::refresh(world));
        sends(|world, pool| async move {
            match canaries::Canaries::open(world, pool).await {
                Ok(mut canaries) => canaries.prove_fenced(world, &Unanswered::unheard()).await,
                Err(why) => Answer::Unknown(why),
            }
        });
    }

    #[tokio::test]
    async fn a_failure_does_not_wait_for_those_that_have_not_answered() {
        let (fail, unknown) = (Answer::Fail("f".into()), Answer::Unknown("u".into()));
        let ready = |answer: &Answer| -> Asked<'static> { Box::pin(std::future::ready(answer.clone())) };
        let never: Asked<'static> = Box::pin(std::future::pending());
        assert_eq!(Answer::worst(vec![never, ready(&unknown), ready(&fail)]).await, fail);
        let late: Asked<'_> = Box::pin(async {
            tokio::task::yield_now().await;
            fail.clone()
        });
        assert_eq!(Answer::worst(vec![late, ready(&unknown)]).await, fail, "what is unknown is waited out");
        assert_eq!(Answer::worst(vec![]).await, Answer::Pass);
    }

    #[test]
    fn a_failure_outweighs_what_is_unknown_and_that_a_pass() {
        let (fail, unknown) = (Answer::Fail("f".into()), Answer::Unknown("u".into()));
        assert_eq!(Answer::Pass.and(unknown.clone()), unknown);
        assert_eq!(unknown.clone().and(fail.clone()), fail);
        assert_eq!(fail.clone().and(Answer::Unknown("v".into())), fail);
        assert_eq!(unknown.clone().and(Answer::Unknown("v".into())), unknown);
        assert!(Answer::Pass.and(Answer::Pass).passed() && !unknown.passed());
    }
}
