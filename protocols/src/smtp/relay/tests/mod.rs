//! Whole dialogues, with backends that die or differ. Each line of a script is one event:
//! `C:` the client sends, `B:` a backend is sent, `S:` it replies, `P:` the client hears, `lost` the backend dies,
//! `new` another one is there, `delivered` recipients that have the message already, `commit` the gate lets it go,
//! `too large` the content is not kept, `wait` the next command waits, `refused` it is not carried out, `ceiling` no
//! backend has answered for too long.

mod ends;
mod lmtp;
mod pipelined;

use super::*;
use crate::smtp::{
    data::Bare,
    keywords::{Keywords, Pinned},
    reply::{Replies, Reply},
};

struct Driver {
    relay: Relay,
    pinned: Pinned,
    /// For the client and for the backend, not yet seen by the script.
    client: Vec<u8>,
    backend: Vec<u8>,
    kept: Vec<u8>,
    connected: bool,
    waits: bool,
    /// The next command waits.
    hold: bool,
    waiting: Option<Command>,
    /// What the client said behind it.
    unread: Vec<u8>,
}

const AGAIN: &[u8] = b"451 again\r\n";

impl Driver {
    fn new(role: Role) -> Self {
        let server: Keywords = ["CHUNKING", "8BITMIME", "SIZE"].into_iter().collect();
        Self {
            relay: Relay::new(role, Bare::Normalize, true, false),
            pinned: Pinned::of(&[&server], 1000, false),
            client: Vec::new(),
            backend: Vec::new(),
            kept: Vec::new(),
            connected: true,
            waits: false,
            hold: false,
            waiting: None,
            unread: Vec::new(),
        }
    }

