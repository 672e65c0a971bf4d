//! How long each case takes, by divan.
//!
//! Rule: only the run is timed; set-up and drop are not.

use bascule_bench::cases::{self, Case};
use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = cases::all())]
fn case(bencher: Bencher<'_, '_>, case: Case) {
    bencher.with_inputs(|| case.prepare()).bench_values(|run| run());
}
