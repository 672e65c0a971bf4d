//! Orders to many sessions at once, and waiting for what their words say.
//!
//! Rule: every wait looks first and then waits for the registry's next progress, so nothing is missed and
//! nothing is polled. One of these waits at a time: the registry wakes one waiter.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    config::Storage,
    session::registry::{Handle, Info, Order, Progress, Registry, SessionId},
};

/// One order, given to sessions in turn, to a bounded number at a time.
#[derive(Debug)]
pub(super) struct Orders {
    order: Order,
    window: usize,
    waiting: VecDeque<Arc<Handle>>,
    working: Vec<(Arc<Handle>, u64)>,
    /// What came of it so far.
    pub(super) tally: Tally,
}

/// What came of an order.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Sessions that carried it out.
    pub(super) done: usize,
    /// Sessions that could not, or got their farewell for it, and why.
    pub(super) lost: Vec<(SessionId, String)>,
}

impl Orders {
    pub(super) fn new(order: Order, window: usize, sessions: Vec<Arc<Handle>>) -> Self {
        Self {
            order,
            window: window.max(1),
            waiting: sessions.into(),
            working: vec![],
            tally: Tally::default(),
        }
    }

    /// Resolves when every session has answered or ended. Dropped half-way, what is known is in `tally`, and
    /// [`Self::unfinished`] are the others.
    pub(super) async fn carry_out(&mut self, registry: &Registry, mut tell: impl FnMut(Vec<String>)) {
        loop {
            self.working.retain(|(handle, number)| self.tally.still_works(registry, handle, *number));
            while self.working.len() < self.window
                && let Some(handle) = self.waiting.pop_front()
            {
                let number = handle.give(self.order);
                self.working.push((handle, number));
            }
            if self.working.is_empty() {
                return;
            }
            let names = summary(self.working.iter().map(|(handle, _)| handle).chain(&self.waiting));
            tell(vec![format!("{} sessions: {names}", self.working.len() + self.waiting.len())]);
            registry.progressed().await;
        }
    }

    /// Sessions that have not answered.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Arc<Handle>> {
        self.working.iter().map(|(handle, _)| handle).chain(&self.waiting)
    }
}

impl Tally {
    fn still_works(&mut self, registry: &Registry, handle: &Arc<Handle>, number: u64) -> bool {
        let why = || handle.info().unmovable.unwrap_or_else(|| "refused".into());
        match handle.progress(number) {
            Progress::Done => self.done += 1,
            Progress::Refused | Progress::Farewell => self.lost.push((handle.id, why())),
            Progress::Working if registry.get(handle.id).is_some() => return true,
            // It ended by itself, or with a farewell that it had no time to report.
            Progress::Working => {
                if let Some(why) = handle.info().unmovable {
                    self.lost.push((handle.id, why));
                }
            }
        }
        false
    }
}

/// Resolves when no session is as described. `tell` hears who still is.
pub(super) async fn until_none(
    registry: &Registry,
    is: impl Fn(&Handle) -> bool,
    what: &str,
    mut tell: impl FnMut(Vec<String>),
) {
    loop {
        let left: Vec<Arc<Handle>> = registry.all().into_iter().filter(|handle| is(handle)).collect();
        if left.is_empty() {
            return;
        }
        tell(vec![format!("{} {what}: {}", left.len(), summary(&left))]);
        registry.progressed().await;
    }
}

/// Who is logged in.
pub(super) fn logged_in(registry: &Registry) -> Vec<(Arc<Handle>, Info)> {
    let all = registry.all().into_iter().map(|handle| {
        let info = handle.info();
        (handle, info)
    });
    all.filter(|(_, info)| !info.identity.is_empty()).collect()
}

