//! The traces in `testdata`: what real servers said, and every input that once showed a defect of the relay.
//!
//! Rule: the cuts of the network change nothing: the bytes to each side and the state at the end are those of the
//! trace, whole or in pieces.

use super::*;
use crate::fuzz::{
    input::Cuts,
    session::driver::{End, Manner, Session},
};

/// Plays a trace and compares what each side saw.
fn replay(trace: &str, cuts: Cuts) -> Session {
    let mut session = Session::new(Manner { cuts, streams: false, waits: false, takes: 0 });
    let (mut for_client, mut for_server) = (String::new(), String::new());
    for (number, line) in trace.lines().enumerate() {
        let Some((kind, text)) = line.split_once(' ') else { continue };
        // Our tags, from the seed of these tests.
        let bytes = text.replace('@', "HAAAAA") + "\r\n";
        match kind {
            "C:" | "c:" => session.client(bytes.as_bytes()),
            "S:" | "s:" => session.server(bytes.as_bytes()),
            "!" => match text {
                "shut" => session.shut(),
                "open" => session.open(),
                "ended" => assert_eq!(session.end, Some(End::Farewell), "line {}", number + 1),
                _ => session.probe(),
            },
            "=" => assert_eq!(described(&session.relay.state), text, "line {}", number + 1),
            "P:" | "p:" | "#" => {}
            other => panic!("line {}: {other}", number + 1),
        }
        match kind {
            "S:" | "P:" => for_client += &bytes,
            "C:" | "p:" => for_server += &bytes,
            _ => {}
        }
    }
    assert_eq!(String::from_utf8_lossy(&session.to_client), for_client, "to the client");
    assert_eq!(String::from_utf8_lossy(&session.to_server), for_server, "to the server");
    session
}

fn described(state: &State) -> String {
    let Some(selected) = &state.selected else { return "none".into() };
    let uids = selected.view.as_ref().map_or_else(
        || "?".to_owned(),
        |view| format!("{}{}", view.known(), ",?".repeat(view.unknown() as usize)),
    );
    let name = String::from_utf8_lossy(&selected.name);
    let diverged = if selected.diverged { " diverged" } else { "" };
    let saved = if selected.saved_search { " saved" } else { "" };
    format!("{name} exists {} uids {uids}{diverged}{saved}", selected.exists)
}

/// What the traces are written in: `C:` and `S:` pass, `c:` and `s:` do not, `P:` is said to the client and `p:`
/// to the server by the proxy itself (`@1` is its first tag), `!` asks for the view, moves the gate or sees the session
/// ended, `=` is the mailbox's state.
#[test]
fn traces() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let mut count = 0;
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.extension().is_some_and(|kind| kind == "trace")) {
        let trace = std::fs::read_to_string(&path).unwrap();
        let replayed = |cuts| std::panic::catch_unwind(|| replay(&trace, cuts).outcome());
        for cuts in [Cuts::none(), Cuts::every(1), Cuts::every(7)] {
            assert!(replayed(cuts.clone()).is_ok(), "{} in {cuts:?}", path.display());
        }
        count += 1;
    }
    assert!(count >= 12, "{count} traces");
}
