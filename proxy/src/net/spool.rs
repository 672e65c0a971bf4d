//! Uploads that are kept until a backend has acknowledged them: in memory, and those that are too large for it in a file
//! without a name, so that nothing is left behind after a crash.
//!
//! Rule: the bytes of all files stand in one budget, and so does the memory of all uploads that are not small. Past the
//! memory there are files; past the files the upload is refused.

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

use super::buffer::{self, Buffer};

/// The place and the budgets of all kept uploads.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    files: Budget,
    memory: Budget,
}

/// Bytes that are there for all, and those that are taken.
#[derive(Debug)]
struct Budget {
    all: u64,
    used: AtomicU64,
}

impl Budget {
    fn of(all: u64) -> Self {
        Self { all, used: AtomicU64::new(0) }
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes them, and says whether they were there.
    fn take(&self, bytes: u64) -> bool {
        self.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.all
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Spool {
    /// Files go to `state_dir/spool`, `files` bytes at most. Of uploads that are not small, `memory` bytes at most stay
    /// out of it.
    pub fn new(state_dir: &Path, files: u64, memory: u64) -> io::Result<Arc<Self>> {
        let dir = state_dir.join("spool");
        std::fs::create_dir_all(&dir)?;
        Ok(Arc::new(Self { dir, files: Budget::of(files), memory: Budget::of(memory) }))
    }

    /// Bytes in files now.
    pub fn used(&self) -> u64 {
        self.files.used()
    }

    /// Bytes in memory now, of uploads that are not small.
    pub fn in_memory(&self) -> u64 {
        self.memory.used()
    }
}

/// The bytes of one upload.
#[derive(Debug)]
pub struct Body {
    spool: Arc<Spool>,
    memory: Memory,
    file: Option<File>,
    len: u64,
    /// What it has of the budgets.
    in_file: u64,
    in_memory: u64,
}

/// An upload goes to a file at so many times the size of a small one, though there be memory: to move it there takes its
/// thread a millisecond for each megabyte.
const LARGE: usize = 16;
/// The most that are kept as they are.
const FEW: usize = 4 * 1024;
/// A room that is less than half full is not worth to be kept for what is in it.
const WORTH: usize = buffer::READ / 2;

/// Bytes in memory: a few as they are, more of them in rooms that the thread uses again and again, so that a message
/// costs neither a page fault nor a second copy as it grows.
#[derive(Debug, Default)]
struct Memory {
    few: Vec<u8>,
    rooms: Vec<Buffer>,
    len: usize,
    /// Of the rooms.
    taken: usize,
}

impl Memory {
    fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if self.rooms.is_empty() && self.len <= FEW {
            return self.few.extend_from_slice(bytes);
        }
        if let Some(last) = self.rooms.last_mut() {
            bytes = &bytes[last.fit(bytes)..];
        }
        for bytes in bytes.chunks(buffer::SIZE) {
            let mut room = Buffer::default();
            room.push(bytes);
            self.add(room);
        }
    }

    fn adopt(&mut self, room: Buffer) {
        self.len += room.len();
        self.add(room);
    }

    fn add(&mut self, room: Buffer) {
        self.taken += room.room();
        self.rooms.push(room);
    }

    /// All bytes, in order.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&*self.few).chain(self.rooms.iter().map(Buffer::bytes))
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
        Self { spool, memory: Memory::default(), file: None, len: 0, in_file: 0, in_memory: 0 }
    }

    /// Bytes kept.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a room with so many bytes is better adopted than copied.
    pub fn adopts(&self, bytes: usize) -> bool {
        self.file.is_none() && bytes >= WORTH
    }

    /// Appends. Up to `small` bytes stay in memory; what is more, where there is memory for it, and goes to a file
    /// otherwise. Pages go to the kernel's cache, so this does not wait for a disk that keeps up.
    pub fn push(&mut self, bytes: &[u8], small: usize) -> Result<(), SpoolError> {
        if let Some(file) = &self.file {
            self.in_file += bytes.len() as u64;
            if !self.spool.files.take(bytes.len() as u64) {
                return Err(SpoolError::Full);
            }
            file.write_all_at(bytes, self.len)?;
        } else {
            self.memory.push(bytes);
        }
        self.len += bytes.len() as u64;
        self.settle(small)
    }

    /// Appends the bytes of a room with the room, if it [`Self::adopts`] it.
    pub fn adopt(&mut self, room: Buffer, small: usize) -> Result<(), SpoolError> {
        if !self.adopts(room.len()) {
            return self.push(room.bytes(), small);
        }
        self.len += room.len() as u64;
        self.memory.adopt(room);
        self.settle(small)
    }

    /// Up to `buffer.len()` bytes from `at`.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.read_at(buffer, at),
            None => Ok(self.memory.read(usize::try_from(at).unwrap_or(usize::MAX), buffer)),
        }
    }

    /// What is not small needs a part of the budget, or a file.
    fn settle(&mut self, small: usize) -> Result<(), SpoolError> {
        if self.memory.len <= small {
            return Ok(());
        }
        let taken = self.memory.few.len() + self.memory.taken;
        let more = (taken as u64).saturating_sub(self.in_memory);
        self.in_memory += more;
        let fits = more == 0 || self.spool.memory.take(more);
        if fits && self.memory.len <= small.saturating_mul(LARGE) { Ok(()) } else { self.spill() }
    }

    fn spill(&mut self) -> Result<(), SpoolError> {
        let mut file = tempfile::tempfile_in(&self.spool.dir)?;
        self.in_file = self.memory.len as u64;
        if !self.spool.files.take(self.in_file) {
            return Err(SpoolError::Full);
        }
        for piece in self.memory.pieces() {
            io::Write::write_all(&mut file, piece)?;
        }
        self.file = Some(file);
        self.memory = Memory::default();
        self.spool.memory.give_back(std::mem::take(&mut self.in_memory));
        Ok(())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.spool.files.give_back(self.in_file);
        self.spool.memory.give_back(self.in_memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(files: u64, memory: u64) -> (tempfile::TempDir, Arc<Spool>) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path(), files, memory).unwrap();
        (dir, spool)
    }

    fn all(body: &Body) -> Vec<u8> {
        let (mut read, mut room) = (Vec::new(), [0; 5000]);
        loop {
            match body.read(read.len() as u64, &mut room).unwrap() {
                0 => return read,
                n => read.extend_from_slice(&room[..n]),
            }
        }
    }

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|n| (n % 251) as u8).collect()
    }

    fn room(bytes: &[u8]) -> Buffer {
        let mut room = Buffer::default();
        room.push(bytes);
        room
    }

    #[test]
    fn memory_keeps_a_message_of_any_size_in_any_pieces() {
        let (_dir, spool) = spool(0, 0);
        for (size, piece) in
            [(10, 3), (FEW, 1000), (FEW + 1, FEW), (200_000, 7000), (3 * buffer::SIZE, buffer::SIZE)]
        {
            for adopted in [false, true] {
                let bytes = bytes(size);
                let mut body = Body::new(spool.clone());
                for (n, piece) in bytes.chunks(piece).enumerate() {
                    match adopted && n % 3 == 1 {
                        true => body.adopt(room(piece), usize::MAX).unwrap(),
                        false => body.push(piece, usize::MAX).unwrap(),
                    }
                }
                assert_eq!(all(&body), bytes);
                assert_eq!(body.len(), size as u64);
            }
        }
    }

    #[test]
    fn what_was_pushed_is_read_in_memory_and_in_a_file() {
        let (dir, spool) = spool(1000, 0);
        for small in [0, 5, 1000] {
            let mut body = Body::new(spool.clone());
            for piece in [&b"hello"[..], b" ", b"world"] {
                body.push(piece, small).unwrap();
            }
            assert_eq!(all(&body), b"hello world");
            let mut rest = [0; 100];
            assert_eq!(body.read(6, &mut rest).unwrap(), 5);
            assert_eq!(spool.used(), if small < 11 { 11 } else { 0 });
        }
        assert_eq!(spool.used(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
    }

    #[test]
    fn a_room_that_is_worth_it_is_adopted_and_not_copied() {
        let (_dir, spool) = spool(0, 0);
        let full = room(&bytes(WORTH));
        let address = full.bytes().as_ptr();
        let mut body = Body::new(spool);
        body.push(b"few", 1 << 20).unwrap();
        body.adopt(full, 1 << 20).unwrap();
        body.push(b"more", 1 << 20).unwrap();
        body.adopt(room(b"some"), 1 << 20).unwrap();
        assert_eq!(body.memory.rooms.len(), 1);
        assert_eq!(body.memory.rooms[0].bytes().as_ptr(), address);
        assert_eq!(all(&body), [&b"few"[..], &bytes(WORTH), b"moresome"].concat());
    }

    #[test]
    fn what_is_not_small_stays_while_there_is_memory() {
        let (_dir, spool) = spool(1 << 20, 3 * buffer::SIZE as u64);
        let small = 8 * 1024;
        let mut bodies = Vec::new();
        for (n, in_files) in [0, 0, 0, 1].into_iter().enumerate() {
            let mut body = Body::new(spool.clone());
            body.push(&bytes(10_000), small).unwrap();
            assert_eq!(all(&body), bytes(10_000));
            assert_eq!(spool.used(), in_files * 10_000, "body {n}");
            bodies.push(body);
        }
        bodies.remove(0);
        let mut next = Body::new(spool.clone());
        next.push(&bytes(10_000), small).unwrap();
        assert_eq!(spool.used(), 10_000, "what one gave back another has");
        // In the memory that it has there is room for more, and then there is none.
        next.push(&bytes(20_000), small).unwrap();
        assert_eq!(spool.used(), 10_000);
        next.push(&bytes(20_000), small).unwrap();
        assert_eq!(spool.used(), 60_000);
        assert_eq!(all(&next), [bytes(10_000), bytes(20_000), bytes(20_000)].concat());
        drop((bodies, next));
        assert_eq!((spool.used(), spool.memory.used()), (0, 0));
    }

    #[test]
    fn a_large_one_goes_to_a_file_though_there_be_memory() {
        let (_dir, spool) = spool(1 << 20, 1 << 30);
        let mut body = Body::new(spool.clone());
        body.push(&bytes(LARGE * 1000), 1000).unwrap();
        assert_eq!(spool.used(), 0);
        body.push(b"1", 1000).unwrap();
        assert_eq!((spool.used(), spool.memory.used()), (LARGE as u64 * 1000 + 1, 0));
    }

    #[test]
    fn past_the_budget_the_upload_is_refused() {
        let (_dir, spool) = spool(8, 0);
        let mut body = Body::new(spool.clone());
        body.push(b"12345678", 0).unwrap();
        assert!(matches!(body.push(b"9", 0), Err(SpoolError::Full)));
        drop(body);
        assert_eq!(spool.used(), 0);
        let mut body = Body::new(spool.clone());
        assert!(matches!(body.push(b"123456789", 0), Err(SpoolError::Full)));
        drop(body);
        assert_eq!(spool.used(), 0);
    }
}
