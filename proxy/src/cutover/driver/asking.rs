//! What a cutover asks of checks and proofs: guards while Armed, barriers after the fence, a new pool after its promote.
//!
//! Rule: what is not answered in time has not passed.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{Carried, Run, seen};
use crate::{
    checks::{Answer, exec::Phase as Asking, proof, unanswered::Unanswered},
    config::{Check, StandbyLogin},
    cutover::{machine::Side, outside::Outside},
    session::{World, registry::Order},
    topology::PoolId,
};

/// Pause between two askings of a barrier that did not pass yet: they are asked inside the hold.
const BARRIER_PAUSE: Duration = Duration::from_millis(50);
/// How often the old pool's fence is looked at while the new pool soaks.
const FENCE_WATCH: Duration = Duration::from_secs(30);

/// Asks a check and counts the answer.
pub(in crate::cutover) async fn asked(
    world: &World,
    outside: &dyn Outside,
    check: &Check,
    phase: Asking,
) -> Answer {
    let answer = outside.check(check, phase).await;
    let label = match answer {
        Answer::Pass => "pass",
        Answer::Fail(_) => "fail",
        Answer::Unknown(_) => "unknown",
    };
    world.metrics.check_answered(&check.name, label);
    answer
}

impl Run {
    pub(super) async fn arm(&self) -> Carried {
        self.with_log(|log| log.prepare()).await?;
        self.world.topology.set_target(Some(self.course.to));
        self.world.gate.arm(true);
        let until = Instant::now() + self.cutover().arm_timeout;
        self.world.registry.birth(Order::Prepare);
        let warm = Notify::new();
        let guarded = async { tokio::join!(self.guards(until), warm.notified()).0 };
        let sessions = async {
            self.prepare(until).await;
            self.prewarm(until, &warm).await
        };
        tokio::select! {
            passed = guarded => passed?,
            never = sessions => match never {},
        }
        self.board.waits("prewarm", vec![]);
        self.within_unmovable()?;
        // Last of all: a session that waits for long is ended by balancers and by servers that are restarted.
        let canaries = format!("canaries on pool {}", self.name(self.course.from));
        self.board.waits("canaries", vec![canaries]);
        seen(self.outside.open_canaries(self.course.from).await)?;
        self.board.waits("canaries", vec![]);
        Ok(())
    }

    /// Asks the guards until all have passed so often in a row.
    async fn guards(&self, until: Instant) -> Carried {
        let mut saw = String::from("none");
        let passed = timeout_at(until, self.pass_guards(&mut saw)).await;
        self.board.waits("guards", vec![]);
        passed.map_err(|_| format!("the guards did not pass often enough in a row: {saw}"))
    }

    async fn pass_guards(&self, saw: &mut String) {
        let guards = self.checks(|check| check.guard);
        let wanted = if guards.is_empty() { 0 } else { self.cutover().guard_passes };
        let mut passes = 0;
        while passes < wanted {
            passes += 1;
            for check in &guards {
                if let Err(why) = seen(asked(&self.world, &*self.outside, check, Asking::Guard).await) {
                    (passes, *saw) = (0, why);
                }
            }
            let line = format!("guards: {passes} of {wanted} passes in a row (last refusal: {saw})");
            self.board.waits("guards", vec![line]);
            if passes < wanted {
                sleep(self.cutover().guard_interval).await;
            }
        }
    }

    fn checks(&self, wanted: impl Fn(&Check) -> bool) -> Vec<Check> {
        let (from, to) = (self.name(self.course.from), self.name(self.course.to));
        let all = self.cutover().checks.iter();
        all.filter(|check| check.from == from && check.to == to && wanted(check)).cloned().collect()
    }

    fn ask_later(&self, asking: &mut JoinSet<(Answer, Check)>, check: Check, pause: Duration) {
        let (world, outside) = (self.world.clone(), self.outside.clone());
        asking.spawn(async move {
            sleep(pause).await;
            (asked(&world, &*outside, &check, Asking::Barrier).await, check)
        });
    }

    /// Each barrier has to pass once, and is asked again until it does.
    pub(super) async fn barriers(&self) -> Carried {
        let _span = self.world.holds.external();
        let mut open: BTreeMap<String, String> = BTreeMap::new();
        let mut asking = JoinSet::new();
        for check in self.checks(|check| check.barrier) {
            open.insert(check.name.clone(), "not answered yet".into());
            self.ask_later(&mut asking, check, Duration::ZERO);
        }
        let until = Instant::now() + self.cutover().barrier;
        while !open.is_empty() {
            self.board
                .waits("barriers", open.iter().map(|(name, saw)| format!("barrier {name}: {saw}")).collect());
            let Ok(Some(Ok((answer, check)))) = timeout_at(until, asking.join_next()).await else {
                let left: Vec<String> =
                    open.into_iter().map(|(name, saw)| format!("{name}: {saw}")).collect();
                return Err(format!("barriers did not pass: {}", left.join("; ")));
            };
            match seen(answer) {
                Ok(()) => drop(open.remove(&check.name)),
                Err(saw) => {
                    open.insert(check.name.clone(), saw);
                    self.ask_later(&mut asking, check, BARRIER_PAUSE);
                }
            }
        }
        self.board.waits("barriers", vec![]);
        Ok(())
    }

    /// Whether a pool takes writes, and a new one what clients are shown: their own mail and no other's, and all that they
    /// were promised.
    pub(super) async fn prove_writes(&self, side: Side) -> Carried {
        let (pool, within) = (self.course.pool(side), self.cutover().barrier);
        let unanswered = &self.unanswered();
        self.external(self.outside.writes(pool, within, unanswered)).await?;
        match side {
            Side::Old => Ok(()),
            Side::New => {
                let offers = self.outside.offers(pool, unanswered);
                self.external(Answer::worst(vec![offers, Box::pin(self.identity(pool, within, unanswered))]))
                    .await
            }
        }
    }

    /// A standby that takes logins has shown whose mail they lead to at the plan: asking again would only make the pause
    /// longer. The markers come from the plan too, and replication is given time to bring them.
    async fn identity(&self, pool: PoolId, within: Duration, unanswered: &Unanswered) -> Answer {
        match self.world.topology.load().pool(pool).contract.standby_login {
            StandbyLogin::Yes => Answer::Pass,
            StandbyLogin::No | StandbyLogin::Forbidden => {
                let asking = proof::Asking { within, unanswered };
                asking.until_known("identity".to_owned(), || self.outside.identity(pool)).await
            }
        }
    }

    /// Watches the old pool's fence until the time is over and everybody has had a turn on the new one.
    pub(super) async fn soak(&self) -> Carried {
        let soak = self.cutover().soak;
        let (until, unheard) = (Instant::now() + soak, Unanswered::unheard());
        let watch = async {
            loop {
                // A short soak is watched as well.
                sleep(FENCE_WATCH.min(soak / 4)).await;
                let asked = self.outside.refuses(self.course.from, &unheard).await;
                if let Answer::Fail(saw) = asked {
                    self.board.alarm(format!("the old pool's fence does not hold: {saw}"));
                }
            }
        };
        let time = async { tokio::join!(tokio::time::sleep_until(until), self.attach_late()) };
        tokio::select! {
            never = watch => never,
            _ = time => Ok(()),
        }
    }
}
