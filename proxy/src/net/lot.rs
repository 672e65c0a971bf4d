//! Connections on which nobody has said anything for a while, watched without a task for each.
//!
//! Rule: a place holds a socket, how it goes on and until when it may stay, and is given back when a byte comes.

use std::{
    fmt, io,
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::retry_on_intr,
};
use slab::Slab;
use tokio::io::{Interest, unix::AsyncFd};

/// So many are looked at in one go.
const BATCH: usize = 64;

/// What becomes of a connection when its client says something or goes.
type Wake = Box<dyn FnOnce(TcpStream) + Send>;

/// The parked connections of one thread.
#[derive(Debug)]
pub struct Lot {
    /// Of which of them something came: one queue of the kernel's, which the runtime watches as one socket.
    queue: AsyncFd<OwnedFd>,
    parked: Mutex<Slab<Parked>>,
}

struct Parked {
    tcp: TcpStream,
    until: Instant,
    wake: Wake,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl Lot {
    /// An empty one, looked after on the runtime that calls.
    ///
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub fn open() -> io::Result<Arc<Self>> {
        let queue = epoll::create(CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "an owned descriptor is what it wants; its successor is unsafe for all others' sake"
        )]
        let queue = AsyncFd::with_interest(queue, Interest::READABLE)?;
        let lot = Arc::new(Self { queue, parked: Mutex::default() });
        tokio::spawn(lot.clone().attend());
        Ok(lot)
    }

    /// Keeps a connection until its client says something or goes: `wake` gets it back then, on this lot's runtime. Who is
    /// silent until `until` is closed by [`Self::sweep`].
    pub fn park(&self, tcp: TcpStream, until: Instant, wake: impl FnOnce(TcpStream) + Send + 'static) {
        let mut parked = self.lock();
        let place = parked.vacant_entry();
        let (number, flags) = (EventData::new_u64(place.key() as u64), EventFlags::IN | EventFlags::RDHUP);
        if let Err(error) = epoll::add(&self.queue, &tcp, number, flags) {
            drop(parked);
            // It costs what it did before, and every idle client would say so every two seconds.
            tracing::debug!(%error, "a connection cannot be parked");
            return wake(tcp);
        }
        place.insert(Parked { tcp, until, wake: Box::new(wake) });
    }

    /// Closes those whose time is up, or `all`; how many.
    pub fn sweep(&self, now: Instant, all: bool) -> usize {
        let mut parked = self.lock();
        let late = |one: &Parked| all || now >= one.until;
        let late: Vec<usize> = parked.iter().filter(|(_, one)| late(one)).map(|(number, _)| number).collect();
        let closed: Vec<Parked> = late.iter().filter_map(|number| parked.try_remove(*number)).collect();
        drop(parked);
        closed.len()
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attend(self: Arc<Self>) {
        while let Ok(mut ready) = self.queue.readable().await {
            match self.look() {
                Ok(BATCH) => {}
                Ok(_) => ready.clear_ready(),
                Err(error) => {
                    tracing::error!(%error, "parked connections cannot be watched");
                    return;
                }
            }
        }
    }

    /// Wakes those of which something came, as many as are looked at in one go; how many those were.
    fn look(&self) -> io::Result<usize> {
        let mut events = Vec::with_capacity(BATCH);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        retry_on_intr(|| epoll::wait(&self.queue, spare_capacity(&mut events), Some(&now)))?;
        for event in &events {
            let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            // One that was swept meanwhile has left the queue with its socket.
            let Some(one) = self.lock().try_remove(number) else { continue };
            match epoll::delete(&self.queue, &one.tcp) {
                Ok(()) => (one.wake)(one.tcp),
                Err(error) => tracing::warn!(%error, "a parked connection cannot be had back"),
            }
        }
        Ok(events.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{self, TcpListener},
        sync::mpsc,
    };

    use super::*;

    async fn pair() -> (TcpStream, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0.into_std().unwrap(), client)
    }

    #[tokio::test]
    async fn who_says_something_or_goes_is_had_back_with_what_was_said() {
        let lot = Lot::open().unwrap();
        let (had, mut back) = mpsc::unbounded_channel();
        let mut clients = Vec::new();
        let until = Instant::now() + Duration::from_secs(3600);
        for number in 0..3 * BATCH {
            let (ours, client) = pair().await;
            let had = had.clone();
            lot.park(ours, until, move |tcp| had.send((number, tcp)).unwrap());
            clients.push(client);
        }
        assert_eq!(lot.len(), 3 * BATCH);
        for (number, client) in clients.iter_mut().enumerate().step_by(2) {
            client.write_all(&[u8::try_from(number).unwrap()]).await.unwrap();
        }
        let mut heard = Vec::new();
        for _ in 0..3 * BATCH / 2 {
            let (number, tcp) = back.recv().await.unwrap();
            let mut tcp = net::TcpStream::from_std(tcp).unwrap();
            assert_eq!(usize::from(tcp.read_u8().await.unwrap()), number);
            heard.push(number);
        }
        heard.sort_unstable();
        assert_eq!(heard, (0..3 * BATCH).step_by(2).collect::<Vec<_>>());
        drop(clients);
        for _ in 0..3 * BATCH / 2 {
            let (number, tcp) = back.recv().await.unwrap();
            assert_eq!(number % 2, 1);
            assert_eq!(net::TcpStream::from_std(tcp).unwrap().read(&mut [0]).await.unwrap(), 0);
        }
        assert!(lot.is_empty());
    }

    #[tokio::test]
    async fn what_came_before_it_was_parked_wakes_it_too() {
        let lot = Lot::open().unwrap();
        let (ours, mut client) = pair().await;
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        let (had, back) = tokio::sync::oneshot::channel();
        lot.park(ours, Instant::now(), move |tcp| had.send(tcp).unwrap());
        let mut said = String::new();
        net::TcpStream::from_std(back.await.unwrap()).unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "x");
    }

    #[tokio::test]
    async fn who_is_silent_for_too_long_is_closed_and_no_one_else() {
        let lot = Lot::open().unwrap();
        let now = Instant::now();
        let ((early, mut closed), (late, _kept)) = (pair().await, pair().await);
        lot.park(early, now, |_| unreachable!("nothing came"));
        lot.park(late, now + Duration::from_secs(1), |_| unreachable!("nothing came"));
        assert_eq!(lot.sweep(now, false), 1);
        assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
        assert_eq!((lot.len(), lot.sweep(now, true), lot.len()), (1, 1, 0));
    }
}
