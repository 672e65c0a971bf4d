//! Which function answers which verb, and the commands about mailboxes as a whole.
//!
//! Rule: a command that may write goes through [`Connection::write`], which looks at the fence and writes
//! under one lock, so that nothing is written after a fence was engaged.

use std::collections::BTreeSet;

use super::{
    accounts::{Account, Edit},
    connection::{Answer, Connection, UNAVAILABLE},
    platform::Shared,
    store::{Mailbox, Op},
    view::{View, line},
    wire::{Arg, Command, quote},
};

pub(super) const MISSING: &str = "NO [NONEXISTENT] no such mailbox";
const SYSTEM_FLAGS: &str = "\\Answered \\Flagged \\Deleted \\Seen \\Draft";

impl Connection {
    /// Everything that needs no further byte from the client.
    pub(super) fn command(&mut self, command: &Command) -> Answer {
        let args = command.args.as_slice();
        match command.verb.as_str() {
            "CAPABILITY" => {
                let list = format!("* CAPABILITY {}", self.capabilities());
                self.say_line(&list)
            }
            "NOOP" | "CHECK" => Ok("done".into()),
            "ID" => self.say_line("* ID (\"name\" \"fake\")"),
            "LOGOUT" => self.say_line("* BYE see you"),
            "LOGIN" => self.login("", &text(args, 0)?, &text(args, 1)?),
            "ENABLE" => self.enable(args),
            "NAMESPACE" => self.say_line("* NAMESPACE ((\"\" \"/\")) NIL NIL"),
            "SELECT" => self.select(args, false),
            "EXAMINE" => self.select(args, true),
            "CLOSE" => self.close(true),
            "UNSELECT" => self.close(false),
            "LIST" => self.list(args, false),
            "LSUB" => self.list(args, true),
            "STATUS" => self.status(args),
            "CREATE" => self.create(args),
            "DELETE" => self.delete(args),
            "RENAME" => self.rename(args),
            "SUBSCRIBE" => self.subscribe(args, true),
            "UNSUBSCRIBE" => self.subscribe(args, false),
            "APPEND" => self.append(args),
            "EXPUNGE" => self.expunge(None),
            "UID EXPUNGE" => self.expunge(Some(&text(args, 0)?)),
            "FETCH" => self.fetch(args, false),
            "UID FETCH" => self.fetch(args, true),
            "STORE" => self.store(args, false),
            "UID STORE" => self.store(args, true),
            "COPY" => self.copy(args, false, false),
            "UID COPY" => self.copy(args, true, false),
            "MOVE" => self.copy(args, false, true),
            "UID MOVE" => self.copy(args, true, true),
            "SEARCH" => self.search(command, false),
            "UID SEARCH" => self.search(command, true),
            _ => Err("BAD unknown command".into()),
        }
    }

    fn say_line(&mut self, text: &str) -> Answer {
        line(&mut self.out, text);
        Ok("done".into())
    }

    pub(super) fn signed_in(&self) -> Result<std::sync::Arc<Account>, String> {
        self.account.clone().ok_or_else(|| "BAD log in first".into())
    }

