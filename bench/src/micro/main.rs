//! The table of the microbenches: instructions and time of each case, per unit, and as the last line one JSON object.
//!
//! Rule: it measures nothing; a case without both figures is an error.
//!
//! `bascule-micro TIMES COUNTS`, where TIMES is what divan printed and COUNTS gungraun's JSON, a line per case.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bascule_bench::cases;
use serde_json::{Value, json};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [times, counts] = &arguments[..] else { anyhow::bail!("bascule-micro TIMES COUNTS") };
    let times = times_of(&std::fs::read_to_string(times).with_context(|| times.clone())?);
    let counts = counts_of(&std::fs::read_to_string(counts).with_context(|| counts.clone())?)?;
    println!("{:<32} {:>14} {:>12}  per", "case", "instructions", "ns");
    let mut figures = serde_json::Map::new();
    for case in cases::all() {
        let units = f64::from(case.units);
        let instructions =
            counts.get(case.name).with_context(|| format!("no count of {}", case.name))? / units;
        let ns = times.get(case.name).with_context(|| format!("no time of {}", case.name))? / units;
        println!("{:<32} {:>14} {:>12}  {}", case.name, figure(instructions), figure(ns), case.unit);
        figures.insert(
            case.name.to_owned(),
            json!({ "instructions": instructions, "ns": ns, "per": case.unit }),
        );
    }
    println!("{}", Value::Object(figures));
    Ok(())
}

/// Three digits, and all of those before the point.
fn figure(value: f64) -> String {
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    format!("{value:.digits$}")
}

/// Nanoseconds by case: the third column of divan's tree, the median.
fn times_of(text: &str) -> BTreeMap<String, f64> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.trim_start_matches([' ', '├', '╰', '─', '│']).split('│').collect();
        let name = columns.first()?.split_whitespace().next()?;
        let mut median = columns.get(2)?.split_whitespace();
        let value: f64 = median.next()?.parse().ok()?;
        let unit = match median.next()? {
            "ns" => 1.0,
            "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => return None,
        };
        Some((name.to_owned(), value * unit))
    };
    text.lines().filter_map(row).collect()
}

/// Instructions by case.
fn counts_of(lines: &str) -> Result<BTreeMap<String, f64>> {
    let row = |line: &str| {
        let case: Value = serde_json::from_str(line)?;
        let name = case["id"].as_str().context("a case without a name")?.to_owned();
        let profile = &case["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"];
        Ok((name, profile.as_f64().with_context(|| format!("no instructions in {case}"))?))
    };
    lines.lines().filter(|line| line.starts_with('{')).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_divan_and_gungraun_print_is_read() {
        let times = times_of(
            "time              fastest       │ slowest       │ median        │ mean          │ samples │ iters\n\
             ╰─ case                         │               │               │               │         │\n   \
             ├─ gate_word_set  179.6 ns      │ 365.4 ns      │ 180.4 ns      │ 184.2 ns      │ 50      │ 800\n   \
             ╰─ view_vanished  40.2 µs       │ 72.53 µs      │ 40.67 µs      │ 41.27 µs      │ 50      │ 50\n",
        );
        assert_eq!(
            times,
            BTreeMap::from([("gate_word_set".into(), 180.4), ("view_vanished".into(), 40670.0)])
        );
        let line = r#"{"id":"x","profiles":[{"data":{"total":{"metrics":{"Ir":{"values":{"new":7}}}}}}]}"#;
        assert_eq!(counts_of(line).unwrap(), BTreeMap::from([("x".to_owned(), 7.0)]));
    }

    #[test]
    fn every_case_has_another_name() {
        let names: std::collections::BTreeSet<_> = cases::all().map(|case| case.name).collect();
        assert_eq!(names.len(), cases::all().count());
    }
}
