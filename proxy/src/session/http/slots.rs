//! A table of hashes that forgets: what is learnt from answers, of fixed size whoever asks.
//!
//! Rule: a newer entry takes the place of an older one; who finds nothing does as if nothing had been learnt.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Entries; 512 kB once there is one.
const COUNT: usize = 1 << 16;
/// The bits of a hash that are kept beside the value. Those that choose the place are not among them.
const TAG: u64 = !0xffff;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Slots(OnceLock<Box<[AtomicU64]>>);

impl Slots {
    /// Remembers `value` for `hash`.
    pub(super) fn put(&self, hash: u64, value: u16) {
        let slots = self.0.get_or_init(|| (0..COUNT).map(|_| AtomicU64::new(0)).collect());
        slots[place(hash)].store(tag(hash) | u64::from(value), Ordering::Relaxed);
    }

    /// Forgets what was remembered for `hash`.
    pub(super) fn remove(&self, hash: u64) {
        if let (Some(_), Some(slots)) = (self.get(hash), self.0.get()) {
            slots[place(hash)].store(0, Ordering::Relaxed);
        }
    }

    /// What was remembered for `hash`, if it has not been displaced.
    pub(super) fn get(&self, hash: u64) -> Option<u16> {
        let found = self.0.get()?[place(hash)].load(Ordering::Relaxed);
        (found & TAG == tag(hash)).then_some((found & !TAG) as u16)
    }
}

fn place(hash: u64) -> usize {
    (hash & !TAG) as usize
}

/// Never that of an empty place.
fn tag(hash: u64) -> u64 {
    (hash & TAG) | (1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_until_it_is_displaced() {
        let slots = Slots::default();
        let (one, other) = (0x1234_5678_9abc_def0, 0x2234_5678_9abc_def0);
        assert_eq!(slots.get(one), None);
        slots.put(one, 7);
        assert_eq!((slots.get(one), slots.get(other)), (Some(7), None));
        slots.put(other, 8);
        assert_eq!((slots.get(one), slots.get(other)), (None, Some(8)), "of one place");
        slots.remove(one);
        assert_eq!(slots.get(other), Some(8), "of one place, and not its own");
        slots.remove(other);
        assert_eq!(slots.get(other), None);
        slots.put(0, 0);
        assert_eq!((slots.get(0), slots.get(1)), (Some(0), None));
    }
}
