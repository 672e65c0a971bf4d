//! The client's view of the selected mailbox: which message number stands for which UID.
//!
//! Rule: nothing is guessed. What contradicts a view breaks it, and a broken view is thrown away.

use std::fmt;

/// The most runs that a view may consist of (256 KiB); a mailbox with more holes has no view.
pub const MAX_RUNS: usize = 32_768;

/// The most UIDs that a view remembers for slots behind an unknown one; each costs a look at all of them.
const MAX_AHEAD: usize = 1024;

/// So many UIDs are taken out of a set one by one; for more it is built anew.
const FEW: u32 = 32;

/// A set of UIDs as ascending runs, none touching the next.
///
/// A run keeps how many UIDs lie before it instead of its own length: eight bytes either way, and so both
/// "which UID is message n" and "which message is UID u" are binary searches. A change renumbers the runs
/// behind it, which costs no more than moving them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UidSet {
    runs: Vec<Run>,
    len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    before: u32,
}

impl UidSet {
    /// Reads an IMAP sequence set without `*`: ranges in any order and direction, overlaps allowed. Refuses
    /// zero, what does not fit 32 bits, and more than [`MAX_RUNS`] ranges.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text.split(|&byte| byte == b',') {
            if ranges.len() == MAX_RUNS {
                return None;
            }
            ranges.push(range(part)?);
        }
        ranges.sort_unstable();
        let mut set = Self::default();
        for (first, last) in ranges {
            set.append(first, last);
        }
        set.shrink_to_fit();
        Some(set)
    }

    /// How many UIDs there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The lowest UID.
    pub fn min(&self) -> Option<u32> {
        self.runs.first().map(|run| run.first)
    }

    /// The highest UID.
    pub fn max(&self) -> Option<u32> {
        self.nth(self.len)
    }

    /// Whether `uid` is in the set.
    pub fn contains(&self, uid: u32) -> bool {
        self.rank(uid).is_some()
    }

    /// The UID at place `seq`, counted from 1.
    pub fn nth(&self, seq: u32) -> Option<u32> {
        let run = self.runs[self.run_at(seq)?];
        Some(run.first + (seq - run.before - 1))
    }

    /// The place of `uid`, counted from 1.
    pub fn rank(&self, uid: u32) -> Option<u32> {
        let seq = self.below(uid).checked_add(1)?;
        (self.nth(seq)? == uid).then_some(seq)
    }

    /// Adds a UID; `false` if it was there.
    pub fn insert(&mut self, uid: u32) -> bool {
        if uid == 0 || self.contains(uid) {
            return false;
        }
        let before = self.below(uid);
        let at = self.runs.partition_point(|run| run.first < uid);
        let follows = at > 0 && self.nth(before) == Some(uid - 1);
        let leads = self.runs.get(at).is_some_and(|run| run.first - 1 == uid);
        let behind = match (follows, leads) {
            (true, true) => {
                self.runs.remove(at);
                at
            }
            (true, false) => at,
            (false, true) => {
                self.runs[at].first = uid;
                at + 1
            }
            (false, false) => {
                self.runs.insert(at, Run { first: uid, before });
                at + 1
            }
        };
        self.len += 1;
        self.runs[behind..].iter_mut().for_each(|run| run.before += 1);
        true
    }

    /// Removes a UID; its place if it was there.
    pub fn remove(&mut self, uid: u32) -> Option<u32> {
        let seq = self.rank(uid)?;
        self.remove_nth(seq)?;
        Some(seq)
    }

    /// Removes the UID at place `seq`, counted from 1, and says which it was.
    pub fn remove_nth(&mut self, seq: u32) -> Option<u32> {
        let at = self.run_at(seq)?;
        let uid = self.nth(seq)?;
        let run = self.runs[at];
        let behind = match (uid == run.first, seq == self.end(at)) {
            (true, true) => {
                self.runs.remove(at);
                at
            }
            (true, false) => {
                self.runs[at].first += 1;
                at + 1
            }
            (false, true) => at + 1,
            (false, false) => {
                self.runs.insert(at + 1, Run { first: uid + 1, before: seq - 1 });
                at + 2
            }
        };
        self.len -= 1;
        self.runs[behind..].iter_mut().for_each(|run| run.before -= 1);
        Some(uid)
    }

    /// The UIDs that are not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self::default();
        let mut cuts = other.ranges().peekable();
        'runs: for (mut first, last) in self.ranges() {
            while let Some(&(cut, end)) = cuts.peek().filter(|(cut, _)| *cut <= last) {
                if cut > first {
                    left.append(first, cut - 1);
                }
                if end >= last {
                    continue 'runs; // this cut may reach into the next run
                }
                first = first.max(end + 1);
                cuts.next();
            }
            left.append(first, last);
        }
        left.shrink_to_fit();
        left
    }

    /// The UIDs higher than `uid`.
    pub fn above(&self, uid: u32) -> Self {
        let mut rest = Self::default();
        if uid > 0 {
            rest.append(1, uid);
        }
        self.minus(&rest)
    }

    /// All UIDs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flat_map(|(first, last)| first..=last)
    }

    /// All runs, ascending, as their first and last UID.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().enumerate().map(|(at, run)| (run.first, run.first + (self.end(at) - run.before - 1)))
    }

    /// Gives back memory that only growth needed; idle sessions keep their view.
    pub fn shrink_to_fit(&mut self) {
        self.runs.shrink_to_fit();
    }

    /// How many UIDs are lower than `uid`.
    fn below(&self, uid: u32) -> u32 {
        match self.runs.partition_point(|run| run.first < uid) {
            0 => 0,
            behind => {
                let run = self.runs[behind - 1];
                self.end(behind - 1).min(run.before.saturating_add(uid - run.first))
            }
        }
    }

    /// The index of the run in which place `seq` lies.
    fn run_at(&self, seq: u32) -> Option<usize> {
        if seq > self.len {
            return None;
        }
        self.runs.partition_point(|run| run.before < seq).checked_sub(1)
    }

    /// The place of the last UID of a run.
    fn end(&self, at: usize) -> u32 {
        self.runs.get(at + 1).map_or(self.len, |next| next.before)
    }

    /// Adds a range that begins no lower than the last run does.
    fn append(&mut self, first: u32, last: u32) {
        match self.max() {
            Some(max) if last <= max => {}
            Some(max) if first - 1 <= max => self.len += last - max,
            Some(_) | None => {
                self.runs.push(Run { first, before: self.len });
                self.len += last - first + 1;
            }
        }
    }
}

