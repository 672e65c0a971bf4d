//! What the gate costs a command: the session's own word before it, and after its answer.
//!
//! Rule: one session alone, as on the way of a command; nobody else writes its word.

use bascule::{
    gate::{Gate, Standing, Word},
    topology::{Epoch, PoolId},
};

use super::{Case, Run, run};

pub(super) const CASES: &[Case] = &[
    Case::new("gate_announce", 1000, "command", announces),
    Case::new("gate_word_set", 1000, "answer", sets),
];

const STANDING: Standing =
    Standing { backend: Some(PoolId(0)), spare: None, writes: 1, reads: 0, waits: false, costly: false };

fn announces(count: u32) -> Run {
    run((Gate::new(Epoch(3)), Word::default()), move |(gate, word)| {
        (0..count).all(|_| word.announce(STANDING, gate, Epoch(3)))
    })
}

fn sets(count: u32) -> Run {
    run(Word::default(), move |word| {
        for n in 0..count {
            word.set(Standing { reads: n as u16, ..STANDING });
        }
    })
}
