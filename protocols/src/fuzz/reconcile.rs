//! What a restored session is told, against the definition: slot by slot, the client's messages are the first of
//! the new mailbox, and what is new is higher than all that it ever knew.
//!
//! Rule: nothing is told that is not so, nothing is hidden that differs, and what was told needs no telling again.

use std::collections::BTreeSet;

use super::input::Input;
use crate::imap::{
    reconcile::{Change, Differs, Found, Known, compare, emit},
    state::Selected,
    view::{UidSet, View},
};

/// `the old mailbox, what came since, what was fetched or went, the new mailbox`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let old = Old::new(&mut input);
    let new = new_mailbox(&mut input, &old.uids);
    let told_uidnext = input.flag().then(|| u32::from(input.below(70)));
    let uidnext = input.flag().then(|| u32::from(input.below(90)));
    let found = Found {
        uidvalidity: u32::from(input.below(8) > 0),
        uidnext,
        exists: new.len() as u32 + u32::from(input.below(32) == 31),
        recent: 2,
        uids: (input.below(32) < 31).then(|| new.iter().copied().collect()),
    };
    let known = Known {
        uidvalidity: 1,
        uidnext: told_uidnext,
        exists: old.slots.len() as u32,
        view: Some(&old.view),
    };
    let result = compare(&known, &found);
    assert_eq!(result.is_ok(), old.agrees(&new, told_uidnext, &found), "{result:?} {:?} {new:?}", old.slots);
    match result {
        Ok(change) => told(&known, &found, change),
        Err(differs) => named(differs, &known, &found),
    }
}

/// What the client knows: its slots, and the view that was kept of them.
struct Old {
    uids: BTreeSet<u32>,
    slots: Vec<Option<u32>>,
    highest: u32,
    view: View,
}

impl Old {
    fn new(input: &mut Input<'_>) -> Self {
        let start: BTreeSet<u32> = (0..input.below(10)).map(|_| u32::from(input.below(30)) + 1).collect();
        let later: BTreeSet<u32> = (0..input.below(6)).map(|_| u32::from(input.below(20)) + 31).collect();
        let mut view = View::new(start.iter().copied().collect(), start.len() as u32).expect("as many");
        let mut slots: Vec<Option<u32>> = start.iter().copied().map(Some).collect();
        let mut uids: Vec<u32> = start.union(&later).copied().collect();
        let mut highest = start.last().copied().unwrap_or(0);
        view.exists(uids.len() as u32).expect("growth");
        for uid in &later {
            let fetched = input.flag();
            slots.push(fetched.then_some(*uid));
            if fetched {
                view.fetched(slots.len() as u32, *uid).expect("the truth");
            }
            highest = slots.iter().map_while(|slot| *slot).max().unwrap_or(0).max(highest);
        }
        for _ in 0..input.below(4) {
            let at = usize::from(input.byte()) % (slots.len() + 1);
            if at < slots.len() {
                slots.remove(at);
                uids.remove(at);
                view.expunge(at as u32 + 1).expect("a message that is there");
                highest = slots.iter().map_while(|slot| *slot).max().unwrap_or(0).max(highest);
            }
        }
        Self { uids: uids.into_iter().collect(), slots, highest, view }
    }

    /// The definition.
    fn agrees(&self, new: &BTreeSet<u32>, uidnext: Option<u32>, found: &Found) -> bool {
        let uidnext = uidnext.unwrap_or(0);
        let fallen = found.uidnext.is_some_and(|now| now < uidnext.max(self.highest + 1));
        let seen = found.exists == 0 || found.uids.is_some();
        let slots = new.len() >= self.slots.len()
            && new.iter().enumerate().all(|(at, uid)| match self.slots.get(at) {
                Some(Some(told)) => told == uid,
                Some(None) => *uid > self.highest,
                None => *uid > self.highest && *uid >= uidnext,
            });
        found.uidvalidity == 1 && !fallen && seen && found.exists as usize == new.len() && slots
    }
}

/// The old mailbox with losses, something odd, and new messages.
fn new_mailbox(input: &mut Input<'_>, old: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut new = old.clone();
    for _ in 0..input.below(4) {
        new.insert(u32::from(input.below(20)) + 51);
    }
    for _ in 0..input.below(3) {
        new.insert(u32::from(input.below(60)) + 1);
    }
    for _ in 0..input.below(3) {
        let at = usize::from(input.byte()) % (new.len() + 1);
        new = new.iter().enumerate().filter(|(place, _)| *place != at).map(|(_, uid)| *uid).collect();
    }
    new
}

fn told(known: &Known<'_>, found: &Found, change: Change) {
    let mut words = vec![];
    emit(&change, &mut words);
    let grown = format!("* {} EXISTS\r\n* 2 RECENT\r\n", found.exists);
    let expected = if found.exists == known.exists { "" } else { &grown };
    assert_eq!(String::from_utf8_lossy(&words), expected);
    let mut selected = Selected::new(b"x", false, false);
    (selected.uidvalidity, selected.view) = (Some(1), known.view.cloned());
    selected.now(found.clone());
    assert_eq!(selected.exists, found.exists);
    let highest = found.uids.as_ref().and_then(UidSet::max).unwrap_or(0);
    if found.uidnext.is_none_or(|next| next > highest) {
        assert_eq!(compare(&selected.known(), found), Ok(Change::None), "told twice");
    }
}

fn named(differs: Differs, known: &Known<'_>, found: &Found) {
    let uids = found.uids.as_ref().map_or(0, |uids| uids.len());
    let so = match differs {
        Differs::UidValidity => found.uidvalidity != known.uidvalidity,
        Differs::UidNextFell => found.uidnext.is_some(),
        Differs::NoView => found.uids.is_none() && found.exists > 0,
        Differs::Count => found.uids.is_some() && uids != found.exists,
        Differs::Expunged | Differs::AppearedBetween => true,
    };
    assert!(so, "{differs:?} of {found:?}");
}
