//! As much of WBXML as shows what an ActiveSync Sync asks for (MS-ASWBXML, code page 0).
//!
//! Rule: what is not understood to its end is not known.

/// Token of the code page AirSync.
const COMMANDS: u8 = 0x16;
const WAIT: u8 = 0x24;
const HEARTBEAT: u8 = 0x29;
/// The code page AirSync.
const AIR_SYNC: u8 = 0;

/// Whether the body of a Sync only waits for news: it says how long it may be kept waiting, and brings no changes. An
/// empty one repeats the last without its changes.
pub(super) fn only_waits(body: &[u8]) -> bool {
    body.is_empty() || Reader(body).tags().is_some_and(|tags| tags.waits && !tags.commands)
}

#[derive(Default)]
struct Tags {
    waits: bool,
    commands: bool,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn tags(mut self) -> Option<Tags> {
        let mut tags = Tags::default();
        // Version, document, character set; no table of strings.
        let (_, _, _) = (self.byte()?, self.number()?, self.number()?);
        if self.number()? != 0 {
            return None;
        }
        let (mut page, mut depth) = (AIR_SYNC, 0u32);
        while !self.0.is_empty() {
            match self.byte()? {
                0x00 => page = self.byte()?,
                0x01 => depth = depth.checked_sub(1)?,
                0x03 => self.text()?,
                0xc3 => self.opaque()?,
                // Entities, literals, extensions and attributes: ActiveSync has none of them.
                0x02 | 0x04 | 0x40..=0x44 | 0x80.. => return None,
                tag => {
                    depth += u32::from(tag & 0x40 != 0);
                    tags.commands |= (page, tag & 0x3f) == (AIR_SYNC, COMMANDS);
                    tags.waits |= page == AIR_SYNC && [WAIT, HEARTBEAT].contains(&(tag & 0x3f));
                }
            }
        }
        (depth == 0).then_some(tags)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Seven bits in each byte, the highest first.
    fn number(&mut self) -> Option<u32> {
        let mut number = 0u32;
        for _ in 0..5 {
            let byte = self.byte()?;
            number = number.checked_mul(128)? | u32::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<()> {
        let end = memchr::memchr(0, self.0)?;
        self.0 = &self.0[end + 1..];
        Some(())
    }

    fn opaque(&mut self) -> Option<()> {
        let length = usize::try_from(self.number()?).ok()?;
        self.0 = self.0.get(length..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: [u8; 4] = [0x03, 0x01, 0x6a, 0x00];

    /// An element with content.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag | 0x40], content, &[0x01]].concat()
    }

    fn text(value: &str) -> Vec<u8> {
        [&[0x03], value.as_bytes(), &[0]].concat()
    }

    /// A Sync of one collection with these elements after it.
    fn sync(inside: &[u8], after: &[u8]) -> Vec<u8> {
        let key = element(0x0b, &text("{7}12"));
        let collection = element(0x0f, &[&key[..], &element(0x12, &text("5")), inside].concat());
        [&HEAD[..], &element(0x05, &[&element(0x1c, &collection)[..], after].concat())].concat()
    }

    #[test]
    fn a_sync_that_may_be_kept_waiting_and_brings_nothing_only_waits() {
        let options = element(0x17, &[&[0x00, 0x11][..], &element(0x05, &text("1")), &[0x00, 0x00]].concat());
        assert!(only_waits(&sync(&options, &element(WAIT, &text("10")))));
        assert!(only_waits(&sync(&[0x13], &element(HEARTBEAT, &text("600")))));
        assert!(only_waits(b""));
    }

    #[test]
    fn a_sync_that_brings_changes_or_does_not_wait_is_not_known() {
        let change = element(COMMANDS, &element(0x08, &element(0x0d, &text("5:1"))));
        assert!(!only_waits(&sync(&change, &element(WAIT, &text("10")))));
        assert!(!only_waits(&sync(&[], &[])));
        // The same number on another page is another element.
        assert!(!only_waits(&sync(
            &[],
            &[&[0x00, 0x11][..], &element(WAIT, &text("1")), &[0x00, 0x00]].concat()
        )));
    }

    #[test]
    fn what_is_cut_or_strange_is_not_known() {
        let whole = sync(&[], &element(WAIT, &text("10")));
        for end in 1..whole.len() {
            assert!(!only_waits(&whole[..end]), "{end}");
        }
        assert!(!only_waits(&[&whole[..], &[0x01]].concat()));
        assert!(!only_waits(&[0x03, 0x01, 0x6a, 0x01, b'x', 0x45, 0x64, 0x01, 0x01]));
        assert!(!only_waits(&[&HEAD[..], &[0x45, 0x64, 0x01, 0x84, 0x00, 0x01]].concat()));
        assert!(!only_waits(
            &[&HEAD[..], &[0x45, 0x64, 0x01, 0xc3, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x01]].concat()
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let _ = only_waits(&[&HEAD[..], &bytes].concat());
            let _ = only_waits(&bytes);
        }
    }
}
