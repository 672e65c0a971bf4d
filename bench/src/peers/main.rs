//! Peers side by side (first step: bascule alone).
//!
//! Rule: x

#![allow(clippy::print_stdout, reason = "the table is for people")]

mod backend;
mod clocks;
mod contender;
mod leg;
mod load;
mod measure;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use self::{
    backend::Backend,
    contender::{Contender, Kind, Running},
    leg::Leg,
    load::Door,
};

#[derive(Debug, Parser)]
struct Args {
    /// `PATH` or `NAME=PATH`; repeatable
    #[arg(long, required = true)]
    bascule: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "noop,fetch,login,latency,idle")]
    only: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "tls-plain")]
    legs: Vec<Leg>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    idle: Vec<usize>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let backend = Backend::start().await?;
    let contenders: Vec<Contender> = args
        .bascule
        .iter()
        .map(|text| {
            let (name, path) = text.split_once('=').unwrap_or(("bascule", text));
            Contender { name: name.into(), kind: Kind::Bascule(path.into()) }
        })
        .collect();
    for &leg in &args.legs {
        play(&args, leg, &backend, &contenders).await?;
    }
    Ok(())
}

async fn play(args: &Args, leg: Leg, backend: &Backend, contenders: &[Contender]) -> Result<()> {
    let mut all = Vec::new();
    for contender in contenders {
        all.push(contender.start(leg, backend).await?);
    }
    let s = args.seconds;
    let wanted = |word: &str| args.only.iter().any(|o| o == word);
    for round in 0..args.rounds {
        let n = all.len();
        for i in 0..n {
            let Running { name, address, processes, .. } = &all[(i + round) % n];
            let door = Door { address: *address, ca: leg.secure().then_some(&*backend.ca) };
            let head = format!("{} {name} round {round}", leg.name());
            if wanted("noop") {
                let c =
                    measure::cost(&door, processes, &format!("noop --connections 64 --seconds {s}")).await?;
                println!(
                    "{head} noop {:.2} us ({:.0}/s, {:.0} % CPU)",
                    c.micros_each(),
                    c.operations as f64 / c.seconds,
                    100.0 * c.cpu.as_secs_f64() / c.seconds
                );
            }
            if wanted("fetch") {
                for k in [64, 5000] {
                    let c = measure::cost(
                        &door,
                        processes,
                        &format!("fetch --kilobytes {k} --connections 16 --seconds {s}"),
                    )
                    .await?;
                    println!(
                        "{head} fetch {k} kB {:.3} s/GB ({:.0} MB/s, {:.0} % CPU)",
                        c.seconds_per_gigabyte(),
                        c.bytes as f64 / 1e6 / c.seconds,
                        100.0 * c.cpu.as_secs_f64() / c.seconds
                    );
                }
            }
            if wanted("login") {
                let c =
                    measure::cost(&door, processes, &format!("login --connections 16 --seconds {s}")).await?;
                println!(
                    "{head} login {:.1} us ({:.0}/s, {:.0} % CPU)",
                    c.micros_each(),
                    c.operations as f64 / c.seconds,
                    100.0 * c.cpu.as_secs_f64() / c.seconds
                );
            }
            if wanted("latency") {
                for (name, door) in [
                    ("direct", Door { address: backend.tls, ca: Some(&backend.ca) }),
                    ("proxied", door.clone()),
                ] {
                    let mut l = load::Load::start(
                        &door,
                        &format!("paced --rate 2000 --connections 64 --seconds {s}"),
                    )
                    .await?;
                    let v: serde_json::Value = l.go().await?;
                    l.end().await?;
                    println!("{head} latency {name} {v}");
                }
            }
        }
    }
    for r in all {
        r.stop().await?;
    }
    if wanted("idle") {
        for round in 0..args.rounds {
            for i in 0..contenders.len() {
                let c = &contenders[(i + round) % contenders.len()];
                let r = c.start(leg, backend).await?;
                let door = Door { address: r.address, ca: leg.secure().then_some(&*backend.ca) };
                let v = measure::idle(&door, &r.processes, &args.idle).await?;
                for (n, v) in args.idle.iter().zip(v) {
                    println!("{} {} round {round} idle {n}: {v:.0} bytes each", leg.name(), c.name);
                }
                r.stop().await?;
            }
        }
    }
    Ok(())
}

/// A program that was built together with this one.
fn beside_us(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is not built: bench/peers builds everything", path.display());
    Ok(path)
}
