//! IMAP4rev1 (RFC 3501) and the extensions that a session may carry from one pool to another.

pub mod capability;
pub mod reconcile;
pub mod view;
