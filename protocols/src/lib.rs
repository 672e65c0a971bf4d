//! Sans-IO protocol machines: slices in, verdicts out, time as an argument.
//!
//! Rule: no runtime, no sockets, no clock, no TLS library in here (`tests/run sans-io` proves it).

pub mod imap;
pub mod smtp;
