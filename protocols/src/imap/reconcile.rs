//! What a restored session is told: the difference between the mailbox that the client knows and the one that
//! the new backend shows, and whether the client can be told of it.
//!
//! Rule: after it, what the client was told must be explainable as the history of *one* server. What cannot be
//! is never hidden and never guessed: the session is not moved.
//!
//! For now only growth is announced; everything else is a [`Differs`].

use super::view::{UidSet, View};

/// What the client knows about its selected mailbox.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// UIDVALIDITY of the SELECT; 0 if the server did not say.
    pub uidvalidity: u32,
    /// UIDNEXT as the server said it last, on SELECT or unasked: what no EXISTS announced yet has no lower UID.
    pub uidnext: Option<u32>,
    /// How many messages it believes in.
    pub exists: u32,
    /// Which messages they are.
    pub view: Option<&'a View>,
}

/// What the restored connection sees after its SELECT or EXAMINE.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// UIDVALIDITY; 0 if the server did not say.
    pub uidvalidity: u32,
    /// UIDNEXT, if the server said it.
    pub uidnext: Option<u32>,
    /// The last EXISTS.
    pub exists: u32,
    /// The last RECENT.
    pub recent: u32,
    /// The UIDs of all messages.
    pub uids: Option<UidSet>,
}

/// What the client is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the two agree.
    None,
    /// Messages came behind those that it knows.
    Grew {
        /// How many messages there are now.
        exists: u32,
        /// How many of them are recent.
        recent: u32,
    },
}

/// A difference that the client cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Differs {
    /// Another UIDVALIDITY: every UID that the client keeps is void.
    #[error("UIDVALIDITY differs")]
    UidValidity,
    /// UIDNEXT is lower than what the client was told: a UID would be given a second time.
    #[error("UIDNEXT has fallen")]
    UidNextFell,
    /// A message that the client knows is missing.
    #[error("a message that the client knows is missing")]
    Expunged,
    /// A message lies below one that the client knows, and it was never told of it. UIDs ascend with the
    /// message numbers, so there is no place left for it.
    #[error("an unknown message lies among those that the client knows")]
    AppearedBetween,
    /// It is not known which messages the client knows, or which there are.
    #[error("the UIDs are not known")]
    NoView,
    /// The numbers of messages and UIDs contradict each other.
    #[error("message counts contradict each other")]
    Count,
}

impl Differs {
    /// Every reason, for counters that begin at zero.
    pub const ALL: [Self; 6] = [
        Self::UidValidity,
        Self::UidNextFell,
        Self::Expunged,
        Self::AppearedBetween,
        Self::NoView,
        Self::Count,
    ];

    /// Its name in metrics and reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::UidValidity => "uidvalidity",
            Self::UidNextFell => "uidnext_fell",
            Self::Expunged => "expunged",
            Self::AppearedBetween => "appeared_between",
            Self::NoView => "no_view",
            Self::Count => "count",
        }
    }
}

/// Finds what the client must be told so that it knows what was found.
///
/// Of several differences it names the graver one first: what voids the UIDs, what leaves them unknown, what
/// no untagged response can say, what one could. A server without UIDVALIDITY promises nothing about its UIDs.
pub fn compare(known: &Known<'_>, found: &Found) -> Result<Change, Differs> {
    if known.uidvalidity != found.uidvalidity || found.uidvalidity == 0 {
        return Err(Differs::UidValidity);
    }
    if uidnext_fell(known, found) {
        return Err(Differs::UidNextFell);
    }
    let empty = View::default();
    let view = match known.view {
        Some(view) => view,
        None if known.exists == 0 => &empty,
        None => return Err(Differs::NoView),
    };
    let none = UidSet::default();
    let uids = match &found.uids {
        Some(uids) => uids,
        None if found.exists == 0 => &none,
        None => return Err(Differs::NoView),
    };
    if view.len() != known.exists || uids.len() != found.exists {
        return Err(Differs::Count);
    }
    differs(view, known.uidnext.unwrap_or(0), uids)?;
    if found.exists == known.exists {
        return Ok(Change::None);
    }
    Ok(Change::Grew { exists: found.exists, recent: found.recent })
}

