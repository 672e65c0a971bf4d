//! What the integration tests, the demo and the benchmarks stand on: platforms, clients and judges.
//!
//! Rule: nothing here uses `bascule-protocols`; a mistake in the proxy's parser must not be repeated by its
//! judges.

pub mod bascule;
pub mod dovecot;
pub mod process;
