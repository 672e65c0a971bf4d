//! FETCH.
//!
//! Rule: an item that is not understood refuses the whole command; nothing is made up.

use std::io::Write;

use super::{
    commands::text,
    connection::{Answer, Connection},
    date,
    mail::{BAD_SET, GONE, tell_flags},
    store::{Message, Op},
    view::View,
    wire::{Arg, quote},
};

/// One thing that is asked for.
#[derive(Debug, Clone)]
enum Item {
    Flags,
    Uid,
    Size,
    Date,
    Envelope,
    Structure(&'static str),
    Body { label: String, section: Section, partial: Option<(usize, usize)>, marks: bool },
}

/// Which part of a message.
#[derive(Debug, Clone)]
enum Section {
    All,
    Header,
    Text,
    Fields { names: Vec<String>, without: bool },
}

impl Connection {
    pub(super) fn fetch(&mut self, args: &[Arg], by_uid: bool) -> Answer {
        let account = self.signed_in()?;
        let view = self.view.as_mut().ok_or("BAD nothing is selected")?;
        let mut items = items(args.get(1).ok_or("BAD no items")?)?;
        if by_uid && !items.iter().any(|i| matches!(i, Item::Uid)) {
            items.insert(0, Item::Uid);
        }
        let marks = !view.read_only && items.iter().any(|i| matches!(i, Item::Body { marks: true, .. }));
        let slots = view.resolve(&text(args, 0)?, by_uid).ok_or(BAD_SET)?;
        let mut missing = false;
        // The posture is held while \Seen is set, as by every write.
        let posture = self.shared.posture();
        let mut edit = account.edit();
        if let Some(mailbox) = edit.mailbox(&view.name) {
            view.sync(mailbox, false, &mut self.out);
        }
        for slot in slots {
            let Some(message) = edit.mailbox(&view.name).and_then(|b| b.message(view.uids[slot])).cloned()
            else {
                missing = true;
                continue;
            };
            answer(view, slot, &message, &items, &mut self.out);
            if marks && posture.writes() && !message.flags.contains("\\Seen") {
                let mut flags = message.flags;
                flags.insert("\\Seen".into());
                edit.commit(Op::Flags { mailbox: view.name.clone(), uid: message.uid, flags });
                tell_flags(&edit, view, slot, by_uid, true, &mut self.out);
            }
        }
        if missing && !by_uid { Err(GONE.into()) } else { Ok("fetched".into()) }
    }
}

fn answer(view: &View, slot: usize, message: &Message, items: &[Item], out: &mut Vec<u8>) {
    // Writing into memory cannot fail.
    let _ = write!(out, "* {} FETCH (", slot + 1);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        match item {
            Item::Flags => {
                let _ = write!(out, "FLAGS ({})", view.flags(message));
            }
            Item::Uid => {
                let _ = write!(out, "UID {}", message.uid);
            }
            Item::Size => {
                let _ = write!(out, "RFC822.SIZE {}", message.body.len());
            }
            Item::Date => {
                let _ = write!(out, "INTERNALDATE \"{}\"", date::format(message.date));
            }
            Item::Envelope => {
                let _ = write!(out, "ENVELOPE {}", envelope(&message.body));
            }
            Item::Structure(label) => {
                let _ = write!(out, "{label} {}", structure(&message.body));
            }
            Item::Body { label, section, partial, .. } => {
                let part = part(&message.body, section);
                let from = partial.map_or(0, |(from, _)| from.min(part.len()));
                let to = partial.map_or(part.len(), |(_, len)| from.saturating_add(len).min(part.len()));
                let _ = write!(out, "{label} {{{}}}\r\n", to - from);
                out.extend_from_slice(&part[from..to]);
            }
        }
    }
    out.extend_from_slice(b")\r\n");
}

fn items(arg: &Arg) -> Result<Vec<Item>, String> {
    let mut all = Vec::new();
    for item in arg.items() {
        let name = item.text();
        match name.to_ascii_uppercase().as_str() {
            "ALL" => all.extend([Item::Flags, Item::Date, Item::Size, Item::Envelope]),
            "FAST" => all.extend([Item::Flags, Item::Date, Item::Size]),
            "FULL" => {
                all.extend([Item::Flags, Item::Date, Item::Size, Item::Envelope, Item::Structure("BODY")])
            }
            "FLAGS" => all.push(Item::Flags),
            "UID" => all.push(Item::Uid),
            "RFC822.SIZE" => all.push(Item::Size),
            "INTERNALDATE" => all.push(Item::Date),
            "ENVELOPE" => all.push(Item::Envelope),
            "BODYSTRUCTURE" => all.push(Item::Structure("BODYSTRUCTURE")),
            "BODY" => all.push(Item::Structure("BODY")),
            "RFC822" => all.push(whole("RFC822", Section::All, true)),
            "RFC822.HEADER" => all.push(whole("RFC822.HEADER", Section::Header, false)),
            "RFC822.TEXT" => all.push(whole("RFC822.TEXT", Section::Text, true)),
            _ => all.push(body(&name).ok_or_else(|| format!("BAD unknown item {name}"))?),
        }
    }
    Ok(all)
}

