//! The cutover.

pub mod types;
