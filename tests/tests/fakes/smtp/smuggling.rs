//! Ends of messages that two servers could read differently, in every state, and bytes that mean nothing anywhere.
//!
//! Rule: what the client was told and what the platforms accepted are the same messages, and nothing that reached a
//! platform breaks the protocol; that is all that is asked of a dialogue that makes no sense.

use bascule_tests::fake::{Options, smtp::Door};

use super::{
    ALICE, BOB, FROM, Plan, Rig, USERS, dialect,
    raw::{STATES, codes, converse, door, violations},
};

/// Published ends that are none (CVE-2023-51764, -51765, -51766 and their kin).
const ENDS: [&[u8]; 16] = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\n.\r",
    b"\r.\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\0\n",
    b"\r\n\0.\r\n",
    b"\n\n.\r\n",
    b"\r\r\n.\n",
    b"\r\n. \r\n",
];

const SMUGGLED: &[u8] = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nsmuggled\r\n";

async fn rig(lines: &'static str) -> Rig {
    Plan::replicated().mail("none", lines).start(USERS).await
}

#[tokio::test]
async fn scenario_102_an_end_that_is_none_is_content() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        for end in ENDS {
            let before = rig.accepted()[0].len();
            client.begin(FROM, &[ALICE]).await.unwrap();
            client.write(&[b"first", end, SMUGGLED].concat()).await.unwrap();
            client.dot().await.unwrap();
            assert_eq!(client.ends().await.unwrap()[0].code, 250);
            // The client's own judge would hear a second message.
            client.command("NOOP").await.unwrap().ok().unwrap();
            let new = &rig.accepted()[0][before..];
            assert_eq!(new.len(), 1, "{door:?} {end:?}");
            assert_eq!((new[0].from.as_str(), &new[0].recipients[..]), (FROM, &[ALICE.to_owned()][..]));
            let body = String::from_utf8_lossy(&new[0].body);
            assert!(body.starts_with("first") && body.ends_with("\r\nsmuggled\r\n"), "{end:?} {body:?}");
        }
    }
    assert_eq!(violations(&rig), [""; 0]);
}

#[tokio::test]
async fn bare_line_ends_are_refused_where_the_policy_says_so() {
    let rig = rig("bare_newline = \"reject\"").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        for end in ENDS {
            let clean = matches!(end, b"\r\n.\0\r\n" | b"\r\n\0.\r\n" | b"\r\n. \r\n");
            let before = rig.accepted()[0].len();
            client.begin(FROM, &[ALICE, BOB]).await.unwrap();
            client.write(&[b"first", end, SMUGGLED].concat()).await.unwrap();
            client.dot().await.unwrap();
            let ends = client.ends().await.unwrap();
            assert!(ends.iter().all(|r| r.code == if clean { 250 } else { 550 }), "{end:?} {ends:?}");
            assert!(rig.mail(&mut client, &[BOB], 100).await, "{door:?} {end:?}");
            let messages = if clean && door == Door::Lmtp {
                3
            } else if clean {
                2
            } else {
                1
            };
            assert_eq!(rig.accepted()[0].len() - before, messages, "{end:?}");
        }
    }
    rig.all_told().await;
    assert!(rig.accepted()[0].iter().all(|m| m.from == FROM));
}

#[tokio::test]
async fn an_end_that_is_none_in_any_state_makes_no_message_that_nobody_sent() {
    let rig = rig("").await;
    for way in [Door::Relay, Door::Lmtp] {
        for state in STATES {
            let state = state.replace("HELLO", dialect(way).hello());
            for end in ENDS {
                let before = rig.accepted()[0].len();
                let input = [state.as_bytes(), end, SMUGGLED, b"\r\n.\r\nQUIT\r\n"].concat();
                let heard = converse(door(&rig, way), std::iter::once(&input[..])).await;
                let codes = codes(&heard);
                let went_ahead = codes.iter().filter(|code| **code == 354).count();
                let accepted = &rig.accepted()[0][before..];
                // In LMTP alice's share and bob's.
                let shares = if way == Door::Lmtp { 2 } else { 1 };
                assert!(accepted.len() <= shares * went_ahead, "{state:?} {end:?}: {codes:?}");
                let evil = accepted.iter().filter(|m| m.from == "evil@example.net").count();
                let first = usize::from(state.contains("DATA"));
                assert!(evil <= shares * went_ahead.saturating_sub(first), "{state:?} {end:?}: {codes:?}");
                if state.ends_with("DATA\r\ntext") {
                    assert_eq!((accepted.len(), evil), (1, 0), "{end:?}: {codes:?}");
                }
            }
        }
    }
    assert_eq!(violations(&rig), [""; 0]);
}

