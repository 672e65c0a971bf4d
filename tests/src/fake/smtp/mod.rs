//! The doors through which mail comes in: a relay, submission and LMTP, on the store that IMAP serves.
//!
//! Rule: stricter than a server in the field. What a good client never does is answered as RFC 5321 says and is
//! counted as a violation besides; what was accepted is in the mailbox, or in the queue, as it arrived.
//!
//! ```text
//!  relay ──────┐                            XCLIENT, XFORWARD, PROXY v2: who the client really is
//!  submission ─┼─ accepted ── queue ── mailboxes of local recipients
//!  lmtp ───────┴───────────────────────▶ mailboxes, one reply per recipient
//! ```

mod auth;
mod commands;
mod content;
mod peer;
mod post;
mod session;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use self::{
    peer::Peer,
    post::{Accepted, Queue},
};
pub(super) use self::{post::Post, session::Session};

/// What a listener of a platform speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// IMAP.
    Imap,
    /// Mail from other servers, port 25.
    Relay,
    /// Mail from users who log in.
    Submission,
    /// Deliveries.
    Lmtp,
}

impl Door {
    /// The doors for mail.
    pub const MAIL: [Self; 3] = [Self::Relay, Self::Submission, Self::Lmtp];

    /// `imap`, `relay`, `submission`, `lmtp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Relay => "relay",
            Self::Submission => "submission",
            Self::Lmtp => "lmtp",
        }
    }
}

/// What is made of XCLIENT or XFORWARD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Not shown, not known.
    #[default]
    Off,
    /// Shown and honoured.
    Honoured,
    /// Shown, and refused when it is said.
    Refused,
}

/// How the doors for mail begin; part of the platform's options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name in the greeting and in EHLO.
    pub hostname: String,
    /// What EHLO shows; STARTTLS, AUTH, XCLIENT and XFORWARD come and go by themselves. What is not here is refused.
    pub keywords: Vec<String>,
    /// What AUTH offers in submission. A token is right if it is the store's password.
    pub mechanisms: Vec<String>,
    /// XCLIENT
    pub xclient: Trust,
    /// XFORWARD
    pub xforward: Trust,
    /// Every connection begins with a PROXY header, version 2.
    pub proxy_v2: bool,
    /// Mail to these domains is for the accounts of the store.
    pub domains: Vec<String>,
    /// Clients at these addresses may send to foreign domains without logging in.
    pub networks: Vec<IpAddr>,
    /// So may everybody.
    pub open_relay: bool,
    /// The largest message.
    pub size: usize,
    /// What comes by DATA is read and not kept: messages are empty.
    pub discards: bool,
}

impl Default for Options {
    fn default() -> Self {
        let keywords = [
            "PIPELINING",
            "SIZE 52428800",
            "8BITMIME",
            "SMTPUTF8",
            "DSN",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            "BINARYMIME",
        ];
        Self {
            hostname: "fake.bascule.test".into(),
            keywords: keywords.map(String::from).into(),
            mechanisms: ["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"].map(String::from).into(),
            xclient: Trust::Off,
            xforward: Trust::Off,
            proxy_v2: false,
            domains: vec!["example.org".into()],
            networks: Vec::new(),
            open_relay: false,
            size: 52_428_800,
            discards: false,
        }
    }
}

impl Options {
    /// Whether EHLO shows a keyword, whatever stands behind it.
    fn shows(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|k| k.split(' ').next().is_some_and(|k| k.eq_ignore_ascii_case(keyword)))
    }

    /// The local part of an address of one of the domains.
    fn local<'a>(&self, address: &'a str) -> Option<&'a str> {
        let (local, domain) = address.rsplit_once('@')?;
        self.domains.iter().any(|d| d.eq_ignore_ascii_case(domain)).then_some(local)
    }
}
