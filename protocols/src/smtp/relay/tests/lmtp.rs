//! LMTP: a reply for each recipient.

use super::*;

const THREE: &str = "C: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<no>|RCPT TO:<c>|RCPT TO:<d>|DATA|
    B: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<no>|RCPT TO:<c>|RCPT TO:<d>|DATA|
    S: 250 a|
    S: 250 b|
    S: 550 no|
    S: 250 c|
    S: 250 d|
    S: 354 go|
    P: 250 a|250 b|550 no|250 c|250 d|354 go|
    C: text|.|
    B: text|
    commit
    B: .|
    ";

#[test]
fn scenario_100_recipients_that_were_answered_are_final() {
    play(
        Role::Lmtp,
        &[
            THREE,
            "S: 250 b|
            S: 452 c|
            P: 250 b|452 c|
            lost: ambiguous
            again
            new
            B: MAIL FROM:<a>|RCPT TO:<d>|
            S: 250 a|
            S: 250 d|
            B: DATA|
            S: 354 go|
            B: text|
            commit
            B: .|
            S: 250 d|
            P: 250 d|
            C: MAIL FROM:<z>|
            B: MAIL FROM:<z>|",
        ]
        .concat(),
    );
}

#[test]
fn lmtp_has_a_reply_for_each_recipient() {
    let driver = play(
        Role::Lmtp,
        &[
            THREE,
            "S: 250 b|
            S: 250 c|
            S: 250 d|
            P: 250 b|250 c|250 d|",
        ]
        .concat(),
    );
    assert!(!driver.relay.in_transaction());
}

#[test]
fn who_has_the_message_is_answered_in_his_place_and_not_sent_it_again() {
    const BEFORE: &str = "250 2.1.5 Delivered before; this copy was dropped|";
    let script = "C: XFORWARD IDENT=4bX|
        P: 250 2.0.0 Ok|
        C: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|RCPT TO:<d>|RCPT TO:<e>|
        B: MAIL FROM:<a>|RCPT TO:<b>|RCPT TO:<c>|RCPT TO:<d>|RCPT TO:<e>|
        S: 250 a|
        S: 250 b|
        S: 550 c|
        S: 250 d|
        S: 250 e|
        P: 250 a|250 b|550 c|250 d|250 e|
        C: DATA|
        B: DATA|
        S: 354 go|
        P: 354 go|
        C: text|.|
        B: text|
        delivered: 0 3
        lost
        new
        B: MAIL FROM:<a>|RCPT TO:<d>|
        S: 250 a|
        S: 250 d|
        B: DATA|
        S: 354 go|
        B: text|
        commit
        B: .|
        S: 250 delivered to d|
        ";
    let driver = play(Role::Lmtp, &format!("{script}P: {BEFORE}250 delivered to d|{BEFORE}"));
    assert!(!driver.relay.in_transaction());
    assert_eq!(driver.relay.ident(), None, "the next message has a name of its own");
}

#[test]
fn only_lmtp_is_told_what_a_message_is_called() {
    play(Role::Relay, "C: XFORWARD IDENT=4bX|\nP: 500 5.5.2 Unknown command|");
    let script = "C: XFORWARD IDENT|\nP: 501 5.5.4 Syntax error in the arguments|\nC: XFORWARD IDENT=[UNAVAILABLE]|\nP: 250 2.0.0 Ok|";
    assert_eq!(play(Role::Lmtp, script).relay.ident(), None);
    let named = play(Role::Lmtp, "C: XFORWARD NAME=x IDENT=4bX|\nP: 250 2.0.0 Ok|");
    assert_eq!(named.relay.ident(), Some(("4bX", &b""[..])));
}

#[test]
fn an_unknown_outcome_is_counted_per_recipient() {
    let driver = play(
        Role::Lmtp,
        &[
            THREE,
            "S: 250 b|
        P: 250 b|
        lost: ambiguous",
        ]
        .concat(),
    );
    assert_eq!(driver.relay.replies_owed(), 2);
}

#[test]
fn recipients_are_told_apart_by_their_addresses() {
    let driver = play(
        Role::Lmtp,
        "C: MAIL FROM:<a>|RCPT  TO: <b> |rcpt to:<c>|
        B: MAIL FROM:<a>|RCPT  TO: <b> |rcpt to:<c>|
        S: 250 a|
        S: 250 b|
        S: 250 c|
        P: 250 a|250 b|250 c|",
    );
    let named: Vec<_> = driver.relay.recipients().collect();
    assert_eq!(named, [(0, &b"b"[..]), (1, b"c")]);
}
