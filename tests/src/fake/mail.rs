//! Commands that change mail: APPEND, STORE, EXPUNGE, COPY, MOVE.
//!
//! Rule: APPEND, COPY and MOVE do all or nothing; STORE does what it can and says what it could not.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    accounts::Edit,
    commands::{MISSING, mailbox_name, text},
    connection::{Answer, Connection},
    date,
    store::Op,
    view::{View, line},
    wire::{Arg, format_set},
};

const TRYCREATE: &str = "NO [TRYCREATE] no such mailbox";
pub(super) const GONE: &str = "NO [EXPUNGEISSUED] some of them are gone";
pub(super) const BAD_SET: &str = "BAD no such messages";
const NOTHING_SELECTED: &str = "BAD nothing is selected";

/// One message of an APPEND.
struct Upload {
    flags: BTreeSet<String>,
    date: Option<i64>,
    body: Arc<[u8]>,
}

impl Connection {
    pub(super) fn append(&mut self, args: &[Arg]) -> Answer {
        let account = self.signed_in()?;
        let name = mailbox_name(args, 0)?;
        let uploads = uploads(&args[1..])?;
        Self::write(&self.shared, &account, |edit| {
            let validity = edit.mailbox(&name).ok_or(TRYCREATE)?.validity;
            let add = |u: Upload| edit.append(&name, u.flags, u.date, u.body);
            let uids: Vec<u32> = uploads.into_iter().filter_map(add).collect();
            Ok(format!("[APPENDUID {validity} {}] appended", format_set(&uids)))
        })
    }

    pub(super) fn store(&mut self, args: &[Arg], by_uid: bool) -> Answer {
        let account = self.signed_in()?;
        let view = writable(self.view.as_mut())?;
        let (set, item) = (text(args, 0)?, text(args, 1)?.to_ascii_uppercase());
        let (item, silent) = item.strip_suffix(".SILENT").map_or((item.as_str(), false), |i| (i, true));
        let given: BTreeSet<String> = args[2..].iter().flat_map(Arg::items).map(flag).collect();
        let out = &mut self.out;
        Self::write(&self.shared, &account, |edit| {
            view.sync(edit.mailbox(&view.name.clone()).ok_or(MISSING)?, false, out);
            let slots = view.resolve(&set, by_uid).ok_or(BAD_SET)?;
            let mut missing = false;
            for slot in slots {
                let uid = view.uids[slot];
                let Some(message) = edit.mailbox(&view.name).and_then(|b| b.message(uid)) else {
                    missing = true;
                    continue;
                };
                let flags = match item {
                    "FLAGS" => given.clone(),
                    "+FLAGS" => &message.flags | &given,
                    "-FLAGS" => &message.flags - &given,
                    _ => return Err("BAD unknown item".into()),
                };
                edit.commit(Op::Flags { mailbox: view.name.clone(), uid, flags });
                tell_flags(edit, view, slot, by_uid, !silent, out);
            }
            if missing && !by_uid { Err(GONE.into()) } else { Ok("stored".into()) }
        })
    }

    /// EXPUNGE, or UID EXPUNGE of a set.
    pub(super) fn expunge(&mut self, set: Option<&str>) -> Answer {
        let account = self.signed_in()?;
        let view = writable(self.view.as_mut())?;
        Self::write(&self.shared, &account, |edit| {
            let slots = match set {
                Some(set) => view.resolve(set, true).ok_or(BAD_SET)?,
                None => (0..view.uids.len()).collect(),
            };
            let mailbox = edit.mailbox(&view.name).ok_or(MISSING)?;
            let deleted = |uid: &u32| mailbox.message(*uid).is_some_and(|m| m.flags.contains("\\Deleted"));
            let uids: Vec<u32> = slots.into_iter().map(|s| view.uids[s]).filter(deleted).collect();
            edit.expunge_all(&view.name, uids);
            Ok("expunged".into())
        })
    }

    pub(super) fn copy(&mut self, args: &[Arg], by_uid: bool, moves: bool) -> Answer {
        let account = self.signed_in()?;
        let view = self.view.as_mut().ok_or(NOTHING_SELECTED)?;
        let (set, target) = (text(args, 0)?, mailbox_name(args, 1)?);
        let out = &mut self.out;
        Self::write(&self.shared, &account, |edit| {
            let validity = edit.mailbox(&target).ok_or(TRYCREATE)?.validity;
            let slots = view.resolve(&set, by_uid).ok_or(BAD_SET)?;
            let source = edit.mailbox(&view.name).ok_or(MISSING)?;
            let found: Vec<_> = slots.iter().filter_map(|s| source.message(view.uids[*s]).cloned()).collect();
            if found.len() < slots.len() && !by_uid {
                return Err(GONE.into());
            }
            let from: Vec<u32> = found.iter().map(|m| m.uid).collect();
            let to: Vec<u32> = found
                .into_iter()
                .filter_map(|m| edit.append(&target, m.flags, Some(m.date), m.body))
                .collect();
            let code = if to.is_empty() {
                String::new()
            } else {
                format!("[COPYUID {validity} {} {}] ", format_set(&from), format_set(&to))
            };
            if !moves {
                return Ok(format!("{code}copied"));
            }
            line(out, &format!("* OK {code}moved"));
            edit.expunge_all(&view.name, from);
            Ok("moved".into())
        })
    }
}

/// The selected mailbox, unless it was opened with EXAMINE.
fn writable(view: Option<&mut View>) -> Result<&mut View, String> {
    let view = view.ok_or(NOTHING_SELECTED)?;
    if view.read_only { Err("NO [READ-ONLY] examined".into()) } else { Ok(view) }
}

/// Accounts for a change of our own, and tells it where asked.
pub(super) fn tell_flags(
    edit: &Edit<'_>,
    view: &mut View,
    slot: usize,
    uid: bool,
    tell: bool,
    out: &mut Vec<u8>,
) {
    let number = view.uids[slot];
    let Some(mailbox) = edit.mailbox(&view.name) else { return };
    view.changed = mailbox.changed();
    if let Some(message) = mailbox.message(number).filter(|_| tell) {
        let uid = if uid { format!("UID {number} ") } else { String::new() };
        line(out, &format!("* {} FETCH ({uid}FLAGS ({}))", slot + 1, view.flags(message)));
    }
}

/// System flags in one spelling, keywords as they came.
fn flag(arg: &Arg) -> String {
    let text = arg.text();
    let system = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];
    system.into_iter().find(|f| f.eq_ignore_ascii_case(&text)).map_or(text, String::from)
}

/// The messages of an APPEND: each may have flags and a date before its literal.
fn uploads(args: &[Arg]) -> Result<Vec<Upload>, String> {
    let (mut all, mut flags, mut date) = (Vec::new(), BTreeSet::new(), None);
    for arg in args {
        match arg {
            Arg::List(items) => flags = items.iter().map(flag).collect(),
            Arg::Quoted(_) => date = Some(date::parse(&arg.text()).ok_or("BAD a date that is none")?),
            Arg::Literal(body) => {
                let body = body.as_slice().into();
                all.push(Upload { flags: std::mem::take(&mut flags), date: date.take(), body });
            }
            Arg::Atom(_) => return Err("BAD a message is a literal".into()),
        }
    }
    if all.is_empty() { Err("BAD no message".into()) } else { Ok(all) }
}
