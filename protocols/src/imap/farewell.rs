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
    /// Only reads unanswered, or a response cut in the middle.
    Reading,
    /// A write unanswered that may have been executed.
    Ambiguous,
}

/// How the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// These bytes, then the end.
    Say(Vec<u8>),
    /// The end without a byte: clients retry silently where a BYE would drop the operation.
    Close,
}

/// Chooses the way out. `ambiguous` are the tags of writes whose outcome nobody knows.
pub fn farewell(standing: Standing, ambiguous: &[&Tag]) -> Farewell {
    match standing {
        Standing::Reading => Farewell::Close,
        Standing::Quiet => Farewell::Say(BYE.to_vec()),
        Standing::Ambiguous => {
            let mut out = Vec::new();
            for tag in ambiguous {
                out.extend_from_slice(&unknown_result(tag));
            }
            out.extend_from_slice(BYE);
            Farewell::Say(out)
        }
    }
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
