//! The client's view: an honest server never breaks it, and any other is believed as far as by hand.
//!
//! Rule: by hand a mailbox is a list of slots, each with a UID or none, searched from end to end.

use super::input::Input;
use crate::imap::view::{UidSet, View};

/// `how honest the server is, the messages at the start, and what it tells`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => honest(&mut input),
        1 => wild(&mut input),
        _ => absurd(&mut input),
    }
}

/// Whatever is told, there is an answer and the numbers fit.
fn absurd(input: &mut Input<'_>) {
    let mut view = View::new([1, 3, 4].into_iter().collect(), 3).expect("as many UIDs as messages");
    let edge = |input: &mut Input<'_>| match input.byte() {
        byte @ 0..200 => u32::from(byte) % 12,
        byte => u32::MAX - u32::from(byte) % 3,
    };
    while !input.is_empty() {
        let before = view.len();
        let after = match input.below(4) {
            0 => {
                let count = edge(input);
                view.exists(count).map(|()| count)
            }
            1 => view.expunge(edge(input)).map(|()| before - 1),
            2 => {
                let uids: UidSet = (0..input.below(4)).map(|_| input.uid()).collect();
                view.vanished(&uids).map(|()| before - uids.len())
            }
            _ => view.fetched(edge(input), edge(input)).map(|()| before),
        };
        match after {
            Ok(after) => assert_eq!(view.len(), after),
            Err(_) => return,
        }
    }
}

/// A server that keeps every UID tells what happens.
fn honest(input: &mut Input<'_>) {
    let start = u32::from(input.below(8));
    let (mut mailbox, mut next): (Vec<u32>, u32) = ((1..=start).map(|n| 3 * n).collect(), 3 * start);
    let mut view = View::new(mailbox.iter().copied().collect(), start).expect("as many UIDs as messages");
    while !input.is_empty() {
        tell(input, &mut mailbox, &mut next, &mut view);
        assert_eq!(view.len() as usize, mailbox.len());
        let known = view.known().len() as usize;
        assert!(view.known().iter().eq(mailbox[..known].iter().copied()));
        assert!(view.ahead().iter().all(|(slot, uid)| mailbox[*slot as usize - 1] == *uid));
        assert!(mailbox[known..].iter().all(|uid| *uid > view.highest()));
    }
    for (slot, uid) in (1..).zip(&mailbox) {
        view.fetched(slot, *uid).expect("the truth");
    }
    assert!(view.known().iter().eq(mailbox) && view.unknown() == 0 && view.ahead().is_empty());
}

fn tell(input: &mut Input<'_>, mailbox: &mut Vec<u32>, next: &mut u32, view: &mut View) {
    let what = input.below(4);
    let place = |input: &mut Input<'_>, len: usize| usize::from(input.byte()) % len.max(1);
    let told = match what {
        0 => {
            for _ in 0..=input.below(3) {
                *next += 1 + u32::from(input.below(3));
                mailbox.push(*next);
            }
            view.exists(mailbox.len() as u32)
        }
        _ if mailbox.is_empty() => Ok(()),
        1 => {
            let at = place(input, mailbox.len());
            mailbox.remove(at);
            view.expunge(at as u32 + 1)
        }
        2 => {
            let gone: UidSet = (0..=input.below(3)).map(|_| mailbox[place(input, mailbox.len())]).collect();
            mailbox.retain(|uid| !gone.contains(*uid));
            view.vanished(&gone)
        }
        _ => {
            let at = place(input, mailbox.len());
            view.fetched(at as u32 + 1, mailbox[at])
        }
    };
    told.expect("an honest server");
}