#[tokio::test]
async fn data_and_chunks_do_not_mix() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let (mail, rcpt) = (format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{ALICE}>"));
        let begin = [mail.as_str(), &rcpt];
        let evil = [b"\r\n.\r\n", SMUGGLED, b"\r\n.\r\n"].concat();
        // A chunk is counted and never looked at.
        client.pipeline(&begin).await.unwrap();
        client.chunk(&evil, false).await.unwrap();
        for (line, code) in [("DATA", 503), (&*rcpt, 503), (&*mail, 503), ("NOOP", 250)] {
            assert_eq!(client.command(line).await.unwrap().code, code, "{line} behind a chunk");
        }
        assert_eq!(client.chunk(b"", true).await.unwrap()[0].code, 250);
        // A chunk without a message is read all the same.
        assert_eq!(client.chunk(&evil, true).await.unwrap()[0].code, 503);
        client.command("NOOP").await.unwrap().ok().unwrap();
        // BDAT inside DATA is text.
        client.begin(FROM, &[ALICE]).await.unwrap();
        client.write(b"BDAT 4 LAST\r\nabcd\r\n").await.unwrap();
        client.dot().await.unwrap();
        assert_eq!(client.ends().await.unwrap()[0].code, 250);
        // Whose size is not known ends the connection.
        client.pipeline(&begin).await.unwrap();
        let size = if door == Door::Relay { "BDAT" } else { "BDAT 99999999999999999999 LAST" };
        client.announce(size);
        client.write(&[size.as_bytes(), b"\r\n", SMUGGLED].concat()).await.unwrap();
        assert_eq!(client.finish().await.unwrap().code, 501);
        assert_eq!(client.closed().await.unwrap(), None);
    }
    let bodies: Vec<_> = rig.accepted()[0].iter().map(|m| (m.from.clone(), m.body.len())).collect();
    let chunk = 2 * b"\r\n.\r\n".len() + SMUGGLED.len();
    let each = [(FROM.to_owned(), chunk), (FROM.to_owned(), b"BDAT 4 LAST\r\nabcd\r\n".len())];
    assert_eq!(bodies, [each.clone(), each.clone(), each].concat());
    assert_eq!(violations(&rig), [""; 0]);
}

#[tokio::test]
async fn a_message_above_the_size_is_refused_however_it_is_said() {
    let small = |options: &mut Options| {
        let mail = options.smtp.as_mut().unwrap();
        mail.keywords.retain(|keyword| !keyword.starts_with("SIZE"));
        mail.keywords.push("SIZE 5000".into());
    };
    let rig = Plan::replicated().platforms(small, small).mail("none", "").start(USERS).await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let envelope =
            [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{ALICE}>"), format!("RCPT TO:<{BOB}>")];
        let envelope = envelope.each_ref().map(String::as_str);
        let large = vec![b'x'; 3000];
        let ends = client.send(FROM, &[ALICE, BOB], &large.repeat(2)).await.unwrap().ends;
        assert!(ends.iter().all(|r| r.code == 552), "{door:?} {ends:?}");
        for last in [false, true] {
            client.pipeline(&envelope).await.unwrap();
            assert_eq!(client.chunk(&large, false).await.unwrap()[0].code, 250);
            let ends = client.chunk(&large, last).await.unwrap();
            assert!(ends.iter().all(|r| r.code == 552), "{door:?} {last} {ends:?}");
            client.command("NOOP").await.unwrap().ok().unwrap();
            client.command("RSET").await.unwrap().ok().unwrap();
            assert!(rig.mail(&mut client, &[BOB], 100).await);
        }
    }
    assert_eq!(rig.accepted()[0].len(), 6);
    rig.all_told().await;
}

#[tokio::test]
async fn lines_without_end_and_long_lines() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        client.begin(FROM, &[ALICE]).await.unwrap();
        let line = [&b"x".repeat(1_000_000)[..], b"\r\n"].concat();
        assert_eq!(client.content(&line).await.unwrap()[0].code, 250);
        assert!(rig.accepted()[0].last().unwrap().body[..] == line[..]);
        client.announce("NOOP");
        client.write(&b"NOOP ".repeat(10_000)).await.unwrap();
        assert_eq!(client.finish().await.unwrap().code, 500);
        assert_eq!(client.closed().await.unwrap(), None);
    }
    assert_eq!(violations(&rig), [""; 0]);
}

#[tokio::test]
async fn what_comes_behind_data_is_content_and_nothing_else() {
    let rig = rig("").await;
    for door in Door::MAIL {
        let mut client = rig.mailer(door).await;
        let lines =
            [format!("MAIL FROM:<{FROM}>"), format!("RCPT TO:<{ALICE}>"), "DATA".into(), "DOT".into()];
        lines.iter().for_each(|line| client.announce(line));
        let early = [(lines[..3].join("\r\n") + "\r\n").as_bytes(), SMUGGLED, b".\r\n"].concat();
        client.write(&early).await.unwrap();
        for code in [250, 250, 354, 250] {
            assert_eq!(client.finish().await.unwrap().code, code);
        }
        let last = rig.accepted()[0].last().unwrap().clone();
        assert_eq!((last.from.as_str(), &last.body[..]), (FROM, SMUGGLED));
    }
    assert_eq!(rig.accepted()[0].len(), 3);
    assert_eq!(violations(&rig), [""; 0]);
}
