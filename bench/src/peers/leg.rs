//! What stands before and behind a proxy: TLS or clear text.
//!
//! Rule: the same words in the options, the table and the JSON.

use clap::ValueEnum;

/// Client side and backend side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Leg {
    TlsPlain,
    TlsTls,
    PlainPlain,
}

impl Leg {
    pub(crate) const ALL: [Self; 3] = [Self::TlsPlain, Self::TlsTls, Self::PlainPlain];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TlsPlain => "tls-plain",
            Self::TlsTls => "tls-tls",
            Self::PlainPlain => "plain-plain",
        }
    }

    /// Whether clients speak TLS.
    pub(crate) fn secure(self) -> bool {
        self != Self::PlainPlain
    }
}

/// What is spoken through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    Imap,
    Smtp,
    Http,
}
