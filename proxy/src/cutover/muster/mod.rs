//! Orders to many sessions at once, and waiting for what their words say.
//!
//! Rule: every wait looks once at everybody and then only at whom the registry names as changed, so that nothing is
//! missed, nothing is polled, and a wait for one of thousands costs what a wait for one costs. One of these waits
//! at a time.

mod orders;
mod pace;
mod whom;

use std::{collections::BTreeMap, sync::Arc};

pub(super) use self::{
    orders::{Ended, Orders},
    pace::Pace,
    whom::{attach_order, concerned, logged_in, one_at_a_time, waiting},
};
use crate::session::registry::{Handle, Registry, SessionId};

/// Resolves when no session is as described. `tell` hears who still is.
pub(super) async fn until_none(
    registry: &Registry,
    is: impl Fn(&Handle) -> bool,
    what: &str,
    mut tell: impl FnMut(Vec<String>),
) {
    let mut watch = registry.watch();
    let mut left: BTreeMap<SessionId, Arc<Handle>> =
        registry.select(&is).into_iter().map(|handle| (handle.id, handle)).collect();
    while !left.is_empty() {
        tell(vec![format!("{} {what}: {}", left.len(), summary(left.values(), left.len()))]);
        for id in watch.next().await {
            match registry.get(id).filter(|handle| is(handle)) {
                Some(handle) => left.insert(id, handle),
                None => left.remove(&id),
            };
        }
    }
}

/// The first few names of so many.
fn summary<'a>(handles: impl IntoIterator<Item = &'a Arc<Handle>>, count: usize) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = handles.into_iter().take(SHOWN).map(|handle| name(handle)).collect();
    if count > SHOWN {
        names.push(format!("{} more", count - SHOWN));
    }
    names.join(", ")
}

/// Whom a person would look for.
fn name(handle: &Handle) -> String {
    let info = handle.info();
    let who = if info.identity.is_empty() { handle.peer.to_string() } else { info.identity };
    match info.upload {
        Some((received, announced)) => format!("{who} (upload {received} of {announced} bytes)"),
        None => who,
    }
}