/// A server that says anything.
fn wild(input: &mut Input<'_>) {
    let start: UidSet = (0..input.below(6)).map(|_| input.uid()).collect();
    let mut view = View::new(start.clone(), start.len()).expect("as many UIDs as messages");
    let mut slots = Slots { slots: start.iter().map(Some).collect(), highest: start.max().unwrap_or(0) };
    while !input.is_empty() {
        let (told, believed) = match input.below(4) {
            0 => {
                let count = u32::from(input.below(24));
                (view.exists(count).is_ok(), slots.exists(count as usize))
            }
            1 => {
                let seq = seq(input);
                (view.expunge(seq).is_ok(), slots.expunge(seq))
            }
            2 => {
                let uids: UidSet = (0..input.below(4)).map(|_| input.uid()).collect();
                (view.vanished(&uids).is_ok(), slots.vanished(&uids))
            }
            _ => {
                let (seq, uid) = (seq(input), input.uid() - u32::from(input.flag()));
                (view.fetched(seq, uid).is_ok(), slots.fetched(seq, uid))
            }
        };
        assert_eq!(told, believed.is_some(), "{view:?} {slots:?}");
        if !told {
            return;
        }
        slots.settle();
        slots.same(&view);
    }
}

fn seq(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        byte @ 0..250 => u32::from(byte) % 24,
        byte => u32::MAX - u32::from(byte) % 3,
    }
}

/// The mailbox by hand. `None` of a step: it cannot be.
#[derive(Debug)]
struct Slots {
    slots: Vec<Option<u32>>,
    /// The highest UID that stood with no unknown slot before it.
    highest: u32,
}

impl Slots {
    fn exists(&mut self, count: usize) -> Option<()> {
        (count >= self.slots.len()).then(|| self.slots.resize(count, None))?;
        self.possible()
    }

    fn expunge(&mut self, seq: u32) -> Option<()> {
        let at = self.at(seq)?;
        self.slots.remove(at);
        self.possible()
    }

    fn vanished(&mut self, uids: &UidSet) -> Option<()> {
        let known: Vec<u32> = self.slots.iter().copied().flatten().collect();
        let new: Vec<u32> = uids.iter().filter(|uid| !known.contains(uid)).collect();
        for uid in new {
            // It stood somewhere before the first that is known to be higher, where nothing is known.
            let above =
                self.slots.iter().position(|slot| slot.is_some_and(|s| s > uid)).unwrap_or(self.slots.len());
            let at = self.slots[..above].iter().rposition(Option::is_none)?;
            let below = self.slots[..above].iter().rposition(Option::is_some);
            (uid > self.highest && below.is_none_or(|below| below < at)).then(|| self.slots.remove(at))?;
        }
        self.slots.retain(|slot| slot.is_none_or(|uid| !uids.contains(uid)));
        self.possible()
    }

    fn fetched(&mut self, seq: u32, uid: u32) -> Option<()> {
        let at = self.at(seq)?;
        if let Some(told) = self.slots[at] {
            return (told == uid).then_some(());
        }
        self.slots[at] = Some(uid);
        (uid > self.highest).then_some(())?;
        self.possible()
    }

    fn at(&self, seq: u32) -> Option<usize> {
        (seq as usize).checked_sub(1).filter(|at| *at < self.slots.len())
    }

    /// Between what is known there is room for what is not.
    fn possible(&self) -> Option<()> {
        let known = self.slots.iter().take_while(|slot| slot.is_some_and(|uid| uid <= self.highest)).count();
        let (mut place, mut last) = (known, self.highest);
        for (at, uid) in
            self.slots.iter().enumerate().skip(known).filter_map(|(at, slot)| Some((at + 1, (*slot)?)))
        {
            (uid > last && (uid - last) as usize >= at - place).then_some(())?;
            (place, last) = (at, uid);
        }
        Some(())
    }

    fn settle(&mut self) {
        let direct = self.slots.iter().map_while(|slot| *slot);
        self.highest = direct.last().unwrap_or(0).max(self.highest);
    }

    fn same(&self, view: &View) {
        let known: Vec<u32> = self.slots.iter().map_while(|slot| *slot).collect();
        assert!(view.known().iter().eq(known.iter().copied()), "{view:?} {self:?}");
        assert_eq!((view.len() as usize, view.highest()), (self.slots.len(), self.highest));
        assert_eq!(view.unknown() as usize, self.slots.len() - known.len());
        let places = (1..).zip(&self.slots).skip(known.len());
        let ahead: Vec<(u32, u32)> = places.filter_map(|(slot, uid)| Some((slot, (*uid)?))).collect();
        assert_eq!(view.ahead(), ahead, "{self:?}");
    }
}
