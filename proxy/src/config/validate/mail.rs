//! What SMTP adds to a listener.
//!
//! Rule: a key that would do nothing is refused.

use serde_spanned::Spanned;

use super::{listener::network, table::Table};
use crate::config::{Ambiguous, BareNewline, ConfigError, Protocol, Rates, SmtpListener, raw};

pub(super) fn listener(
    table: &Table<'_>,
    raw: &raw::Listener,
    protocol: Protocol,
) -> Result<SmtpListener, ConfigError> {
    let keys = [
        ("dial", raw.dial.as_ref().map(Spanned::span)),
        ("bare_newline", raw.bare_newline.as_ref().map(Spanned::span)),
        ("ambiguous", raw.ambiguous.as_ref().map(Spanned::span)),
        ("devices", raw.devices.as_ref().map(Spanned::span)),
        ("rates", raw.rates.as_ref().map(Spanned::span)),
    ];
    for (key, at) in keys {
        let other = match protocol {
            Protocol::Imap => "IMAP",
            // Its own rates are read with it.
            Protocol::Http if key == "rates" => continue,
            Protocol::Http => "HTTP",
            Protocol::Smtp | Protocol::Submission | Protocol::Lmtp => continue,
        };
        if let Some(at) = at {
            let what = format!("it says nothing to an {other} listener");
            return Err(table.refuse(key, at, what, "leave it out"));
        }
    }
    let dials = [("when-needed", false), ("before-greeting", true)];
    let bares = [("normalize", BareNewline::Normalize), ("reject", BareNewline::Reject)];
    let ambiguous = [("tempfail", Ambiguous::Tempfail), ("replay", Ambiguous::Replay)];
    let devices = raw.devices.iter().flat_map(|list| list.get_ref());
    let bare = &raw.bare_newline;
    Ok(SmtpListener {
        dial_first: table.word_or("dial", &raw.dial, false, &dials, &[])?,
        bare_newline: table.word_or("bare_newline", bare, BareNewline::Normalize, &bares, &[])?,
        ambiguous: table.word_or("ambiguous", &raw.ambiguous, Ambiguous::Tempfail, &ambiguous, &["query"])?,
        devices: devices.map(|text| network(table, "devices", text)).collect::<Result<_, _>>()?,
        rates: if protocol == Protocol::Http { Rates::default() } else { rates(table, raw, protocol)? },
    })
}

/// `[listener.NAME.rates]`
pub(super) fn rates(
    table: &Table<'_>,
    raw: &raw::Listener,
    protocol: Protocol,
) -> Result<Rates, ConfigError> {
    match &raw.rates {
        Some(raw) => rates_of(&table.table("rates", raw.span()), raw.get_ref(), protocol),
        None => Ok(Rates::default()),
    }
}

fn rates_of(table: &Table<'_>, raw: &raw::Rates, protocol: Protocol) -> Result<Rates, ConfigError> {
    let messages =
        [("address_messages", &raw.address_messages), ("identity_messages", &raw.identity_messages)];
    let requests =
        [("address_requests", &raw.address_requests), ("identity_requests", &raw.identity_requests)];
    let (foreign, whose) =
        if protocol == Protocol::Http { (messages, "of mail") } else { (requests, "of HTTP") };
    for (key, value) in foreign {
        if let Some(at) = value {
            let what = format!("it is for listeners {whose}");
            return Err(table.refuse(key, at.span(), what, "leave it out"));
        }
    }
    if let (Some(at), true) = (&raw.identity_messages, protocol != Protocol::Submission) {
        let instead = "leave it out, or write it to a listener for submission";
        return Err(table.refuse("identity_messages", at.span(), "nobody logs in here", instead));
    }
    let count = |key, value: &raw::Maybe<u32>| match value {
        None => Ok(None),
        Some(value) => match std::num::NonZeroU32::new(*value.get_ref()) {
            Some(count) => Ok(Some(count)),
            None => Err(table.refuse(key, value.span(), "zero is not allowed", "leave it out for no limit")),
        },
    };
    let exempt = raw.exempt.iter().flat_map(|list| list.get_ref());
    Ok(Rates {
        address_connections: count("address_connections", &raw.address_connections)?,
        address_messages: count("address_messages", &raw.address_messages)?,
        identity_messages: count("identity_messages", &raw.identity_messages)?,
        address_requests: count("address_requests", &raw.address_requests)?,
        identity_requests: count("identity_requests", &raw.identity_requests)?,
        exempt: exempt.map(|text| network(table, "exempt", text)).collect::<Result<_, _>>()?,
    })
}