/// Who is attached first: users with a held command, then those in IDLE, then the rest; all sessions of one
/// user together.
pub(super) fn attach_order(sessions: Vec<(Arc<Handle>, Info)>) -> Vec<Arc<Handle>> {
    let rank = |info: &Info| match (info.held > 0, info.idle) {
        (true, _) => 0u8,
        (false, true) => 1,
        (false, false) => 2,
    };
    let mut best: HashMap<String, u8> = HashMap::new();
    for (_, info) in &sessions {
        let first = best.entry(info.identity.clone()).or_insert(u8::MAX);
        *first = rank(info).min(*first);
    }
    let mut sessions = sessions;
    sessions.sort_by_cached_key(|(_, info)| {
        (best.get(&info.identity).copied(), info.identity.clone(), rank(info))
    });
    sessions.into_iter().map(|(handle, _)| handle).collect()
}

/// Whether sessions must be seen gone from a pool before the other one is touched.
pub(super) fn one_at_a_time(storage: Storage) -> bool {
    match storage {
        Storage::Shared => true,
        Storage::Replicated => false,
    }
}

/// The first few names.
fn summary<'a>(handles: impl IntoIterator<Item = &'a Arc<Handle>>) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = Vec::new();
    let mut more = 0;
    for handle in handles {
        if names.len() < SHOWN { names.push(name(handle)) } else { more += 1 }
    }
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Whom a person would look for.
pub(super) fn name(handle: &Handle) -> String {
    let info = handle.info();
    let who = if info.identity.is_empty() { handle.peer.to_string() } else { info.identity };
    match info.upload {
        Some((received, announced)) => format!("{who} (upload {received} of {announced} bytes)"),
        None => who,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future as _,
        task::{Context, Waker},
    };

    use super::*;
    use crate::session::registry::Entry;

    fn enter(registry: &Arc<Registry>, user: &str, held: usize, idle: bool) -> Entry {
        let entry = registry.enter("127.0.0.1:1".parse().unwrap(), "test".into());
        entry.handle.describe(|info| (info.identity, info.held, info.idle) = (user.into(), held, idle));
        entry
    }

    #[test]
    fn held_commands_come_first_and_users_stay_together() {
        let registry = Arc::default();
        let _entries = [
            enter(&registry, "dave", 0, false),
            enter(&registry, "bob", 0, true),
            enter(&registry, "alice", 0, false),
            enter(&registry, "carol", 0, true),
            enter(&registry, "alice", 2, false),
            enter(&registry, "", 1, false),
        ];
        let order: Vec<String> =
            attach_order(logged_in(&registry)).iter().map(|handle| handle.info().identity).collect();
        assert_eq!(order, ["alice", "alice", "bob", "carol", "dave"]);
    }

    #[test]
    fn orders_are_given_to_a_bounded_number_and_who_ends_is_not_waited_for() {
        let registry: Arc<Registry> = Arc::default();
        let mut entries: Vec<Entry> =
            ["a", "b", "c", "d"].map(|user| enter(&registry, user, 0, false)).into_iter().collect();
        let handles: Vec<_> = entries.iter().map(|entry| entry.handle.clone()).collect();
        let mut orders = Orders::new(Order::Verify, 2, handles.clone());
        let given = || handles.iter().filter(|handle| handle.order().1 == Order::Verify).count();
        let mut told = Vec::new();
        {
            let mut work =
                Box::pin(orders.carry_out(&registry, |lines| told.push((given(), lines[0].clone()))));
            let mut cx = Context::from_waker(Waker::noop());
            let mut ready = || work.as_mut().poll(&mut cx).is_ready();
            assert!(!ready());
            handles[0].report(1, Progress::Done);
            assert!(!ready());
            handles[1].describe(|info| info.unmovable = Some("uids".into()));
            handles[1].report(1, Progress::Refused);
            drop(entries.remove(2));
            assert!(!ready());
            handles[3].report(1, Progress::Farewell);
            assert!(ready());
        }
        let mut at_once: Vec<usize> = told.iter().map(|(given, _)| *given).collect();
        at_once.dedup();
        assert_eq!(at_once, [2, 3, 4]);
        assert_eq!(told[0].1, "4 sessions: a, b, c, d");
        assert_eq!(orders.tally.done, 1);
        assert_eq!(orders.tally.lost, [(handles[1].id, "uids".into()), (handles[3].id, "refused".into())]);
        assert_eq!(orders.unfinished().count(), 0);
    }
}
