//! How fast orders are given for which nobody waits.
//!
//! Rule: a server that is not able to is asked more slowly, and after a few times in a row no more.

use std::time::Duration;

use tokio::time::Instant;

/// More than a timer is late on a busy machine.
const LATE: Duration = Duration::from_millis(50);
/// The pause after the first time that a server could not; each further one is twice as long.
const PUSHED_BACK: Duration = Duration::from_millis(250);
/// So often in a row, and the server is left alone.
const PUSHED_OFF: u32 = 3;
/// How fast orders are given for which nobody waits.
#[derive(Debug)]
pub(in crate::cutover) struct Pace {
    pub(super) every: Duration,
    pub(super) next: Option<Instant>,
    /// How often in a row the server could not.
    pub(super) pushed_back: u32,
}

impl Pace {
    /// As fast as the window allows.
    pub(in crate::cutover) fn none() -> Self {
        Self::every(Duration::ZERO)
    }

    /// So many a second.
    pub(in crate::cutover) fn per_second(rate: u32) -> Self {
        Self::every(Duration::from_secs(1) / rate.max(1))
    }

    /// One in so much time.
    pub(in crate::cutover) fn every(every: Duration) -> Self {
        Self { every, next: None, pushed_back: 0 }
    }

    /// Takes a turn, if it is time.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|next| next <= now);
        if due {
            // What a timer was late for is made up for; what nobody asked for is not saved up.
            let late = self.next.filter(|next| now.duration_since(*next) < LATE);
            self.next = Some(late.unwrap_or(now) + self.every);
        }
        due
    }

    pub(super) fn push_back(&mut self, now: Instant) {
        self.next = Some(now + PUSHED_BACK * 2u32.pow(self.pushed_back.min(PUSHED_OFF)));
        self.pushed_back += 1;
    }

    /// The server could not so often in a row that it is to be left alone.
    pub(super) fn pushed_off(&self) -> bool {
        self.pushed_back >= PUSHED_OFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn turns_come_at_the_pace_and_lost_time_is_not_saved_up() {
        let (mut pace, begin) = (Pace::per_second(10), Instant::now());
        assert!(pace.take(begin) && !pace.take(begin));
        assert!(!pace.take(begin + TENTH / 2));
        // A little late: the next one comes in time all the same.
        assert!(pace.take(begin + TENTH + LATE / 2) && pace.take(begin + 2 * TENTH));
        // Nobody asked for ten turns.
        let after = begin + 12 * TENTH;
        assert!(pace.take(after) && !pace.take(after) && pace.take(after + TENTH));
        assert!(Pace::none().take(begin));
    }

    #[test]
    fn a_server_that_cannot_gets_longer_and_longer_pauses_and_is_left_alone_in_the_end() {
        let (mut pace, now) = (Pace::per_second(1000), Instant::now());
        for (times, pause) in [(1, PUSHED_BACK), (2, 2 * PUSHED_BACK), (3, 4 * PUSHED_BACK)] {
            pace.push_back(now);
            assert!(!pace.take(now + pause / 2), "{times}");
            assert_eq!(pace.next, Some(now + pause), "{times}");
            assert_eq!(pace.pushed_off(), times == 3, "{times}");
        }
    }
}
