//! Command tags: the client's, kept as they came, and the proxy's own.
//!
//! Rule: a tag of ours can never be one that the client used (semantics §1.f.1).

use smallvec::SmallVec;

/// A command tag. Most are shorter than 16 bytes and need no allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tag(SmallVec<[u8; 16]>);

impl Tag {
    /// Keeps a copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }

    /// The tag as it stands on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Makes the proxy's own tags: `<6 random base32 letters><counter in hex>`.
#[derive(Debug, Clone)]
pub struct TagMaker {
    prefix: [u8; 6],
    counter: u32,
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

impl TagMaker {
    /// `seed` is any random number.
    pub fn new(seed: u64) -> Self {
        let letter = |i: usize| BASE32[(seed >> (5 * i) & 31) as usize];
        Self { prefix: std::array::from_fn(letter), counter: 0 }
    }

    /// A tag that was never used in this session.
    pub fn make(&mut self) -> Tag {
        self.counter = self.counter.wrapping_add(1);
        let mut tag = SmallVec::from_slice(&self.prefix);
        tag.extend_from_slice(format!("{:X}", self.counter).as_bytes());
        Tag(tag)
    }

    /// The client used `tag`: if it begins like ours, ours begin differently from now on.
    pub fn avoid(&mut self, tag: &[u8]) {
        if tag.len() >= self.prefix.len() && tag[..self.prefix.len()].eq_ignore_ascii_case(&self.prefix) {
            let next = |b: u8| BASE32.iter().position(|c| *c == b).map_or(b'A', |i| BASE32[(i + 1) % 32]);
            self.prefix[0] = next(self.prefix[0]);
            self.prefix[3] = next(self.prefix[3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_uses_our_prefix_changes_it() {
        let mut maker = TagMaker::new(7);
        let first = maker.make();
        maker.avoid(first.as_bytes());
        let second = maker.make();
        assert_ne!(first.as_bytes()[..6], second.as_bytes()[..6]);
    }
}