impl FromIterator<u32> for UidSet {
    fn from_iter<I: IntoIterator<Item = u32>>(uids: I) -> Self {
        let mut uids: Vec<u32> = uids.into_iter().filter(|uid| *uid > 0).collect();
        uids.sort_unstable();
        let mut set = Self::default();
        for uid in uids {
            set.append(uid, uid);
        }
        set.shrink_to_fit();
        set
    }
}

/// An IMAP sequence set; an empty set is the empty string, which IMAP cannot say.
impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}:{last}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UidSet({self})")
    }
}

fn range(part: &[u8]) -> Option<(u32, u32)> {
    let (one, other) = match memchr::memchr(b':', part) {
        Some(colon) => (number(&part[..colon])?, number(&part[colon + 1..])?),
        None => (number(part)?, number(part)?),
    };
    Some((one.min(other), one.max(other)))
}

/// RFC 3501 `nz-number`; the parser of the standard library alone would accept a sign.
fn number(digits: &[u8]) -> Option<u32> {
    match digits.first()? {
        b'1'..=b'9' => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

/// What the client has been told to exist in the selected mailbox: slots 1 to N, each one message.
///
/// The slots with a known UID come first. Behind them stand those that an EXISTS announced and whose UIDs
/// nothing has told yet; UIDs ascend, so all of them are higher than every UID that was ever known.
///
/// After an `Err` the view says nothing any more; the owner drops it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    known: UidSet,
    /// The highest UID that was ever known, also if it is gone by now.
    highest: u32,
    /// How many slots follow the known ones.
    unknown: u32,
    /// Slot and UID of what was learnt about slots behind an unknown one, ascending.
    ahead: Vec<(u32, u32)>,
}

/// Why a view says nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// RFC 9051 §5.2: only EXPUNGE and VANISHED make it smaller.
    #[error("an EXISTS lowered the number of messages")]
    Shrunk,
    /// A message number is zero or higher than the number of messages.
    #[error("a message number does not exist")]
    NoSuchMessage,
    /// A VANISHED names what the client was never told of.
    #[error("a UID vanished that was not in the mailbox")]
    NoSuchUid,
    /// UIDs ascend with the message numbers and never change.
    #[error("a message has another UID than it can have")]
    OtherUid,
    /// Keeping it would take too much memory.
    #[error("the mailbox has too many holes")]
    Scattered,
}

