//! The process as the system sees it: its state_dir, its open files, its core dumps.
//!
//! Rule: what an operator must repair is refused with the command that repairs it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior, setrlimit};

/// What one session may have open: its client, its backend and the pool that it is verified on.
const FILES_PER_SESSION: u64 = 3;
/// Kept for listeners, the journal, the spool and hooks.
const FILES_APART: u64 = 128;

/// Creates the state_dir for its owner alone, or checks the one that is there.
pub(super) fn create_state_dir(dir: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("{}: cannot be created", dir.display()))?;
    }
    check_state_dir(dir)
}

/// Refuses a state_dir that others may read, or that another user owns: it holds users' mail while it moves.
pub(super) fn check_state_dir(dir: &Path) -> anyhow::Result<()> {
    let path = dir.display();
    let meta = match fs::metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("state_dir {path} does not exist: create it with `bascule init --active POOL`")
        }
        other => other.with_context(|| format!("state_dir {path}"))?,
    };
    if !meta.is_dir() {
        bail!("state_dir {path} is not a directory");
    }
    let uid = rustix::process::geteuid().as_raw();
    let owner = meta.uid();
    if owner != uid && uid == 0 {
        bail!(
            "state_dir {path} belongs to user {owner}: do this as that user (`sudo -u '#{owner}' bascule …`)"
        );
    }
    if owner != uid {
        bail!("state_dir {path} belongs to user {owner}, bascule runs as {uid}: chown -R {uid} {path}");
    }
    if meta.mode() & 0o077 != 0 {
        bail!("state_dir {path} is open to others (mode {:o}): chmod 700 {path}", meta.mode() & 0o7777);
    }
    Ok(())
}

/// Forbids core dumps and tracing by others: memory holds passwords and mail.
pub(super) fn forbid_core_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be forbidden");
    }
}

/// Raises the limit of open files as far as the system allows, and says what that is enough for.
pub(super) fn raise_open_files(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let sessions = sessions_within(files);
    if sessions < connections as u64 {
        tracing::warn!(
            files,
            sessions,
            connections,
            "open files allow fewer sessions than limits.connections"
        );
    } else {
        tracing::info!(files, sessions, "open files");
    }
}

fn sessions_within(files: u64) -> u64 {
    files.saturating_sub(FILES_APART) / FILES_PER_SESSION
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_state_dir_is_made_private_and_an_open_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        let error = check_state_dir(&path).unwrap_err().to_string();
        assert!(error.contains("bascule init"), "{error}");

        create_state_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let error = create_state_dir(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 700") && error.contains("750"), "{error}");
    }

    #[test]
    fn a_file_is_no_state_dir() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check_state_dir(file.path()).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn few_files_allow_few_sessions() {
        assert_eq!(sessions_within(10), 0);
        assert_eq!(sessions_within(20_000), 6624);
    }
}
