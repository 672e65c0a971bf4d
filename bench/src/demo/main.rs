//! The demo: live IMAP sessions move from one platform to another and back while somebody watches.
//!
//! Rule: the verdict comes from the clients and from what the platform holds in the end, never from what the
//! proxy says about itself; its report is shown beside it.

#![allow(clippy::print_stdout, reason = "showing is what a demo is for")]

mod audience;
mod display;
mod judge;
mod platforms;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bascule_bench::operator::{self, Report};
use bascule_tests::{bascule::Bascule, process};
use clap::Parser;

use self::{
    audience::Audience,
    display::Display,
    platforms::{Platforms, Pool},
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
    /// Dovecot 2.3 and 2.4 on one mail store instead of the in-memory platforms; needs root
    #[arg(long)]
    dovecot: bool,
    /// Leave everything running afterwards until Ctrl-C
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    tokio::select! {
        outcome = play(&args) => outcome.map_or_else(|error| {
            println!("{error:#}");
            ExitCode::FAILURE
        }, |well| if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        code = process::told_to_end() => ExitCode::from(code),
    }
}

/// The whole play; whether all was well. Dropping it ends every process that it started.
async fn play(args: &Args) -> Result<bool> {
    let users = usize::from(args.sessions).div_ceil(audience::SESSIONS_PER_USER);
    let platforms =
        if args.dovecot { Platforms::dovecot(users).await? } else { Platforms::fakes(users).await? };
    let [first, second] = &platforms.pools;
    println!("{} serves; {} waits.", first.title, second.title);
    let proxy = Bascule::start(&platforms.setup, first.name).await?;
    println!("{}", how_to_join(&proxy, &platforms));

    let audience = Audience::gather(&proxy, &platforms, usize::from(args.sessions)).await?;
    let display = Display::new(audience.clone());
    let pause = Duration::from_secs(args.seconds);
    display.during(&format!("all on {}", first.title), tokio::time::sleep(pause)).await;
    let mut reports = Vec::new();
    for to in [second, first] {
        reports.push(switch(&proxy, &display, to).await?);
        display.during(&format!("all on {}", to.title), tokio::time::sleep(pause)).await;
    }
    audience.leave().await;
    let well = verdict(&display, &audience, &proxy, &platforms, &reports).await?;
    if args.keep {
        stay(&proxy, &platforms, args).await?;
    }
    Ok(well)
}

/// One cutover.
async fn switch(proxy: &Bascule, display: &Display, to: &Pool) -> Result<Report> {
    let plan = operator::plan(proxy, to.name);
    display.during(&format!("bascule cutover plan {}", to.name), plan).await?;
    let cutover = operator::cutover(proxy, to.name);
    let report = display.during(&format!("bascule cutover start {}", to.name), cutover).await?;
    display.say(&report.summary());
    Ok(report)
}

/// Says what became of everything.
async fn verdict(
    display: &Display,
    audience: &Audience,
    proxy: &Bascule,
    platforms: &Platforms,
    reports: &[Report],
) -> Result<bool> {
    let serving = platforms.pool(&operator::active(proxy).await?).context("nobody serves")?;
    let effects = judge::judge(serving, platforms, audience.ledger()).await?;
    let felt = audience.total();
    display.finish();
    println!("\n{}", judge::table(&felt, &effects));
    let violations = platforms.violations().await?;
    for wrong in felt.wrong.iter().chain(&violations).take(10) {
        println!("  {wrong}");
    }
    let moved = reports.iter().all(Report::went_through);
    let well = moved && felt.unharmed() && effects.clean() && violations.is_empty();
    if well {
        println!("All was well.");
    } else {
        println!("NOT all was well. What bascule logged last:\n{}", proxy.log());
    }
    Ok(well)
}

/// Everybody comes back, until Ctrl-C.
async fn stay(proxy: &Bascule, platforms: &Platforms, args: &Args) -> Result<()> {
    let second = platforms.pools[1].name;
    println!(
        "\nEverybody comes back and stays until Ctrl-C. Cut over by hand:\n  {} cutover start {second}",
        proxy.command_line().await?
    );
    let audience = Audience::gather(proxy, platforms, usize::from(args.sessions)).await?;
    let display = Display::new(Arc::clone(&audience));
    display.during("until Ctrl-C", std::future::pending::<()>()).await;
    Ok(())
}

/// How to join in with a mail client.
fn how_to_join(proxy: &Bascule, platforms: &Platforms) -> String {
    format!(
        "Join in with a mail client: IMAP at {} (TLS) or {} (STARTTLS), user {}, password {}.\nIts certificate is \
         signed by an authority of this demo alone: accept the warning.\n",
        proxy.imaps(),
        proxy.imap(),
        platforms.users[0],
        platforms.password,
    )
}
