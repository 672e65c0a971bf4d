//! The integration tests, one binary: `real` needs the servers that `tests/run` prepares, the rest needs nothing.
//!
//! Rule: no test waits for a clock where it can wait for an event, and none asserts how long something took.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails")]

mod bad_input;
mod crash;
mod fakes;
mod real;
mod rig;
