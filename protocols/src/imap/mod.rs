//! IMAP4rev1 (RFC 3501) and the extensions that a session may carry from one pool to another.
//!
//! Rule: frame first, classify, forward raw. Only what the proxy must know is parsed; what it does not know
//! passes and counts as a write.

pub mod capability;
pub mod command;
pub mod farewell;
pub mod fragment;
pub mod login;
pub mod reconcile;
pub mod relay;
pub mod response;
pub mod restore;
pub mod state;
pub mod tag;
pub mod view;

#[cfg(test)]
mod review;
