//! What is measured one by one: each case sets up outside of the measurement and then runs once.
//!
//! Rule: a case says how many of its units a run is made of, so that a figure is per command, line or message, and
//! gives back what it made, so that nothing is optimised away and no drop is counted.

mod gate;
mod parse;
mod relay;
mod view;

use std::{any::Any, fmt, hint::black_box};

/// What a run leaves.
pub type Kept = Box<dyn Any>;
/// One run, set up.
pub type Run = Box<dyn FnOnce() -> Kept>;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// In tables and on the command line.
    pub name: &'static str,
    /// How many units a run is.
    pub units: u32,
    /// What a unit is.
    pub unit: &'static str,
    prepare: fn(u32) -> Run,
}

impl Case {
    const fn new(name: &'static str, units: u32, unit: &'static str, prepare: fn(u32) -> Run) -> Self {
        Self { name, units, unit, prepare }
    }

    /// Sets up one run.
    pub fn prepare(&self) -> Run {
        (self.prepare)(self.units)
    }
}

/// By its name, as divan shows it.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A run over `input`.
fn run<I: 'static, O: 'static>(mut input: I, measured: impl Fn(&mut I) -> O + 'static) -> Run {
    Box::new(move || {
        let output = measured(black_box(&mut input));
        Box::new((input, output))
    })
}

/// All of them.
pub fn all() -> impl Iterator<Item = Case> {
    [parse::CASES, relay::CASES, view::CASES, gate::CASES].into_iter().flatten().copied()
}
