//! Sans-IO protocol machines: slices in, verdicts out, time as an argument.
//!
//! Rule: no runtime, no sockets, no clock, no TLS library in here (`tests/run sans-io` proves it).

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod imap;
pub mod lines;
pub mod smtp;