fn whole(label: &str, section: Section, marks: bool) -> Item {
    Item::Body { label: label.into(), section, partial: None, marks }
}

/// `BODY.PEEK[section]<from.length>`
fn body(item: &str) -> Option<Item> {
    let (name, rest) = item.split_once('[')?;
    let (inside, after) = rest.rsplit_once(']')?;
    let marks = match name.to_ascii_uppercase().as_str() {
        "BODY" => true,
        "BODY.PEEK" => false,
        _ => return None,
    };
    let section = section(inside)?;
    let partial = match after {
        "" => None,
        _ => {
            let (from, length) = after.strip_prefix('<')?.strip_suffix('>')?.split_once('.')?;
            Some((from.parse().ok()?, length.parse().ok()?))
        }
    };
    let origin = partial.map(|(from, _): (usize, usize)| format!("<{from}>")).unwrap_or_default();
    Some(Item::Body { label: format!("BODY[{inside}]{origin}"), section, partial, marks })
}

fn section(inside: &str) -> Option<Section> {
    let (word, rest) = inside.split_once(' ').unwrap_or((inside, ""));
    let fields = |without| {
        let names = rest.strip_prefix('(')?.strip_suffix(')')?;
        let names = names.split_whitespace().map(|n| n.trim_matches('"').to_ascii_lowercase()).collect();
        Some(Section::Fields { names, without })
    };
    match word.to_ascii_uppercase().as_str() {
        "" => Some(Section::All),
        "HEADER" | "1.MIME" => Some(Section::Header),
        // Every message of a fake has one part.
        "TEXT" | "1" => Some(Section::Text),
        "HEADER.FIELDS" => fields(false),
        "HEADER.FIELDS.NOT" => fields(true),
        _ => None,
    }
}

/// Where the text begins: behind the empty line.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = message.windows(4).position(|w| w == b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    message.split_at(end)
}

fn part(message: &[u8], section: &Section) -> Vec<u8> {
    let (header, text) = split(message);
    match section {
        Section::All => message.to_vec(),
        Section::Header => header.to_vec(),
        Section::Text => text.to_vec(),
        Section::Fields { names, without } => {
            let mut chosen = Vec::new();
            for (name, field) in fields(header) {
                if names.contains(&name) != *without {
                    chosen.extend_from_slice(field);
                }
            }
            chosen.extend_from_slice(b"\r\n");
            chosen
        }
    }
}

/// Header fields with their folded lines, by lower-case name.
fn fields(header: &[u8]) -> Vec<(String, &[u8])> {
    let mut found: Vec<(String, usize, usize)> = Vec::new();
    let mut at = 0;
    for line in header.split_inclusive(|b| *b == b'\n') {
        let end = at + line.len();
        let folded = line.first().is_some_and(|b| matches!(b, b' ' | b'\t'));
        if let (true, Some(last)) = (folded, found.last_mut()) {
            last.2 = end;
        } else if let Some(colon) = line.iter().position(|b| *b == b':') {
            found.push((String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), at, end));
        }
        at = end;
    }
    found.into_iter().map(|(name, from, to)| (name, &header[from..to])).collect()
}

/// The value of a header field.
pub(super) fn header(message: &[u8], name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let field = fields(split(message).0).into_iter().find(|(n, _)| *n == name)?.1;
    Some(String::from_utf8_lossy(&field[name.len() + 1..]).trim().to_owned())
}

/// The text of a message.
pub(super) fn content(message: &[u8]) -> &[u8] {
    split(message).1
}

fn envelope(message: &[u8]) -> String {
    let value = |name| header(message, name).map_or_else(|| "NIL".into(), |v| quote(&v));
    let address = |name| {
        let Some(value) = header(message, name) else { return String::from("NIL") };
        let (user, host) = value.trim_matches(['<', '>']).split_once('@').unwrap_or((&value, ""));
        format!("((NIL NIL {} {}))", quote(user), quote(host))
    };
    let from = address("from");
    format!(
        "({} {} {from} {from} {from} {} NIL NIL {} {})",
        value("date"),
        value("subject"),
        address("to"),
        value("in-reply-to"),
        value("message-id")
    )
}

fn structure(message: &[u8]) -> String {
    let text = content(message);
    let lines = text.iter().filter(|b| **b == b'\n').count();
    format!("(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"UTF-8\") NIL NIL \"8BIT\" {} {lines})", text.len())
}
