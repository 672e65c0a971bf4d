//! A server's response lines: what they are, and the few that the proxy must understand.
//!
//! Rule: `{n}` at the end of a line is a literal only in data responses, never in status texts (`OK`, `NO`,
//! `BAD`, `BYE`, `PREAUTH`, `+`, tagged), where it is what somebody wrote for people (semantics §1.0).

use super::{command::word, fragment, view::UidSet};

/// One response line, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// `+ …`
    Continue,
    /// `tag OK|NO|BAD …`
    Tagged {
        /// Whose command ended.
        tag: &'a [u8],
        /// How.
        status: Status,
        /// Code and text.
        text: &'a [u8],
    },
    /// `* OK|NO|BAD|BYE|PREAUTH …`
    Untagged {
        /// Which.
        status: Status,
        /// Code and text.
        text: &'a [u8],
    },
    /// `* n EXISTS`
    Exists(u32),
    /// `* n RECENT`
    Recent(u32),
    /// `* n EXPUNGE`
    Expunge(u32),
    /// `* n FETCH …`
    Fetch(u32, &'a [u8]),
    /// `* VANISHED [(EARLIER)] set`
    Vanished {
        /// It reports the past and leaves the count alone (RFC 7162 §3.2.10.1).
        earlier: bool,
        /// The UIDs.
        set: &'a [u8],
    },
    /// `* ESEARCH (TAG "…") …`
    Esearch(&'a [u8]),
    /// `* CAPABILITY …`
    Capability(&'a [u8]),
    /// `* ENABLED …`
    Enabled(&'a [u8]),
    /// Any other data.
    Data,
}

/// The status words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `OK`
    Ok,
    /// `NO`
    No,
    /// `BAD`
    Bad,
    /// `BYE`
    Bye,
    /// `PREAUTH`
    Preauth,
}

/// The line is no response at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IMAP response")]
pub struct NoResponse;

impl Status {
    fn from_word(word: &[u8]) -> Option<Self> {
        // Nothing may follow it but the line's end, which some servers write as CR CR LF.
        let word = word.trim_ascii_end();
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        Some(match word.len() {
            2 if is(b"OK") => Self::Ok,
            2 if is(b"NO") => Self::No,
            3 if is(b"BAD") => Self::Bad,
            3 if is(b"BYE") => Self::Bye,
            7 if is(b"PREAUTH") => Self::Preauth,
            _ => return None,
        })
    }
}

impl<'a> Response<'a> {
    /// Reads one line without its line end. `text` is the first line of a response: up to its first literal.
    pub fn parse(text: &'a [u8]) -> Result<Self, NoResponse> {
        match text {
            [b'*', b' ', rest @ ..] => Self::untagged(rest),
            [b'+', ..] => Ok(Self::Continue),
            _ => {
                let (tag, rest) = word(text);
                let (status, text) = word(rest);
                let status = Status::from_word(status).ok_or(NoResponse)?;
                if tag.is_empty() || !matches!(status, Status::Ok | Status::No | Status::Bad) {
                    return Err(NoResponse);
                }
                Ok(Self::Tagged { tag, status, text })
            }
        }
    }

    fn untagged(rest: &'a [u8]) -> Result<Self, NoResponse> {
        let (first, more) = word(rest);
        if first.first().is_some_and(u8::is_ascii_digit) {
            return Ok(Self::numbered(number(first).ok_or(NoResponse)?, more));
        }
        if let Some(status) = Status::from_word(first) {
            return Ok(Self::Untagged { status, text: more });
        }
        Ok(match () {
            () if first.eq_ignore_ascii_case(b"VANISHED") => match word(more) {
                (e, set) if e.eq_ignore_ascii_case(b"(EARLIER)") => Self::Vanished { earlier: true, set },
                _ => Self::Vanished { earlier: false, set: more },
            },
            () if first.eq_ignore_ascii_case(b"ESEARCH") => Self::Esearch(more),
            () if first.eq_ignore_ascii_case(b"CAPABILITY") => Self::Capability(more),
            () if first.eq_ignore_ascii_case(b"ENABLED") => Self::Enabled(more),
            () => Self::Data,
        })
    }

    fn numbered(n: u32, more: &'a [u8]) -> Self {
        let (what, rest) = word(more);
        match () {
            () if what.eq_ignore_ascii_case(b"FETCH") => Self::Fetch(n, rest),
            () if what.eq_ignore_ascii_case(b"EXISTS") => Self::Exists(n),
            () if what.eq_ignore_ascii_case(b"EXPUNGE") => Self::Expunge(n),
            () if what.eq_ignore_ascii_case(b"RECENT") => Self::Recent(n),
            () => Self::Data,
        }
    }

    /// Whether a `{n}` at the end of this line is a literal.
    pub fn is_data(&self) -> bool {
        !matches!(self, Self::Continue | Self::Tagged { .. } | Self::Untagged { .. })
    }
}

/// The literal that follows the first line (without its end) of `response`.
pub fn literal_after(response: &Response<'_>, text: &[u8]) -> u64 {
    if response.is_data() { fragment::literal(text).map_or(0, |l| l.size) } else { 0 }
}

/// A decimal number.
pub fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    let n = digits.iter().try_fold(0u64, |n, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')))?;
    u32::try_from(n).ok()
}

/// Whether the code of a status response is this word.
pub fn says(text: &[u8], word: &[u8]) -> bool {
    code(text).is_some_and(|(name, _)| name.eq_ignore_ascii_case(word))
}

/// The response code at the beginning of a status text: its name and its arguments.
pub fn code(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', inner)?;
    Some(word(&inner[..end]))
}

/// The UID item of a FETCH response, where it stands before any nested list, string or literal.
pub fn fetch_uid(items: &[u8]) -> Option<u32> {
    let inner = items.strip_prefix(b"(")?;
    let (mut depth, mut at) = (0usize, 0);
    while let Some(&b) = inner.get(at) {
        match b {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.checked_sub(1)?,
            b'"' | b'{' => return None,
            b'U' | b'u' if depth == 0 && (at == 0 || inner[at - 1] == b' ') && is_uid(&inner[at..]) => {
                let digits = &inner[at + 4..];
                let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
                return number(&digits[..end]);
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn is_uid(item: &[u8]) -> bool {
    item.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"UID "))
}

/// `(TAG "x") UID COUNT n ALL set` of an ESEARCH response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Esearch<'a> {
    /// Whose search it answers.
    pub tag: Option<&'a [u8]>,
    /// `COUNT`
    pub count: Option<u32>,
    /// `ALL`
    pub all: Option<UidSet>,
}

/// Reads what follows `* ESEARCH `.
pub fn esearch(data: &[u8]) -> Esearch<'_> {
    let (mut out, mut rest) = (Esearch::default(), data);
    if let Some(inner) = data.strip_prefix(b"(")
        && let Some(end) = memchr::memchr(b')', inner)
    {
        let (name, value) = word(&inner[..end]);
        if name.eq_ignore_ascii_case(b"TAG") {
            out.tag = Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value));
        }
        let after = &inner[end + 1..];
        rest = after.strip_prefix(b" ").unwrap_or(after);
    }
    while !rest.is_empty() {
        let (name, more) = word(rest);
        if name.eq_ignore_ascii_case(b"UID") {
            rest = more;
            continue;
        }
        let (value, more) = word(more);
        match () {
            () if name.eq_ignore_ascii_case(b"COUNT") => out.count = number(value),
            () if name.eq_ignore_ascii_case(b"ALL") => out.all = UidSet::parse(value),
            () => {}
        }
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        use Response as R;
        let text = &b"[UIDVALIDITY 3] fine"[..];
        for (line, want) in [
            (&b"* 12 EXISTS"[..], R::Exists(12)),
            (b"* 3 FETCH (UID 4)", R::Fetch(3, b"(UID 4)")),
            (b"* OK [UIDVALIDITY 3] fine", R::Untagged { status: Status::Ok, text }),
            (b"a1 no [UIDVALIDITY 3] fine", R::Tagged { tag: b"a1", status: Status::No, text }),
            (b"+ go", R::Continue),
            (b"+", R::Continue),
            (b"* VANISHED (EARLIER) 1:3", R::Vanished { earlier: true, set: b"1:3" }),
            (b"* VANISHED 7", R::Vanished { earlier: false, set: b"7" }),
            (b"* LIST () \"/\" x", R::Data),
        ] {
            assert_eq!(R::parse(line), Ok(want), "{}", String::from_utf8_lossy(line));
        }
        for bad in [&b""[..], b"a1", b"a1 BYE x", b"a1 WHAT", b"a1 OK\0 x", b"* 99999999999 EXISTS"] {
            assert_eq!(R::parse(bad), Err(NoResponse), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn scenario_85_text_is_no_literal() {
        for line in [&b"* OK see {25}"[..], b"a NO {25}", b"+ {25}", b"* BYE {25}"] {
            assert_eq!(literal_after(&Response::parse(line).unwrap(), line), 0);
        }
        let line = b"* 1 FETCH (BODY[] {25}";
        assert_eq!(literal_after(&Response::parse(line).unwrap(), line), 25);
    }

    #[test]
    fn uids_of_fetches() {
        assert_eq!(fetch_uid(b"(FLAGS (\\Seen UIDX) UID 42 RFC822.SIZE 1)"), Some(42));
        assert_eq!(fetch_uid(b"(UID 42)"), Some(42));
        assert_eq!(fetch_uid(b"(ENVELOPE (\"UID 1\") UID 42)"), None);
        assert_eq!(fetch_uid(b"(FLAGS ())"), None);
    }

    #[test]
    fn esearches() {
        let e = esearch(b"(TAG \"A1\") UID COUNT 3 ALL 1:2,9");
        assert_eq!((e.tag, e.count), (Some(&b"A1"[..]), Some(3)));
        assert_eq!(e.all.unwrap().to_string(), "1:2,9");
        assert_eq!(esearch(b"(TAG \"A1\") UID COUNT 0").count, Some(0));
    }
}
