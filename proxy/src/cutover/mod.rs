//! The cutover.
