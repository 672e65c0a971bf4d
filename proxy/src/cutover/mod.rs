//! The cutover: a pure machine, the journal of its states, and the driver that carries out its effects.
//!
//! Rule: the machine decides, the driver acts, the journal remembers; nothing else moves the gate or the
//! topology.

use std::time::{SystemTime, UNIX_EPOCH};

mod board;
mod book;
mod control;
mod course;
mod driver;
pub mod journal;
pub mod machine;
mod muster;
mod outside;
mod plan;
pub mod types;

pub use control::Control;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told;

/// Wall-clock time for people: records, reports. Nothing is decided by it.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
