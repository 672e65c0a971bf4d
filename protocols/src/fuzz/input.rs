//! How the bytes of a fuzzer become choices, and how a stream is cut.
//!
//! Rule: every input means something, and near inputs mean near things, so that a fuzzer's small changes are small.

/// Reads choices from the front of an input; behind its end every choice is zero.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number lower than `end`.
    pub(crate) fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// A UID: most lie close together, so that runs touch, and some at the upper end.
    pub(crate) fn uid(&mut self) -> u32 {
        match self.byte() {
            byte @ 0..240 => u32::from(byte) % 60 + 1,
            byte => u32::MAX - u32::from(byte) % 4,
        }
    }

    /// Where the network cuts; none: the stream comes whole.
    pub(crate) fn cuts(&mut self) -> Cuts {
        let count = self.below(8);
        Cuts((0..count).map(|_| usize::from(self.byte()).max(1)).collect())
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The sizes of the pieces in which a stream comes, over and over.
#[derive(Debug, Clone)]
pub(crate) struct Cuts(Vec<usize>);

impl Cuts {
    pub(crate) fn none() -> Self {
        Self(vec![])
    }

    pub(crate) fn every(size: usize) -> Self {
        Self(vec![size])
    }

    pub(crate) fn pieces<'a>(&self, stream: &'a [u8]) -> Vec<&'a [u8]> {
        if self.0.is_empty() {
            return vec![stream];
        }
        let (mut pieces, mut left) = (vec![], stream);
        for size in self.0.iter().cycle() {
            if left.is_empty() {
                break;
            }
            let (piece, rest) = left.split_at(left.len().min(*size));
            pieces.push(piece);
            left = rest;
        }
        pieces
    }
}

/// For messages: what the bytes say, with what is not printable escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
