//! signals
//!
//! Rule: x
