//! SEARCH, with and without RETURN.
//!
//! Rule: it sees the session's view: a message that is gone and not yet told still counts for numbers, UIDs
//! and ALL (which is what makes `1:*` show the view), and for nothing that would need its content.

use super::{
    connection::{Answer, Connection},
    date,
    fetch::{content, header},
    store::Message,
    view::{View, line},
    wire::{Arg, Command, Set, format_set},
};

/// One search key.
#[derive(Debug)]
enum Key {
    All,
    Number(Set),
    Uid(Set),
    Flag(String, bool),
    Recent(bool),
    New,
    Header(String, String),
    Body(String),
    Anywhere(String),
    Larger(usize),
    Smaller(usize),
    Day(std::cmp::Ordering, i64),
    Not(Box<Self>),
    Or(Box<Self>, Box<Self>),
    And(Vec<Self>),
}

impl Connection {
    pub(super) fn search(&mut self, command: &Command, by_uid: bool) -> Answer {
        let account = self.signed_in()?;
        let view = self.view.as_ref().ok_or("BAD nothing is selected")?;
        let mut args = command.args.iter();
        let mut returns = None;
        if let [Arg::Atom(word), Arg::List(options), ..] = command.args.as_slice()
            && word.eq_ignore_ascii_case("RETURN")
        {
            returns = Some(options.iter().map(|o| o.text().to_ascii_uppercase()).collect::<Vec<_>>());
            args = command.args[2..].iter();
        }
        let keys = all_keys(&mut args, view)?;
        let edit = account.edit();
        let mailbox = edit.mailbox(&view.name);
        let hit = |slot: &usize| {
            let message = mailbox.and_then(|b| b.message(view.uids[*slot]));
            keys.iter().all(|key| key.matches(*slot, view, message))
        };
        let number =
            |slot: usize| if by_uid { view.uids[slot] } else { u32::try_from(slot + 1).unwrap_or(u32::MAX) };
        let found: Vec<u32> = (0..view.uids.len()).filter(hit).map(number).collect();
        let answer = match returns {
            None => found.iter().fold(String::from("* SEARCH"), |all, n| format!("{all} {n}")),
            Some(options) => extended(&command.tag, by_uid, &options, &found),
        };
        line(&mut self.out, &answer);
        Ok("searched".into())
    }
}

/// RFC 4731
fn extended(tag: &str, by_uid: bool, options: &[String], found: &[u32]) -> String {
    let mut answer = format!("* ESEARCH (TAG \"{tag}\"){}", if by_uid { " UID" } else { "" });
    let all = ["ALL".to_owned()];
    for option in if options.is_empty() { &all[..] } else { options } {
        match (option.as_str(), found.first(), found.last()) {
            ("MIN", Some(first), _) => answer += &format!(" MIN {first}"),
            ("MAX", _, Some(last)) => answer += &format!(" MAX {last}"),
            ("ALL", Some(_), _) => answer += &format!(" ALL {}", format_set(found)),
            ("COUNT", _, _) => answer += &format!(" COUNT {}", found.len()),
            _ => {}
        }
    }
    answer
}

type Args<'a> = std::slice::Iter<'a, Arg>;

fn all_keys(args: &mut Args<'_>, view: &View) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    while let Some(arg) = args.next() {
        keys.push(key(arg, args, view)?);
    }
    if keys.is_empty() { Err("BAD no search key".into()) } else { Ok(keys) }
}

fn next_text(args: &mut Args<'_>) -> Result<String, String> {
    args.next().map(Arg::text).ok_or_else(|| "BAD a search key lacks its argument".into())
}

fn next_key(args: &mut Args<'_>, view: &View) -> Result<Box<Key>, String> {
    let arg = args.next().ok_or("BAD a search key is missing")?;
    key(arg, args, view).map(Box::new)
}

