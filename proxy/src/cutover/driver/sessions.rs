//! What a cutover asks of sessions, and what it waits for from them.
//!
//! Rule: each wait names whom it waits for, and has a bound.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{Carried, Run, lock};
use crate::{
    config::Unmovable,
    cutover::muster::{Orders, attach_order, logged_in, one_at_a_time, until_none},
    session::registry::{Handle, Order, Progress},
};

impl Run {
    /// Every session learns its view. Who has not by then cannot be moved.
    pub(super) async fn prepare(&self, until: Instant) {
        let all = self.world.registry.all();
        // A connection without a login has nothing to learn; its order stands for when it has.
        let (known, unknown): (Vec<_>, Vec<_>) = all.into_iter().partition(|h| !h.info().identity.is_empty());
        for handle in unknown {
            handle.give(Order::Prepare);
        }
        let mut orders = Orders::new(Order::Prepare, self.cutover().restore_concurrency, known);
        let tell = |lines| self.board.waits("views", lines);
        let _ = timeout_at(until, orders.carry_out(&self.world.registry, tell)).await;
        let late = |h: &Arc<Handle>| (h.id, h.info().unmovable.unwrap_or_else(|| "view_unknown".into()));
        let mut book = lock(&self.book);
        book.unmovable(orders.unfinished().map(late).collect::<Vec<_>>());
        book.unmovable(orders.tally.lost);
        drop(book);
        self.board.waits("views", vec![]);
    }

    pub(super) fn within_unmovable(&self) -> Carried {
        let allowed = match self.cutover().unmovable {
            Unmovable::Abort => 0,
            Unmovable::Upto(allowed) => allowed,
        };
        let mut book = lock(&self.book);
        let count = book.unmovable([]);
        if count <= allowed {
            return Ok(());
        }
        let reasons: Vec<String> = book.reasons().iter().map(|(why, n)| format!("{n} {why}")).collect();
        Err(format!("{count} sessions cannot be moved ({}), {allowed} are allowed", reasons.join(", ")))
    }

    pub(super) async fn drain(&self) -> Carried {
        let pipes: Vec<_> =
            self.world.registry.all().into_iter().filter(|handle| handle.info().pipe).collect();
        lock(&self.book).unmovable(pipes.iter().map(|handle| (handle.id, "pipe".into())));
        for pipe in pipes {
            pipe.give(Order::End);
        }
        let until = Instant::now() + self.cutover().drain;
        let writing = |handle: &Handle| handle.word.read().writes > 0;
        self.wait_within(self.cutover().drain, writing, "sessions with unanswered writes").await?;
        // Reads that cannot linger are given the rest of the drain; they never abort.
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
        let leaving: Vec<_> =
            self.world.registry.all().into_iter().filter(|handle| must_go(handle)).collect();
        let given: Vec<_> = leaving.into_iter().map(|handle| (handle.give(Order::Leave), handle)).collect();
        // The hold's deadline bounds this wait.
        let limit = self.cutover().max_hold;
        self.wait_within(limit, must_go, "sessions leaving the old pool").await?;
        // A session with a read in flight could only be closed. That is counted, and aborts nothing.
        let cut = given.iter().filter(|(number, handle)| handle.progress(*number) == Progress::Farewell);
        lock(&self.book)
            .unmovable(cut.map(|(_, handle)| (handle.id, "read_in_flight".into())).collect::<Vec<_>>());
        Ok(())
    }

    /// On the way home: on shared storage nobody may be left on the new pool.
    pub(super) async fn leave_new(&self) -> Carried {
        if !one_at_a_time(self.storage()) {
            return Ok(());
        }
        let touches = |handle: &Handle| handle.word.read().touches(self.course.to);
        let reserve = self.cutover().abort_reserve;
        for order in [Order::Leave, Order::End] {
            for handle in self.world.registry.all().iter().filter(|handle| touches(handle)) {
                handle.give(order);
            }
            if self.wait_within(reserve, touches, "sessions leaving the new pool").await.is_ok() {
                return Ok(());
            }
        }
        Err("sessions are still on the new pool".into())
    }

    /// Sessions with held commands, and a sample of the others.
    pub(super) async fn verify(&self) -> Carried {
        let sessions = logged_in(&self.world.registry).into_iter().filter(|(_, info)| !info.pipe);
        let (held, others): (Vec<_>, Vec<_>) = sessions.partition(|(_, info)| info.held > 0);
        let sample = others.into_iter().take(self.cutover().verify_sample);
        let chosen = held.into_iter().chain(sample).map(|(handle, _)| handle).collect();
        let mut orders = Orders::new(Order::Verify, self.cutover().restore_concurrency, chosen);
        orders.carry_out(&self.world.registry, |lines| self.board.waits("verify", lines)).await;
        self.board.waits("verify", vec![]);
        lock(&self.book).unmovable(orders.tally.lost);
        self.within_unmovable()
    }

    /// Every session gets its backend on the active pool, in the order of who feels the wait.
    pub(super) async fn attach(&self) -> Carried {
        let sessions = attach_order(logged_in(&self.world.registry));
        let count = sessions.len();
        let mut orders = Orders::new(Order::Attach, self.cutover().restore_concurrency, sessions);
        let limit = self.cutover().resume_within.max(self.world.config.limits.command_ceiling);
        let attached =
            timeout(limit, orders.carry_out(&self.world.registry, |lines| self.board.waits("attach", lines)))
                .await;
        self.board.waits("attach", vec![]);
        if attached.is_err() {
            self.board.alarm(format!(
                "{} sessions were not attached within {limit:?}",
                orders.unfinished().count()
            ));
        }
        let lost = orders.tally.lost;
        if lost.len() > (count / 200).max(10) {
            self.board.alarm(format!("{} of {count} sessions were refused by the active pool", lost.len()));
        }
        lock(&self.book).unmovable(lost);
        Ok(())
    }

    pub(super) async fn rest(&self) -> Carried {
        self.world.topology.set_target(None);
        self.world.gate.arm(false);
        self.world.registry.birth(Order::Flow);
        for handle in self.world.registry.all() {
            let (number, order) = handle.order();
            // Who is late with its attach goes on with it.
            if order != Order::Attach || handle.progress(number) != Progress::Working {
                handle.give(Order::Flow);
            }
        }
        self.outside.close_canaries().await;
        Ok(())
    }

    pub(super) fn wake_all(&self) {
        self.world.registry.all().iter().for_each(|handle| handle.wake());
    }
}
