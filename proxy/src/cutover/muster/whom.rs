//! Whom an order is for, and in which order.
//!
//! Rule: whoever has a client waiting comes before whoever has none.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    config::{Protocol, Storage},
    session::registry::{Handle, Info, Registry, SessionId},
    topology::PoolId,
};

/// Who is logged in.
pub(in crate::cutover) fn logged_in(handle: &Handle) -> bool {
    handle.inspect(|info| !info.identity.is_empty())
}

/// Who has something that a cutover moves: whoever is logged in, and with or without a login whoever has mail on its way
/// to a pool.
pub(in crate::cutover) fn concerned(handle: &Handle) -> bool {
    let mail = handle.protocol != Protocol::Imap && handle.word.read().backend.is_some();
    mail || logged_in(handle)
}

/// Those of whom something waits for the gate; those first that have only to select on `pool`.
pub(in crate::cutover) fn waiting(registry: &Registry, pool: PoolId) -> Vec<Arc<Handle>> {
    let (warm, cold): (Vec<_>, Vec<_>) = registry
        .select(|handle| handle.word.read().waits)
        .into_iter()
        .partition(|handle| handle.word.read().spare == Some(pool));
    [warm, cold].concat()
}

/// In which order all others are attached: users of whom somebody waits, then those in IDLE on INBOX, then the
/// rest; all sessions of one user together, and those before the others that have only to select on `pool`. Who has
/// no name and no connection to a pool has nothing to attach.
pub(in crate::cutover) fn attach_order(
    registry: &Registry,
    pool: PoolId,
    before: &[Arc<Handle>],
) -> Vec<Arc<Handle>> {
    let inbox = |info: &Info| info.mailbox.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("INBOX"));
    let rank = |info: &Info| match () {
        () if info.held > 0 => 0u8,
        () if info.idle && inbox(info) => 1,
        () => 2,
    };
    let mut best: HashMap<(String, Option<SessionId>), (u8, bool)> = HashMap::new();
    let mut sessions = Vec::new();
    for handle in registry.select(concerned) {
        let (identity, rank) = handle.inspect(|info| (info.identity.clone(), rank(info)));
        // Those without a name are no user together.
        let alone = identity.is_empty().then_some(handle.id);
        let cold = handle.word.read().spare != Some(pool);
        let user = (identity, alone);
        let first = best.entry(user.clone()).or_insert((rank, cold));
        *first = (rank.min(first.0), cold || first.1);
        sessions.push((user, rank, handle));
    }
    let early: HashSet<SessionId> = before.iter().map(|handle| handle.id).collect();
    sessions.retain(|(.., handle)| !early.contains(&handle.id));
    sessions
        .sort_by(|(a, a_rank, _), (b, b_rank, _)| (best.get(a), a, a_rank).cmp(&(best.get(b), b, b_rank)));
    sessions.into_iter().map(|(.., handle)| handle).collect()
}

/// Whether sessions must be seen gone from a pool before the other one is touched.
pub(in crate::cutover) fn one_at_a_time(storage: Storage) -> bool {
    match storage {
        Storage::Shared => true,
        Storage::Replicated => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{gate::Standing, session::registry::Entry};

    const NEW: PoolId = PoolId(1);

    pub(in crate::cutover::muster) fn enter(registry: &Arc<Registry>, user: &str) -> Entry {
        let entry = registry.enter("127.0.0.1:1".parse().unwrap(), "test".into(), Protocol::Imap);
        entry.handle.describe(|info| info.identity = user.into());
        entry
    }

    fn session(
        registry: &Arc<Registry>,
        user: &str,
        held: usize,
        idle_on: Option<&str>,
        warm: bool,
    ) -> Entry {
        let entry = enter(registry, user);
        entry.handle.describe(|info| {
            (info.held, info.idle, info.mailbox) = (held, idle_on.is_some(), idle_on.map(String::from));
        });
        let spare = warm.then_some(NEW);
        entry.handle.word.set(Standing { waits: held > 0, spare, ..Standing::default() });
        entry
    }

    fn users(handles: &[Arc<Handle>]) -> Vec<String> {
        handles.iter().map(|handle| handle.info().identity).collect()
    }

    #[test]
    fn held_commands_come_first_and_users_stay_together() {
        let registry = Arc::default();
        let _entries = [
            session(&registry, "dave", 0, None, true),
            session(&registry, "bob", 0, Some("INBOX"), false),
            session(&registry, "alice", 0, None, false),
            session(&registry, "carol", 0, Some("Inbox"), true),
            session(&registry, "alice", 2, None, false),
            session(&registry, "erin", 0, Some("Work"), true),
            session(&registry, "erin", 1, None, true),
            session(&registry, "frank", 0, Some("Work"), false),
            session(&registry, "", 0, None, false),
        ];
        let first = waiting(&registry, NEW);
        assert_eq!(users(&first), ["erin", "alice"], "who has only to select comes first");
        let others = attach_order(&registry, NEW, &first);
        assert_eq!(users(&others), ["erin", "alice", "carol", "bob", "dave", "frank"]);
    }

    #[test]
    fn a_relay_session_without_a_name_leaves_the_old_pool_as_well() {
        let registry: Arc<Registry> = Arc::default();
        let mail = |protocol, backend| {
            let entry = registry.enter("127.0.0.1:1".parse().unwrap(), "test".into(), protocol);
            entry.handle.word.set(Standing { backend, ..Standing::default() });
            entry
        };
        let old = Some(PoolId(0));
        let [one, _idle, two, _login] = [
            mail(Protocol::Smtp, old),
            mail(Protocol::Smtp, None),
            mail(Protocol::Lmtp, old),
            mail(Protocol::Imap, old),
        ];
        let _alice = session(&registry, "alice", 1, None, false);
        let order = attach_order(&registry, NEW, &[]);
        assert_eq!(
            users(&order),
            ["alice", "", ""],
            "a login that waits comes before mail that nobody waits for"
        );
        let ids: HashSet<SessionId> = order.iter().map(|handle| handle.id).collect();
        assert!(ids.contains(&one.handle.id) && ids.contains(&two.handle.id));
    }
}
