//! Framing and reading: what every line goes through.
//!
//! Rule: the lines are those that clients and servers really send.

use std::hint::black_box;

use bascule_protocols::imap::{
    fragment::{self, Lines},
    response::Response,
};

use super::{Case, Run, run};

pub(super) const CASES: &[Case] = &[
    Case::new("fragment_short_commands", COUNT, "line", short_commands),
    Case::new("fragment_one_long_line", 1, "line of 64 KiB", |_| one_line(KIB_64)),
    Case::new("fragment_long_line_in_pieces", 1, "line of 64 KiB", |_| one_line(4096)),
    Case::new("response_parse", 8 * ROUNDS, "line", responses),
];

const KIB_64: usize = 64 << 10;
const COMMAND: &[u8] = b"a1234 UID FETCH 10000:10020 (FLAGS)\r\n";
/// As many commands as fit 64 KiB.
const COUNT: u32 = (KIB_64 / COMMAND.len()) as u32;
const ROUNDS: u32 = 100;

fn short_commands(count: u32) -> Run {
    run((Lines::default(), COMMAND.repeat(count as usize)), |(lines, stream)| {
        let (mut rest, mut refused) = (&stream[..], 0);
        while !rest.is_empty() {
            let (n, line) = lines.next(rest, 8192);
            if let Ok(Some(line)) = line {
                refused += u32::from(fragment::check(fragment::text(line)).is_err());
            }
            rest = &rest[n..];
        }
        refused
    })
}

fn one_line(piece: usize) -> Run {
    let line = [&vec![b'x'; KIB_64 - 2][..], b"\r\n"].concat();
    run((Lines::default(), line), move |(lines, line)| {
        let mut checked = None;
        for piece in line.chunks(piece) {
            if let (_, Ok(Some(line))) = lines.next(piece, 1 << 20) {
                checked = Some(fragment::check(fragment::text(line)));
            }
        }
        checked
    })
}

fn responses(count: u32) -> Run {
    let lines: [&[u8]; 8] = [
        b"* 1234 FETCH (UID 51234 FLAGS (\\Seen \\Answered))",
        b"* 1234 FETCH (UID 51234 RFC822.SIZE 123456 BODY[HEADER.FIELDS (SUBJECT)] {64}",
        b"a1234 OK Fetch completed (0.001 + 0.000 secs).",
        b"* 1235 EXISTS",
        b"* 0 RECENT",
        b"* 17 EXPUNGE",
        b"* OK [HIGHESTMODSEQ 12345] Highest",
        b"* LIST (\\HasNoChildren) \".\" \"Archive.2026\"",
    ];
    run(lines, move |lines| {
        let mut data = 0;
        for _ in 0..count / 8 {
            for line in black_box(&*lines) {
                data += u32::from(Response::parse(line).is_ok_and(|response| response.is_data()));
            }
        }
        data
    })
}
