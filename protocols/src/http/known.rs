//! Requests that are known to change nothing although their method says nothing about it (semantics §3.3).
//!
//! Rule: what is not understood whole is not known.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::framing::path_of;

/// A JMAP request (RFC 8620 §3.3), as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Jmap {
    #[serde(rename = "using")]
    _using: Vec<String>,
    method_calls: Vec<(String, IgnoredAny, String)>,
}

/// What JMAP methods end in that only read.
const READS: [&str; 4] = ["/get", "/query", "/changes", "/queryChanges"];

/// Whether a POST with this target, content type and whole body changes nothing.
pub fn reads_only(target: &str, content_type: &str, body: &[u8]) -> bool {
    is_ping(target) || (is_json(content_type) && is_reading_jmap(body))
}

/// An ActiveSync long poll: it asks to be told, and may be asked again.
pub fn is_ping(target: &str) -> bool {
    is_active_sync(target, "Cmd=Ping")
}

/// ActiveSync's command Sync, which may bring changes.
pub fn is_sync_command(target: &str) -> bool {
    is_active_sync(target, "Cmd=Sync")
}

/// A synchronization of ActiveSync that its client begins again from the same key.
///
/// MS-ASCMD §3.1.5.9: the client must handle a failed one by retrying it, and the server tracks the requests so that it can
/// answer a second one, whether the first did not arrive or its answer did not. It would come again after any error;
/// MS-ASHTTP §3.1.5.2.3 has it wait for the time in a 503's Retry-After, where another error is a fault of the server, and
/// after a row of them iOS fetches everything anew (semantics §3.3). Not for us to say again: whether the next server has
/// the state of the one that was lost, nobody knows here. SendMail and others have no such key.
pub fn is_keyed(target: &str) -> bool {
    is_sync_command(target) || is_active_sync(target, "Cmd=FolderSync")
}

fn is_active_sync(target: &str, command: &str) -> bool {
    let Some((_, query)) = target.split_once('?') else { return false };
    let here = path_of(target).trim_end_matches('/').eq_ignore_ascii_case("/Microsoft-Server-ActiveSync");
    here && query.split('&').any(|pair| pair.eq_ignore_ascii_case(command))
}

/// Whether a program asks that keeps a copy of a mailbox or a calendar: a phone, a desktop client.
pub fn is_sync(method: &str, target: &str) -> bool {
    const METHODS: [&str; 4] = ["PROPFIND", "REPORT", "PROPPATCH", "SEARCH"];
    METHODS.contains(&method)
        || path_of(target).trim_end_matches('/').eq_ignore_ascii_case("/Microsoft-Server-ActiveSync")
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn is_reading_jmap(body: &[u8]) -> bool {
    let reads = |name: &str| {
        READS.iter().any(|end| name.ends_with(end)) || matches!(name, "Core/echo" | "SearchSnippet/get")
    };
    serde_json::from_slice::<Jmap>(body)
        .is_ok_and(|request| request.method_calls.iter().all(|(name, ..)| reads(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jmap(calls: &str) -> bool {
        let body = format!(r#"{{"using": ["urn:ietf:params:jmap:mail"], "methodCalls": [{calls}]}}"#);
        reads_only("/jmap/api", "application/json; charset=utf-8", body.as_bytes())
    }

    #[test]
    fn jmap_that_only_asks_is_known() {
        assert!(jmap(r#"["Email/query", {"filter": {}}, "0"], ["Email/get", {"ids": null}, "1"]"#));
        assert!(jmap(r#"["Core/echo", {"a": [1]}, "0"]"#));
        assert!(!jmap(r#"["Email/query", {}, "0"], ["Email/set", {"update": {}}, "1"]"#));
        assert!(!jmap(r#"["EmailSubmission/set", {}, "0"]"#));
        assert!(!jmap(r#"["Email/import", {}, "0"]"#));
        assert!(!jmap(r#"["Blob/copy", {}, "0"]"#));
    }

    #[test]
    fn what_is_not_understood_is_not_known() {
        let post = |kind, body: &str| reads_only("/jmap/api", kind, body.as_bytes());
        assert!(!post("text/plain", r#"{"using":[],"methodCalls":[]}"#));
        assert!(!post("application/json", r#"{"methodCalls":[["Email/get",{},"0"]]}"#));
        assert!(!post("application/json", r#"{"using":[],"methodCalls":[["Email/get",{},"0"]"#));
        assert!(!post("application/json", r#"{"using":[],"methodCalls":[["Email/get",{},"0"]]} {}"#));
        // Of two members of one name servers take the first or the last.
        let twice = r#"{"using":[],"methodCalls":[],"methodCalls":[["Email/set",{},"0"]]}"#;
        assert!(!post("application/json", twice));
    }

    #[test]
    fn programs_that_keep_a_copy_are_known() {
        assert!(is_sync("REPORT", "/dav/anna/") && is_sync("POST", "/Microsoft-Server-ActiveSync?Cmd=Sync"));
        assert!(!is_sync("GET", "/dav/anna/") && !is_sync("POST", "/webmail/?_action=send"));
    }

    #[test]
    fn a_ping_is_a_long_poll_and_a_sync_is_not() {
        let ping = |target: &str| reads_only(target, "application/vnd.ms-sync.wbxml", b"");
        assert!(ping("/Microsoft-Server-ActiveSync?User=a&Cmd=Ping&DeviceId=1"));
        assert!(ping("/microsoft-server-activesync/?cmd=ping"));
        assert!(!ping("/Microsoft-Server-ActiveSync?Cmd=Sync"));
        assert!(!ping("/Microsoft-Server-ActiveSync?Cmd=SendMail&X=Cmd=Ping2"));
        assert!(!ping("/webmail?Cmd=Ping"));
    }

    #[test]
    fn a_synchronization_has_a_key_and_a_message_has_none() {
        let keyed = |command: &str| is_keyed(&format!("/Microsoft-Server-ActiveSync?User=a&Cmd={command}"));
        assert!(keyed("Sync") && keyed("foldersync"));
        for command in ["SendMail", "SmartReply", "MoveItems", "MeetingResponse", "FolderCreate", "Ping"] {
            assert!(!keyed(command), "{command}");
        }
        assert!(!is_keyed("/webmail?Cmd=Sync"));
    }
}