    fn client(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            if matches!(self.waiting, Some(Command::Mail(_))) {
                self.unread = input.to_vec();
                return;
            }
            let (n, verdict) = self.relay.client(input, &self.pinned);
            match verdict {
                Verdict::NeedMore if n == 0 => panic!("not read: {:?}", String::from_utf8_lossy(input)),
                Verdict::NeedMore => {}
                Verdict::Command(command) if self.hold => {
                    self.hold = false;
                    self.waiting = Some(command);
                }
                Verdict::Command(command) if self.relay.refuses(&command) => self.waiting = Some(command),
                Verdict::Command(command) => self.forward(command),
                Verdict::Content(bytes) => {
                    self.kept.extend_from_slice(bytes);
                    if self.connected && !self.relay.replays() {
                        self.backend.extend_from_slice(bytes);
                    }
                }
                Verdict::Answer(_) => panic!("nobody logs in here"),
                Verdict::End => self.waits = true,
                Verdict::Own(own) => self.own(own),
            }
            input = &input[n..];
        }
    }

    fn forward(&mut self, command: Command) {
        if matches!(command, Command::Mail(_)) {
            self.kept.clear();
        }
        let wire = Relay::wire(&command);
        self.relay.commit(command);
        if self.connected {
            self.backend.extend(wire);
        }
        self.waits |= self.relay.waits_to_commit();
    }

    /// A MAIL that waited for the one before it, and what came behind it.
    fn carry_on(&mut self) {
        self.client.extend(self.relay.refuse_orphan().unwrap_or_default());
        let Some(command @ Command::Mail(_)) = self.waiting.clone() else { return };
        match self.relay.refuses(&command) {
            true if !self.relay.answered() => return,
            true => self.client.extend(self.relay.refusal(&command)),
            false if !self.connected || self.relay.replays() => return,
            false => self.forward(command),
        }
        self.waiting = None;
        let unread = std::mem::take(&mut self.unread);
        self.client(&unread);
    }

    fn own(&mut self, own: Own) {
        match own {
            Own::Hello(hello) => {
                if self.relay.greet(hello, self.connected) {
                    self.backend.extend_from_slice(b"RSET\r\n");
                }
                self.client.extend_from_slice(b"250 hello\r\n");
            }
            Own::Reset => {
                if self.relay.reset(self.connected) {
                    self.backend.extend_from_slice(b"RSET\r\n");
                }
                self.client.extend_from_slice(b"250 2.0.0 Ok\r\n");
            }
            Own::Say(reply) | Own::Close(reply) => self.client.extend(reply),
            Own::Refuse(reply) => {
                self.relay.over();
                self.client.extend(reply);
            }
            Own::Quit => self.client.extend_from_slice(b"221 bye\r\n"),
            Own::Auth(_) | Own::Starttls => panic!("not here"),
        }
    }

    fn server(&mut self, input: &[u8]) {
        let mut replies = Replies::default();
        let (n, reply) = replies.next(input);
        assert_eq!(n, input.len());
        let reply: Reply = reply.unwrap().unwrap();
        let outcome = self.relay.reply(&reply);
        self.client.extend(DELIVERED.repeat(outcome.before));
        match outcome.client {
            Told::Reply => self.client.extend(reply.bytes.repeat(outcome.times)),
            Told::Withdrawn => self.client.extend_from_slice(POISONED),
            Told::Nothing => {}
        }
        self.client.extend(DELIVERED.repeat(outcome.after));
        match outcome.then {
            Then::Stream if outcome.client == Told::Nothing => self.backend.extend(&self.kept),
            Then::Whole => self.waits = self.relay.waits_to_commit(),
            Then::Lost(why) => self.client.extend(format!("lost: {why}\r\n").into_bytes()),
            Then::Nothing | Then::Stream | Then::Ended => {}
        }
        if self.relay.must_reset() && outcome.then == Then::Ended {
            self.backend.extend_from_slice(b"RSET\r\n");
        }
        self.go_on();
    }

    fn go_on(&mut self) {
        let Some(next) = self.relay.go_on() else { return };
        self.backend.extend(next.send);
        if next.stream {
            self.backend.extend(&self.kept);
        }
        self.client.extend(next.say);
    }

    fn play(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let bytes =
                |text: &str| text.replace("\\r", "\r").replace("\\n", "\n").replace('|', "\r\n").into_bytes();
            let (kind, text) = line.split_once(": ").unwrap_or((line, ""));
            match kind {
                "C" => self.client(&bytes(text)),
                "S" => {
                    self.server(&bytes(text));
                    self.carry_on();
                }
                "B" | "P" => {
                    let seen = std::mem::take(if kind == "B" { &mut self.backend } else { &mut self.client });
                    assert_eq!(
                        String::from_utf8_lossy(&seen),
                        String::from_utf8_lossy(&bytes(text)),
                        "{line}"
                    );
                }
                "lost" => {
                    self.connected = false;
                    self.backend.clear();
                    let loss = self.relay.lose_backend();
                    assert_eq!(loss.ambiguous, text == "ambiguous", "{line}");
                    self.client.extend(loss.say);
                }
                "too large" => {
                    let say = self.relay.refuse_content(b"552 too large\r\n");
                    self.client.extend(say);
                    self.client.extend(self.relay.lose_backend().say);
                    self.connected = false;
                }
                "wait" => self.hold = true,
                "again" => self.relay.forget_commit(),
                "new" => {
                    self.connected = true;
                    let envelope = self.relay.replay();
                    self.backend.extend(envelope);
                    self.go_on();
                    self.carry_on();
                }
                "delivered" => {
                    let places: Vec<usize> = text.split(' ').map(|place| place.parse().unwrap()).collect();
                    self.relay.delivered_before(&places);
                }
                "refused" => {
                    let command = self.waiting.take().expect("a command that waits");
                    let say = self.relay.refuse_command(&command, AGAIN);
                    self.client.extend(say);
                }
                "ceiling" => {
                    assert!(self.relay.awaits_backend(), "nothing is awaited");
                    let say = self.relay.abandon(AGAIN);
                    self.client.extend(say);
                    self.backend.clear();
                    self.connected = false;
                }
                "commit" => {
                    assert!(
                        std::mem::take(&mut self.waits) || self.relay.waits_to_commit(),
                        "nothing to commit"
                    );
                    let end = self.relay.end();
                    self.backend.extend_from_slice(end);
                }
                _ => panic!("not an event: {line}"),
            }
        }
        assert_eq!(self.backend, b"", "for the backend, and not in the script");
        assert_eq!(String::from_utf8_lossy(&self.client), "", "for the client, and not in the script");
    }
}

