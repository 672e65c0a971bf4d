//! Prewarm: sessions log in to the standby while traffic still flows, so that a held command waits for no login.
//!
//! Rule: it is a help and never a condition: paced, bounded, left alone by the first sign that it is too much for the
//! standby, and given back when the cutover turns round. On shared storage it does not exist.

use std::{collections::HashMap, convert::Infallible};

use rustix::process::{Resource, getrlimit};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{Run, lock};
use crate::{
    config::Protocol,
    cutover::muster::{Orders, Pace, logged_in},
    session::registry::{Handle, Order, SessionId},
};

/// Logins for one session, those that replace a lost connection included.
const TRIES: u8 = 3;

impl Run {
    /// Says when everybody has had a turn, and goes on with sessions that come, and those that lose what they had.
    pub(super) async fn prewarm(&self, until: Instant, ready: &Notify) -> Infallible {
        let topology = self.world.topology.load();
        let mut tries = HashMap::new();
        while self.cutover().prewarms(topology.pool(self.course.to)) {
            if !self.prewarm_once(until, &mut tries).await {
                tracing::warn!(cutover = self.course.id, "the standby is not able to take more logins yet");
                break;
            }
            ready.notify_one();
            sleep(self.cutover().guard_interval).await;
        }
        ready.notify_one();
        std::future::pending().await
    }

    /// One login for each session that lacks one. False: the standby is to be left alone.
    async fn prewarm_once(&self, until: Instant, tries: &mut HashMap<SessionId, u8>) -> bool {
        let cold = |handle: &Handle| {
            let standing = handle.word.read();
            let tried = tries.get(&handle.id).is_some_and(|tried| *tried >= TRIES);
            handle.protocol == Protocol::Imap
                && standing.backend.is_some()
                && standing.spare != Some(self.course.to)
                && !tried
                && logged_in(handle)
        };
        let mut sessions =
            self.world.registry.select(|handle| cold(handle) && !handle.inspect(|info| info.pipe));
        sessions.truncate(self.room());
        for session in &sessions {
            *tries.entry(session.id).or_default() += 1;
        }
        let pace = Pace::per_second(self.cutover().login_rate);
        let mut orders = Orders::new(Order::Prewarm, self.cutover().restore_concurrency, pace);
        orders.add(sessions, |_| true);
        let tell = |lines| self.board.waits("prewarm", lines);
        let _ = timeout_at(until, orders.carry_out(&self.world.registry, tell)).await;
        self.board.waits("prewarm", vec![]);
        lock(&self.doubtful).extend(orders.tally.lost.iter().map(|(id, _)| *id));
        !orders.pushed_off()
    }

    /// How many more connections the limit of open files allows, with a tenth of it left for clients that come.
    fn room(&self) -> usize {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let (mut sessions, mut warm) = (0u64, 0u64);
        self.world.registry.each(|handle| {
            sessions += 1;
            warm += u64::from(handle.word.read().spare.is_some());
        });
        usize::try_from((files - files / 10).saturating_sub(2 * sessions + warm)).unwrap_or(usize::MAX)
    }
}
