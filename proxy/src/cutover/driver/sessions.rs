//! What a cutover asks of sessions, and what it waits for from them.
//!
//! Rule: each wait names whom it waits for, and has a bound.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{Carried, Run, lock};
use crate::{
    config::{Protocol, Unmovable},
    cutover::muster::{
        Ended, Orders, Pace, attach_order, concerned, logged_in, one_at_a_time, until_none, waiting,
    },
    session::registry::{Handle, Order, Progress},
};

/// How long the report waits for commands that were held and have a pool again.
const RELEASED: Duration = Duration::from_secs(2);

impl Run {
    /// Every session learns its view. Who has not by then cannot be moved.
    pub(super) async fn prepare(&self, until: Instant) {
        // Whom an earlier cutover's brake has kept from this pool stays away from it: what it has learnt stands.
        let kept_away = |handle: &Handle| {
            let standing = handle.word.read();
            handle.order().1 != Order::Flow && standing.backend.is_none() && !standing.waits
        };
        // A connection without a login and without mail has nothing to learn; its order stands for when it has.
        let (known, unknown): (Vec<_>, Vec<_>) = (self.world.registry)
            .select(|handle| !(logged_in(handle) && kept_away(handle)))
            .into_iter()
            .partition(|handle| concerned(handle));
        for handle in unknown {
            handle.give(Order::Prepare);
        }
        let mut orders = Orders::new(Order::Prepare, self.cutover().restore_concurrency, Pace::none());
        orders.add(known, |_| false);
        let tell = |lines| self.board.waits("views", lines);
        let _ = timeout_at(until, orders.carry_out(&self.world.registry, tell)).await;
        let late = |h: &Arc<Handle>| (h.id, h.info().unmovable.unwrap_or_else(|| "view_unknown".into()));
        let mut book = lock(&self.book);
        book.unmovable(orders.unfinished().map(late).collect::<Vec<_>>());
        book.unmovable(orders.tally.lost);
        drop(book);
        self.board.waits("views", vec![]);
    }

    fn allowed_unmovable(&self) -> usize {
        match self.cutover().unmovable {
            Unmovable::Abort => 0,
            Unmovable::Upto(allowed) => allowed,
        }
    }

    pub(super) fn within_unmovable(&self) -> Carried {
        let allowed = self.allowed_unmovable();
        let mut book = lock(&self.book);
        let count = book.unmovable([]);
        if count <= allowed {
            return Ok(());
        }
        let reasons: Vec<String> = book.reasons().iter().map(|(why, n)| format!("{n} {why}")).collect();
        Err(format!("{count} sessions cannot be moved ({}), {allowed} are allowed", reasons.join(", ")))
    }

    /// Notes whom the next order would cost its connection; an error where that is more than may be: nobody is cut for a
    /// cutover that turns back for it.
    fn may_cut(&self, sessions: &[Arc<Handle>], why: &str) -> Carried {
        lock(&self.book).unmovable(sessions.iter().map(|handle| (handle.id, why.into())));
        self.within_unmovable()
    }

    pub(super) async fn drain(&self) -> Carried {
        let pipes = self.world.registry.select(|handle| handle.inspect(|info| info.pipe));
        self.may_cut(&pipes, "pipe")?;
        for pipe in pipes {
            pipe.give(Order::End);
        }
        let until = Instant::now() + self.cutover().drain;
        let writing = |handle: &Handle| handle.word.read().writes > 0;
        self.wait_within(self.cutover().drain, writing, "sessions with unanswered writes").await?;
        // Reads that cannot linger are given the rest of the drain.
        let reading = |handle: &Handle| self.must_leave(handle) && handle.word.read().reads > 0;
        let rest = until.saturating_duration_since(Instant::now());
        let _ = self.wait_within(rest, reading, "sessions with unanswered reads").await;
        Ok(())
    }

    /// On shared storage nobody lingers; elsewhere only reads go, where the fence would cut them.
    fn must_leave(&self, handle: &Handle) -> bool {
        let old = self.course.from;
        let cuts_reads = !self.world.topology.load().pool(old).contract.fence_keeps_reads;
        let standing = handle.word.read();
        standing.touches(old) && (one_at_a_time(self.storage()) || (cuts_reads && standing.reads > 0))
    }

