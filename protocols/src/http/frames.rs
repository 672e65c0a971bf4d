//! The frames of a WebSocket in one direction (RFC 6455 §5.2), followed but not read.
//!
//! Rule: it knows where one ends and the next begins, so that a frame of the proxy's own never stands inside another.

/// The server is restarting (IANA's registry of close codes).
pub const RESTART: u16 = 1012;
/// The endpoint is going away (RFC 6455 §7.4.1).
pub const AWAY: u16 = 1001;

/// Where a direction is.
#[derive(Debug, Default)]
pub struct Frames {
    /// The head of the frame that is coming.
    head: [u8; 14],
    /// Bytes of it that have come.
    seen: usize,
    /// Bytes of the payload that are still to come, once the head is whole.
    left: u64,
    /// A frame that says that no other comes has begun.
    closed: bool,
    /// A length that cannot be.
    lost: bool,
}

const CLOSE: u8 = 0x8;

impl Frames {
    /// Whether a frame may begin here.
    pub fn between(&self) -> bool {
        self.seen == 0 && self.left == 0 && !self.lost
    }

    /// Whether this side has said that it is done.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Takes what came.
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.lost {
            rest = &rest[self.step(rest)..];
        }
    }

    /// Takes what came as far as the end of the frame that is coming; returns how much that is.
    pub fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && !self.between() && !self.lost {
            done += self.step(&bytes[done..]);
        }
        done
    }

    /// Takes a part of one frame; returns how much.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= taken as u64;
            return taken;
        }
        self.head[self.seen] = bytes[0];
        self.seen += 1;
        if self.seen == 1 && bytes[0] & 0x0f == CLOSE {
            self.closed = true;
        }
        if self.seen >= 2 && self.seen == self.length_of_head() {
            self.left = self.payload();
            self.lost = self.left >> 63 == 1;
            self.seen = 0;
        }
        1
    }

    fn length_of_head(&self) -> usize {
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn payload(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

/// A frame that closes, as a server says it; with a mask, as a client does.
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    // A control frame has 125 bytes of payload at most.
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    let payload: Vec<u8> = code.to_be_bytes().iter().chain(reason).copied().collect();
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0x80 | CLOSE, length];
    match mask {
        None => frame.extend(payload),
        Some(mask) => {
            frame[1] |= 0x80;
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with so long a payload.
    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(bit | length as u8),
            126..65_536 => {
                frame.push(bit | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(if masked { &[1, 2, 3, 4][..] } else { &[] });
        frame.extend(vec![0x88; length]);
        frame
    }

    #[test]
    fn a_close_is_seen_where_it_is_one() {
        let mut frames = Frames::default();
        assert!(frames.between());
        frames.pass(&frame(0x81, 10, false));
        assert!(frames.between() && !frames.closed());
        frames.pass(&[0x88]);
        assert!(!frames.between() && frames.closed());
    }

    #[test]
    fn a_frame_is_finished_and_the_next_one_is_not_begun() {
        let first = frame(0x82, 70_000, false);
        let mut frames = Frames::default();
        frames.pass(&first[..5]);
        let rest = [&first[5..], &frame(0x81, 3, false)].concat();
        assert_eq!(frames.finish(&rest[..1000]), 1000);
        assert!(!frames.between());
        assert_eq!(frames.finish(&rest[1000..]), first.len() - 1005);
        assert!(frames.between());
        assert_eq!(frames.finish(b"more"), 0);
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_following() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
        assert!(!frames.between());
        assert_eq!(frames.finish(b"x"), 0);
    }

    #[test]
    fn closes_are_as_the_standard_has_them() {
        assert_eq!(close(RESTART, "", None), [0x88, 2, 0x03, 0xf4]);
        assert_eq!(
            close(AWAY, "a", Some([1, 2, 3, 4])),
            [0x88, 0x83, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2, b'a' ^ 3]
        );
        assert_eq!(close(RESTART, &"x".repeat(200), None).len(), 127);
    }

    proptest! {
        /// However the network cuts it: between two frames is between two frames, and nowhere else.
        #[test]
        fn boundaries_are_found(
            sizes in proptest::collection::vec((prop_oneof![0usize..300, 65_530usize..65_540], any::<bool>()), 1..6),
            cuts in proptest::collection::vec(prop_oneof![1usize..8, 100usize..70_000], 1..40),
        ) {
            let all: Vec<Vec<u8>> = sizes.iter().map(|(size, masked)| frame(0x82, *size, *masked)).collect();
            let mut ends = vec![0];
            for frame in &all {
                ends.push(ends[ends.len() - 1] + frame.len());
            }
            let bytes = all.concat();
            let (mut at, mut frames) = (0, Frames::default());
            for cut in cuts.iter().cycle() {
                prop_assert_eq!(frames.between(), ends.contains(&at));
                if at == bytes.len() {
                    break;
                }
                let piece = &bytes[at..(at + cut).min(bytes.len())];
                frames.pass(piece);
                at += piece.len();
            }
        }
    }
}
