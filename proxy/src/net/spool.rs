//! Uploads that are kept until a backend has acknowledged them: small ones in memory, larger ones in a file
//! without a name, so that nothing is left behind after a crash.
//!
//! Rule: the bytes of all files stand in one budget; past it the upload is refused, never the memory grown.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The place and the budget of all kept uploads.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    budget: u64,
    used: AtomicU64,
}

impl Spool {
    /// Files go to `state_dir/spool`, `budget` bytes at most.
    pub fn new(state_dir: &Path, budget: u64) -> io::Result<Arc<Self>> {
        let dir = state_dir.join("spool");
        std::fs::create_dir_all(&dir)?;
        Ok(Arc::new(Self { dir, budget, used: AtomicU64::new(0) }))
    }

    /// Bytes in files now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// The bytes of one upload.
#[derive(Debug)]
pub struct Body {
    spool: Arc<Spool>,
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
    counted: u64,
}

/// Why an upload cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// All files together are at `limits.spool`.
    #[error("the spool is full")]
    Full,
    /// The disk.
    #[error("spool: {0}")]
    Io(#[from] io::Error),
}

impl Body {
    /// Nothing yet.
    pub fn new(spool: Arc<Spool>) -> Self {
        Self { spool, memory: Vec::new(), file: None, len: 0, counted: 0 }
    }

    /// Bytes kept.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends; past `memory` bytes the whole goes to a file. Pages go to the kernel's cache, so this does not
    /// wait for a disk that keeps up.
    pub fn push(&mut self, bytes: &[u8], memory: usize) -> Result<(), SpoolError> {
        if self.file.is_none() && self.memory.len() + bytes.len() > memory {
            let mut file = tempfile::tempfile_in(&self.spool.dir)?;
            self.count(self.memory.len() as u64)?;
            io::Write::write_all(&mut file, &self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &self.file {
            Some(file) => {
                let (file, at) = (file.try_clone()?, self.len);
                self.count(bytes.len() as u64)?;
                file.write_all_at(bytes, at)?;
            }
            None => self.memory.extend_from_slice(bytes),
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Up to `buffer.len()` bytes from `at`.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.read_at(buffer, at),
            None => {
                let from = usize::try_from(at).map_or(self.memory.len(), |at| at.min(self.memory.len()));
                let n = buffer.len().min(self.memory.len() - from);
                buffer[..n].copy_from_slice(&self.memory[from..from + n]);
                Ok(n)
            }
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), SpoolError> {
        let used = self.spool.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.counted += bytes;
        if used > self.spool.budget { Err(SpoolError::Full) } else { Ok(()) }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.spool.used.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_read_in_memory_and_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path(), 1000).unwrap();
        for memory in [0, 5, 1000] {
            let mut body = Body::new(spool.clone());
            for piece in [&b"hello"[..], b" ", b"world"] {
                body.push(piece, memory).unwrap();
            }
            let mut buffer = [0; 100];
            assert_eq!(body.read(0, &mut buffer).unwrap(), 11);
            assert_eq!(&buffer[..11], b"hello world");
            assert_eq!(body.read(6, &mut buffer).unwrap(), 5);
            assert_eq!(spool.used(), if memory < 11 { 11 } else { 0 });
        }
        assert_eq!(spool.used(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
    }

    #[test]
    fn past_the_budget_the_upload_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path(), 8).unwrap();
        let mut body = Body::new(spool.clone());
        body.push(b"12345678", 0).unwrap();
        assert!(matches!(body.push(b"9", 0), Err(SpoolError::Full)));
        drop(body);
        assert_eq!(spool.used(), 0);
    }
}
