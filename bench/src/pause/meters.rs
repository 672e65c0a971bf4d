//! What the kernel and the platforms say about a cutover.
//!
//! Rule: figures come from outside the proxy, its own report aside, which is shown beside them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bascule_tests::fake::apart::Apart;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

/// How often the logins of a platform are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What Linux counts in towards programs, a second.
const TICKS: f64 = 100.0;

/// CPU time of a whole process so far, seconds: user and system, ended threads too, to a hundredth.
pub(crate) fn cpu(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let ticks = |n: usize| -> Result<u64> { Ok(fields.split(' ').nth(n).context("too short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) as f64 / TICKS)
}

/// The most memory that a process has had resident since [`forget_peak`], kB.
pub(crate) fn peak(process: u32) -> Result<u64> {
    field(&format!("/proc/{process}/status"), "VmHWM:")
}

/// Lets the peak begin anew.
pub(crate) fn forget_peak(process: u32) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{process}/clear_refs"), "5")?)
}

/// Memory that a process shares with nobody, kB.
pub(crate) fn private(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/smaps_rollup");
    Ok(field(&file, "Private_Clean:")? + field(&file, "Private_Dirty:")?)
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

/// Watches the logins of one platform.
#[derive(Debug)]
pub(crate) struct Logins {
    stop: watch::Sender<bool>,
    watching: JoinHandle<Result<Rates>>,
}

/// Logins while they were watched.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) total: u64,
    /// The most within one second.
    pub(crate) peak_per_second: u64,
}

impl Logins {
    pub(crate) fn watch(platforms: Arc<Apart>, name: &'static str) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let watching = tokio::spawn(async move {
            let mut seen: Vec<(Instant, u64)> = Vec::new();
            loop {
                let count = platforms.order(&format!("logins {name}")).await?.text.parse()?;
                seen.push((Instant::now(), count));
                if *stopped.borrow_and_update() {
                    return Ok(rates(&seen));
                }
                let _: Result<_, _> = tokio::time::timeout(LOOK, stopped.changed()).await;
            }
        });
        Self { stop, watching }
    }

    pub(crate) async fn end(self) -> Result<Rates> {
        sleep(LOOK).await;
        self.stop.send_replace(true);
        self.watching.await?
    }
}

fn rates(seen: &[(Instant, u64)]) -> Rates {
    let (Some(first), Some(last)) = (seen.first(), seen.last()) else { return Rates::default() };
    let within = |begin: &(Instant, u64)| {
        let end = seen.iter().rev().find(|(at, _)| *at <= begin.0 + Duration::from_secs(1));
        end.map_or(0, |end| end.1 - begin.1)
    };
    let peak_per_second = seen.iter().map(within).max().unwrap_or_default();
    Rates { total: last.1 - first.1, peak_per_second }
}
