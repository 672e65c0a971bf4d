//! Views and sets at the size of a large mailbox: 100,000 messages.
//!
//! Rule: the mailbox has holes, as old ones do; without holes everything is cheaper.

use std::sync::LazyLock;

use bascule_protocols::imap::{
    reconcile::{Found, Known, compare, emit},
    view::{MAX_RUNS, UidSet, View},
};

use super::{Case, Run, run};

pub(super) const CASES: &[Case] = &[
    Case::new("view_exists", 1000, "EXISTS", exists),
    Case::new("view_expunge_front", 100, "EXPUNGE", |n| expunges(n, |_| 1)),
    Case::new("view_expunge_middle", 100, "EXPUNGE", |n| expunges(n, |left| left / 2)),
    Case::new("view_expunge_back", 100, "EXPUNGE", |n| expunges(n, |left| left)),
    Case::new("view_vanished_1", 100, "VANISHED of 1", vanished_one),
    Case::new("view_vanished_1000", 1, "VANISHED of 1000", vanished),
    Case::new("view_fetched", 1000, "FETCH", fetched),
    Case::new("view_fetched_new", 1000, "FETCH of an unknown message", fetched_new),
    Case::new("uidset_parse", MAX_RUNS as u32, "run", parse),
    Case::new("uidset_print", 50_000, "run", print),
    Case::new("uidset_of_a_search_backwards", 50_000, "UID", backwards),
    Case::new("reconcile_same", 1, "mailbox", |_| reconcile(|uids| uids)),
    Case::new("reconcile_1000_new", 1, "mailbox", |_| reconcile(grown)),
    Case::new("reconcile_1000_gone", 1, "mailbox", |_| reconcile(fallen)),
];

const MESSAGES: u32 = 100_000;
/// Every so many UIDs one is missing: 2,000 runs.
const HOLES: u32 = 50;

static UIDS: LazyLock<UidSet> =
    LazyLock::new(|| (1..).filter(|uid| uid % HOLES != 0).take(MESSAGES as usize).collect());

fn view() -> View {
    View::new(UIDS.clone(), MESSAGES).unwrap_or_default()
}

fn exists(count: u32) -> Run {
    run(view(), move |view| (1..=count).all(|n| view.exists(MESSAGES + n).is_ok()))
}

fn expunges(count: u32, place: fn(u32) -> u32) -> Run {
    run(view(), move |view| (0..count).all(|n| view.expunge(place(MESSAGES - n)).is_ok()))
}

/// One after the other, spread over the mailbox.
fn vanished_one(count: u32) -> Run {
    let gone: Vec<UidSet> =
        UIDS.iter().step_by(997).take(count as usize).map(|uid| [uid].into_iter().collect()).collect();
    run((view(), gone), |(view, gone)| gone.iter().all(|uid| view.vanished(uid).is_ok()))
}

fn vanished(_: u32) -> Run {
    let gone: UidSet = UIDS.iter().step_by(100).collect();
    run((view(), gone), |(view, gone)| view.vanished(gone).is_ok())
}

/// Spread over the mailbox.
fn fetched(count: u32) -> Run {
    run(view(), move |view| {
        (0..count).all(|n| {
            let seq = n * 97 % MESSAGES + 1;
            UIDS.nth(seq).is_some_and(|uid| view.fetched(seq, uid).is_ok())
        })
    })
}

/// As many new messages, and a client that fetches them from the first to the last.
fn fetched_new(count: u32) -> Run {
    let mut view = view();
    let first = view.highest() + 1;
    let announced = view.exists(MESSAGES + count).is_ok();
    run(view, move |view| announced && (0..count).all(|n| view.fetched(MESSAGES + n + 1, first + n).is_ok()))
}

/// Runs of one.
fn scattered(runs: u32) -> UidSet {
    (1..=runs).map(|n| 2 * n).collect()
}

fn parse(runs: u32) -> Run {
    run(scattered(runs).to_string(), |text| UidSet::parse(text.as_bytes()))
}

/// `* SEARCH` without ESEARCH, highest first.
fn backwards(count: u32) -> Run {
    let uids: Vec<u32> = (1..=count).rev().map(|n| 2 * n).collect();
    run(uids, |uids| uids.iter().copied().collect::<UidSet>())
}

fn print(runs: u32) -> Run {
    run(scattered(runs), |set| set.to_string())
}

fn grown(uids: UidSet) -> UidSet {
    let next = uids.max().unwrap_or(0) + 1;
    uids.iter().chain(next..next + 1000).collect()
}

fn fallen(uids: UidSet) -> UidSet {
    uids.iter().enumerate().filter(|(at, _)| at % 100 != 0).map(|(_, uid)| uid).collect()
}

fn reconcile(change: fn(UidSet) -> UidSet) -> Run {
    let uids = change(UIDS.clone());
    let found = Found { uidvalidity: 7, uidnext: None, exists: uids.len(), recent: 0, uids: Some(uids) };
    run((view(), found), |(view, found)| {
        let known = Known { uidvalidity: 7, uidnext: None, exists: MESSAGES, view: Some(view) };
        let mut words = Vec::new();
        let result = compare(&known, found);
        if let Ok(change) = &result {
            emit(change, &mut words);
        }
        (result, words)
    })
}
