//! The table and the JSON object.
//!
//! Rule: the same figures in both.

use serde_json::{Value, json};

use crate::{
    crowd::Load,
    measure::{Cutover, Measured},
};

pub(crate) fn head(load: Load, shared: bool) {
    let storage = if shared { "shared" } else { "replicated" };
    println!("storage {storage}, load {}", load.name());
    println!(
        "sessions  to     gate    held  hold_own p50    p99    max   hold p99  felt p99    max  kept  idle heard   CPU s  \
         peak MB  logins    /s"
    );
}

pub(crate) fn row(measured: &Measured, cutover: &Cutover) {
    let (report, ms) = (&cutover.report, |us: u64| us as f64 / 1000.0);
    let phases: Vec<String> = report.phases.iter().map(|p| format!("{} {}", p.name, p.ms)).collect();
    println!(
        "{:>8}  {:<4} {:>6} {:>7}  {:>12.1} {:>6.1} {:>6.1}   {:>8.1}  {:>8.1} {:>6.1} {:>5}  {:>10}  {:>6.2}  {:>7.1}  {:>6} {:>5}   {}",
        measured.sessions,
        report.to,
        report.pause_ms,
        report.hold.count,
        ms(report.hold_own.p50_us),
        ms(report.hold_own.p99_us),
        ms(report.hold_own.max_us),
        ms(report.hold.p99_us),
        cutover.felt_p99_ms,
        cutover.felt_max_ms,
        report.kept,
        measured.idle_heard,
        cutover.cpu_s,
        cutover.peak_kb as f64 / 1024.0,
        cutover.logins,
        cutover.logins_per_second,
        phases.join(", "),
    );
}

/// What was not well, if anything.
pub(crate) fn wrong(measured: &Measured) {
    if measured.well() {
        return;
    }
    println!(
        "NOT well: {} of {} sessions kept; {} effects, {} lost, {} doubled, {} there in spite of a refusal",
        measured.kept,
        measured.sessions,
        measured.acknowledged,
        measured.lost,
        measured.doubled,
        measured.phantom,
    );
    measured.wrong.iter().take(10).for_each(|wrong| println!("  {wrong}"));
    measured.cutovers.iter().for_each(|cutover| println!("  {}", cutover.report.summary()));
}

pub(crate) fn json(all: &[Measured]) -> Value {
    json!({ "benchmark": "pause", "well": all.iter().all(Measured::well), "runs": all })
}