impl View {
    /// A view of `count` messages, all of whose UIDs are known. `None` if the number differs, or if there are
    /// too many holes to keep it.
    pub fn new(mut known: UidSet, count: u32) -> Option<Self> {
        if known.len() != count || known.runs.len() > MAX_RUNS {
            return None;
        }
        known.shrink_to_fit();
        let highest = known.max().unwrap_or(0);
        Some(Self { known, highest, unknown: 0, ahead: Vec::new() })
    }

    /// How many messages the client believes in.
    pub fn len(&self) -> u32 {
        self.known.len() + self.unknown
    }

    /// Whether the client believes the mailbox to be empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The UIDs of the first slots.
    pub fn known(&self) -> &UidSet {
        &self.known
    }

    /// How many slots follow the known ones.
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// The highest UID that was ever known here, 0 before there was one. A message that is new to the client
    /// is higher.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// What is known of unknown slots: slot and UID, ascending, never the first of them.
    pub fn ahead(&self) -> &[(u32, u32)] {
        &self.ahead
    }

    /// `* n EXISTS`
    pub fn exists(&mut self, count: u32) -> Result<(), Broken> {
        if count < self.len() {
            return Err(Broken::Shrunk);
        }
        self.unknown = count - self.known.len();
        Ok(())
    }

    /// `* n EXPUNGE`
    pub fn expunge(&mut self, seq: u32) -> Result<(), Broken> {
        self.check(seq)?;
        if self.known.remove_nth(seq).is_none() {
            self.unknown -= 1;
        }
        self.ahead.retain(|(slot, _)| *slot != seq);
        for (slot, _) in self.ahead.iter_mut().filter(|(slot, _)| *slot > seq) {
            *slot -= 1;
        }
        self.settle()
    }

    /// `* VANISHED set`, which takes messages away; `VANISHED (EARLIER)` does not and must not come here.
    pub fn vanished(&mut self, uids: &UidSet) -> Result<(), Broken> {
        let few = uids.len() <= FEW;
        let learnt_now = if few {
            uids.iter().filter(|uid| !self.known.contains(*uid)).collect()
        } else {
            uids.minus(&self.known)
        };
        if learnt_now.len() > self.unknown || learnt_now.min().is_some_and(|uid| uid <= self.highest) {
            return Err(Broken::NoSuchUid);
        }
        self.fit(&learnt_now)?;
        let before = self.known.len();
        if few {
            for uid in uids.iter() {
                self.known.remove(uid);
            }
        } else {
            self.known = self.known.minus(uids);
        }
        let gone = before - self.known.len();
        self.unknown -= learnt_now.len();
        self.ahead.retain_mut(|(slot, uid)| {
            *slot = slot.saturating_sub(gone + learnt_now.below(*uid));
            !learnt_now.contains(*uid)
        });
        self.settle()
    }

    /// `* seq FETCH (… UID uid …)`: proves a known slot, or makes one known.
    pub fn fetched(&mut self, seq: u32, uid: u32) -> Result<(), Broken> {
        self.check(seq)?;
        let told = match self.ahead.binary_search_by_key(&seq, |(slot, _)| *slot) {
            Ok(at) => Some(self.ahead[at].1),
            Err(_) => self.known.nth(seq),
        };
        match told {
            Some(told) if told == uid => Ok(()),
            Some(_) => Err(Broken::OtherUid),
            None => {
                let at = self.ahead.partition_point(|(slot, _)| *slot < seq);
                self.ahead.insert(at, (seq, uid));
                self.settle()
            }
        }
    }

    /// Whether UIDs that nothing has told have slots of their own: between two that are known, only so many.
    fn fit(&self, uids: &UidSet) -> Result<(), Broken> {
        let (mut slot, mut before) = (self.known.len(), 0);
        for &(next, uid) in &self.ahead {
            let below = uids.below(uid);
            if below - before > next - slot - 1 {
                return Err(Broken::OtherUid);
            }
            (slot, before) = (next, below + u32::from(uids.contains(uid)));
        }
        if uids.len() - before > self.len() - slot { Err(Broken::OtherUid) } else { Ok(()) }
    }

    fn check(&self, seq: u32) -> Result<(), Broken> {
        if (1..=self.len()).contains(&seq) { Ok(()) } else { Err(Broken::NoSuchMessage) }
    }