    /// Waits until no session is so; fails with the names of those that still are.
    async fn wait_within(&self, limit: Duration, is: impl Fn(&Handle) -> bool, what: &str) -> Carried {
        let mut last = String::new();
        let tell = |lines: Vec<String>| {
            last = lines.join("; ");
            self.board.waits("sessions", lines);
        };
        let waited = timeout(limit, until_none(&self.world.registry, is, what, tell)).await;
        self.board.waits("sessions", vec![]);
        waited.map_err(|_| format!("after {limit:?} still {last}"))
    }

    /// Whoever cannot stay on the old pool goes, and its end is awaited.
    pub(super) async fn leave_old(&self) -> Carried {
        let must_go = |handle: &Handle| self.must_leave(handle);
        let leaving = self.world.registry.select(must_go);
        let cut = |handle: &&Arc<Handle>| handle.word.read().costly;
        self.may_cut(&leaving.iter().filter(cut).cloned().collect::<Vec<_>>(), "read_in_flight")?;
        let given: Vec<_> = leaving.into_iter().map(|handle| (handle.give(Order::Leave), handle)).collect();
        // The hold's deadline bounds this wait.
        let limit = self.cutover().max_hold;
        self.wait_within(limit, must_go, "sessions leaving the old pool").await?;
        // And those whose answer began in between.
        let cut = given.into_iter().filter(|(number, handle)| handle.progress(*number) == Progress::Farewell);
        self.may_cut(&cut.map(|(_, handle)| handle).collect::<Vec<_>>(), "read_in_flight")
    }

    /// On the way home: on shared storage nobody may be left on the new pool.
    pub(super) async fn leave_new(&self) -> Carried {
        if !one_at_a_time(self.storage()) {
            return Ok(());
        }
        let touches = |handle: &Handle| handle.word.read().touches(self.course.to);
        // Who was told to go there and has not begun would begin now.
        let may_touch = |handle: &Handle| touches(handle) || handle.order().1 == Order::Verify;
        let reserve = self.cutover().abort_reserve;
        for order in [Order::Leave, Order::End] {
            let mut orders = Orders::new(order, usize::MAX, Pace::none());
            orders.add(self.world.registry.select(may_touch), |_| false);
            let gone = async {
                orders.carry_out(&self.world.registry, |lines| self.board.waits("sessions", lines)).await;
                self.wait_within(reserve, touches, "sessions leaving the new pool").await
            };
            if timeout(reserve, gone).await.is_ok_and(|gone| gone.is_ok()) {
                return Ok(());
            }
        }
        Err("sessions are still on the new pool".into())
    }

    /// A sample: those that were doubted, those with held commands, others, in this order. What it does not look
    /// at is looked at by the attach, before a byte of the new pool reaches the client.
    ///
    /// Everybody with a held command would make the pause grow with the number of them.
    pub(super) async fn verify(&self) -> Carried {
        let allowed = self.allowed_unmovable();
        let mut sessions =
            self.world.registry.select(|handle| logged_in(handle) && !handle.inspect(|info| info.pipe));
        let doubtful = std::mem::take(&mut *lock(&self.doubtful));
        let rank = |handle: &Arc<Handle>| match () {
            () if doubtful.contains(&handle.id) => 0u8,
            () if handle.word.read().waits => 1,
            () => 2,
        };
        sessions.sort_by_cached_key(rank);
        // Of the doubted at least so many as make it turn back.
        let doubted = sessions.partition_point(|handle| rank(handle) == 0);
        sessions.truncate(self.cutover().verify_sample.max(doubted.min(allowed.saturating_add(1))));
        let mut orders = Orders::new(Order::Verify, self.cutover().restore_concurrency, Pace::none());
        orders.add(sessions, |_| false);
        orders.allow_lost(allowed);
        orders.carry_out(&self.world.registry, |lines| self.board.waits("verify", lines)).await;
        self.board.waits("verify", vec![]);
        lock(&self.book).unmovable(orders.tally.lost);
        self.within_unmovable()
    }

