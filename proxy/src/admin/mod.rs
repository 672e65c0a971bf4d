//! What the operator touches: the command line, the API on a Unix socket behind it, and the port for monitoring.
//!
//! Rule: nothing here decides anything; it asks [`appliance::Appliance`] and shows what it says.

pub mod api;
pub mod appliance;
pub mod cli;
pub mod client;
pub mod command;
pub mod observe;
pub mod progress;
pub mod show;
pub mod socket;
#[cfg(test)]
mod tests;
