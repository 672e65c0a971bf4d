//! A decision that may or may not be on the disk.
//!
//! Rule: neither pool is served writes until the operator says which one it is.
