//! The journal's file: positioned writes, room made ahead, replaced as a whole only by the operator's word.
//!
//! Rule: one process holds the lock from open to exit, and a new name in the directory is synced too.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::JournalError;

/// What the journal asks of a file; tests put one that fails in its place.
pub(super) trait Medium: Send + std::fmt::Debug {
    /// Writes some of it and says how much.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Returns when what was written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file off, or extends it with a hole.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Makes the file this long, with its space taken.
    fn allocate(&mut self, len: u64) -> io::Result<()>;
    /// Puts a file with this content in its place, at once or not at all.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// An error with the file's name.
    fn error(&self, doing: &'static str, error: io::Error) -> JournalError;
}

/// `state_dir/journal`
#[derive(Debug)]
pub(super) struct JournalFile {
    dir: PathBuf,
    file: File,
}

/// The journal's name in messages.
pub(super) fn name(dir: &Path) -> String {
    path(dir).display().to_string()
}

fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

impl JournalFile {
    /// Writes a first journal.
    pub(super) fn create(dir: &Path, bytes: &[u8]) -> Result<(), JournalError> {
        let failed = |doing| move |error| JournalError::Io { path: name(dir), doing, error };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create the directory"))?;
        match std::fs::metadata(path(dir)) {
            Ok(there) if there.len() > 0 => return Err(JournalError::Present(name(dir))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look")(error)),
        }
        place(dir, bytes).map_err(failed("write"))?;
        Ok(())
    }

    /// Opens and locks the journal; its content.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<u8>), JournalError> {
        let failed = |doing| move |error| JournalError::Io { path: name(dir), doing, error };
        loop {
            let mut file = match OpenOptions::new().read(true).write(true).open(path(dir)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(JournalError::Absent(name(dir)));
                }
                Err(error) => return Err(failed("open")(error)),
            };
            if !lock(dir, &file)? {
                continue;
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed("read"))?;
            return Ok((Self { dir: dir.into(), file }, bytes));
        }
    }
}

/// Locks a file that was opened as the journal. Whether it still is: another process may have replaced it meanwhile, and
/// a lock on what it was keeps nobody out.
fn lock(dir: &Path, file: &File) -> Result<bool, JournalError> {
    let failed = |error| JournalError::Io { path: name(dir), doing: "lock", error };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(JournalError::Locked(name(dir))),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let which = |file: Metadata| (file.dev(), file.ino());
    match std::fs::metadata(path(dir)) {
        Ok(there) => Ok(which(there) == which(file.metadata().map_err(failed)?)),
        // Moved away: the next try says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Writes a whole journal under another name and moves it into its place. The file, locked.
fn place(dir: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = dir.join("journal.new");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.try_lock()?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path(dir))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

impl Medium for JournalFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&mut self, len: u64) -> io::Result<()> {
        fallocate(&self.file, FallocateFlags::empty(), 0, len)?;
        self.file.sync_all()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file = place(&self.dir, bytes)?;
        Ok(())
    }

    fn error(&self, doing: &'static str, error: io::Error) -> JournalError {
        JournalError::Io { path: name(&self.dir), doing, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_a_journal_that_was_replaced_between_open_and_lock_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        JournalFile::create(dir.path(), b"one").unwrap();
        let opened = File::open(path(dir.path())).unwrap();
        // Another process opens, replaces and ends, or goes on.
        let (mut other, _) = JournalFile::open(dir.path()).unwrap();
        other.replace(b"two").unwrap();
        assert!(!lock(dir.path(), &opened).unwrap());
        assert!(matches!(JournalFile::open(dir.path()), Err(JournalError::Locked(_))));
        drop(other);
        assert_eq!(JournalFile::open(dir.path()).unwrap().1, b"two");
        std::fs::remove_file(path(dir.path())).unwrap();
        assert!(matches!(JournalFile::open(dir.path()), Err(JournalError::Absent(_))));
    }
}
