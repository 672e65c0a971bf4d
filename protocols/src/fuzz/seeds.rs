//! What a fuzzer begins with: the traces of `testdata`, as each target reads them.
//!
//! Rule: a trace is one seed per target, and the choices before the stream are those that change nothing.

/// Inputs for targets, by name, made of one trace.
pub fn seeds(trace: &str) -> Vec<(&'static str, Vec<u8>)> {
    let lines: Vec<(&str, String)> = trace
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(kind, text)| (kind, text.replace('@', "HAAAAA") + "\r\n"))
        .collect();
    let stream = |kinds: [&str; 2]| -> Vec<u8> {
        let texts = lines.iter().filter(|(kind, _)| kinds.contains(kind)).map(|(_, text)| &text[..]);
        texts.collect::<String>().into_bytes()
    };
    let (client, server) = (stream(["C:", "c:"]), stream(["S:", "s:"]));
    let script: Vec<u8> = lines.iter().flat_map(|(kind, text)| deed(kind, text)).collect();
    let with = |choices: &[u8], stream: &[u8]| [choices, stream].concat();
    vec![
        ("fragment", with(&[200, 0, 0], &client)),
        ("client", with(&[0, 0], &client)),
        ("server", with(&[4, 0, 6, 7, 8, 0], &server)),
        ("response", with(&[0, 0, 0], &server)),
        ("login", with(&[0, 0], &client)),
        ("restore", with(&[1, 0, 0, 0, 0, 0, 1, 0], &server)),
        ("streams", with(&[0, 0], &script)),
    ]
}

/// As `streams` reads it.
fn deed(kind: &str, text: &str) -> Vec<u8> {
    match kind {
        "C:" | "c:" => [b"\x01", text.as_bytes()].concat(),
        "S:" | "s:" => [b"\x02", text.as_bytes()].concat(),
        "!" if text.starts_with("probe") => vec![3],
        _ => vec![],
    }
}