fn key(arg: &Arg, args: &mut Args<'_>, view: &View) -> Result<Key, String> {
    if let Arg::List(items) = arg {
        return all_keys(&mut items.iter(), view).map(Key::And);
    }
    let word = arg.text().to_ascii_uppercase();
    let number = |text: String| text.parse().map_err(|_| String::from("BAD not a number"));
    let day = |text: String| date::day(&text).ok_or_else(|| String::from("BAD not a date"));
    Ok(match word.as_str() {
        "ALL" => Key::All,
        "CHARSET" => {
            next_text(args)?;
            Key::All
        }
        "UID" => {
            let last = view.uids.last().copied().unwrap_or(1);
            Key::Uid(Set::parse(&next_text(args)?, last).ok_or("BAD not a set")?)
        }
        "RECENT" => Key::Recent(true),
        "OLD" => Key::Recent(false),
        "NEW" => Key::New,
        "KEYWORD" => Key::Flag(next_text(args)?, true),
        "UNKEYWORD" => Key::Flag(next_text(args)?, false),
        "HEADER" => Key::Header(next_text(args)?, next_text(args)?.to_lowercase()),
        "FROM" | "TO" | "CC" | "BCC" | "SUBJECT" => Key::Header(word, next_text(args)?.to_lowercase()),
        "BODY" => Key::Body(next_text(args)?.to_lowercase()),
        "TEXT" => Key::Anywhere(next_text(args)?.to_lowercase()),
        "LARGER" => Key::Larger(number(next_text(args)?)?),
        "SMALLER" => Key::Smaller(number(next_text(args)?)?),
        "SINCE" | "SENTSINCE" => {
            // On or after: later than the day before.
            Key::Day(std::cmp::Ordering::Greater, day(next_text(args)?)? - 1)
        }
        "BEFORE" | "SENTBEFORE" => Key::Day(std::cmp::Ordering::Less, day(next_text(args)?)?),
        "ON" | "SENTON" => Key::Day(std::cmp::Ordering::Equal, day(next_text(args)?)?),
        "NOT" => Key::Not(next_key(args, view)?),
        "OR" => Key::Or(next_key(args, view)?, next_key(args, view)?),
        _ => return system_flag(&word).map_or_else(|| numbers(&word, view), Ok),
    })
}

fn numbers(word: &str, view: &View) -> Result<Key, String> {
    let last = u32::try_from(view.uids.len()).unwrap_or(u32::MAX);
    Set::parse(word, last).map(Key::Number).ok_or_else(|| format!("BAD unknown search key {word}"))
}

fn system_flag(word: &str) -> Option<Key> {
    let (name, wanted) = word.strip_prefix("UN").map_or((word, true), |rest| (rest, false));
    let flag = match name {
        "ANSWERED" => "\\Answered",
        "FLAGGED" => "\\Flagged",
        "DELETED" => "\\Deleted",
        "SEEN" => "\\Seen",
        "DRAFT" => "\\Draft",
        _ => return None,
    };
    Some(Key::Flag(flag.into(), wanted))
}

impl Key {
    fn matches(&self, slot: usize, view: &View, message: Option<&Message>) -> bool {
        let has = |test: &dyn Fn(&Message) -> bool| message.is_some_and(test);
        let lower = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_lowercase();
        let recent = || view.recent.contains(&view.uids[slot]);
        match self {
            Self::All => true,
            Self::Number(set) => set.contains(u32::try_from(slot + 1).unwrap_or(u32::MAX)),
            Self::Uid(set) => set.contains(view.uids[slot]),
            Self::Flag(flag, wanted) => has(&|m| m.flags.contains(flag) == *wanted),
            Self::Recent(wanted) => recent() == *wanted,
            Self::New => recent() && has(&|m| !m.flags.contains("\\Seen")),
            Self::Header(name, value) => {
                has(&|m| header(&m.body, name).is_some_and(|v| v.to_lowercase().contains(value)))
            }
            Self::Body(text) => has(&|m| lower(content(&m.body)).contains(text)),
            Self::Anywhere(text) => has(&|m| lower(&m.body).contains(text)),
            Self::Larger(size) => has(&|m| m.body.len() > *size),
            Self::Smaller(size) => has(&|m| m.body.len() < *size),
            Self::Day(order, day) => has(&|m| m.date.div_euclid(86_400).cmp(day) == *order),
            Self::Not(key) => !key.matches(slot, view, message),
            Self::Or(a, b) => a.matches(slot, view, message) || b.matches(slot, view, message),
            Self::And(keys) => keys.iter().all(|k| k.matches(slot, view, message)),
        }
    }
}
