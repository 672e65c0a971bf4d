//! The switchover proxy: one accept loop, one gate, one registry and one cutover for every protocol.
//!
//! Rule: a module imports only from modules that stand before it in this list.

pub mod config;
pub mod telemetry;

pub mod net;

pub mod topology;

pub mod gate;

pub mod session;

pub mod checks;

pub mod cutover;

pub mod admin;

pub mod app;
