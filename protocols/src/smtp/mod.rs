//! SMTP, submission and LMTP (RFC 5321, 6409, 2033; semantics §2): commands, replies, content, and the relay between
//! a client and a backend that may be exchanged.
//!
//! Rule: a reply belongs to the oldest command that has none; what cannot be counted is not forwarded.

pub mod auth;
pub mod command;
pub mod data;
pub mod keywords;
pub mod relay;
pub mod reply;
