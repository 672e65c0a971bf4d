//! What the kernel says about a process.
//!
//! Rule: CPU time is the process's own clock, which counts every thread that it has or had, user and system, in
//! nanoseconds; memory is what belongs to nobody else and comes from no file: `Private_Dirty`, and `LazyFree`, which is
//! given back but still there. Clean pages are left out: those of a program's file become private by themselves when
//! another process of the same program ends.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use nix::{time::clock_getcpuclockid, unistd::Pid};

/// A process and those that it started.
#[derive(Debug, Clone)]
pub(crate) struct Processes(Vec<i32>);

impl Processes {
    /// As they are now.
    pub(crate) fn of(parent: u32) -> Result<Self> {
        let parent = parent.cast_signed();
        let mut all = vec![parent];
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        for child in children.split_whitespace() {
            all.push(child.parse()?);
        }
        Ok(Self(all))
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.0.iter().map(|pid| cpu(*pid)).sum()
    }

    /// Private memory, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.0.iter().map(|pid| memory(*pid)).sum()
    }
}

fn cpu(pid: i32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("process {pid} is gone"))?;
    Ok(clock.now()?.into())
}

fn memory(pid: i32) -> Result<u64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(Path::new(&file))
        .with_context(|| format!("{file} (of a process that forbids core dumps only root may read it)"))?;
    let kilobytes = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        let wanted = matches!(key, "Private_Dirty" | "LazyFree");
        wanted.then(|| value.trim().strip_suffix(" kB")?.parse::<u64>().ok()).flatten()
    });
    Ok(kilobytes.sum::<u64>() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_clock_runs_while_one_works() {
        let own = Processes::of(std::process::id()).unwrap();
        let before = own.cpu().unwrap();
        let mut n = 0u64;
        while own.cpu().unwrap() <= before {
            n = std::hint::black_box(n + 1);
        }
        assert!(own.memory().unwrap() > 0);
    }
}
