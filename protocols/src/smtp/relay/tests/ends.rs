//! What the proxy answers when nobody else does.

use super::*;

#[test]
fn a_chunk_that_waited_too_long_is_read_and_goes_nowhere() {
    let script = "wait
        C: BDAT 12|
        refused
        P: 451 again|
        C: RSET|NOOP|BDAT 4 LAST|more
        P: 503 5.5.1 MAIL first|";
    let driver = play(Role::Relay, &[ENVELOPE, script].concat());
    assert!(!driver.relay.in_transaction());
}

#[test]
fn a_last_chunk_that_waited_too_long_is_answered_for_each_recipient() {
    let script = "wait
        C: BDAT 2 LAST|
        refused
        P: 451 again|451 again|
        C: ab
        C: MAIL FROM:<z>|
        B: MAIL FROM:<z>|";
    let envelope = "C: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|
        B: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|
        S: 250 a|
        S: 250 b|
        S: 250 c|
        P: 250 a|250 b|250 c|
        ";
    play(Role::Lmtp, &[envelope, script].concat());
}

#[test]
fn everything_that_was_passed_on_is_answered_in_its_order() {
    let script = "C: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|DATA|
        B: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|DATA|
        S: 250 a|
        P: 250 a|
        ceiling
        P: 451 again|451 again|451 again|
        new
        C: MAIL FROM:<z>|
        B: MAIL FROM:<z>|";
    play(Role::Relay, script);
}

#[test]
fn a_message_that_was_not_begun_is_over_and_one_that_was_is_withdrawn() {
    let script = "C: MAIL FROM:<a>|RCPT TO:<b>|
        B: MAIL FROM:<a>|RCPT TO:<b>|
        ";
    let begun = "S: 250 a|
        P: 250 a|
        ceiling
        P: 451 again|";
    assert!(play(Role::Relay, &[script, begun].concat()).relay.is_poisoned());
    let driver = play(Role::Relay, &[script, "ceiling\nP: 451 again|451 again|"].concat());
    assert!(!driver.relay.in_transaction());
}
