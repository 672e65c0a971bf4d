//! Which requests outlive a server that answers them (semantics §3.3, §3.4).
//!
//! Rule: only what changes nothing, or what its client begins anew by itself; everything else is a request like any other.

use super::{events, known, method::Kind, push, wbxml};

/// What is done when such a request's server has to be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A stream of events: it goes on from another server.
    Events,
    /// A question that waits for its answer: it is asked again.
    Poll,
    /// A WebSocket: its client is told to come back.
    Socket,
}

/// What is known from a head.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The field Accept.
    pub accept: Option<&'a str>,
    /// The field Upgrade.
    pub upgrade: Option<&'a str>,
    /// The field X-RequestType of MAPI over HTTP.
    pub request_type: Option<&'a str>,
    /// It is configured as a long poll.
    pub poll: bool,
}

impl Asked<'_> {
    /// The lane by the head alone.
    pub fn lane(&self) -> Option<Lane> {
        let reads = Kind::of(self.method) == Kind::Safe;
        let posts = self.method == "POST";
        match () {
            () if self.method == "GET" && self.upgrade.is_some_and(is_websocket) => Some(Lane::Socket),
            () if self.upgrade.is_some() => None,
            () if self.method == "GET" && self.wants_events() => Some(Lane::Events),
            () if posts && (known::is_ping(self.target) || self.waits_for_notice()) => Some(Lane::Poll),
            () if self.poll && (reads || posts) => Some(Lane::Poll),
            () => None,
        }
    }

    /// Whether it depends on the body: an ActiveSync Sync, which may only wait ([`by_body`]).
    pub fn may_wait(&self) -> bool {
        self.method == "POST" && known::is_sync_command(self.target)
    }

    /// By Accept, or by an address that has what one of JMAP's push has (RFC 8620 §2): programs of its send no Accept.
    fn wants_events(&self) -> bool {
        self.accept.is_some_and(events::asked_for) || push::is_source(self.target)
    }

    /// MS-OXCMAPIHTTP §2.2.4.4.
    fn waits_for_notice(&self) -> bool {
        self.request_type.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("NotificationWait"))
    }
}

/// The lane of a Sync with this body.
pub fn by_body(body: &[u8]) -> Option<Lane> {
    wbxml::only_waits(body).then_some(Lane::Poll)
}

fn is_websocket(upgrade: &str) -> bool {
    upgrade.trim().eq_ignore_ascii_case("websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked<'_> =
        Asked { method: "GET", target: "/", accept: None, upgrade: None, request_type: None, poll: false };
    const POST: Asked<'_> = Asked { method: "POST", ..GET };

    #[test]
    fn streams_polls_and_sockets_have_lanes_and_everything_else_has_none() {
        let accept = Some("text/event-stream");
        let upgrade = Some("WebSocket");
        let ping = "/Microsoft-Server-ActiveSync?Cmd=Ping";
        let notice = Some("NotificationWait");
        for (asked, lane) in [
            (GET, None),
            (POST, None),
            (Asked { accept, ..GET }, Some(Lane::Events)),
            (Asked { target: "/jmap/es?types=*&closeafter=no&ping=0", ..GET }, Some(Lane::Events)),
            (Asked { target: "/jmap/es?types=*&ping=0", ..GET }, None),
            (Asked { accept, ..POST }, None),
            (Asked { accept: Some("*/*"), ..GET }, None),
            (Asked { upgrade, ..GET }, Some(Lane::Socket)),
            (Asked { upgrade, ..POST }, None),
            (Asked { upgrade: Some("h2c"), accept, ..GET }, None),
            (Asked { target: ping, ..POST }, Some(Lane::Poll)),
            (Asked { target: ping, method: "OPTIONS", ..GET }, None),
            (Asked { request_type: notice, ..POST }, Some(Lane::Poll)),
            (Asked { request_type: Some("Execute"), ..POST }, None),
            (Asked { poll: true, ..GET }, Some(Lane::Poll)),
            (Asked { poll: true, ..POST }, Some(Lane::Poll)),
            (Asked { poll: true, method: "PUT", ..GET }, None),
            (Asked { poll: true, accept, ..GET }, Some(Lane::Events)),
        ] {
            assert_eq!(asked.lane(), lane, "{asked:?}");
        }
    }

    #[test]
    fn a_sync_is_known_by_its_body() {
        let sync = Asked { target: "/Microsoft-Server-ActiveSync?Cmd=Sync&User=a", ..POST };
        assert!(sync.may_wait() && sync.lane().is_none());
        assert!(!Asked { method: "OPTIONS", ..sync }.may_wait());
        assert!(!Asked { target: "/Microsoft-Server-ActiveSync?Cmd=SendMail", ..POST }.may_wait());
        assert_eq!(by_body(b""), Some(Lane::Poll));
        assert_eq!(by_body(b"\x03\x01\x6a\x00\x45\x01"), None);
    }
}
