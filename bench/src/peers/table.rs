//! The table for people, and the JSON for programs.
//!
//! Rule: both say the same, from the same book.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::{
    book::{Book, Row, spread},
    leg::{Leg, Speech},
    options::Plan,
};

const TITLE: usize = 52;
const COLUMN: usize = 24;

/// The names of those that are compared with, and of all.
struct Names<'a> {
    own: Vec<&'a str>,
    peers: Vec<&'a str>,
    all: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn of(plan: &'a Plan) -> Self {
        let (peers, own): (Vec<_>, Vec<_>) =
            plan.contenders.iter().partition(|contender| contender.is_peer());
        let names = |list: Vec<&'a crate::contender::Contender>| {
            list.into_iter().map(|contender| &*contender.name).collect()
        };
        Self { own: names(own), peers: names(peers), all: names(plan.contenders.iter().collect()) }
    }
}

/// Medians with their extremes, and ratios to the best peer.
pub(crate) fn table(book: &Book, plan: &Plan) -> Result<String> {
    let (mut text, names) = (String::new(), Names::of(plan));
    for &leg in &plan.legs {
        let rows: Vec<&Row> = book.rows.iter().filter(|row| row.leg == leg).collect();
        if rows.is_empty() {
            continue;
        }
        write!(text, "\n{:TITLE$}", leg.name())?;
        for name in &names.all {
            write!(text, "{name:>COLUMN$}")?;
        }
        writeln!(text, "  to the best peer")?;
        for row in rows {
            line(&mut text, row, &names)?;
        }
        for contender in &plan.contenders {
            if let Some(why) = contender.refuses(leg, Speech::Imap) {
                writeln!(text, "{} {why}.", contender.name)?;
            }
        }
    }
    for failure in &book.failures {
        writeln!(text, "\nnot measured: {failure}")?;
    }
    Ok(text)
}

fn line(text: &mut String, row: &Row, names: &Names<'_>) -> Result<()> {
    let digits = row.figure.digits;
    write!(text, "{:TITLE$}", format!("{}, {}", row.figure.title, row.figure.unit))?;
    for name in &names.all {
        let cell = row.of(name).and_then(spread).map_or_else(
            || "-".to_owned(),
            |s| match row.of(name).map(<[f64]>::len) {
                Some(1) => format!("{:.digits$}", s.median),
                _ => format!("{:.digits$} ({:.digits$}-{:.digits$})", s.median, s.least, s.most),
            },
        );
        write!(text, "{cell:>COLUMN$}")?;
    }
    if let Some(peer) = row.best(&names.peers) {
        let ratios: Vec<String> =
            names.own.iter().filter_map(|own| Some(format!("{:.2}", row.ratio(own, peer)?))).collect();
        if !ratios.is_empty() {
            write!(text, "  {} {peer}", ratios.join(" "))?;
        }
    }
    writeln!(text)?;
    Ok(())
}

/// The median of each figure, and its ratio to the best peer.
pub(crate) fn summary(book: &Book, plan: &Plan) -> Value {
    let names = Names::of(plan);
    let mut legs = Map::new();
    for &leg in &plan.legs {
        let rows = book.rows.iter().filter(|row| row.leg == leg);
        let figures: Map<_, _> = rows.map(|row| (row.figure.key.clone(), figure(row, &names))).collect();
        legs.insert(leg.name().to_owned(), figures.into());
    }
    legs.into()
}

fn figure(row: &Row, names: &Names<'_>) -> Value {
    let median = |(name, values): &(String, Vec<f64>)| Some((name.clone(), round(spread(values)?.median)));
    let mut all: Map<String, Value> =
        row.values.iter().filter_map(median).map(|(name, value)| (name, value.into())).collect();
    if let Some(peer) = row.best(&names.peers) {
        let ratio = |own: &&str| Some(((*own).to_owned(), round(row.ratio(own, peer)?).into()));
        let ratios: Map<String, Value> = names.own.iter().filter_map(ratio).collect();
        all.insert("best_peer".to_owned(), peer.into());
        all.insert("ratio".to_owned(), ratios.into());
    }
    all.into()
}

/// Four digits behind the point are more than a measurement is good for.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Every single value, and how it was found.
pub(crate) fn write(path: &Path, book: &Book, plan: &Plan, machine: &Value) -> Result<()> {
    let rows = book.rows.iter().map(|Row { leg, figure, values }| {
        let all: Map<String, Value> =
            values.iter().map(|(name, v)| (name.clone(), json!({ "spread": spread(v), "rounds": v }))).collect();
        json!({ "leg": leg.name(), "figure": figure.key, "title": figure.title, "unit": figure.unit, "values": all })
    });
    let refusals = Leg::ALL.iter().flat_map(|leg| {
        let why = plan.contenders.iter().filter_map(|c| Some((c, c.refuses(*leg, Speech::Imap)?)));
        why.map(|(c, why)| json!({ "leg": leg.name(), "proxy": c.name, "why": why }))
    });
    let all = json!({
        "machine": machine,
        "plan": plan,
        "summary": summary(book, plan),
        "rows": rows.collect::<Vec<_>>(),
        "refusals": refusals.collect::<Vec<_>>(),
        "failures": book.failures,
    });
    let place = || path.display().to_string();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(place)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(&all)?).with_context(place)
}
