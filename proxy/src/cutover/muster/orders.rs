//! One order to many sessions.
//!
//! Rule: a bounded number works on it at a time, those for whom somebody waits first; a pool that refuses too many is
//! not given the others to refuse.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{pace::Pace, summary};
use crate::session::registry::{Handle, Order, Progress, Registry, SessionId};

/// One order, given to sessions in turn, to a bounded number at a time.
#[derive(Debug)]
pub(in crate::cutover) struct Orders {
    order: Order,
    window: usize,
    waiting: VecDeque<Turn>,
    working: BTreeMap<SessionId, (Arc<Handle>, u64)>,
    pace: Pace,
    brake: Brake,
    /// What came of it so far.
    pub(in crate::cutover) tally: Tally,
}

/// A session that waits for its order.
#[derive(Debug)]
struct Turn {
    handle: Arc<Handle>,
    /// Nobody waits for it: it keeps to the pace.
    paced: bool,
}

/// What came of an order.
#[derive(Debug, Default)]
pub(in crate::cutover) struct Tally {
    /// Sessions that carried it out.
    pub(in crate::cutover) done: usize,
    /// Sessions that could not, or got their farewell for it, and why.
    pub(in crate::cutover) lost: Vec<(SessionId, String)>,
    /// Sessions whose server could not just now.
    pub(in crate::cutover) later: usize,
}

/// Why nobody is waited for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cutover) enum Ended {
    /// Every session has answered or ended.
    All,
    /// More were lost than may be. The others wait; whoever goes on does so one at a time.
    Braked,
}

/// What keeps a pool that refuses users from refusing all of them.
#[derive(Debug)]
struct Brake {
    allowed: usize,
    pulled: bool,
    /// Sessions in a row that went through since.
    trust: usize,
    /// The pace before.
    usual: Duration,
}

/// Between two sessions once the brake is pulled.
const BRAKED: Duration = Duration::from_secs(1);
/// So many in a row go through, and the brake is released.
const TRUST: usize = 10;

impl Orders {
    pub(in crate::cutover) fn new(order: Order, window: usize, pace: Pace) -> Self {
        Self {
            order,
            window: window.max(1),
            waiting: VecDeque::new(),
            working: BTreeMap::new(),
            pace,
            brake: Brake { allowed: usize::MAX, pulled: false, trust: 0, usual: Duration::ZERO },
            tally: Tally::default(),
        }
    }

    /// Brakes when more than so many sessions are lost.
    pub(in crate::cutover) fn allow_lost(&mut self, allowed: usize) {
        self.brake.allowed = allowed;
    }

    /// How fast from now on.
    pub(in crate::cutover) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// These as well, after those that wait already. Nobody waits for those that are `paced`.
    pub(in crate::cutover) fn add(&mut self, sessions: Vec<Arc<Handle>>, paced: impl Fn(&Handle) -> bool) {
        self.waiting.extend(sessions.into_iter().map(|handle| Turn { paced: paced(&handle), handle }));
    }

    /// Gives the order to as many as may have it now.
    pub(in crate::cutover) fn give(&mut self, registry: &Registry) {
        let now = Instant::now();
        while self.working.len() < self.window()
            && let Some(turn) = self.waiting.front()
            && (!(turn.paced || self.brake.pulled) || self.pace.take(now))
            && let Some(Turn { handle, .. }) = self.waiting.pop_front()
        {
            let number = handle.give(self.order);
            let id = handle.id;
            self.working.insert(id, (handle, number));
            // Who ended before this is no news.
            if registry.get(id).is_none() {
                self.settle(registry, id);
            }
        }
        if self.pace.pushed_off() {
            self.waiting.clear();
        }
    }

    fn window(&self) -> usize {
        if self.brake.pulled { 1 } else { self.window }
    }

