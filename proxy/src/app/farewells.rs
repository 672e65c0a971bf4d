//! The end of the process: every session gets its farewell, not all in one second.
//!
//! Rule: it is over when all sessions have ended or the time is, whichever comes first.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::session::registry::{Order, Registry};

/// Fifty clients a second that come back elsewhere harm nobody: few sessions are not spread over the whole time.
const GENTLE: Duration = Duration::from_millis(20);

/// Orders every session to end, spread over `within`, and waits for them. Returns how many are left.
pub(super) async fn say(registry: &Registry, within: Duration) -> usize {
    let end = Instant::now() + within;
    // Those that were accepted just before and are not among the sessions yet.
    registry.birth(Order::End);
    let sessions = registry.all();
    // The last tenth is for the last ones to say it.
    let pace = (within * 9 / 10 / u32::try_from(sessions.len().max(1)).unwrap_or(u32::MAX)).min(GENTLE);
    for session in &sessions {
        session.give(Order::End);
        sleep(pace).await;
    }
    while !registry.is_empty() && timeout_at(end, registry.ended()).await.is_ok() {}
    registry.len()
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc, task::Poll};

    use super::*;
    use crate::config::Protocol;

    /// A session that ends when it is told to, or never.
    fn session(registry: &Arc<Registry>, obeys: bool) {
        let entry = registry.enter(([127, 0, 0, 1], 1).into(), "imaps".into(), Protocol::Imap);
        tokio::spawn(async move {
            let told = |cx: &mut std::task::Context<'_>| {
                entry.handle.register(cx.waker());
                if obeys && entry.handle.order().1 == Order::End { Poll::Ready(()) } else { Poll::Pending }
            };
            poll_fn(told).await;
        });
    }

    #[tokio::test]
    async fn every_session_is_told_and_waited_for() {
        let registry = Arc::new(Registry::default());
        (0..20).for_each(|_| session(&registry, true));
        assert_eq!(say(&registry, Duration::from_secs(30)).await, 0);
    }

    #[tokio::test]
    async fn a_session_that_was_still_beginning_is_told_too() {
        let registry = Arc::new(Registry::default());
        session(&registry, true);
        let late = registry.clone();
        let (left, ()) =
            tokio::join!(say(&registry, Duration::from_secs(30)), async { session(&late, true) });
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn a_session_that_does_not_end_is_not_waited_for_for_ever() {
        let registry = Arc::new(Registry::default());
        session(&registry, false);
        session(&registry, true);
        assert_eq!(say(&registry, Duration::from_millis(50)).await, 1);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_when_nobody_is_there() {
        assert_eq!(say(&Arc::new(Registry::default()), Duration::from_secs(3600)).await, 0);
    }
}
