//! The note of the hook that runs: `state_dir/hook`.
//!
//! Rule: a process that is killed ends none of its hooks; the next one does, before it fences or releases anything, and
//! only if it is the same program still: its process, its start, this boot.

use std::{fs, io, path::Path, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

const NAME: &str = "hook";
/// How long the end of a killed hook is waited for: it does nothing more, but what it was doing in the kernel may last.
const REAP: Duration = Duration::from_secs(5);

/// Notes that this one runs; it takes the place of the one before, which has ended.
pub(super) fn write(dir: &Path, note: &str) -> io::Result<()> {
    fs::write(dir.join(NAME), note)
}

/// Ends the hook that a killed process left behind, and its children. One that ended by itself may have left a service.
pub(crate) fn end_left_behind(dir: &Path) {
    let Ok(noted) = fs::read_to_string(dir.join(NAME)) else { return };
    let leader = noted.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    let Some(leader) = leader else { return };
    // Opened before it is looked at: from here on the number is nobody else's.
    let Ok(process) = pidfd_open(leader, PidfdFlags::empty()) else { return };
    if of(leader).ok().flatten() != Some(noted) {
        return;
    }
    tracing::warn!(
        pid = leader.as_raw_nonzero(),
        "a hook of a process that was killed still ran and is ended"
    );
    if let Err(error) = kill_process_group(leader, Signal::KILL) {
        tracing::error!(%error, "the hook could not be ended");
    }
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let limit = Timespec::try_from(REAP).ok();
    if !matches!(poll(&mut ended, limit.as_ref()), Ok(1..)) {
        tracing::error!("the hook was killed and has not ended yet");
    }
}

/// What tells this process from every other one, at any time; nothing where it has ended and was not reaped: one that is so
/// short leaves nothing behind. To be asked before it can be reaped.
pub(super) fn of(leader: Pid) -> io::Result<Option<String>> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", leader.as_raw_nonzero()))?;
    // The name may hold anything; behind its last bracket stand the state, the third of all, and the start, the 22nd.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    if fields.next().is_none_or(|state| matches!(state, "Z" | "X")) {
        return Ok(None);
    }
    let start = fields.nth(18).ok_or_else(|| io::Error::other("/proc says nothing of its start"))?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(Some(format!("{} {start} {boot}", leader.as_raw_nonzero())))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;

    /// A program in a group of its own, as a process that is killed leaves it behind.
    fn left(dir: &Path) -> std::process::Child {
        let child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        write(dir, &of(Pid::from_child(&child)).unwrap().unwrap()).unwrap();
        child
    }

    #[test]
    fn what_a_killed_process_left_behind_is_ended() {
        use std::os::unix::process::ExitStatusExt as _;
        let dir = tempfile::tempdir().unwrap();
        end_left_behind(dir.path());
        let mut child = left(dir.path());
        end_left_behind(dir.path());
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        end_left_behind(dir.path());
    }

    #[test]
    fn one_that_has_ended_already_is_nothing_to_note() {
        let mut child = Command::new("true").spawn().unwrap();
        let leader = Pid::from_child(&child);
        let ended = pidfd_open(leader, PidfdFlags::empty()).unwrap();
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).unwrap();
        assert_eq!(of(leader).unwrap(), None);
        child.wait().unwrap();
    }

    #[test]
    fn another_process_of_this_number_lives() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = left(dir.path());
        let path = dir.path().join(NAME);
        let noted = fs::read_to_string(&path).unwrap();
        let fields: Vec<&str> = noted.split(' ').collect();
        let [pid, start, boot] = fields[..] else { panic!("{noted}") };
        let others = [format!("{pid} 1{start} {boot}"), format!("{pid} {start} another"), String::new()];
        for other in others {
            fs::write(&path, other).unwrap();
            end_left_behind(dir.path());
            assert_eq!(child.try_wait().unwrap(), None);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
