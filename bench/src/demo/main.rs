//! The demo: live IMAP sessions move from one platform to another and back while somebody watches.
//!
//! Rule: the verdict comes from the clients and from what the platform holds in the end, never from what the
//! proxy says about itself; its report is shown beside it.

#![allow(clippy::print_stdout, reason = "showing is what a demo is for")]

mod audience;
mod display;
mod judge;
mod platforms;
mod proxy;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;

use self::{
    audience::Audience,
    display::Display,
    platforms::Platforms,
    proxy::{Proxy, Report},
};

/// Live IMAP sessions move from one platform to another and back.
///
/// Exits 0 if no session noticed more than a pause, 1 if one did or a cutover failed, 130 after Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "bench/demo")]
struct Args {
    /// Sessions, of five habits
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(5..=2000))]
    sessions: u16,
    /// Seconds of traffic before, between and after the cutovers
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Leave everything running afterwards until Ctrl-C
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = tokio::select! {
        outcome = play(&args) => outcome,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The whole play; whether all was well. Dropping it ends every process that it started.
async fn play(args: &Args) -> Result<bool> {
    let folder = tempfile::Builder::new().prefix("bascule-demo-").tempdir()?;
    println!("Starting two platforms and bascule in {}", folder.path().display());
    let users = usize::from(args.sessions).div_ceil(audience::SESSIONS_PER_USER);
    let platforms = Platforms::fakes(folder.path(), users).await?;
    let proxy = Proxy::start(folder.path(), &platforms).await?;
    println!("{}", proxy.how_to_connect(&platforms));

    let audience = Audience::gather(&proxy, &platforms, usize::from(args.sessions)).await?;
    let display = Display::new(audience.clone());
    let pause = Duration::from_secs(args.seconds);
    display.during(&format!("all on {}", platforms.names()[0]), tokio::time::sleep(pause)).await;
    let mut reports = Vec::new();
    let [first, second] = platforms.names();
    for to in [second, first] {
        display.during(&format!("bascule cutover plan {to}"), proxy.plan(to)).await?;
        let title = format!("bascule cutover start {to}");
        let report = display.during(&title, proxy.cutover(to)).await?;
        display.say(&report.summary());
        reports.push(report);
        display.during(&format!("all on {to}"), tokio::time::sleep(pause)).await;
    }
    audience.leave().await;
    let well = verdict(&display, &audience, &proxy, &platforms, &reports).await?;
    if args.keep {
        let by_hand = proxy.command_line(&format!("cutover start {second}"));
        println!("\nEverybody comes back and stays until Ctrl-C. Cut over by hand:\n  {by_hand}");
        let audience = Audience::gather(&proxy, &platforms, usize::from(args.sessions)).await?;
        Display::new(audience).during("until Ctrl-C", std::future::pending::<()>()).await;
    }
    Ok(well)
}

/// Says what became of everything.
async fn verdict(
    display: &Display,
    audience: &Audience,
    proxy: &Proxy,
    platforms: &Platforms,
    reports: &[Report],
) -> Result<bool> {
    let serving = platforms.pool(&proxy.active().await?).context("nobody serves")?;
    let effects = judge::judge(serving, &platforms.users, audience.ledger()).await?;
    let felt = audience.total();
    display.finish();
    println!("\n{}", judge::table(&felt, &effects));
    for wrong in felt.wrong.iter().take(10) {
        println!("  {wrong}");
    }
    let violations = platforms.violations().await?;
    for violation in &violations {
        println!("  a platform saw: {violation}");
    }
    let moved = reports.iter().all(Report::went_through);
    let well = moved && felt.unharmed() && effects.clean() && violations.is_empty();
    println!("{}", if well { "All was well." } else { "NOT all was well." });
    if !well {
        println!("What bascule logged last:\n{}", proxy.log());
    }
    Ok(well)
}