    /// Writes if the platform may write now.
    pub(super) fn write<T>(
        shared: &Shared,
        account: &Account,
        write: impl FnOnce(&mut Edit<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let posture = shared.posture();
        if posture.writes() { write(&mut account.edit()) } else { Err(UNAVAILABLE.into()) }
    }

    fn enable(&mut self, args: &[Arg]) -> Answer {
        self.signed_in()?;
        let offered = |name: &String| self.options.capabilities.iter().any(|c| c.eq_ignore_ascii_case(name));
        let names: Vec<String> = args.iter().map(Arg::text).filter(offered).collect();
        self.say_line(format!("* ENABLED {}", names.join(" ")).trim_end())
    }

    fn select(&mut self, args: &[Arg], examine: bool) -> Answer {
        self.view = None;
        let account = self.signed_in()?;
        let name = mailbox_name(args, 0)?;
        let examine = examine || self.options.read_only.contains(&name);
        let edit = account.edit();
        let mailbox = edit.mailbox(&name).ok_or(MISSING)?;
        let view = View::new(&name, mailbox, examine);
        describe(mailbox, &view, &mut self.out);
        let first = mailbox.next;
        let claims = !examine && mailbox.first_recent != first;
        drop(edit);
        self.view = Some(view);
        if claims {
            // `\Recent` is claimed by a write: behind a fence it stays for the next session.
            let _ = Self::write(&self.shared, &account, |edit| {
                edit.commit(Op::Recent { mailbox: name, first });
                Ok(())
            });
        }
        Ok(if examine { "[READ-ONLY] examined" } else { "[READ-WRITE] selected" }.into())
    }

    fn close(&mut self, expunge: bool) -> Answer {
        let view = self.view.take().ok_or("BAD nothing is selected")?;
        let account = self.signed_in()?;
        if expunge && !view.read_only {
            // Behind a fence the messages stay, as they do on a read-only store.
            let _ = Self::write(&self.shared, &account, |edit| {
                let deleted = |b: &Mailbox| {
                    b.messages.iter().filter(|m| m.flags.contains("\\Deleted")).map(|m| m.uid).collect()
                };
                let uids: Vec<u32> = edit.mailbox(&view.name).map(deleted).unwrap_or_default();
                edit.expunge_all(&view.name, uids);
                Ok(())
            });
        }
        Ok("closed".into())
    }

    fn list(&mut self, args: &[Arg], subscribed: bool) -> Answer {
        let account = self.signed_in()?;
        let word = if subscribed { "LSUB" } else { "LIST" };
        let pattern = text(args, 0)? + &text(args, 1)?;
        if pattern.is_empty() {
            return self.say_line(&format!("* {word} (\\Noselect) \"/\" \"\""));
        }
        let edit = account.edit();
        let names = edit.names();
        for name in &names {
            if matches_pattern(name.as_bytes(), pattern.as_bytes()) && (!subscribed || edit.subscribed(name))
            {
                let parent =
                    names.iter().any(|n| n.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with('/')));
                let children = if parent { "\\HasChildren" } else { "\\HasNoChildren" };
                line(&mut self.out, &format!("* {word} ({children}) \"/\" {}", quote(name)));
            }
        }
        Ok("listed".into())
    }

    fn status(&mut self, args: &[Arg]) -> Answer {
        let account = self.signed_in()?;
        let name = mailbox_name(args, 0)?;
        let edit = account.edit();
        let mailbox = edit.mailbox(&name).ok_or(MISSING)?;
        let items = args.get(1).ok_or("BAD no items")?.items();
        let item = |arg: &Arg| {
            let item = arg.text().to_ascii_uppercase();
            let value = match item.as_str() {
                "MESSAGES" => mailbox.messages.len().to_string(),
                "RECENT" => {
                    mailbox.messages.iter().filter(|m| m.uid >= mailbox.first_recent).count().to_string()
                }
                "UIDNEXT" => mailbox.next.to_string(),
                "UIDVALIDITY" => mailbox.validity.to_string(),
                "UNSEEN" => {
                    mailbox.messages.iter().filter(|m| !m.flags.contains("\\Seen")).count().to_string()
                }
                _ => return None,
            };
            Some(format!("{item} {value}"))
        };
        let items: Option<Vec<String>> = items.iter().map(item).collect();
        let items = items.ok_or("BAD unknown item")?.join(" ");
        line(&mut self.out, &format!("* STATUS {} ({items})", quote(&name)));
        Ok("done".into())
    }

    fn create(&mut self, args: &[Arg]) -> Answer {
        let account = self.signed_in()?;
        let name = mailbox_name(args, 0)?;
        let name = name.trim_end_matches('/').to_owned();
        Self::write(&self.shared, &account, |edit| {
            if edit.mailbox(&name).is_some() {
                return Err("NO [ALREADYEXISTS] it is there".into());
            }
            let validity = edit.fresh_validity();
            edit.commit(Op::Create { mailbox: name, validity });
            Ok("created".into())
        })
    }

