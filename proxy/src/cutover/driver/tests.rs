//! What a cutover asks of sessions, against sessions that cannot or will not.
//!
//! Rule: nobody is given up for nothing, and who is, is counted.

use std::time::{Duration, Instant};

use super::{FRESH, fresh};

#[test]
fn a_decision_needs_a_proof_of_this_moment() {
    let proved = Instant::now();
    fresh(None, proved).unwrap_err();
    fresh(Some(proved), proved + FRESH).unwrap();
    let frozen = fresh(Some(proved), proved + FRESH + Duration::from_millis(1)).unwrap_err();
    assert_eq!(frozen, "the fence was not proved within the last 1s");
}
