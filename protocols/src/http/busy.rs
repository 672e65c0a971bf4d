//! When a client that was turned away is to come back.
//!
//! Rule: clients turned away in one second do not come back in one second.

use std::time::Duration;

/// The value of Retry-After in seconds (RFC 9110 §10.2.3): `least`, and as much again at most, by `random`.
pub fn retry_after(least: Duration, random: u32) -> u64 {
    let least = least.as_secs().max(1);
    // A whole number in 0..=least, all about as likely.
    least + ((u64::from(random) * (least + 1)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_spread_over_as_much_again() {
        let after = |random| retry_after(Duration::from_secs(10), random);
        assert_eq!([after(0), after(u32::MAX / 2), after(u32::MAX)], [10, 15, 20]);
        let spread: std::collections::BTreeSet<u64> =
            (0..1000).map(|n| after(n * (u32::MAX / 1000))).collect();
        assert_eq!(spread.into_iter().collect::<Vec<_>>(), (10..=20).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_is_asked_to_come_back_at_once() {
        assert_eq!(retry_after(Duration::ZERO, 0), 1);
        assert_eq!(retry_after(Duration::from_millis(300), u32::MAX), 2);
    }
}
