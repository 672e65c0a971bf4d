//! Who waits for a place at a service that serves so many at once, and who goes first.
//!
//! Rule: nobody waits for ever behind others: a less urgent request begins later in the queue, and then time counts alike.

use std::{collections::VecDeque, time::Duration};

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody looks at a screen.
    Interactive,
    /// A program fetches what has changed.
    Sync,
    /// Nobody waits for it.
    Background,
}

impl Priority {
    /// How much later it might as well have come.
    fn handicap(self) -> Duration {
        match self {
            Self::Interactive => Duration::ZERO,
            Self::Sync => Duration::from_secs(2),
            Self::Background => Duration::from_secs(10),
        }
    }
}

/// The number of a request that waits.
pub type Ticket = u64;

/// What becomes of a request that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It has a place.
    Go,
    /// It waits.
    Wait(Ticket),
    /// Too many wait.
    Full,
}

/// The places of one service, and the requests that wait for one.
#[derive(Debug)]
pub struct Queue {
    places: usize,
    longest: usize,
    taken: usize,
    next: Ticket,
    /// In the order of their coming, by priority.
    waiting: [VecDeque<Waiter>; 3],
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    /// After the queue's own beginning.
    since: Duration,
    /// It has waited before, and is not turned away for want of room here.
    held: bool,
}

impl Queue {
    /// So many places, and room for so many that wait.
    pub fn new(places: usize, longest: usize) -> Self {
        Self { places, longest, taken: 0, next: 0, waiting: Default::default() }
    }

    /// One more, so long after the queue began. The second is a request that waits no longer, since this one is more urgent. `held`: it comes out of a
    /// hold, which has bounds of its own.
    pub fn enter(&mut self, now: Duration, priority: Priority, held: bool) -> (Entry, Option<Ticket>) {
        if self.taken < self.places {
            self.taken += 1;
            return (Entry::Go, None);
        }
        let mut gives_way = None;
        if !held && self.counted() >= self.longest {
            gives_way = self.gives_way(priority);
            if gives_way.is_none() {
                return (Entry::Full, None);
            }
        }
        let ticket = self.next;
        self.next += 1;
        self.waiting[priority as usize].push_back(Waiter { ticket, since: now, held });
        (Entry::Wait(ticket), gives_way)
    }

    /// A place is free: who has it now.
    pub fn leave(&mut self) -> Option<Ticket> {
        const ALL: [Priority; 3] = [Priority::Interactive, Priority::Sync, Priority::Background];
        let first = |priority: &Priority| {
            let waiter = self.waiting[*priority as usize].front()?;
            Some((waiter.since + priority.handicap(), *priority))
        };
        match ALL.iter().filter_map(first).min() {
            Some((_, priority)) => self.waiting[priority as usize].pop_front().map(|waiter| waiter.ticket),
            None => {
                self.taken = self.taken.saturating_sub(1);
                None
            }
        }
    }

    /// It waits no longer. False: it has a place, or was turned away.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        self.waiting.iter_mut().any(|waiting| {
            let at = waiting.iter().position(|waiter| waiter.ticket == ticket);
            at.and_then(|at| waiting.remove(at)).is_some()
        })
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn counted(&self) -> usize {
        self.waiting.iter().flatten().filter(|waiter| !waiter.held).count()
    }

    /// The last one of the least urgent, if this one is more urgent.
    fn gives_way(&mut self, priority: Priority) -> Option<Ticket> {
        let less = self.waiting.iter_mut().skip(priority as usize + 1).rev();
        { less }.find_map(|waiting| {
            let at = waiting.iter().rposition(|waiter| !waiter.held)?;
            waiting.remove(at).map(|waiter| waiter.ticket)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Priority::*, *};

    fn wait(queue: &mut Queue, now: Duration, priority: Priority) -> Ticket {
        match queue.enter(now, priority, false) {
            (Entry::Wait(ticket), None) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn so_many_are_served_and_so_many_wait() {
        let (mut queue, now) = (Queue::new(2, 1), Duration::ZERO);
        assert_eq!(queue.enter(now, Sync, false), (Entry::Go, None));
        assert_eq!(queue.enter(now, Sync, false), (Entry::Go, None));
        let waits = wait(&mut queue, now, Sync);
        assert_eq!(queue.enter(now, Sync, false), (Entry::Full, None));
        assert_eq!(queue.leave(), Some(waits), "its place goes on");
        assert_eq!((queue.leave(), queue.leave()), (None, None));
        assert_eq!(queue.enter(now, Sync, false), (Entry::Go, None));
    }

    #[test]
    fn who_is_more_urgent_goes_first_and_nobody_waits_for_ever() {
        let (mut queue, now) = (Queue::new(1, 10), Duration::ZERO);
        let at = |seconds| now + Duration::from_secs(seconds);
        queue.enter(now, Sync, false);
        let background = wait(&mut queue, now, Background);
        let sync = wait(&mut queue, now, Sync);
        let first = wait(&mut queue, at(1), Interactive);
        let second = wait(&mut queue, at(1), Interactive);
        let late = wait(&mut queue, at(11), Interactive);
        let order: Vec<_> = std::iter::from_fn(|| queue.leave()).collect();
        assert_eq!(order, [first, second, sync, background, late]);
        assert!(queue.is_empty());
    }

    #[test]
    fn where_there_is_no_room_the_less_urgent_gives_way() {
        let (mut queue, now) = (Queue::new(1, 2), Duration::ZERO);
        queue.enter(now, Sync, false);
        let first = wait(&mut queue, now, Background);
        let last = wait(&mut queue, now, Background);
        let (Entry::Wait(_), Some(gone)) = queue.enter(now, Interactive, false) else { panic!() };
        assert_eq!(gone, last);
        assert_eq!(queue.enter(now, Background, false), (Entry::Full, None), "not for its like");
        let (Entry::Wait(_), Some(gone)) = queue.enter(now, Sync, false) else { panic!() };
        assert_eq!((gone, queue.len()), (first, 2));
        assert_eq!(queue.enter(now, Sync, false), (Entry::Full, None), "nor for the more urgent");
    }

    #[test]
    fn who_was_held_is_not_turned_away() {
        let (mut queue, now) = (Queue::new(1, 1), Duration::ZERO);
        queue.enter(now, Sync, false);
        let (Entry::Wait(held), None) = queue.enter(now, Background, true) else { panic!() };
        let waits = wait(&mut queue, now, Sync);
        assert_eq!(queue.enter(now, Interactive, true).0, Entry::Wait(2));
        let (Entry::Wait(_), Some(gone)) = queue.enter(now, Interactive, false) else { panic!() };
        assert_eq!(gone, waits, "and does not give way");
        assert!(queue.give_up(held) && !queue.give_up(held) && !queue.give_up(gone));
        assert_eq!(queue.len(), 2);
    }
}