    /// Makes known what follows the known slots directly. Between two slots there must be room for the UIDs
    /// of those that lie between.
    fn settle(&mut self) -> Result<(), Broken> {
        let (mut slot, mut uid) = (self.known.len(), self.highest);
        for &next in &self.ahead {
            if next.0 <= slot || next.1 <= uid || next.1 - uid < next.0 - slot {
                return Err(Broken::OtherUid);
            }
            (slot, uid) = next;
        }
        if slot > self.len() {
            return Err(Broken::OtherUid);
        }
        let known = self.known.len();
        let direct = (1..).zip(&self.ahead).take_while(|(nth, (slot, _))| slot - known == *nth).count();
        for (_, uid) in self.ahead.drain(..direct) {
            self.known.insert(uid);
            self.highest = uid;
            self.unknown -= 1;
        }
        if self.known.runs.len() > MAX_RUNS || self.ahead.len() > MAX_AHEAD {
            return Err(Broken::Scattered);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> UidSet {
        if text.is_empty() { UidSet::default() } else { UidSet::parse(text.as_bytes()).unwrap() }
    }

    fn view(text: &str) -> View {
        let known = set(text);
        let count = known.len();
        View::new(known, count).unwrap()
    }

    #[test]
    fn sequence_sets_are_read_in_any_order() {
        for (text, shown) in [
            ("7", "7"),
            ("1:5,7,9:12", "1:5,7,9:12"),
            ("5:1", "1:5"),
            ("9:12,7,5:1", "1:5,7,9:12"),
            ("1:3,4:6", "1:6"),
            ("4,2,3,1", "1:4"),
            ("1:10,3:5,10:11", "1:11"),
            ("7,7,7", "7"),
            ("1:4294967295", "1:4294967295"),
            ("4294967295,1", "1,4294967295"),
            ("4294967294:4294967295,4294967293", "4294967293:4294967295"),
        ] {
            assert_eq!(set(text).to_string(), shown, "{text}");
        }
        assert_eq!(set("2:4,7:8,10,12:16").len(), 11);
        assert_eq!(set("1:4294967295").len(), u32::MAX);
    }

    #[test]
    fn what_is_no_sequence_set_is_refused() {
        for text in [
            "",
            "0",
            "1:0",
            "0:5",
            "*",
            "1:*",
            "1,",
            ",1",
            "1,,2",
            ":",
            "1:",
            ":1",
            "1:2:3",
            "+1",
            "-1",
            "01",
            " 1",
            "1 ",
            "1\r\n",
            "a",
            "1a",
            "4294967296",
            "99999999999999999999",
            "1.5",
            "$",
            "\u{661}",
        ] {
            assert_eq!(UidSet::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(UidSet::parse(b"1,\xff"), None);
        assert!(UidSet::parse("3,".repeat(MAX_RUNS - 1).trim_end_matches(',').as_bytes()).is_some());
        assert!(UidSet::parse("3,".repeat(MAX_RUNS + 1).trim_end_matches(',').as_bytes()).is_none());
    }

    #[test]
    fn a_large_mailbox_is_small_in_memory() {
        let uids: UidSet = (1..=100_000).filter(|uid| uid % 50 != 0).collect();
        assert_eq!((uids.len(), uids.runs.len(), uids.runs.capacity()), (98_000, 2_000, 2_000));
        assert_eq!((uids.nth(50), uids.rank(51), uids.rank(50)), (Some(51), Some(50), None));
        assert_eq!((uids.nth(98_000), uids.nth(98_001), uids.nth(0)), (Some(99_999), None, None));
    }

    #[test]
    fn a_view_needs_every_uid() {
        assert_eq!(View::new(set("1:3"), 4), None);
        assert_eq!(View::new(set("1:3"), 2), None);
        assert_eq!(View::new(UidSet::default(), 0).unwrap().len(), 0);
        let scattered = |runs: usize| (0..runs as u32).map(|n| 2 * n + 1).collect::<UidSet>();
        assert!(View::new(scattered(MAX_RUNS), MAX_RUNS as u32).is_some());
        assert!(View::new(scattered(MAX_RUNS + 1), MAX_RUNS as u32 + 1).is_none());
    }

    /// RFC 3501 §7.4.1: `3 EXPUNGE` twice removes what were messages 3 and 4.
    #[test]
    fn expunge_renumbers_at_once() {
        let mut view = view("10,20,30,40,50");
        for seq in [3, 3, 3] {
            view.expunge(seq).unwrap();
        }
        assert_eq!(view.known().to_string(), "10,20");
        assert_eq!(view.highest(), 50);
    }

    /// RFC 7162 §3.2.10.2: `* VANISHED 405,407,410,425` takes four messages away, `* 5 EXISTS` need not follow.
    #[test]
    fn vanished_takes_known_and_unknown_messages() {
        let mut view = view("400:410");
        view.exists(14).unwrap();
        view.vanished(&set("405,407,410,425")).unwrap();
        assert_eq!((view.known().to_string().as_str(), view.unknown()), ("400:404,406,408:409", 2));
        assert_eq!(view.highest(), 410);
    }

    #[test]
    fn new_messages_become_known_in_order() {
        let mut view = view("1:3");
        view.exists(7).unwrap();
        assert_eq!((view.len(), view.unknown()), (7, 4));
        view.fetched(6, 20).unwrap();
        assert_eq!((view.known().to_string().as_str(), view.ahead()), ("1:3", &[(6, 20)][..]));
        view.fetched(4, 9).unwrap();
        view.fetched(5, 12).unwrap();
        assert_eq!((view.known().to_string().as_str(), view.unknown()), ("1:3,9,12,20", 1));
        assert!(view.ahead().is_empty());
        view.fetched(6, 20).unwrap();
        view.fetched(2, 2).unwrap();
    }

    #[test]
    fn what_stands_ahead_moves_with_the_slots() {
        let mut view = view("1:3");
        view.exists(6).unwrap();
        view.fetched(6, 20).unwrap();
        view.expunge(4).unwrap();
        assert_eq!(view.ahead(), [(5, 20)]);
        view.vanished(&set("2,10")).unwrap();
        assert_eq!((view.known().to_string().as_str(), view.unknown()), ("1,3,20", 0));
        assert_eq!(view.highest(), 20);
    }

    #[test]
    fn contradictions_break_the_view() {
        let told = |steps: fn(&mut View) -> Result<(), Broken>| {
            let mut view = view("1:3,10");
            view.exists(7).unwrap();
            steps(&mut view).unwrap_err()
        };
        assert_eq!(told(|v| v.exists(6)), Broken::Shrunk);
        assert_eq!(told(|v| v.expunge(0)), Broken::NoSuchMessage);
        assert_eq!(told(|v| v.expunge(8)), Broken::NoSuchMessage);
        assert_eq!(told(|v| v.fetched(0, 1)), Broken::NoSuchMessage);
        assert_eq!(told(|v| v.fetched(8, 99)), Broken::NoSuchMessage);
        assert_eq!(told(|v| v.fetched(4, 11)), Broken::OtherUid);
        assert_eq!(told(|v| v.fetched(5, 10)), Broken::OtherUid);
        assert_eq!(told(|v| v.fetched(5, 0)), Broken::OtherUid);
        // Slots 5 and 6 need two UIDs between 10 and the one of slot 7.
        assert_eq!(told(|v| v.fetched(7, 12)), Broken::OtherUid);
        assert_eq!(told(|v| v.fetched(7, 20).and_then(|()| v.fetched(6, 20))), Broken::OtherUid);
        assert_eq!(told(|v| v.fetched(7, 20).and_then(|()| v.fetched(7, 21))), Broken::OtherUid);
        assert_eq!(told(|v| v.vanished(&set("4"))), Broken::NoSuchUid);
        assert_eq!(told(|v| v.vanished(&set("20:23"))), Broken::NoSuchUid);
        // Three below the message at slot 7, where only two slots are.
        assert_eq!(
            told(|v| v.exists(8).and_then(|()| v.fetched(7, 20)).and_then(|()| v.vanished(&set("11:13")))),
            Broken::OtherUid
        );
        // Two above it, where no slot is.
        assert_eq!(told(|v| v.fetched(7, 20).and_then(|()| v.vanished(&set("21:22")))), Broken::OtherUid);
        assert_eq!(told(|v| v.fetched(7, 20).and_then(|()| v.vanished(&set("20:21")))), Broken::OtherUid);
        assert_eq!(told(|v| v.expunge(4).and_then(|()| v.vanished(&set("10")))), Broken::NoSuchUid);
    }

    #[test]
    fn memory_for_what_stands_ahead_is_bounded() {
        let mut view = view("");
        view.exists(u32::MAX).unwrap();
        let broken = (2..).find_map(|n| view.fetched(2 * n, 2 * n).err().map(|broken| (n, broken)));
        assert_eq!(broken, Some((2 + MAX_AHEAD as u32, Broken::Scattered)));
    }

    #[test]
    fn the_largest_mailbox_is_no_overflow() {
        let mut view = view("1:4294967295");
        view.vanished(&UidSet::default()).unwrap();
        view.exists(u32::MAX).unwrap();
        view.expunge(7).unwrap();
        view.exists(u32::MAX).unwrap();
        assert_eq!(view.fetched(u32::MAX, u32::MAX), Err(Broken::OtherUid));
    }
}
