//! Steps of the relay, as the driver takes them with one command or one read from the backend.
//!
//! Rule: a step is measured with what the driver must do around it (commit, begin and end of IDLE) and no more.

use std::hint::black_box;

use bascule_protocols::imap::{
    relay::{Own, Relay, Sent, Step, Verdict, What},
    tag::{Tag, TagMaker},
    view::View,
};

use super::{Case, Run, run};

pub(super) const CASES: &[Case] = &[
    Case::new("client_noop", 1000, "command", |n| commands(n, b"a1234 NOOP\r\n")),
    Case::new("client_uid_fetch", 1000, "command", |n| {
        commands(
            n,
            b"a1234 UID FETCH 10000:10020 (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])\r\n",
        )
    }),
    Case::new("client_idle_and_done", 1000, "IDLE", idles),
    Case::new("round_trip_noop", 1000, "command", round_trips),
    Case::new("server_tagged_ok", 1000, "line", tagged),
    Case::new("in_flight_of_1000", 100, "look", in_flight),
    Case::new("server_fetch_64k", FETCHES, "line", |_| fetches(false)),
    Case::new("server_fetch_64k_with_view", FETCHES, "line", |_| fetches(true)),
    Case::new("server_literal_5mb", 320, "read of 16 KiB", literal),
];

const READ: usize = 16 << 10;
/// Lines of [`flags`] that fit 64 KiB.
const FETCHES: u32 = 1200;

fn relay() -> Relay {
    Relay::new(TagMaker::new(7), 8192)
}

fn commands(count: u32, line: &'static [u8]) -> Run {
    run(relay(), move |relay| {
        let mut bytes = 0;
        for _ in 0..count {
            if let (n, Verdict::Command(..)) = relay.client(line) {
                bytes += n;
            }
        }
        bytes
    })
}

fn idles(count: u32) -> Run {
    run(relay(), move |relay| {
        let mut said = 0;
        for _ in 0..count {
            if let (_, Verdict::Own(Own::Idle(tag))) = relay.client(b"a1234 IDLE\r\n") {
                said += relay.begin_idle(tag).len();
            }
            if let (_, Verdict::Own(Own::Done)) = relay.client(b"DONE\r\n") {
                said += relay.end_idle(false).0.map_or(0, |words| words.len());
            }
        }
        said
    })
}

fn round_trips(count: u32) -> Run {
    run(relay(), move |relay| {
        let mut bytes = 0;
        for _ in 0..count {
            if let (_, Verdict::Command(sent, _)) = relay.client(b"a1234 NOOP\r\n") {
                relay.commit(sent);
            }
            bytes += relay.server(b"a1234 OK NOOP completed (0.001 + 0.000 secs).\r\n").forward;
        }
        bytes
    })
}

/// With so many reads unanswered.
fn behind(count: u32) -> Relay {
    let mut relay = relay();
    for _ in 0..count {
        relay.commit(Sent { tag: Tag::new(b"a1234"), what: What::Read });
    }
    relay
}

/// What the driver asks before and after every command, of a client that sends without waiting.
fn in_flight(count: u32) -> Run {
    run(behind(1000), move |relay| {
        (0..count).map(|_| u32::from(black_box(&mut *relay).in_flight().1)).sum::<u32>()
    })
}

fn tagged(count: u32) -> Run {
    run(behind(count), move |relay| {
        let mut bytes = 0;
        for _ in 0..count {
            bytes += relay.server(b"a1234 OK NOOP completed (0.001 + 0.000 secs).\r\n").forward;
        }
        bytes
    })
}

fn flags(first: u32) -> Vec<u8> {
    let line = |n| format!("* {n} FETCH (UID {n} FLAGS (\\Seen \\Answered))\r\n");
    (first..first + FETCHES).map(line).collect::<String>().into_bytes()
}

/// With a mailbox of 100,000 messages selected, whose UIDs are known or not.
fn fetches(known: bool) -> Run {
    let mut relay = relay();
    let lines = "* 100000 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\na1 OK done\r\n";
    if let (_, Verdict::Command(sent, _)) = relay.client(b"a1 SELECT INBOX\r\n") {
        relay.commit(sent);
    }
    relay.server(lines.as_bytes());
    if let Some(selected) = relay.state.selected.as_mut().filter(|_| known) {
        selected.view = View::new((1..=100_000).collect(), 100_000);
    }
    run((relay, flags(50_000)), |(relay, stream)| through(relay, stream))
}

fn literal(reads: u32) -> Run {
    let size = reads as usize * READ;
    let head = format!("* 1 FETCH (BODY[] {{{size}}}\r\n").into_bytes();
    run((relay(), head, vec![b'x'; size]), |(relay, head, body)| through(relay, head) + through(relay, body))
}

/// As reads come: 16 KiB at a time, and what a step leaves is given again.
fn through(relay: &mut Relay, stream: &[u8]) -> usize {
    let mut forwarded = 0;
    for mut read in stream.chunks(READ) {
        while !read.is_empty() {
            let Step { owned, forward, swallow, .. } = relay.server(read);
            forwarded += owned.len() + forward;
            read = &read[forward + swallow..];
        }
    }
    forwarded
}
