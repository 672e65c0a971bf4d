//! The targets on stable: random inputs of a bounded number, and every input that once showed a defect.
//!
//! Rule: what a fuzzer finds gets its file in `testdata/fuzz/TARGET`, or a trace, before it is mended.

use imap_codec::fragmentizer::Fragmentizer;
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{TestError, TestRunner},
};

use super::{
    input::{Cuts, Input},
    *,
};
use crate::imap::{
    relay::{Relay, Verdict},
    tag::TagMaker,
};

/// Choices at the front, then words of the target with here and there a byte of another kind.
fn input(target: &Target) -> impl Strategy<Value = Vec<u8>> + use<> {
    let words = if target.words.is_empty() { &[""] } else { target.words };
    let word = select(words).prop_map(|word| word.as_bytes().to_vec());
    // A byte that fits nowhere ends most streams, so it is rare.
    let odd = select(&b"\0\r\n\"{}\\ +1~a\xff"[..]).prop_map(|byte| vec![byte]);
    let long = (100usize..260).prop_map(|n| vec![b'x'; n]);
    let choices = if target.words.is_empty() { 0..120 } else { 0..12 };
    let pieces = vec(prop_oneof![32 => word, 1 => odd, 1 => long], 0..24);
    (vec(any::<u8>(), choices), pieces).prop_map(|(choices, pieces)| [choices, pieces.concat()].concat())
}

fn holds(name: &str) {
    let target = target(name).expect("a target");
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&input(target), |input| {
        (target.run)(&input);
        Ok(())
    });
    if let Err(TestError::Fail(why, input)) = result {
        panic!("{name}: {why}\nwith b\"{}\"", input.escape_ascii());
    }
    result.unwrap();
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { holds(stringify!($name)) })*

        #[test]
        fn every_target_has_a_test() {
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

targets! { fragment client server response uidset view reconcile login restore session streams smtp http }

/// Files of a folder of `testdata`, with their names.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = format!("{}/testdata/{folder}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn plays(target: &Target, file: &str, input: &[u8]) {
    let ran = std::panic::catch_unwind(|| (target.run)(input));
    assert!(ran.is_ok(), "{} with {file}: b\"{}\"", target.name, input.escape_ascii());
}

#[test]
fn every_trace_and_every_input_that_once_showed_a_defect() {
    let mut count = 0;
    for (file, trace) in files("") {
        for (name, seed) in seeds(&String::from_utf8(trace).unwrap()) {
            plays(target(name).expect("a target"), &file, &seed);
            count += 1;
        }
    }
    for target in TARGETS {
        for (file, input) in files(&format!("fuzz/{}", target.name)) {
            plays(target, &file, &input);
            count += 1;
        }
    }
    assert!(count >= 80, "{count} inputs");
}

/// Where the relay sees commands end, up to where it stops reading.
fn borders(stream: &[u8], cuts: &Cuts) -> (Vec<usize>, bool) {
    let mut relay = Relay::new(TagMaker::new(7), 10_000);
    let (mut at, mut borders) = (0, vec![]);
    for piece in cuts.pieces(stream) {
        let end = at + piece.len();
        while at < end {
            let (n, verdict) = relay.client(&stream[at..end]);
            at += n;
            match verdict {
                Verdict::NeedMore | Verdict::Data(_) => {}
                Verdict::Command(..) | Verdict::Last(_) | Verdict::Own(_) => borders.push(at),
                Verdict::Literal { .. } => relay.accept(),
                Verdict::Close(_) => return (borders, true),
            }
        }
    }
    (borders, false)
}

/// The same as another parser sees it.
fn other_borders(stream: &[u8]) -> Vec<usize> {
    let mut other = Fragmentizer::without_max_message_size();
    other.enqueue_bytes(stream);
    let (mut at, mut borders) = (0, vec![]);
    while other.progress().is_some() {
        if other.is_message_complete() {
            at += other.message_bytes().len();
            borders.push(at);
        }
    }
    borders
}

proptest! {
    #[test]
    fn commands_end_where_another_parser_sees_them_end(input in input(target("client").unwrap())) {
        let mut input = Input::new(&input);
        let (cuts, stream) = (input.cuts(), input.rest());
        let (ours, closed) = borders(stream, &cuts);
        let mut others = other_borders(stream);
        if closed {
            // What we refuse to frame may end anywhere.
            others.truncate(ours.len());
        }
        prop_assert_eq!(ours, others, "{:?}", String::from_utf8_lossy(stream));
    }
}