    /// Every session gets its backend on the active pool, in the order of who feels the wait. Logins that nobody
    /// waits for are spread; a session whose client asks for something meanwhile attaches by itself.
    pub(super) async fn attach(&self) -> Carried {
        let (registry, active) = (&self.world.registry, self.world.topology.load().active);
        // Mail has nothing to log in to before its next message.
        let cold =
            |handle: &Handle| handle.protocol == Protocol::Imap && handle.word.read().spare != Some(active);
        let mut orders = Orders::new(Order::Attach, self.cutover().restore_concurrency, Pace::none());
        let waiting = waiting(registry, active);
        orders.add(waiting.clone(), |_| false);
        orders.give(registry);
        let others = attach_order(registry, active, &waiting);
        let count = waiting.len() + others.len();
        orders.set_pace(self.resume_pace(others.iter().filter(|handle| cold(handle)).count()));
        orders.allow_lost((count / 200).max(10));
        orders.add(others, cold);
        let forward = active == self.course.to;
        self.carry_on(&mut orders, count, forward).await;
        self.board.waits("attach", vec![]);
        // Mail dials for itself, and what it waited for belongs into the report; nobody else waits for it.
        let held =
            |handle: &Handle| handle.protocol != Protocol::Imap && handle.inspect(|info| info.held > 0);
        let _ = self.wait_within(RELEASED, held, "messages that were held").await;
        // Streams of HTTP go by themselves, and nobody waits for them for long; but the report is to count them.
        let epoch = self.world.topology.load().epoch;
        let _ = timeout(RELEASED, self.world.http.none_behind(epoch)).await;
        lock(&self.book).unmovable(orders.tally.lost.iter().cloned());
        if forward && orders.braked() {
            *self.late.lock().await = Some(orders);
        }
        Ok(())
    }

    /// Those whom the brake keeps from a pool that refuses users, one at a time until that is mended. Nobody waits for
    /// them: meanwhile the way back is open.
    pub(super) async fn attach_late(&self) {
        let mut late = self.late.lock().await;
        if let Some(orders) = &mut *late {
            let count = orders.unfinished().count();
            self.carry_on(orders, count, false).await;
            self.board.waits("attach", vec![]);
        }
        *late = None;
    }

    /// So many logins in nine tenths of the time that they may take, and no slower than logins may come anyway.
    fn resume_pace(&self, logins: usize) -> Pace {
        let share = self.cutover().resume_within * 9 / 10 / u32::try_from(logins.max(1)).unwrap_or(u32::MAX);
        Pace::every(share.min(Duration::from_secs(1) / self.cutover().login_rate))
    }

    /// `forward`: once too many are refused, the others are for [`Self::attach_late`].
    async fn carry_on(&self, orders: &mut Orders, count: usize, forward: bool) {
        let limit = self.cutover().resume_within.max(self.world.config.limits.command_ceiling);
        loop {
            let tell = |lines| self.board.waits("attach", lines);
            let braked = orders.braked();
            let work = orders.carry_out(&self.world.registry, tell);
            // A pool that refuses users is not left to refuse the others because time is up.
            let ended = if braked { Ok(work.await) } else { timeout(limit, work).await };
            match ended {
                Ok(Ended::All) => return,
                Ok(Ended::Braked) => {
                    let lost = orders.tally.lost.len();
                    self.board.alarm(format!(
                        "{lost} of {count} sessions were refused by the active pool; the others are attached one at a time"
                    ));
                    if forward {
                        return;
                    }
                }
                Err(_) => {
                    let left = orders.unfinished().count();
                    return self.board.alarm(format!("{left} sessions were not attached within {limit:?}"));
                }
            }
        }
    }

    pub(super) async fn rest(&self) -> Carried {
        self.world.topology.set_target(None);
        self.world.gate.arm(false);
        self.world.registry.birth(Order::Flow);
        let late = self.late.lock().await;
        let late: HashSet<_> = late.iter().flat_map(Orders::unfinished).map(|handle| handle.id).collect();
        self.world.registry.each(|handle| {
            let (number, order) = handle.order();
            // Who is late with its attach goes on with it, or waits for its turn.
            let attaches = order == Order::Attach && handle.progress(number) == Progress::Working;
            if !attaches && !late.contains(&handle.id) {
                handle.give(Order::Flow);
            }
        });
        self.outside.close_canaries().await;
        Ok(())
    }
}
