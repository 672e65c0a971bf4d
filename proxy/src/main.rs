//! The binary: reads the command line and hands over to `app`.
//!
//! Rule: the cryptography is chosen here, before anything can ask for it.

use std::process::ExitCode;

use bascule::{admin::cli::Cli, app};
use clap::Parser as _;

/// pingora makes some eighty allocations for a request, several of them large: a seventh of what one costs (bench/README).
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // It fails only when a provider is there already, and this is the first statement of the process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Cli::try_parse().map_or_else(|error| app::misspoken(&error), app::run).into()
}
