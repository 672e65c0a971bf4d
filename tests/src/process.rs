//! Child processes that never outlive the test that started them, and addresses of their own.
//!
//! Rule: a process is ended through its handle, never by a name or a bare number.

use std::{
    ffi::OsStr,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::net::Shutdown;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

/// A command that the kernel kills when the thread that started it ends, in whatever way.
///
/// Start it from the test's own thread or from a worker of its runtime, not from `spawn_blocking`.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).kill_on_drop(true);
    command
}

/// Listens where this process has listened before. A child that is just being started, by whatever test, has every socket
/// of its parent until it is the program that it is to be: for so long the port is taken, and nothing tells of the end.
pub async fn listen_again(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(Duration::from_millis(5)).await;
            }
            bound => return bound,
        }
    }
}

/// The other side hears of it at once, and nobody is let in any more: a child that is just being started has every socket of
/// its parent, and would keep it open.
pub fn hang_up(socket: &impl AsFd) {
    // It fails where the other side was faster.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// Kills it and waits until it is gone, for a second at most: nobody writes any more into a folder that is then removed.
pub fn end(child: &mut Child) {
    // An error means that it is gone already.
    let _ = child.start_kill();
    for _ in 0..200 {
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Resolves at the end of standard input, for servers that must not outlive who started them. A thread of its
/// own reads it: the runtime could not end otherwise.
pub async fn input_ends() {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(ended);
    });
    // The only news that there can be is the sender's end.
    let _ = end.await;
}

/// Waits for Ctrl-C or SIGTERM: the exit code that a shell would give.
pub async fn told_to_end() -> u8 {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => 130,
        _ = terminated.recv() => 143,
    }
}

/// Three loopback addresses that nobody else uses, so that servers can have fixed ports: 10143 and the like.
///
/// A port that was bound and given back may be taken by any outgoing connection before its server comes (back);
/// outgoing connections take theirs on 127.0.0.1, never here.
pub fn addresses() -> [Ipv4Addr; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let scattered = std::process::id().wrapping_mul(0x9E37_79B1) >> 12;
    let group = scattered.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) & 0xF_FFFF;
    let first = u32::from(Ipv4Addr::new(127, 64, 0, 0)) + group * 4;
    [1, 2, 3].map(|n| Ipv4Addr::from(first + n))
}

/// The last lines of a log, for a person who looks for the reason of a failure.
pub fn tail(log: &Path, lines: usize) -> String {
    let Ok(text) = std::fs::read(log) else { return format!("(no {})", log.display()) };
    let text = String::from_utf8_lossy(&text);
    let skip = text.lines().count().saturating_sub(lines);
    text.lines().skip(skip).fold(String::new(), |all, line| all + line + "\n")
}

#[cfg(test)]
mod tests {
    use io::Read;

    use super::*;

    #[test]
    fn addresses_differ() {
        let all: std::collections::BTreeSet<_> = (0..1000).flat_map(|_| addresses()).collect();
        assert_eq!(all.len(), 3000);
        assert!(all.iter().all(|address| address.is_loopback()));
    }

    #[tokio::test]
    async fn a_port_that_a_child_still_has_is_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // What a child has that is just being started.
        let copy = listener.try_clone().unwrap();
        drop(listener);
        assert_eq!(TcpListener::bind(address).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (again, ()) = tokio::join!(listen_again(address), async {
            tokio::task::yield_now().await;
            drop(copy);
        });
        assert_eq!(again.unwrap().local_addr().unwrap(), address);
    }

    #[test]
    fn a_tied_process_ends_with_its_thread() {
        let (mut reader, writer) = io::pipe().unwrap();
        let start = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            let child = tied("sh").args(["-c", "echo && exec sleep 600"]).stdout(writer).spawn().unwrap();
            std::mem::forget(child); // no destructor runs, as when the test is killed
            reader.read_exact(&mut [0]).unwrap();
            reader
        };
        let mut reader = std::thread::spawn(start).join().unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "it still holds its end of the pipe");
    }
}
