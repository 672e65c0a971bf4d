//! Sets of UIDs against the set of the standard library.
//!
//! Rule: whatever is done to both, both hold the same, and what is printed is read back.

use std::collections::BTreeSet;

use super::input::Input;
use crate::imap::view::UidSet;

pub(super) const WORDS: &[&str] =
    &["1:3", "7,", "5:1,", "4294967295", "4294967296", ":", ",", "0", "01", "*", "9:12,10"];

/// `which of the three, and what it needs`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => steps(&mut input),
        1 => differences(&mut input),
        _ => text(input.rest()),
    }
}

fn steps(input: &mut Input<'_>) {
    let (mut set, mut model) = (UidSet::default(), BTreeSet::new());
    while !input.is_empty() {
        match input.below(4) {
            0 | 1 => {
                let uid = if input.flag() { input.uid() } else { u32::from(input.byte()) };
                assert_eq!(set.insert(uid), uid > 0 && model.insert(uid));
            }
            2 => {
                let uid = input.uid();
                let rank = model.range(..uid).count() as u32 + 1;
                assert_eq!(set.remove(uid), model.remove(&uid).then_some(rank));
            }
            _ => {
                let seq = u32::from(input.below(40));
                let uid = (seq as usize).checked_sub(1).and_then(|at| model.iter().nth(at).copied());
                assert_eq!(set.remove_nth(seq), uid);
                model.retain(|kept| Some(*kept) != uid);
            }
        }
        same(&set, &model);
    }
}

fn differences(input: &mut Input<'_>) {
    let above = input.uid() - u32::from(input.flag());
    let sizes = (input.below(60), input.below(60));
    let one: BTreeSet<u32> = (0..sizes.0).map(|_| input.uid()).collect();
    let other: BTreeSet<u32> = (0..sizes.1).map(|_| input.uid()).collect();
    let (a, b): (UidSet, UidSet) = (one.iter().copied().collect(), other.iter().copied().collect());
    same(&a.minus(&b), &(&one - &other));
    same(&a.above(above), &one.iter().copied().filter(|uid| *uid > above).collect());
}

/// Any text is read as what it says, or refused.
fn text(text: &[u8]) {
    let read = UidSet::parse(text);
    let ranges: Option<Vec<(u32, u32)>> = text.split(|b| *b == b',').map(range).collect();
    let Some(ranges) = ranges else { return assert_eq!(read, None) };
    let set = read.expect("a set without a fault");
    assert_eq!(UidSet::parse(set.to_string().as_bytes()).as_ref(), Some(&set));
    let whole: u64 = ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
    assert!(u64::from(set.len()) <= whole);
    for (first, last) in &ranges {
        assert!(set.contains(*first) && set.contains(*last));
        assert_eq!(
            set.rank(*last).zip(set.rank(*first)).map(|(last, first)| last - first),
            Some(last - first)
        );
    }
    if whole < 10_000 {
        same(&set, &ranges.into_iter().flat_map(|(first, last)| first..=last).collect());
    }
}

fn range(part: &[u8]) -> Option<(u32, u32)> {
    let ends: Vec<&[u8]> = part.split(|b| *b == b':').collect();
    let number = |text: &[u8]| {
        let digits = std::str::from_utf8(text).ok()?;
        let plain = !digits.starts_with(['0', '+']);
        digits.parse::<u32>().ok().filter(|_| plain)
    };
    match ends[..] {
        [one] => number(one).map(|one| (one, one)),
        [one, other] => Some((number(one)?.min(number(other)?), number(one)?.max(number(other)?))),
        _ => None,
    }
}

/// Everything that can be asked of a set.
fn same(set: &UidSet, model: &BTreeSet<u32>) {
    let uids: Vec<u32> = model.iter().copied().collect();
    assert!(set.iter().eq(uids.iter().copied()));
    assert_eq!((set.len() as usize, set.is_empty()), (uids.len(), uids.is_empty()));
    assert_eq!((set.min(), set.max()), (uids.first().copied(), uids.last().copied()));
    for (seq, uid) in (1..).zip(uids.iter().copied()) {
        assert_eq!((set.nth(seq), set.rank(uid), set.contains(uid)), (Some(uid), Some(seq), true));
    }
    for uid in (0..62).chain(u32::MAX - 4..=u32::MAX) {
        assert_eq!(set.contains(uid), model.contains(&uid));
    }
    assert_eq!((set.nth(0), set.nth(set.len() + 1)), (None, None));
    assert!(set.ranges().zip(set.ranges().skip(1)).all(|((_, end), (next, _))| end + 1 < next));
    if !uids.is_empty() {
        assert_eq!(UidSet::parse(set.to_string().as_bytes()).as_ref(), Some(set));
    }
}
