//! Room for bytes that were read and not yet used.
//!
//! Rule: whoever has no bytes has no room. Rooms of the usual size go back to a small pool of their thread, so
//! that a stream that wakes up for one line costs neither an allocation nor a page fault.

use std::cell::RefCell;

/// Bytes passed on at once. Twice as many make a large answer 3-4 % cheaper and cost a slow reader twice the memory
/// (measured: `bench/README.md`).
pub const READ: usize = 32 * 1024;
/// A room: so many bytes as two TLS records, so that of records as large as they come no half stays behind.
pub const SIZE: usize = READ + 1024;
/// The largest room: a TLS handshake message of 64 KiB with its records' heads.
const LARGEST: usize = 128 * 1024;
/// Rooms that a thread keeps: a message of 4 MiB, or more of them that are smaller.
const KEPT: usize = 128;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in the order they came, taken from the front.
#[derive(Debug, Default)]
pub struct Buffer {
    room: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Whether there is no byte, and so no room.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// How much memory they take.
    pub fn room(&self) -> usize {
        self.room.len()
    }

    /// The first `n` bytes with their room; the rest gets another one.
    pub fn take(&mut self, n: usize) -> Self {
        let mut taken = std::mem::take(self);
        let end = (taken.start + n).min(taken.end);
        if end < taken.end {
            self.push(&taken.room[end..taken.end]);
        }
        taken.end = end;
        taken
    }

    /// Puts as many of `bytes` behind the others as the room has space for, and says how many.
    pub fn fit(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room.len() - self.end);
        self.room[self.end..self.end + n].copy_from_slice(&bytes[..n]);
        self.end += n;
        n
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    /// The bytes, to be decrypted in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.end]
    }

    /// Takes `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.give_back();
        }
    }

    /// Room behind the bytes; tell [`Self::filled`] how much of it was used. Empty if the largest room is full.
    pub fn space(&mut self) -> &mut [u8] {
        if self.end == self.room.len() {
            self.make_space();
        }
        &mut self.room[self.end..]
    }

    /// `n` bytes of [`Self::space`] were filled.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.room.len());
        if self.is_empty() {
            self.give_back();
        }
    }

    /// Puts `bytes` behind the others.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.end + bytes.len() > self.room.len() && self.start > 0 {
            self.room.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        let need = self.end + bytes.len();
        if need > self.room.len() {
            self.grow(need.max(SIZE));
        }
        self.room[self.end..need].copy_from_slice(bytes);
        self.end = need;
    }

    /// The stream waits: what is left needs no more room than it has bytes.
    pub fn rest(&mut self) {
        if self.len() < self.room.len() / 2 {
            let rest: Box<[u8]> = self.bytes().into();
            let end = rest.len();
            self.give_back();
            (self.room, self.end) = (rest, end);
        }
    }

    fn make_space(&mut self) {
        if self.start > 0 {
            self.room.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        } else if self.room.len() < LARGEST {
            self.grow(if self.room.len() < SIZE { SIZE } else { LARGEST });
        }
    }

    fn grow(&mut self, size: usize) {
        let mut room = if size == SIZE { room() } else { vec![0; size].into_boxed_slice() };
        room[..self.end].copy_from_slice(&self.room[..self.end]);
        let small = std::mem::replace(&mut self.room, room);
        keep(small);
    }

    fn give_back(&mut self) {
        (self.start, self.end) = (0, 0);
        keep(std::mem::take(&mut self.room));
    }
}

/// A room of [`SIZE`], with whatever its last user left in it; to be given back by [`keep`].
pub fn room() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

/// Takes a room back.
pub fn keep(room: Box<[u8]>) {
    if room.len() == SIZE {
        // A thread that ends has no pool any more; then the room is freed.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < KEPT
            {
                pool.push(room);
            }
        });
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::default();
        let (mut given, mut taken) = (Vec::new(), Vec::new());
        for round in 0..200usize {
            let piece: Vec<u8> = (0..round * 37 % 5000).map(|i| (i + round) as u8).collect();
            if round % 2 == 0 {
                buffer.push(&piece);
            } else {
                let n = piece.len().min(buffer.space().len());
                buffer.space()[..n].copy_from_slice(&piece[..n]);
                buffer.filled(n);
                given.extend_from_slice(&piece[..n]);
                buffer.rest();
                continue;
            }
            given.extend_from_slice(&piece);
            let n = buffer.bytes().len() * 2 / 3;
            taken.extend_from_slice(&buffer.bytes()[..n]);
            buffer.consume(n);
        }
        taken.extend_from_slice(buffer.bytes());
        assert_eq!(taken, given);
    }

    #[test]
    fn an_empty_buffer_has_no_room_and_the_next_one_gets_it() {
        let mut buffer = Buffer::default();
        buffer.push(b"line");
        assert_eq!(buffer.room.len(), SIZE);
        let address = buffer.room.as_ptr() as usize;
        buffer.consume(4);
        assert_eq!(buffer.room.len(), 0);
        let mut next = Buffer::default();
        assert_eq!(next.space().as_ptr() as usize, address);
    }

    #[test]
    fn what_rests_takes_its_own_size() {
        let mut buffer = Buffer::default();
        buffer.push(b"a line and a half");
        buffer.consume(7);
        buffer.rest();
        assert_eq!((buffer.bytes(), buffer.room.len()), (&b"and a half"[..], 10));
        buffer.push(b" more");
        assert_eq!(buffer.bytes(), b"and a half more");
    }

    #[test]
    fn what_is_taken_takes_its_room() {
        let mut buffer = Buffer::default();
        buffer.push(b"many bytes and a rest");
        buffer.consume(5);
        let address = buffer.room.as_ptr();
        let mut taken = buffer.take(9);
        assert_eq!((taken.bytes(), taken.room.as_ptr()), (&b"bytes and"[..], address));
        assert_eq!((taken.fit(b" more"), taken.bytes()), (5, &b"bytes and more"[..]));
        assert_eq!(buffer.bytes(), b" a rest");
        assert_eq!(buffer.take(100).bytes(), b" a rest");
        assert!(buffer.is_empty() && buffer.room.is_empty());
    }

    #[test]
    fn what_is_pushed_and_consumed_in_turns_needs_no_more_room() {
        let mut buffer = Buffer::default();
        buffer.push(&[7; 1000]);
        for _ in 0..100 {
            buffer.push(&[7; 1000]);
            buffer.consume(1000);
        }
        assert_eq!((buffer.len(), buffer.room()), (1000, SIZE));
    }

    #[test]
    fn the_largest_room_is_the_end() {
        let mut buffer = Buffer::default();
        loop {
            let n = buffer.space().len();
            if n == 0 {
                break;
            }
            buffer.filled(n);
        }
        assert_eq!(buffer.bytes().len(), LARGEST);
    }
}