fn play(role: Role, script: &str) -> Driver {
    let mut driver = Driver::new(role);
    driver.client(if role == Role::Lmtp { b"LHLO me\r\n" } else { b"EHLO me\r\n" });
    driver.client.clear();
    driver.play(script);
    driver
}

const ENVELOPE: &str = "C: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|
    B: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|
    S: 250 a|
    S: 250 b|
    S: 550 c|
    P: 250 a|250 b|550 c|
    ";

#[test]
fn a_message_by_data_and_the_next_one_behind_it() {
    let driver = play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: DATA|
            B: DATA|
            S: 354 go|
            P: 354 go|
            C: one|..two|.|
            B: one|..two|
            commit
            B: .|
            S: 250 queued|
            P: 250 queued|
            C: MAIL FROM:<d>|
            B: MAIL FROM:<d>|",
        ]
        .concat(),
    );
    assert!(driver.relay.in_transaction());
}

#[test]
fn scenario_92_an_envelope_is_said_again_without_what_was_refused() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "lost
            new
            B: MAIL FROM:<a>|RCPT TO:<b>|
            S: 250 other words|
            S: 250 other words|
            C: DATA|
            B: DATA|
            S: 354 go|
            P: 354 go|",
        ]
        .concat(),
    );
}

#[test]
fn what_was_not_answered_is_answered_by_the_next_backend() {
    play(
        Role::Relay,
        "C: MAIL FROM:<a>|RCPT TO:<b>|DATA|
        B: MAIL FROM:<a>|RCPT TO:<b>|DATA|
        S: 250 a|
        P: 250 a|
        lost
        new
        B: MAIL FROM:<a>|RCPT TO:<b>|
        S: 250 a2|
        S: 250 b2|
        P: 250 b2|
        B: DATA|
        S: 354 go|
        P: 354 go|",
    );
}

#[test]
fn scenario_93_a_recipient_that_the_next_backend_refuses_poisons_the_message() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "lost
            new
            B: MAIL FROM:<a>|RCPT TO:<b>|
            S: 250 a|
            S: 550 no b here|
            B: RSET|
            S: 250 reset|
            C: RCPT TO:<x>|
            P: 451 4.3.2 The servers have changed meanwhile, please send this message again|
            C: DATA|
            P: 451 4.3.2 The servers have changed meanwhile, please send this message again|
            C: MAIL FROM:<a>|
            B: MAIL FROM:<a>|",
        ]
        .concat(),
    );
}

#[test]
fn scenario_94_half_a_message_goes_on_elsewhere_from_what_was_kept() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: DATA|
            B: DATA|
            S: 354 go|
            P: 354 go|
            C: one|two|
            B: one|two|
            lost
            C: three|
            new
            B: MAIL FROM:<a>|RCPT TO:<b>|
            S: 250 a|
            S: 250 b|
            B: DATA|
            S: 354 go|
            B: one|two|three|
            C: four|.|
            B: four|
            commit
            B: .|
            S: 250 queued|
            P: 250 queued|",
        ]
        .concat(),
    );
}

#[test]
fn a_poisoned_message_in_the_middle_is_read_to_its_end() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: DATA|
            B: DATA|
            S: 354 go|
            P: 354 go|
            lost
            new
            B: MAIL FROM:<a>|RCPT TO:<b>|
            S: 451 a|
            S: 503 b|
            B: RSET|
            S: 250 reset|
            C: content|.|
            P: 451 4.3.2 The servers have changed meanwhile, please send this message again|
            C: MAIL FROM:<z>|
            B: MAIL FROM:<z>|",
        ]
        .concat(),
    );
}

