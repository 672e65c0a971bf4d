//! In-memory mail platforms: a store, servers on it, replication between stores, faults on demand.
//!
//! Rule: a fake keeps its word like a good server unless it was told to misbehave: a fence holds when the call
//! that engaged it returns, replication is in order, and what was acknowledged is there.
//!
//! ```text
//!  Platform a ── Store a ── Replication ──▶ Store b ── Platform b      (or two platforms on one store)
//!     ▲                          ▲                        ▲
//!     └────────── control: a Unix socket that speaks lines ┘
//! ```

mod accounts;
pub mod apart;
mod commands;
mod connection;
pub mod control;
mod date;
mod fetch;
pub mod http;
mod knobs;
mod mail;
mod platform;
mod replication;
mod search;
pub mod smtp;
mod store;
mod transcript;
mod view;
mod wire;

#[cfg(test)]
mod tests;

pub use self::{
    knobs::{Fence, Reaction, Stall},
    platform::{Options, Platform, Tls},
    replication::Replication,
    store::{Mailbox, Message, Op, Store},
    transcript::{Attendance, Counters, Transcript, Visit},
};
