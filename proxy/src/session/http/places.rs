//! So many requests at once per service of a pool; the others queue.
//!
//! Rule: whoever waits is told in the end: a place, no room, or its own time is up; a place that is not used any more
//! goes on to the next.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bascule_protocols::http::queue::{Entry, Priority, Queue, Ticket};
use tokio::sync::oneshot;

use crate::{
    config::{Config, HttpService},
    topology::PoolId,
};

/// The services that have a limit.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<(PoolId, String), Arc<Service>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Service {
    pool: PoolId,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Whom to tell; false: it gives way to another one.
    told: HashMap<Ticket, oneshot::Sender<bool>>,
}

/// A request's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Service>);

/// A request that queues, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    service: Arc<Service>,
    ticket: Ticket,
    told: oneshot::Receiver<bool>,
}

/// What becomes of a request that comes.
#[derive(Debug)]
pub(super) enum Came {
    Go(Place),
    Wait(Waiting),
    Full,
}

impl Places {
    pub(super) fn new(config: &Config) -> Self {
        let mut all = BTreeMap::new();
        for (pool, services) in (0u8..).map(PoolId).zip(&config.pools) {
            for (name, service) in &services.http {
                if let Some(made) = Service::new(pool, service) {
                    all.insert((pool, name.clone()), Arc::new(made));
                }
            }
        }
        Self(all)
    }

    /// `None`: as many as come.
    pub(super) fn of(&self, pool: PoolId, service: &str) -> Option<&Arc<Service>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(pool, service.to_owned()))
    }
}

impl Service {
    fn new(pool: PoolId, service: &HttpService) -> Option<Self> {
        let queue = Queue::new(service.concurrency?, service.queue);
        Some(Self { pool, began: Instant::now(), state: Mutex::new(State { queue, told: HashMap::new() }) })
    }

    pub(super) fn enter(self: &Arc<Self>, priority: Priority, held: bool) -> Came {
        let mut state = self.state();
        let (entry, gives_way) = state.queue.enter(self.began.elapsed(), priority, held);
        if let Some(other) = gives_way.and_then(|ticket| state.told.remove(&ticket)) {
            let _ = other.send(false);
        }
        match entry {
            Entry::Go => Came::Go(Place(self.clone())),
            Entry::Full => Came::Full,
            Entry::Wait(ticket) => {
                let (tell, told) = oneshot::channel();
                state.told.insert(ticket, tell);
                Came::Wait(Waiting { service: self.clone(), ticket, told })
            }
        }
    }

    /// A place is free. Whoever is told and has gone meanwhile hands it on when it is dropped.
    fn leave(&self) {
        let mut state = self.state();
        if let Some(next) = state.queue.leave().and_then(|ticket| state.told.remove(&ticket)) {
            let _ = next.send(true);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whose place it is.
    pub(super) fn pool(&self) -> PoolId {
        self.0.pool
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Waiting {
    /// Its place; `None`: it gave way to a more urgent one.
    pub(super) async fn told(&mut self) -> Option<Place> {
        (&mut self.told).await.unwrap_or(false).then(|| Place(self.service.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.service.state();
        state.told.remove(&self.ticket);
        let left = state.queue.give_up(self.ticket);
        drop(state);
        // Given a place that nobody took.
        if !left && self.told.try_recv() == Ok(true) {
            self.service.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(places: usize, longest: usize) -> Arc<Service> {
        let state = State { queue: Queue::new(places, longest), told: HashMap::new() };
        Arc::new(Service { pool: PoolId(0), began: Instant::now(), state: Mutex::new(state) })
    }

    fn wait(service: &Arc<Service>, priority: Priority, held: bool) -> Waiting {
        let Came::Wait(waiting) = service.enter(priority, held) else { panic!("it does not wait") };
        waiting
    }

    #[tokio::test]
    async fn a_place_goes_from_one_to_the_next() {
        let service = service(1, 2);
        let Came::Go(place) = service.enter(Priority::Sync, false) else { panic!() };
        let mut first = wait(&service, Priority::Sync, false);
        let second = wait(&service, Priority::Sync, false);
        assert!(matches!(service.enter(Priority::Sync, false), Came::Full));
        drop(second);
        let gone = wait(&service, Priority::Interactive, false);
        let mut third = wait(&service, Priority::Sync, true);
        drop(place);
        // It was told, and does not listen any more.
        drop(gone);
        let place = first.told().await.unwrap();
        drop((first, place));
        let place = third.told().await.unwrap();
        drop((third, place));
        assert!(matches!(service.enter(Priority::Sync, false), Came::Go(_)), "nothing is left over");
    }

    #[tokio::test]
    async fn who_gives_way_is_told() {
        let service = service(1, 1);
        let _place = service.enter(Priority::Sync, false);
        let mut less = wait(&service, Priority::Background, false);
        let _more = service.enter(Priority::Interactive, false);
        assert!(less.told().await.is_none());
    }
}
