//! The proxy dies, is told to end, or finds a journal that it must not trust.
//!
//! Rule: every test has platforms, hooks and a proxy of its own, and ends with a client that is served and a
//! ledger that is clean.

mod doubt;
mod killed;
mod signals;
mod state_dir;