#[test]
fn scenario_98_chunks_go_again_as_one() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: BDAT 5|ab|x
            B: BDAT 5|ab|x
            S: 250 5|
            P: 250 5|
            C: BDAT 2|cd
            B: BDAT 2|cd
            S: 250 2|
            P: 250 2|
            lost
            new
            B: MAIL FROM:<a>|RCPT TO:<b>|
            S: 250 a|
            S: 250 b|
            B: BDAT 7|ab|xcd
            S: 250 7|
            C: BDAT 3 LAST|.|
            B: BDAT 3|.|
            S: 250 3|
            commit
            B: BDAT 0 LAST|
            S: 250 queued|
            P: 250 queued|
            C: RSET|
            P: 250 2.0.0 Ok|",
        ]
        .concat(),
    );
}

#[test]
fn a_chunk_half_read_goes_again_with_its_rest() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: BDAT 6 LAST|abc
            B: BDAT 6|abc
            lost
            new
            B: MAIL FROM:<a>|RCPT TO:<b>|
            S: 250 a|
            S: 250 b|
            B: BDAT 6|abc
            C: def
            B: def
            S: 250 6|
            commit
            B: BDAT 0 LAST|
            S: 250 queued|
            P: 250 queued|",
        ]
        .concat(),
    );
}

#[test]
fn a_failed_chunk_ends_the_message() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: BDAT 2|ab
            B: BDAT 2|ab
            S: 552 too much|
            P: 552 too much|
            B: RSET|
            S: 250 reset|
            C: MAIL FROM:<z>|
            B: MAIL FROM:<z>|",
        ]
        .concat(),
    );
}

#[test]
fn the_proxy_refuses_what_would_part_it_from_the_backend() {
    for (said, heard) in [
        ("RCPT TO:<b>", "503 5.5.1 MAIL first"),
        ("DATA", "503 5.5.1 MAIL first"),
        ("LHLO me", "500 5.5.1 This is SMTP: say EHLO"),
        ("XCLIENT ADDR=1.2.3.4", "500 5.5.2 Unknown command"),
        ("MAIL FROM:<a> NOTIFY=NEVER", "555 5.5.4 A parameter that was not offered"),
        ("MAIL FROM:<a> SIZE=1001", "552 5.3.4 Larger than the largest message"),
        ("AUTH PLAIN", "502 5.5.1 Not available"),
        ("STARTTLS", "502 5.5.1 Not available"),
        ("EXPN list", "502 5.5.1 Not available"),
        ("NO\\rOP", "500 5.5.2 Bare CR, LF or NUL in a command"),
    ] {
        play(Role::Relay, &format!("C: {said}|\nP: {heard}|"));
    }
    play(Role::Submission, "C: MAIL FROM:<a>|\nP: 530 5.7.1 Log in first|");
    play(Role::Relay, "C: BDAT 4|a|bNOOP|\nP: 503 5.5.1 MAIL first|250 2.0.0 Ok|");
    play(
        Role::Relay,
        "C: MAIL FROM:<a>|
        B: MAIL FROM:<a>|
        S: 250 ok|
        P: 250 ok|
        C: MAIL FROM:<b>|
        P: 503 5.5.1 A message is under way|",
    );
}

#[test]
fn a_hello_in_the_middle_resets_the_backend() {
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: EHLO me|
            B: RSET|
            P: 250 hello|
            S: 250 reset|
            C: MAIL FROM:<z>|
            B: MAIL FROM:<z>|",
        ]
        .concat(),
    );
}

#[test]
fn a_backend_that_says_421_or_speaks_unasked_is_lost() {
    play(Role::Relay, "S: 421 closing|\nP: lost: closing|");
    play(Role::Relay, "S: 250 what|\nP: lost: a reply that nobody asked for|");
    play(
        Role::Relay,
        &[
            ENVELOPE,
            "C: DATA|
        B: DATA|
        S: 421 busy|
        P: lost: closing|
        lost
        new
        B: MAIL FROM:<a>|RCPT TO:<b>|
        S: 250 a|
        S: 250 b|
        B: DATA|
        S: 354 go|
        P: 354 go|",
        ]
        .concat(),
    );
}
