//! How long each case takes, by divan.
//!
//! Rule: only the run is timed; set-up and drop are not.

#[path = "../src/micro/cases/mod.rs"]
mod cases;

use cases::Case;
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = cases::all())]
fn case(bencher: Bencher<'_, '_>, case: Case) {
    bencher.with_inputs(|| case.prepare()).bench_values(|run| run());
}
