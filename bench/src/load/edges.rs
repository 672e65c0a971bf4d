//! Connections that misbehave.
//!
//! Rule: they stay until told to end, or until the server ends them.

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{Caller, wire::Target};

/// How they misbehave.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Edge {
    /// Say nothing after the dial
    Silent,
}

pub(crate) async fn run(_target: &Target, _edge: Edge, _caller: Caller) -> Result<()> {
    bail!("not yet")
}
