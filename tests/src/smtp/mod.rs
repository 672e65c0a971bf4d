//! SMTP, submission and LMTP as a client sees them: one that believes nothing, and what it may believe.
//!
//! Rule: as strict as RFC 5321 and 2033 allow; whatever the model cannot explain ends the call with an error.

mod client;
mod oracle;
mod reply;

pub(crate) use self::reply::enhanced;
pub use self::{
    client::{Client, Sent},
    oracle::{Oracle, Stage},
    reply::Reply,
};

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SMTP and submission: EHLO, and one reply to a message.
    Smtp,
    /// LHLO, and one reply to a message for each recipient that was accepted (RFC 2033).
    Lmtp,
}

impl Dialect {
    /// The verb that opens a session.
    pub fn hello(self) -> &'static str {
        match self {
            Self::Smtp => "EHLO",
            Self::Lmtp => "LHLO",
        }
    }
}

/// A message as DATA carries it: dots doubled at line starts, a line end at its end; without the final dot.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 2);
    let mut start = true;
    for byte in message {
        if start && *byte == b'.' {
            wire.push(b'.');
        }
        wire.push(*byte);
        start = *byte == b'\n';
    }
    if !start {
        wire.extend_from_slice(b"\r\n");
    }
    wire
}
