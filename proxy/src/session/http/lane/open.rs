//! How many streams there are, and how many of them still have to go to the pool that serves.
//!
//! Rule: for whoever looks; nothing waits for a stream.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bascule_protocols::http::lane::Lane;
use prometheus::IntGauge;
use tokio::sync::Notify;

use super::super::{conn::Conn, request::Request};
use crate::topology::Epoch;

/// Streams by the epoch in which they found their server.
#[derive(Debug, Default)]
pub(in super::super) struct Open {
    streams: Mutex<BTreeMap<u32, usize>>,
    fewer: Notify,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those from before this epoch.
    pub(in super::super) fn before(&self, epoch: Epoch) -> usize {
        self.lock().range(..epoch.0).map(|(_, count)| count).sum()
    }

    /// Resolves when none is from before this epoch.
    pub(in super::super) async fn none_before(&self, epoch: Epoch) {
        loop {
            let fewer = self.fewer.notified();
            let mut fewer = std::pin::pin!(fewer);
            fewer.as_mut().enable();
            if self.before(epoch) == 0 {
                return;
            }
            fewer.await;
        }
    }

    fn add(&self, epoch: Epoch) {
        *self.lock().entry(epoch.0).or_insert(0) += 1;
    }

    fn remove(&self, epoch: Epoch) {
        let mut all = self.lock();
        if let Some(count) = all.get_mut(&epoch.0) {
            *count -= 1;
            if *count == 0 {
                all.remove(&epoch.0);
            }
        }
        drop(all);
        self.fewer.notify_waiters();
    }
}

/// One stream, until it is dropped.
#[derive(Debug)]
pub(in super::super) struct Stream {
    conn: Arc<Conn>,
    gauge: IntGauge,
    epoch: Epoch,
}

impl Stream {
    pub(super) fn open(request: &Request, lane: Lane) -> Self {
        let conn = request.conn.clone();
        let world = conn.world();
        let gauge = match lane {
            Lane::Events => &world.metrics.http_events,
            Lane::Poll => &world.metrics.http_polls,
            Lane::Socket => &world.metrics.http_sockets,
        };
        let epoch =
            request.flight.as_ref().map_or_else(|| world.topology.load().epoch, |flight| flight.epoch);
        gauge.inc();
        world.http.streams.add(epoch);
        Self { gauge: gauge.clone(), epoch, conn }
    }

    /// It found a server in this epoch.
    pub(in super::super) fn moved(&mut self, epoch: Epoch) {
        let open = &self.conn.world().http.streams;
        open.add(epoch);
        open.remove(std::mem::replace(&mut self.epoch, epoch));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gauge.dec();
        self.conn.world().http.streams.remove(self.epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_behind_until_they_have_found_a_server_of_their_time() {
        let open = Open::default();
        open.add(Epoch(1));
        open.add(Epoch(1));
        open.add(Epoch(2));
        assert_eq!([1, 2, 3].map(|epoch| open.before(Epoch(epoch))), [0, 2, 3]);
        open.remove(Epoch(1));
        open.add(Epoch(2));
        open.remove(Epoch(1));
        open.remove(Epoch(1));
        assert_eq!([1, 2, 3].map(|epoch| open.before(Epoch(epoch))), [0, 0, 2]);
    }

    #[tokio::test]
    async fn the_last_one_that_goes_is_heard_of() {
        let open = Arc::new(Open::default());
        open.add(Epoch(1));
        open.add(Epoch(1));
        let waits = tokio::spawn({
            let open = open.clone();
            async move { open.none_before(Epoch(2)).await }
        });
        for left in [false, true] {
            tokio::task::yield_now().await;
            assert!(!waits.is_finished(), "{left}");
            open.remove(Epoch(1));
        }
        waits.await.unwrap();
    }
}