/// Writes what the client is to be told. If nothing changed, that is not one byte: some clients take any line
/// in IDLE for news and fetch (semantics §1.c.11).
pub fn emit(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::None => {}
        Change::Grew { exists, recent } => {
            out.extend_from_slice(format!("* {exists} EXISTS\r\n* {recent} RECENT\r\n").as_bytes());
        }
    }
}

/// The client was told of every UID in its view, so UIDNEXT is higher than all of them.
fn uidnext_fell(known: &Known<'_>, found: &Found) -> bool {
    let viewed = known.view.map(|view| view.highest().saturating_add(1));
    match (known.uidnext.max(viewed), found.uidnext) {
        (Some(known), Some(found)) => found < known,
        (None, _) | (_, None) => false,
    }
}

/// Growth is all that may be left: the known slots are there in order, and what is new lies above every UID
/// that the client ever knew. The first of the new are those that an EXISTS announced already; the others are
/// not below UIDNEXT either, else they were expunged once and are back.
fn differs(view: &View, uidnext: u32, uids: &UidSet) -> Result<(), Differs> {
    let new = uids.minus(view.known());
    let unannounced = view.unknown().checked_add(1).and_then(|place| new.nth(place));
    if new.min().is_some_and(|uid| uid <= view.highest()) || unannounced.is_some_and(|uid| uid < uidnext) {
        return Err(Differs::AppearedBetween);
    }
    if !view.known().minus(uids).is_empty() || new.len() < view.unknown() {
        return Err(Differs::Expunged);
    }
    for &(slot, uid) in view.ahead() {
        match uids.rank(uid) {
            Some(rank) if rank == slot => {}
            Some(rank) if rank > slot => return Err(Differs::AppearedBetween),
            Some(_) | None => return Err(Differs::Expunged),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn uids(text: &str) -> UidSet {
        if text.is_empty() { UidSet::default() } else { UidSet::parse(text.as_bytes()).unwrap() }
    }

    fn view(text: &str) -> View {
        let known = uids(text);
        let count = known.len();
        View::new(known, count).unwrap()
    }

    fn known(view: &View) -> Known<'_> {
        Known { uidvalidity: 7, uidnext: None, exists: view.len(), view: Some(view) }
    }

    fn found(text: &str) -> Found {
        let uids = uids(text);
        Found { uidvalidity: 7, uidnext: None, exists: uids.len(), recent: 2, uids: Some(uids) }
    }

    fn emitted(result: Result<Change, Differs>) -> String {
        let mut out = Vec::new();
        emit(&result.unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_unchanged_mailbox_is_silence() {
        let view = view("1:5,9");
        assert_eq!(compare(&known(&view), &found("1:5,9")), Ok(Change::None));
        assert_eq!(emitted(compare(&known(&view), &found("1:5,9"))), "");
    }

    #[test]
    fn growth_is_exists_and_recent() {
        let view = view("1:5,9");
        let told = "* 8 EXISTS\r\n* 2 RECENT\r\n";
        assert_eq!(emitted(compare(&known(&view), &found("1:5,9,10,12"))), told);
    }

    #[test]
    fn what_cannot_be_told_has_a_name() {
        let view = view("1:5,9");
        for (uids, label) in [
            ("1:5", "expunged"),
            ("2:5,9", "expunged"),
            ("1:5,10", "expunged"),
            ("1:5,8:9", "appeared_between"),
            ("1:6", "appeared_between"),
            ("1:5,7,9:12", "appeared_between"),
            ("", "expunged"),
        ] {
            assert_eq!(compare(&known(&view), &found(uids)).unwrap_err().label(), label, "{uids}");
        }
    }

    #[test]
    fn a_message_that_the_client_saw_go_must_not_come_back() {
        let mut view = view("1:5,9");
        view.expunge(6).unwrap();
        assert_eq!(compare(&known(&view), &found("1:5,9")), Err(Differs::AppearedBetween));
        assert_eq!(compare(&known(&view), &found("1:5,10")), Ok(Change::Grew { exists: 6, recent: 2 }));
    }

    #[test]
    fn a_message_that_was_gone_before_the_select_must_not_come_back() {
        let view = view("1:5");
        let selected = Known { uidnext: Some(9), ..known(&view) };
        assert_eq!(compare(&selected, &found("1:5,8")), Err(Differs::AppearedBetween));
        assert_eq!(compare(&selected, &found("1:5,9")), Ok(Change::Grew { exists: 6, recent: 2 }));
    }

    #[test]
    fn announced_messages_are_the_first_of_the_new() {
        let mut view = view("1:5");
        view.exists(7).unwrap();
        assert_eq!(compare(&known(&view), &found("1:5,8,9")), Ok(Change::None));
        assert_eq!(compare(&known(&view), &found("1:5,8:10")), Ok(Change::Grew { exists: 8, recent: 2 }));
        assert_eq!(compare(&known(&view), &found("1:5,8")), Err(Differs::Expunged));
        view.fetched(7, 9).unwrap();
        assert_eq!(compare(&known(&view), &found("1:5,8,9,12")), Ok(Change::Grew { exists: 8, recent: 2 }));
        assert_eq!(compare(&known(&view), &found("1:5,7:9")), Err(Differs::AppearedBetween));
        assert_eq!(compare(&known(&view), &found("1:5,9,12")), Err(Differs::Expunged));
        assert_eq!(compare(&known(&view), &found("1:5,8,10")), Err(Differs::Expunged));
    }

    #[test]
    fn another_uidvalidity_or_none_is_the_end() {
        let view = view("1:5");
        let other = |uidvalidity| Found { uidvalidity, ..found("1:5") };
        assert_eq!(compare(&known(&view), &other(8)), Err(Differs::UidValidity));
        let without = Known { uidvalidity: 0, ..known(&view) };
        assert_eq!(compare(&without, &other(0)), Err(Differs::UidValidity));
    }

    #[test]
    fn uidnext_must_not_fall() {
        let mut view = view("1:5,9");
        view.expunge(6).unwrap();
        let now = |uidnext| Found { uidnext, ..found("1:5") };
        let told = |uidnext| Known { uidnext, ..known(&view) };
        for (told_uidnext, now_uidnext, fell) in [
            (Some(20), Some(19), true),
            (Some(20), Some(20), false),
            (Some(20), Some(21), false),
            (Some(20), None, false),
            // The client saw UID 9, whatever it was told of UIDNEXT.
            (None, Some(9), true),
            (Some(6), Some(9), true),
            (None, Some(10), false),
        ] {
            let result = compare(&told(told_uidnext), &now(now_uidnext));
            assert_eq!(result == Err(Differs::UidNextFell), fell, "{told_uidnext:?} {now_uidnext:?}");
        }
    }

    #[test]
    fn without_uids_only_an_empty_mailbox_is_known() {
        let view = view("1:5");
        let blind = |exists| Known { exists, view: None, ..known(&view) };
        let unseen = |exists| Found { exists, uids: None, ..found("") };
        assert_eq!(compare(&blind(5), &found("1:5")), Err(Differs::NoView));
        assert_eq!(compare(&known(&view), &unseen(5)), Err(Differs::NoView));
        assert_eq!(compare(&blind(0), &unseen(0)), Ok(Change::None));
        assert_eq!(compare(&blind(0), &unseen(1)), Err(Differs::NoView));
        assert_eq!(compare(&blind(0), &found("4")), Ok(Change::Grew { exists: 1, recent: 2 }));
        assert_eq!(compare(&known(&view), &unseen(0)), Err(Differs::Expunged));
    }

    #[test]
    fn numbers_that_contradict_are_refused() {
        let view = view("1:5");
        assert_eq!(compare(&Known { exists: 6, ..known(&view) }, &found("1:6")), Err(Differs::Count));
        assert_eq!(compare(&known(&view), &Found { exists: 6, ..found("1:5") }), Err(Differs::Count));
    }

    #[test]
    fn labels_are_all_different() {
        let labels: BTreeSet<_> = Differs::ALL.iter().map(|differs| differs.label()).collect();
        assert_eq!(labels.len(), Differs::ALL.len());
    }
}
