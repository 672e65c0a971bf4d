//! Bytes that mean nothing, in every state; and a dialogue that makes sense, in pieces of any size.
//!
//! Rule: the dice are the same in every run.

use bascule_tests::fake::smtp::Door;
use fastrand::Rng;

use super::{
    super::rig::{BARRIER, through},
    ALICE, BOB, FROM, NOBODY, Plan, Rig, USERS, dialect,
    raw::{STATES, codes, converse, door, violations},
};

async fn rig() -> Rig {
    Plan::replicated().mail("none", "").start(USERS).await
}

/// Pieces of at most this size.
fn pieces<'a>(dice: &mut Rng, mut bytes: &'a [u8], most: usize) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(dice.usize(1..=most).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

const TOKENS: [&[u8]; 30] = [
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"..",
    b"\0",
    b" ",
    b"\xff",
    b"\r\n.\r\n",
    b"\r\n.\r\n",
    b"text",
    b"EHLO me\r\n",
    b"LHLO me\r\n",
    b"HELO\r\n",
    b"MAIL FROM:<a@example.net>\r\n",
    b"MAIL FROM:<> SIZE=10\r\n",
    b"RCPT TO:<alice@example.org>\r\n",
    b"RCPT TO:<nobody@example.org>\r\n",
    b"rcpt to:<bob@example.org>\r\n",
    b"DATA\r\n",
    b"BDAT 5\r\n",
    b"BDAT 3 LAST\r\n",
    b"BDAT 0 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"VRFY x\r\n",
];

#[tokio::test]
async fn the_same_nonsense_in_every_state() {
    let rig = rig().await;
    for seed in 0..40 {
        let mut dice = Rng::with_seed(seed);
        let nonsense: Vec<u8> =
            (0..dice.usize(..40)).flat_map(|_| TOKENS[dice.usize(..TOKENS.len())].to_vec()).collect();
        for way in [Door::Relay, Door::Lmtp] {
            for state in STATES {
                let before = rig.accepted()[0].len();
                let state = state.replace("HELLO", dialect(way).hello());
                let input = [state.as_bytes(), &nonsense, b"\r\n.\r\nQUIT\r\n"].concat();
                let heard = converse(door(&rig, way), pieces(&mut dice, &input, 50).into_iter()).await;
                let codes = codes(&heard);
                // A message has a 250 of its own.
                let good = codes.iter().filter(|code| **code == 250).count();
                assert!(rig.accepted()[0].len() - before <= good, "{seed} {state:?} {codes:?}");
                let rest = codes.iter().position(|code| matches!(code, 221 | 421));
                assert!(rest.is_none_or(|at| at + 1 == codes.len()), "{seed} {state:?} {codes:?}");
            }
        }
    }
    assert_eq!(violations(&rig), [""; 0]);
    for door in Door::MAIL {
        assert!(rig.mail(&mut rig.mailer(door).await, &[BOB], 100).await);
    }
}

/// A long dialogue that makes sense, and the messages in it.
fn long(door: Door) -> (Vec<u8>, usize) {
    let mut wire = format!("{} me\r\nNOOP\r\nVRFY x\r\n", dialect(door).hello());
    let envelope = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ALICE}>\r\nRCPT TO:<{NOBODY}>\r\n");
    for n in 0..6 {
        wire += &format!("{envelope}DATA\r\nSubject: {n}\r\n\r\n..\r\n...x\r\n.\r\n");
        wire += &format!("{envelope}RSET\r\n{envelope}BDAT 5\r\n.\r\n.\rBDAT 0\r\nBDAT 7 LAST\r\nDATA\r\n\r");
        wire += &format!("{envelope}DATA\r\n{}.\r\n", "a line of text\r\n".repeat(300 * n));
        wire += "MAIL FROM:<x@example.net>\r\nRCPT TO:<nobody@example.org>\r\nDATA\r\nRSET\r\nNONSENSE\r\n";
    }
    (wire.into_bytes().into_iter().chain(*b"QUIT\r\n").collect(), 6 * 3)
}

#[tokio::test]
async fn a_good_dialogue_in_any_pieces_is_the_same() {
    let rig = rig().await;
    for way in [Door::Relay, Door::Lmtp] {
        let (wire, messages) = long(way);
        let whole = converse(door(&rig, way), std::iter::once(&wire[..])).await;
        let first: Vec<_> = rig.accepted()[0].iter().rev().take(messages).map(|m| m.body.clone()).collect();
        for seed in 0..12 {
            let most = [3, 40, 1500][seed as usize % 3];
            let before = rig.accepted()[0].len();
            let heard =
                converse(door(&rig, way), pieces(&mut Rng::with_seed(seed), &wire, most).into_iter()).await;
            assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(&whole), "{seed}");
            let bodies: Vec<_> = rig.accepted()[0][before..].iter().rev().map(|m| m.body.clone()).collect();
            assert_eq!(bodies, first, "{seed}");
        }
    }
    assert_eq!(violations(&rig), [""; 0]);
}

#[tokio::test]
async fn a_good_dialogue_in_any_pieces_is_the_same_across_a_cutover() {
    let rig = rig().await;
    let mut whole = Vec::new();
    for way in [Door::Relay, Door::Lmtp] {
        whole.push(converse(door(&rig, way), std::iter::once(&long(way).0[..])).await);
    }
    let before = rig.accepted()[0].len();
    let barrier = rig.hooks.stall(BARRIER);
    let mut cutover = rig.begin("new");
    cutover.reaches(&barrier).await;
    let both = [(Door::Relay, 1_u64), (Door::Lmtp, 2), (Door::Relay, 3), (Door::Lmtp, 4)];
    let talks: Vec<_> = both
        .map(|(way, seed)| {
            let (to, wire) = (door(&rig, way), long(way).0);
            tokio::spawn(async move {
                converse(to, pieces(&mut Rng::with_seed(seed), &wire, 200).into_iter()).await
            })
        })
        .into();
    rig.held(4).await;
    barrier.release();
    for (at, talk) in talks.into_iter().enumerate() {
        assert_eq!(String::from_utf8_lossy(&talk.await.unwrap()), String::from_utf8_lossy(&whole[at % 2]));
    }
    through(cutover.end().await);
    let [old, new] = rig.accepted();
    assert_eq!((old.len(), new.len()), (before, 2 * before));
    assert_eq!(violations(&rig), [""; 0]);
}
