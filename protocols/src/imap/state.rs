//! What a session has become (semantics §1.a), as far as another backend must be told.
//!
//! Rule: a client's command becomes state only after the server's OK.

use super::{
    reconcile::{Found, Known},
    response::{code, number},
    view::View,
};

/// Everything about an authenticated session that a restore replays.
#[derive(Debug, Default)]
pub struct State {
    /// Extensions that the server confirmed after the client's ENABLE, in the client's order.
    pub enabled: Vec<Box<[u8]>>,
    /// The client issued a CONDSTORE enabling command (RFC 7162 §3.1).
    pub condstore: bool,
    /// The selected mailbox.
    pub selected: Option<Box<Selected>>,
    /// The arguments of the client's last ID command.
    pub client_id: Option<Box<[u8]>>,
}

/// The selected mailbox as the client knows it.
#[derive(Debug, Default)]
pub struct Selected {
    /// Its name, decoded from atom, quoted string or literal.
    pub name: Box<[u8]>,
    /// EXAMINE, not SELECT.
    pub examine: bool,
    /// Selected with CONDSTORE or QRESYNC.
    pub condstore: bool,
    /// `[READ-WRITE]`: the client was told that it may change what is in it.
    pub writable: bool,
    /// `[UIDVALIDITY n]`
    pub uidvalidity: Option<u32>,
    /// `[UIDNEXT n]`
    pub uidnext: Option<u32>,
    /// Messages that the client has been told of.
    pub exists: u32,
    /// `n RECENT`
    pub recent: u32,
    /// Message numbers to UIDs, once learnt.
    pub view: Option<View>,
    /// The search result `$` is set on the server (RFC 5182) and would be lost.
    pub saved_search: bool,
    /// Something happened that the client could not be told, or that contradicts what it was told.
    pub diverged: bool,
    /// A message went, and the client was not told: its message numbers are not the server's.
    pub untold: bool,
}

/// Why a session cannot be taken to another backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmovable {
    /// The view of the selected mailbox is not known.
    NoView,
    /// The server gave no UIDVALIDITY.
    NoUidvalidity,
    /// The stream contradicted the view.
    Diverged,
    /// `$` holds a result.
    SavedSearch,
    /// The mailbox's name holds line ends or NUL.
    Name,
}

impl Unmovable {
    /// A stable label for metrics and reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoView => "no_view",
            Self::NoUidvalidity => "no_uidvalidity",
            Self::Diverged => "diverged",
            Self::SavedSearch => "saved_search",
            Self::Name => "name",
        }
    }
}

impl Selected {
    /// The client selects `name`; nothing is known yet.
    pub fn new(name: &[u8], examine: bool, condstore: bool) -> Self {
        Self { name: name.into(), examine, condstore, ..Self::default() }
    }

    /// `* n EXISTS`
    pub fn on_exists(&mut self, n: u32) {
        if n < self.exists {
            self.diverged = true;
        }
        self.exists = n;
        let held = self.view.as_mut().is_none_or(|v| v.exists(n).is_ok());
        self.keep_view_if(held);
    }

    /// `* n EXPUNGE`
    pub fn on_expunge(&mut self, seq: u32) {
        self.diverged |= seq == 0 || seq > self.exists;
        self.exists = self.exists.saturating_sub(1);
        let held = self.view.as_mut().is_none_or(|v| v.expunge(seq).is_ok());
        self.keep_view_if(held);
    }

    /// `* VANISHED set`: the count falls by as many.
    pub fn on_vanished(&mut self, set: &[u8]) {
        let Some(set) = super::view::UidSet::parse(set) else {
            self.diverged = true;
            return;
        };
        self.exists = self.exists.saturating_sub(set.len());
        let held = self.view.as_mut().is_none_or(|v| v.vanished(&set).is_ok());
        self.keep_view_if(held);
    }

    /// `* seq FETCH (… UID uid …)`
    pub fn on_fetch(&mut self, seq: u32, uid: u32) {
        let held = self.view.as_mut().is_none_or(|v| v.fetched(seq, uid).is_ok());
        self.keep_view_if(held);
    }

    /// The code of an untagged OK.
    pub fn on_code(&mut self, text: &[u8]) {
        match code(text) {
            Some((name, value)) if name.eq_ignore_ascii_case(b"UIDVALIDITY") => {
                let told = number(value);
                self.diverged |= self.uidvalidity.is_some() && self.uidvalidity != told;
                self.uidvalidity = told;
            }
            Some((name, value)) if name.eq_ignore_ascii_case(b"UIDNEXT") => {
                self.uidnext = number(value).max(self.uidnext);
            }
            Some(_) | None => {}
        }
    }

    /// Whether this mailbox can be left and found again.
    pub fn movable(&self) -> Result<(), Unmovable> {
        match () {
            () if self.name.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) => Err(Unmovable::Name),
            () if self.diverged => Err(Unmovable::Diverged),
            () if self.saved_search => Err(Unmovable::SavedSearch),
            () if self.uidvalidity.is_none() => Err(Unmovable::NoUidvalidity),
            () if self.view.is_none() => Err(Unmovable::NoView),
            () => Ok(()),
        }
    }

    /// What the client knows, for [`super::reconcile::compare`].
    pub fn known(&self) -> Known<'_> {
        Known {
            uidvalidity: self.uidvalidity.unwrap_or_default(),
            uidnext: self.uidnext,
            exists: self.exists,
            view: self.view.as_ref(),
        }
    }

    /// From here on the client knows what the new backend showed.
    pub fn now(&mut self, found: Found) {
        self.uidnext = found.uidnext.or(self.uidnext);
        self.exists = found.exists;
        self.recent = found.recent;
        self.view = found.uids.and_then(|uids| View::new(uids, found.exists));
    }

    fn keep_view_if(&mut self, held: bool) {
        if !held {
            self.view = None;
            self.diverged = true;
        }
    }
}
