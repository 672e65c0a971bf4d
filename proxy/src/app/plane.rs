//! The data plane: a thread with a runtime of its own per core, and the sessions spread over them.
//!
//! Rule: a session lives and dies on one thread. Nothing of it is stolen by another, its buffers come from its own
//! thread's pool, and a wake-up between its two sides crosses no core.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context as _;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// All threads of the data plane; they end when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Plane(Arc<[Core]>);

#[derive(Debug)]
struct Core {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
    /// The thread ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

impl Plane {
    /// Starts so many threads; 0 is one per core.
    pub(super) fn start(threads: usize) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads };
        (0..threads).map(|_| Core::start()).collect::<Result<Vec<_>, _>>().map(|cores| Self(cores.into()))
    }

    /// The runtime that accepts connections, and does what is done once for all.
    pub(super) fn first(&self) -> &Handle {
        &self.0[0].runtime
    }

    /// Serves a connection that the first thread accepted on the thread that has the fewest. Whoever serves it keeps
    /// [`Counted`] until its end: a future around the session that did so would have room for it twice.
    pub(super) fn serve<F>(&self, tcp: TcpStream, serve: impl FnOnce(TcpStream, Counted) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let load = |core: &Core| core.sessions.load(Ordering::Relaxed);
        let Some((at, core)) = self.0.iter().enumerate().min_by_key(|(_, core)| load(core)) else { return };
        let tcp = if at == 0 { Ok(tcp) } else { core.adopt(tcp) };
        if let Ok(tcp) = tcp {
            core.runtime.spawn(serve(tcp, Counted::new(core.sessions.clone())));
        }
    }
}

impl Core {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("the runtime could not be started")?;
        let (alive, ended) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("data".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(ended);
                // Whatever still runs has had its time.
                runtime.shutdown_background();
            })
            .context("a thread could not be started")?;
        Ok(Self { runtime: handle, sessions: Arc::default(), _alive: alive })
    }

    /// A socket belongs to the runtime that it was registered with.
    fn adopt(&self, tcp: TcpStream) -> io::Result<TcpStream> {
        let tcp = tcp.into_std()?;
        let _inside = self.runtime.enter();
        TcpStream::from_std(tcp)
    }
}

/// One session on a thread.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(sessions: Arc<AtomicUsize>) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(sessions)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, thread};

    use tokio::{io::AsyncReadExt as _, net::TcpListener, sync::mpsc};

    use super::*;

    #[test]
    fn sessions_are_spread_and_stay_on_their_thread() {
        let plane = Plane::start(3).unwrap();
        let (report, mut reports) = mpsc::unbounded_channel();
        let accepting = plane.clone();
        let clients = plane.first().spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut clients = Vec::new();
            for _ in 0..9 {
                clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
                let (tcp, _) = listener.accept().await.unwrap();
                let report = report.clone();
                accepting.serve(tcp, |mut tcp, counted| async move {
                    let _counted = counted;
                    let before = thread::current().id();
                    report.send(before).unwrap();
                    // Until the client goes: the socket is awake on this thread's runtime.
                    assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);
                    assert_eq!(thread::current().id(), before);
                    report.send(before).unwrap();
                });
            }
            clients
        });
        let mut began = HashMap::new();
        for _ in 0..9 {
            *began.entry(reports.blocking_recv().unwrap()).or_insert(0) += 1;
        }
        assert_eq!(began.values().collect::<Vec<_>>(), [&3, &3, &3]);
        drop(plane.first().block_on(clients).unwrap());
        for _ in 0..9 {
            *began.get_mut(&reports.blocking_recv().unwrap()).unwrap() -= 1;
        }
        assert!(began.values().all(|left| *left == 0));
    }
}
