//! bascule beside HAProxy and nginx: what a NOOP, a gigabyte, a login and an idle session cost, in one run.
//!
//! Rule: everything that is compared was measured in turns, on one machine, by the same load on the same backend.
//!
//! The method stands in `bench/README.md`.

#![allow(clippy::print_stdout, reason = "the table is for people")]

mod backend;
mod book;
mod clocks;
mod contender;
mod contest;
mod leg;
mod load;
mod machine;
mod measure;
mod options;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use bascule_tests::process;
use clap::Parser;

use self::{backend::Backend, book::Book, contest::Contest, options::Args};

// One thread: the kernel ends the children when the thread that started them ends.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    tokio::select! {
        outcome = play(&args) => outcome,
        code = process::told_to_end() => Ok(ExitCode::from(code)),
    }
}

/// The whole run. Dropping it ends every process that it started.
async fn play(args: &Args) -> Result<ExitCode> {
    let plan = args.plan()?;
    let machine = machine::describe(&plan).await?;
    let backend = Backend::start().await?;
    let mut book = Book::default();
    for &leg in &plan.legs {
        Contest { plan: &plan, backend: &backend, leg, book: &mut book }.play().await?;
    }
    table::write(&args.json, &book, &plan, &machine)?;
    println!("{}", table::table(&book, &plan)?);
    println!("All values: {}", args.json.display());
    println!("{}", table::summary(&book, &plan));
    Ok(if book.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A program that was built together with this one.
fn beside_us(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is not built: bench/peers builds everything", path.display());
    Ok(path)
}
