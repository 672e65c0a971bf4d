//! What a session that cannot be kept honestly is told (semantics §1.g).
//!
//! Rule: never `[ALERT]`, never an authentication failure, never a close in which a client would run a write
//! again that may have been executed.

use super::tag::Tag;

/// Where the client stands when it has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No command unanswered, or in IDLE.
    Quiet,
    /// A response was cut in the middle: nothing but its rest could follow.
    Cut,
    /// Reads unanswered, or commands that were never sent.
    Reading,
}

/// How the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// These bytes, then the end.
    Say(Vec<u8>),
    /// The end without a byte: clients retry silently where a BYE would drop the operation.
    Close,
}

/// Chooses the way out. `ambiguous` are the tags of writes that may have been executed: they are answered
/// whatever else is unanswered, or a client that finds the connection gone would run them again.
pub fn farewell(standing: Standing, ambiguous: &[&Tag]) -> Farewell {
    let mut out: Vec<u8> = ambiguous.iter().flat_map(|tag| unknown_result(tag)).collect();
    match standing {
        Standing::Cut => return Farewell::Close,
        // No BYE: a client drops what it was told BYE to, and asks again after a plain end.
        Standing::Reading => {}
        Standing::Quiet => out.extend_from_slice(BYE),
    }
    if out.is_empty() { Farewell::Close } else { Farewell::Say(out) }
}

/// Leads a client to reconnect without a word to its user.
pub const BYE: &[u8] = b"* BYE Server maintenance, please reconnect\r\n";

/// A write was sent and its backend was lost: the client must look before it tries again.
pub fn unknown_result(tag: &Tag) -> Vec<u8> {
    answer(tag, "NO [UNAVAILABLE] Result unknown, please verify")
}

/// Nothing was done; the same command may succeed later.
pub fn unavailable(tag: &Tag) -> Vec<u8> {
    answer(tag, "NO [UNAVAILABLE] Temporary failure, try again later")
}

/// `tag text CRLF`
pub fn answer(tag: &Tag, text: &str) -> Vec<u8> {
    [tag.as_bytes(), b" ", text.as_bytes(), b"\r\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_may_have_been_executed_is_answered_beside_reads_too() {
        let tag = Tag::new(b"w1");
        let answered = unknown_result(&tag);
        assert_eq!(farewell(Standing::Reading, &[&tag]), Farewell::Say(answered.clone()));
        assert_eq!(farewell(Standing::Quiet, &[&tag]), Farewell::Say([&answered[..], BYE].concat()));
        assert_eq!(farewell(Standing::Cut, &[&tag]), Farewell::Close);
        assert_eq!(farewell(Standing::Reading, &[]), Farewell::Close);
        assert_eq!(farewell(Standing::Quiet, &[]), Farewell::Say(BYE.to_vec()));
    }
}
