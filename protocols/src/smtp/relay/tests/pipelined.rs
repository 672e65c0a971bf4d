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

/// RFC 3030 §2: after a chunk that was refused a server knows no state but that after RSET. Postfix answers the next MAIL
/// `503 5.5.1 Error: MAIL after BDAT` otherwise, and that would be the end of the next message.
#[test]
fn a_chunk_behind_a_mail_that_is_refused_leaves_no_server_in_a_message() {
    play(
        Role::Relay,
        "C: MAIL FROM:<a>|RCPT TO:<b>|BDAT 2 LAST|ab
        B: MAIL FROM:<a>|RCPT TO:<b>|BDAT 2|ab
        S: 552 too much|
        S: 503 no mail|
        S: 503 no mail|
        P: 552 too much|503 no mail|503 no mail|
        B: RSET|
        S: 250 reset|
        C: MAIL FROM:<c>|
        B: MAIL FROM:<c>|
        S: 250 c|
        P: 250 c|",
    );
}

/// A last chunk without bytes is asked of nobody.
#[test]
fn an_empty_last_chunk_behind_a_mail_that_is_refused_is_answered() {
    play(
        Role::Relay,
        "C: MAIL FROM:<a>|RCPT TO:<b>|BDAT 0 LAST|
        B: MAIL FROM:<a>|RCPT TO:<b>|
        S: 552 too much|
        P: 552 too much|
        S: 503 no mail|
        P: 503 no mail|503 5.5.1 MAIL first|
        C: MAIL FROM:<c>|
        B: MAIL FROM:<c>|",
    );
}

/// RFC 2920 §3.2: one reply to each command, in their order.
#[test]
fn a_chunk_that_is_refused_answers_what_was_said_before_it() {
    for dies in ["", "lost\n"] {
        play(
            Role::Relay,
            &[
                "C: MAIL FROM:<a>|RCPT TO:<b>|BDAT 6 LAST|ab
                B: MAIL FROM:<a>|RCPT TO:<b>|BDAT 6|ab
                ",
                dies,
                "too large
                P: 552 too large|552 too large|552 too large|
                new
                C: cdefMAIL FROM:<c>|
                B: MAIL FROM:<c>|
                S: 250 c|
                P: 250 c|",
            ]
            .concat(),
        );
    }
}
