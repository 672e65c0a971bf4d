//! Commands behind others without an answer (RFC 2920).
//!
//! Rule: what is said to one depends on what became of those before it.

use super::*;

/// RFC 2920 §3.1: MAIL may stand anywhere among pipelined commands, and what it is answered depends on what became of the one
/// before it.
#[test]
fn a_mail_behind_one_without_an_answer_waits_for_it() {
    let two = "C: MAIL FROM:<a>|MAIL FROM:<b>|RCPT TO:<c>|\nB: MAIL FROM:<a>|\n";
    play(
        Role::Relay,
        &[
            two,
            "S: 550 a|
            B: MAIL FROM:<b>|RCPT TO:<c>|
            S: 250 b|
            S: 250 c|
            P: 550 a|250 b|250 c|",
        ]
        .concat(),
    );
    play(
        Role::Relay,
        &[
            two,
            "S: 250 a|
            P: 250 a|503 5.5.1 A message is under way|
            B: RCPT TO:<c>|
            S: 250 c|
            P: 250 c|",
        ]
        .concat(),
    );
    // The first one is said again to the next backend, the second one waits for that.
    play(
        Role::Relay,
        &[
            two,
            "lost
            new
            B: MAIL FROM:<a>|
            S: 550 a|
            B: RSET|MAIL FROM:<b>|RCPT TO:<c>|
            S: 250 reset|
            S: 250 b|
            S: 250 c|
            P: 550 a|250 b|250 c|",
        ]
        .concat(),
    );
    // Nobody answers the first one: the second one is asked for itself.
    play(
        Role::Relay,
        &[
            two,
            "ceiling
            P: 451 again|
            new
            B: MAIL FROM:<b>|RCPT TO:<c>|
            S: 250 b|
            S: 250 c|
            P: 250 b|250 c|",
        ]
        .concat(),
    );
}
