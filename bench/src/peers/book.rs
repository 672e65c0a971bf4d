//! All values of a run, and what they come to.
//!
//! Rule: a ratio is taken between values of the same round, and the median of those is what counts; so what
//! disturbed the machine in one round disturbs both sides.

use serde::Serialize;

use crate::leg::Leg;

/// Something that is measured. Less is better, where it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Its name in the JSON, with its unit.
    pub(crate) key: String,
    /// Its name in the table.
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    /// Decimals in the table.
    pub(crate) digits: usize,
    /// Whether a ratio says anything.
    pub(crate) compared: bool,
}

impl Figure {
    pub(crate) fn new(
        key: impl Into<String>,
        title: impl Into<String>,
        unit: &'static str,
        digits: usize,
    ) -> Self {
        Self { key: key.into(), title: title.into(), unit, digits, compared: true }
    }

    /// One that tells whether the others can be compared.
    pub(crate) fn aside(mut self) -> Self {
        self.compared = false;
        self
    }
}

/// The values of one figure on one leg.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) leg: Leg,
    pub(crate) figure: Figure,
    /// By proxy, in the order of the rounds.
    pub(crate) values: Vec<(String, Vec<f64>)>,
}

/// Median and extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) rows: Vec<Row>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

impl Book {
    pub(crate) fn note(&mut self, leg: Leg, figure: Figure, name: &str, value: f64) {
        let at = self.rows.iter().position(|row| row.leg == leg && row.figure == figure);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row { leg, figure, values: Vec::new() });
            self.rows.len() - 1
        });
        let values = &mut self.rows[at].values;
        match values.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => values.push((name.to_owned(), vec![value])),
        }
    }
}

impl Row {
    pub(crate) fn of(&self, name: &str) -> Option<&[f64]> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, values)| &**values)
    }

    /// The peer with the lowest median.
    pub(crate) fn best<'a>(&self, peers: &[&'a str]) -> Option<&'a str> {
        if !self.figure.compared {
            return None;
        }
        let medians = peers.iter().filter_map(|peer| Some((*peer, spread(self.of(peer)?)?.median)));
        medians.filter(|(_, median)| *median > 0.0).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(peer, _)| peer)
    }

    /// How much one needs of what another needs. A difference that drowns in noise may be negative, and has no ratio.
    pub(crate) fn ratio(&self, name: &str, other: &str) -> Option<f64> {
        let pairs: Vec<_> = self.of(name)?.iter().zip(self.of(other)?).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(own, other)| *own / *other).collect();
        let telling = pairs.iter().all(|(own, other)| **own > 0.0 && **other > 0.0);
        spread(&ratios).filter(|_| telling).map(|ratio| ratio.median)
    }
}

/// Median and extremes; nothing of nothing.
pub(crate) fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    };
    Some(Spread { median, least, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(values: &[(&str, f64)]) -> Book {
        let mut book = Book::default();
        for (name, value) in values {
            book.note(Leg::TlsPlain, Figure::new("noop", "NOOP", "µs", 1), name, *value);
        }
        book
    }

    #[test]
    fn the_middle_counts() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        // The second round was disturbed for everybody.
        let values = [("b", 8.0), ("h", 10.0), ("n", 30.0), ("h", 20.0), ("b", 16.0), ("n", 9.0), ("b", 9.0)];
        let book = book(&values);
        let [row] = &*book.rows else { panic!("{book:?}") };
        assert_eq!(row.best(&["h", "n"]), Some("h"));
        assert_eq!(row.ratio("b", "h"), Some(0.8));
        assert_eq!(row.ratio("b", "absent"), None);
        assert_eq!(row.best(&["absent"]), None);
    }

    #[test]
    fn what_drowns_in_noise_has_no_ratio() {
        for values in [[1.0, -1.0], [-1.0, 1.0], [1.0, 0.0]] {
            let book = book(&[("b", 2.0), ("h", 2.0), ("b", values[0]), ("h", values[1])]);
            assert_eq!(book.rows[0].ratio("b", "h"), None);
        }
        assert_eq!(book(&[("b", 1.0), ("h", -1.0)]).rows[0].best(&["h"]), None);
    }
}
