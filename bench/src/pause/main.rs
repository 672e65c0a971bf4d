//! The pause against the number of sessions: one cutover there and one back, at several sizes and two loads.
//!
//! Rule: what is not well fails the run: a lost session, a byte to a client in IDLE, an effect that is not there
//! exactly once. Times and amounts are only shown.
//!
//! Four processes on loopback: both platforms in memory (`bascule-fake`, clear text), bascule, the clients (this
//! program, TLS), and whatever hooks are run. For each size and load all of them begin anew.

#![allow(clippy::print_stdout, reason = "a table is what this is for")]

mod crowd;
mod measure;
mod meters;
mod table;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use self::{crowd::Load, measure::Course};

/// The pause of a cutover against the number of sessions.
///
/// Exits 0 if everybody was kept and nothing was lost or doubled, 1 otherwise. The last line of output is one JSON
/// object with all figures.
#[derive(Debug, Parser)]
#[command(name = "bench/pause")]
struct Args {
    /// Sessions, half of them in IDLE with a mailbox selected; one run for each number
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 5000])]
    sessions: Vec<usize>,
    /// One store under both platforms, or two that replicate
    #[arg(long, value_enum, default_value_t = Storage::Replicated)]
    storage: Storage,
    /// Loads of the busy half: commands a second in all, or `always` (each session has a command under way at any
    /// time)
    #[arg(long, value_delimiter = ',', default_values_t = ["200".to_owned(), "always".to_owned()])]
    load: Vec<String>,
    /// Seconds of load before, between and after the cutovers
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Cutovers there and back in each run
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Further lines of `[cutover]`, separated by `;`
    #[arg(long, default_value = "")]
    cutover: String,
    /// Keeps the JSON object in this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Storage {
    Replicated,
    Shared,
}

fn load(word: &str) -> Result<Load> {
    if word == "always" {
        return Ok(Load::Always);
    }
    Ok(Load::Steady(word.parse().with_context(|| format!("a load is a number or `always`, not {word:?}"))?))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    tokio::select! {
        outcome = run(&args) => match outcome {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}

async fn run(args: &Args) -> Result<bool> {
    let mut all = Vec::new();
    for word in &args.load {
        let load = load(word)?;
        table::head(load, args.storage == Storage::Shared);
        for &sessions in &args.sessions {
            let course = Course {
                sessions,
                load,
                shared: args.storage == Storage::Shared,
                pause: Duration::from_secs(args.seconds),
                rounds: args.rounds,
                cutover: args.cutover.replace(';', "\n"),
            };
            let measured = measure::measure(&course).await?;
            measured.cutovers.iter().for_each(|cutover| table::row(&measured, cutover));
            table::wrong(&measured);
            all.push(measured);
        }
        println!();
    }
    let well = all.iter().all(measure::Measured::well);
    let json = serde_json::to_string(&table::json(&all))?;
    if let Some(file) = &args.json {
        std::fs::write(file, &json).with_context(|| file.display().to_string())?;
    }
    println!("{json}");
    Ok(well)
}