    fn delete(&mut self, args: &[Arg]) -> Answer {
        let account = self.signed_in()?;
        let mailbox = mailbox_name(args, 0)?;
        if mailbox == "INBOX" {
            return Err("NO [CANNOT] not INBOX".into());
        }
        Self::write(&self.shared, &account, |edit| {
            edit.mailbox(&mailbox).ok_or(MISSING)?;
            edit.commit(Op::Delete { mailbox });
            Ok("deleted".into())
        })
    }

    fn rename(&mut self, args: &[Arg]) -> Answer {
        let account = self.signed_in()?;
        let (from, to) = (mailbox_name(args, 0)?, mailbox_name(args, 1)?);
        if from == "INBOX" {
            return Err("NO [CANNOT] not INBOX".into());
        }
        Self::write(&self.shared, &account, |edit| {
            edit.mailbox(&from).ok_or(MISSING)?;
            if edit.mailbox(&to).is_some() {
                return Err("NO [ALREADYEXISTS] it is there".into());
            }
            for name in edit.names() {
                let rest = name.strip_prefix(&from).filter(|rest| rest.is_empty() || rest.starts_with('/'));
                if let Some(rest) = rest {
                    edit.commit(Op::Rename { to: format!("{to}{rest}"), from: name });
                }
            }
            Ok("renamed".into())
        })
    }

    fn subscribe(&mut self, args: &[Arg], on: bool) -> Answer {
        let account = self.signed_in()?;
        let mailbox = mailbox_name(args, 0)?;
        Self::write(&self.shared, &account, |edit| {
            edit.commit(Op::Subscribe { mailbox, on });
            Ok("done".into())
        })
    }
}

/// What SELECT tells.
fn describe(mailbox: &Mailbox, view: &View, out: &mut Vec<u8>) {
    let keywords: BTreeSet<&str> = mailbox
        .messages
        .iter()
        .flat_map(|m| m.flags.iter().map(String::as_str))
        .filter(|f| !f.starts_with('\\'))
        .collect();
    let flags = keywords.iter().fold(String::from(SYSTEM_FLAGS), |all, k| all + " " + k);
    let permanent = if view.read_only { String::new() } else { format!("{flags} \\*") };
    line(out, &format!("* FLAGS ({flags})"));
    line(out, &format!("* OK [PERMANENTFLAGS ({permanent})] flags"));
    line(out, &format!("* {} EXISTS", view.uids.len()));
    line(out, &format!("* {} RECENT", view.recent.len()));
    if let Some(slot) = mailbox.messages.iter().position(|m| !m.flags.contains("\\Seen")) {
        line(out, &format!("* OK [UNSEEN {}] first", slot + 1));
    }
    line(out, &format!("* OK [UIDVALIDITY {}] valid", mailbox.validity));
    line(out, &format!("* OK [UIDNEXT {}] next", mailbox.next));
}

/// An argument as text.
pub(super) fn text(args: &[Arg], at: usize) -> Result<String, String> {
    args.get(at).map(Arg::text).ok_or_else(|| "BAD an argument is missing".into())
}

/// An argument as the name of a mailbox.
pub(super) fn mailbox_name(args: &[Arg], at: usize) -> Result<String, String> {
    let name = text(args, at)?;
    Ok(if name.eq_ignore_ascii_case("INBOX") { "INBOX".into() } else { name })
}

fn matches_pattern(name: &[u8], pattern: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            matches_pattern(name, &pattern[1..]) || (!name.is_empty() && matches_pattern(&name[1..], pattern))
        }
        (Some(b'%'), _) => {
            let goes_on = name.first().is_some_and(|b| *b != b'/');
            matches_pattern(name, &pattern[1..]) || (goes_on && matches_pattern(&name[1..], pattern))
        }
        (Some(p), Some(n)) if p == n => matches_pattern(&name[1..], &pattern[1..]),
        (Some(_), _) | (None, Some(_)) => false,
    }
}
