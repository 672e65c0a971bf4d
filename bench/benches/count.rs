//! How many instructions each case takes, by gungraun under callgrind: steadier than time.
//!
//! Rule: every case stands here by its name, in the order of the table.

#![allow(missing_docs, unused_qualifications, clippy::exit, reason = "what gungraun's macros write")]

use std::hint::black_box;

use bascule_bench::cases::{self, Kept, Run};
use gungraun::prelude::*;

fn case(name: &str) -> Run {
    cases::all().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}")).prepare()
}

#[library_benchmark]
#[bench::fragment_short_commands(case("fragment_short_commands"))]
#[bench::fragment_one_long_line(case("fragment_one_long_line"))]
#[bench::fragment_long_line_in_pieces(case("fragment_long_line_in_pieces"))]
#[bench::response_parse(case("response_parse"))]
#[bench::client_noop(case("client_noop"))]
#[bench::client_uid_fetch(case("client_uid_fetch"))]
#[bench::client_idle_and_done(case("client_idle_and_done"))]
#[bench::round_trip_noop(case("round_trip_noop"))]
#[bench::server_tagged_ok(case("server_tagged_ok"))]
#[bench::in_flight_of_1000(case("in_flight_of_1000"))]
#[bench::server_fetch_64k(case("server_fetch_64k"))]
#[bench::server_fetch_64k_with_view(case("server_fetch_64k_with_view"))]
#[bench::server_literal_5mb(case("server_literal_5mb"))]
#[bench::view_exists(case("view_exists"))]
#[bench::view_expunge_front(case("view_expunge_front"))]
#[bench::view_expunge_middle(case("view_expunge_middle"))]
#[bench::view_expunge_back(case("view_expunge_back"))]
#[bench::view_vanished_1(case("view_vanished_1"))]
#[bench::view_vanished_1000(case("view_vanished_1000"))]
#[bench::view_fetched(case("view_fetched"))]
#[bench::view_fetched_new(case("view_fetched_new"))]
#[bench::uidset_parse(case("uidset_parse"))]
#[bench::uidset_print(case("uidset_print"))]
#[bench::uidset_of_a_search_backwards(case("uidset_of_a_search_backwards"))]
#[bench::reconcile_same(case("reconcile_same"))]
#[bench::reconcile_1000_new(case("reconcile_1000_new"))]
#[bench::reconcile_1000_gone(case("reconcile_1000_gone"))]
#[bench::gate_announce(case("gate_announce"))]
#[bench::gate_word_set(case("gate_word_set"))]
fn counted(run: Run) -> Kept {
    black_box(run())
}

library_benchmark_group!(name = machines, benchmarks = [counted]);
main!(library_benchmark_groups = machines);