    /// Resolves when every session has answered or ended, or too many are lost. Dropped half-way, what is known
    /// is in `tally`, and [`Self::unfinished`] are the others.
    pub(in crate::cutover) async fn carry_out(
        &mut self,
        registry: &Registry,
        mut tell: impl FnMut(Vec<String>),
    ) -> Ended {
        let mut watch = registry.watch();
        // What they said before the watch began.
        let mut changed: Vec<SessionId> = self.working.keys().copied().collect();
        loop {
            for id in changed {
                self.settle(registry, id);
            }
            if !self.brake.pulled && self.tally.lost.len() > self.brake.allowed {
                self.pull_brake();
                return Ended::Braked;
            }
            self.give(registry);
            if self.working.is_empty() && self.waiting.is_empty() {
                return Ended::All;
            }
            tell(vec![self.summary()]);
            let room = self.working.len() < self.window() && !self.waiting.is_empty();
            let turn = self.pace.next.filter(|_| room);
            changed = tokio::select! {
                changed = watch.next() => changed,
                () = until(turn) => Vec::new(),
            };
        }
    }

    /// Whether the server could not so often that it is to be left alone.
    pub(in crate::cutover) fn pushed_off(&self) -> bool {
        self.pace.pushed_off()
    }

    /// Whether sessions go one at a time because too many were lost.
    pub(in crate::cutover) fn braked(&self) -> bool {
        self.brake.pulled
    }

    /// Sessions that have not answered.
    pub(in crate::cutover) fn unfinished(&self) -> impl Iterator<Item = &Arc<Handle>> {
        let working = self.working.values().map(|(handle, _)| handle);
        working.chain(self.waiting.iter().map(|turn| &turn.handle))
    }

    fn summary(&self) -> String {
        let count = self.working.len() + self.waiting.len();
        format!("{count} sessions: {}", summary(self.unfinished(), count))
    }

    fn settle(&mut self, registry: &Registry, id: SessionId) {
        let Some((handle, number)) = self.working.get(&id) else { return };
        let why = || handle.inspect(|info| info.unmovable.clone());
        let lost = match handle.progress(*number) {
            Progress::Done => {
                self.tally.done += 1;
                self.pace.pushed_back = 0;
                self.brake.trust += 1;
                None
            }
            Progress::Refused | Progress::Farewell => Some(why().unwrap_or_else(|| "refused".into())),
            Progress::Later => {
                self.tally.later += 1;
                self.pace.push_back(Instant::now());
                None
            }
            Progress::Working if registry.get(id).is_some() => return,
            // It ended by itself, or with a farewell that it had no time to report.
            Progress::Working => why(),
        };
        if let Some(why) = lost {
            self.tally.lost.push((id, why));
            self.brake.trust = 0;
        } else if self.brake.pulled && self.brake.trust >= TRUST {
            self.release_brake();
        }
        self.working.remove(&id);
    }

    fn pull_brake(&mut self) {
        (self.brake.pulled, self.brake.trust, self.brake.usual) = (true, 0, self.pace.every);
        self.pace.every = self.pace.every.max(BRAKED);
    }

