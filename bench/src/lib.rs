//! What the demo and the benchmarks have in common.
//!
//! Rule: only what more than one of them needs.

pub mod cases;
pub mod operator;

use std::path::PathBuf;

use anyhow::Result;

/// A program that was built together with this one.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is not built: the scripts in bench/ build everything", path.display());
    Ok(path)
}
