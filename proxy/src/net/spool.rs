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

use super::buffer;

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
    memory: Memory,
    file: Option<File>,
    len: u64,
    counted: u64,
}

/// Bytes in memory: a few as they are, more of them in rooms that the thread uses again and again, so that a message
/// costs neither a page fault nor a second copy as it grows.
#[derive(Debug, Default)]
struct Memory {
    few: Vec<u8>,
    rooms: Vec<Box<[u8]>>,
    len: usize,
}

/// The most that are kept as they are.
const FEW: usize = 4 * 1024;

impl Memory {
    fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, mut bytes: &[u8]) {
        if self.len + bytes.len() <= FEW {
            self.few.extend_from_slice(bytes);
            self.len += bytes.len();
            return;
        }
        if self.rooms.is_empty() {
            let few = std::mem::take(&mut self.few);
            self.rooms.push(buffer::room());
            self.rooms[0][..few.len()].copy_from_slice(&few);
        }
        while !bytes.is_empty() {
            let (room, at) = (self.len / buffer::SIZE, self.len % buffer::SIZE);
            if room == self.rooms.len() {
                self.rooms.push(buffer::room());
            }
            let n = bytes.len().min(buffer::SIZE - at);
            self.rooms[room][at..at + n].copy_from_slice(&bytes[..n]);
            self.len += n;
            bytes = &bytes[n..];
        }
    }

    /// All bytes, in order.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let rooms = self.rooms.iter().enumerate();
        let full = rooms.map(|(at, room)| &room[..buffer::SIZE.min(self.len - at * buffer::SIZE)]);
        std::iter::once(&*self.few).chain(full)
    }

    fn read(&self, at: usize, buffer: &mut [u8]) -> usize {
        let (mut skip, mut read) = (at, 0);
        for piece in self.pieces() {
            let from = &piece[skip.min(piece.len())..];
            skip = skip.saturating_sub(piece.len());
            let n = from.len().min(buffer.len() - read);
            buffer[read..read + n].copy_from_slice(&from[..n]);
            read += n;
        }
        read
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.rooms.drain(..).for_each(buffer::keep);
    }
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
        Self { spool, memory: Memory::default(), file: None, len: 0, counted: 0 }
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
            for piece in self.memory.pieces() {
                io::Write::write_all(&mut file, piece)?;
            }
            self.memory = Memory::default();
            self.file = Some(file);
        }
        if self.file.is_some() {
            self.count(bytes.len() as u64)?;
        }
        match &self.file {
            Some(file) => file.write_all_at(bytes, self.len)?,
            None => self.memory.push(bytes),
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Up to `buffer.len()` bytes from `at`.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.read_at(buffer, at),
            None => Ok(self.memory.read(usize::try_from(at).unwrap_or(usize::MAX), buffer)),
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
    fn memory_keeps_a_message_of_any_size_in_any_pieces() {
        for (size, piece) in
            [(10, 3), (FEW, 1000), (FEW + 1, FEW), (200_000, 7000), (3 * buffer::SIZE, buffer::SIZE)]
        {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut memory = Memory::default();
            bytes.chunks(piece).for_each(|piece| memory.push(piece));
            assert_eq!(memory.pieces().collect::<Vec<_>>().concat(), bytes);
            let mut read = Vec::new();
            let mut room = [0; 5000];
            while read.len() < size {
                let n = memory.read(read.len(), &mut room);
                read.extend_from_slice(&room[..n]);
            }
            assert_eq!((memory.read(size, &mut room), memory.len()), (0, size));
            assert_eq!(read, bytes);
        }
    }

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