    /// What was refused is mended, it seems: as many again may be lost.
    fn release_brake(&mut self) {
        (self.brake.pulled, self.pace.every) = (false, self.brake.usual);
        self.brake.allowed = self.brake.allowed.saturating_add(self.tally.lost.len());
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::{super::whom::tests::enter, *};
    use crate::session::registry::Entry;

    fn sessions(count: usize) -> (Arc<Registry>, Vec<Entry>, Vec<Arc<Handle>>) {
        let registry: Arc<Registry> = Arc::default();
        let entries: Vec<Entry> =
            ["a", "b", "c", "d"][..count].iter().map(|user| enter(&registry, user)).collect();
        let handles = entries.iter().map(|entry| entry.handle.clone()).collect();
        (registry, entries, handles)
    }

    fn orders(window: usize, handles: &[Arc<Handle>], paced: bool) -> Orders {
        let mut orders = Orders::new(Order::Verify, window, Pace::none());
        orders.add(handles.to_vec(), |_| paced);
        orders
    }

    fn poll<F: Future + Unpin>(work: &mut F) -> Option<F::Output> {
        match std::pin::Pin::new(work).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    fn given(handles: &[Arc<Handle>]) -> usize {
        handles.iter().filter(|handle| handle.order().1 == Order::Verify).count()
    }

    #[test]
    fn orders_are_given_to_a_bounded_number_and_who_ends_is_not_waited_for() {
        let (registry, mut entries, handles) = sessions(4);
        let mut orders = orders(2, &handles, false);
        let mut told = Vec::new();
        {
            let tell = |lines: Vec<String>| told.push((given(&handles), lines[0].clone()));
            let mut work = Box::pin(orders.carry_out(&registry, tell));
            assert!(poll(&mut work).is_none());
            handles[0].report(1, Progress::Done);
            assert!(poll(&mut work).is_none());
            handles[1].describe(|info| info.unmovable = Some("uids".into()));
            handles[1].report(1, Progress::Refused);
            drop(entries.remove(2));
            assert!(poll(&mut work).is_none());
            handles[3].report(1, Progress::Farewell);
            assert_eq!(poll(&mut work), Some(Ended::All));
        }
        let mut at_once: Vec<usize> = told.iter().map(|(given, _)| *given).collect();
        at_once.dedup();
        assert_eq!(at_once, [2, 3, 4]);
        assert_eq!(told[0].1, "4 sessions: a, b, c, d");
        assert_eq!(orders.tally.done, 1);
        assert_eq!(orders.tally.lost, [(handles[1].id, "uids".into()), (handles[3].id, "refused".into())]);
        assert_eq!(orders.unfinished().count(), 0);
    }

    #[test]
    fn who_ended_before_its_turn_is_not_waited_for() {
        let (registry, entries, handles) = sessions(2);
        let mut orders = orders(2, &handles, false);
        drop(entries);
        assert_eq!(poll(&mut Box::pin(orders.carry_out(&registry, drop))), Some(Ended::All));
    }

    #[test]
    fn an_answer_between_two_waits_is_not_missed() {
        let (registry, _entries, handles) = sessions(2);
        let mut orders = orders(2, &handles, false);
        orders.give(&registry);
        handles[0].report(1, Progress::Done);
        assert!(poll(&mut Box::pin(orders.carry_out(&registry, drop))).is_none());
        handles[1].report(1, Progress::Done);
        assert_eq!(poll(&mut Box::pin(orders.carry_out(&registry, drop))), Some(Ended::All));
        assert_eq!(orders.tally.done, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_cannot_three_times_in_a_row_is_left_alone() {
        let (registry, _entries, handles) = sessions(4);
        let mut orders = orders(1, &handles, true);
        let mut work = Box::pin(orders.carry_out(&registry, drop));
        for handle in &handles[..3] {
            while given(std::slice::from_ref(handle)) == 0 {
                assert!(poll(&mut work).is_none());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            handle.report(1, Progress::Later);
        }
        assert_eq!(poll(&mut work), Some(Ended::All));
        drop(work);
        assert!(orders.pushed_off() && given(&handles) == 3, "the fourth is not asked");
        assert_eq!((orders.tally.later, orders.tally.done), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_lost_pull_the_brake_and_trust_releases_it() {
        let registry: Arc<Registry> = Arc::default();
        let entries: Vec<Entry> = (0..30).map(|n| enter(&registry, &format!("u{n}"))).collect();
        let handles: Vec<_> = entries.iter().map(|entry| entry.handle.clone()).collect();
        let mut orders = orders(4, &handles, false);
        orders.allow_lost(1);
        {
            let mut work = Box::pin(orders.carry_out(&registry, drop));
            assert!(poll(&mut work).is_none());
            handles[0].report(1, Progress::Farewell);
            assert!(poll(&mut work).is_none());
            handles[1].report(1, Progress::Farewell);
            assert_eq!(poll(&mut work), Some(Ended::Braked));
        }
        assert!(orders.braked());
        let mut work = Box::pin(orders.carry_out(&registry, drop));
        let asked = given(&handles);
        for handle in &handles[2..asked] {
            handle.report(1, Progress::Done);
        }
        assert!(poll(&mut work).is_none());
        assert_eq!(given(&handles), asked + 1, "one");
        assert!(poll(&mut work).is_none());
        assert_eq!(given(&handles), asked + 1, "at a time");
        let mut next = asked;
        while given(&handles) <= next + 1 {
            handles[next].report(1, Progress::Done);
            next += 1;
            tokio::time::sleep(BRAKED).await;
            assert!(poll(&mut work).is_none());
        }
        assert_eq!(next - 2, TRUST, "so many in a row, and they go together again");
    }
}
