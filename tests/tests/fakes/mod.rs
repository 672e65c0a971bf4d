//! Scenarios of the semantics on in-memory platforms, named after their numbers, and a load of them all.
//!
//! Rule: each test has a proxy and platforms of its own.

mod abort;
mod different;
mod hold;
mod hooks;
mod http;
mod idle;
mod load;
mod lost;
mod operator;
mod prewarm;
mod rig;
mod shared;
mod smtp;
mod stream;
mod windows;
