//! The answer to a request that was said again after it may have been carried out (semantics §3.2).
//!
//! Rule: an answer is replaced only when the resource itself was looked at, or its absence is what the request asked for.

use bascule_protocols::http::replay::Check;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request as Asked, Response};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::time::timeout;

use super::{
    front,
    line::{Line, To},
    request::{Request, target},
};
use crate::config::{HttpService, HttpVersion, ServiceTls};

/// What is looked at is no larger than what was kept.
const LARGEST: usize = 64 * 1024;

/// Replaces the answer where it comes from the request's own first execution.
pub(super) async fn settle(
    request: &mut Request,
    session: &Session,
    head: &mut ResponseHeader,
) -> Result<()> {
    let asked = session.req_header();
    let done = match request.check {
        Check::None => None,
        Check::Delete => Some(204),
        Check::Put => {
            let kept = session.as_ref().get_retry_buffer().unwrap_or_default();
            let found = look(request, asked, "GET", Bytes::new()).await;
            found.filter(|(status, body)| *status == 200 && same(&kept, body)).map(|_| 204)
        }
        Check::Mkcol => {
            let found = look(request, asked, "PROPFIND", Bytes::from_static(TYPE)).await;
            let wanted: &[u8] =
                if asked.method.as_str() == "MKCALENDAR" { b"calendar" } else { b"collection" };
            let has = |body: &Bytes| body.windows(wanted.len()).any(|part| part == wanted);
            found.filter(|(status, body)| *status == 207 && has(body)).map(|_| 201)
        }
    };
    request.conn.world().metrics.http_again.count(if done.is_some() { "settled" } else { "doubted" });
    let Some(status) = done else { return Ok(()) };
    let mut instead = ResponseHeader::build(status, None)?;
    if status == 201 {
        instead.insert_header("Content-Length", "0")?;
    }
    // Without an ETag the client asks for the resource as the server has it (RFC 4791 §5.3.4).
    *head = instead;
    request.replaced = true;
    Ok(())
}

const TYPE: &[u8] = br#"<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/></prop></propfind>"#;

/// Whether a resource is what was sent. Servers write calendar data anew: lines are unfolded, and theirs may be more.
fn same(sent: &[u8], found: &[u8]) -> bool {
    if sent == found {
        return true;
    }
    let lines = |data: &[u8]| {
        let text = String::from_utf8_lossy(data).replace("\r\n", "\n").replace("\n ", "").replace("\n\t", "");
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
    };
    let (sent, found) = (lines(sent), lines(found));
    let calendar = |lines: &[String]| lines.first().is_some_and(|line| line.starts_with("BEGIN:V"));
    let mut left = found.clone();
    calendar(&sent)
        && calendar(&found)
        && sent
            .iter()
            .all(|line| left.iter().position(|other| other == line).map(|at| left.swap_remove(at)).is_some())
}

/// Asks the server that answered about the request's resource.
async fn look(request: &Request, asked: &RequestHeader, method: &str, body: Bytes) -> Option<(u16, Bytes)> {
    let flight = request.flight.as_ref()?;
    let topology = request.conn.world().topology.load();
    let service = topology.pool(flight.pool).http.get(&request.service)?;
    let looking = async {
        let from = request.from(service);
        let to = To { service, server: &request.chosen.as_ref()?.server, from, version: service.version };
        let mut line = Line::open(to, &request.conn.world().http.authorities).await.ok()?;
        let question = question(asked, method, body, service)?;
        read(line.ask(question).await.ok()?).await
    };
    timeout(service.dial_timeout * 2, looking).await.ok()?
}

fn question(
    asked: &RequestHeader,
    method: &str,
    body: Bytes,
    service: &HttpService,
) -> Option<Asked<Full<Bytes>>> {
    let host = front::authority(asked);
    let mut question = Asked::builder().method(method);
    question = match (service.version, &service.tls) {
        (HttpVersion::One, _) => question.uri(target(asked)).header("Host", host),
        (HttpVersion::Two, ServiceTls::None) => question.uri(format!("http://{host}{}", target(asked))),
        (HttpVersion::Two, _) => question.uri(format!("https://{host}{}", target(asked))),
    };
    for name in ["authorization", "cookie", "user-agent"] {
        for value in asked.headers.get_all(name) {
            question = question.header(name, value);
        }
    }
    if method == "PROPFIND" {
        question = question.header("Depth", "0").header("Content-Type", "application/xml");
    }
    question.body(Full::new(body)).ok()
}

async fn read(answer: Response<hyper::body::Incoming>) -> Option<(u16, Bytes)> {
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), 2 * LARGEST).collect().await.ok()?;
    Some((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_is_the_same_when_the_server_added_to_it_and_folded_it() {
        let sent = b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:1\r\nSUMMARY:a long\r\n  line\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
        let found = b"BEGIN:VCALENDAR\nPRODID:x\nBEGIN:VEVENT\nUID:1\nDTSTAMP:2\nSUMMARY:a lo\n ng line\nEND:VEVENT\nEND:VCALENDAR";
        assert!(same(sent, found));
        assert!(!same(found, sent), "what was sent is missing");
        assert!(!same(
            sent,
            &found.to_vec().escape_ascii().to_string().replace("UID:1", "UID:2").into_bytes()
        ));
    }

    #[test]
    fn anything_else_is_the_same_byte_by_byte() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"a\nb", b"a\nb\nc"));
        assert!(!same(b"", b"x"));
    }
}
