//! A client's request as it is asked of a server, as often as that is needed.
//!
//! Rule: fields that are for one connection only are never passed on, in neither direction.

use bascule_protocols::http::lane::Lane;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::Full;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::super::{
    front,
    request::{Request, target},
};
use crate::{
    config::{HttpService, HttpVersion, ServiceTls},
    topology::Epoch,
};

/// Fields of a request that are for one connection (RFC 9110 §7.6.1), and what hyper writes itself.
const HOPS: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "host",
];

/// What is asked.
pub(super) struct Question {
    head: RequestHeader,
    body: Bytes,
    lane: Lane,
    /// Where its id of an event is known; `None`: everywhere.
    id_of: Option<Epoch>,
}

impl Question {
    pub(super) fn new(head: &RequestHeader, body: Bytes, lane: Lane) -> Self {
        Self { head: head.clone(), body, lane, id_of: None }
    }

    pub(super) fn head(&self) -> &RequestHeader {
        &self.head
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// What is spoken to a server: only HTTP/1.1 can be upgraded.
    pub(super) fn version(&self, configured: HttpVersion) -> HttpVersion {
        if self.lane == Lane::Socket { HttpVersion::One } else { configured }
    }

    /// The id of the last event that the client has heard of.
    pub(super) fn last_id(&self) -> &[u8] {
        self.head.headers.get("last-event-id").map_or(b"", |value| value.as_bytes())
    }

    /// From now on it asks for what comes after this event, where its id is known.
    pub(super) fn set_last_id(&mut self, id: &[u8], of: Option<Epoch>) {
        self.id_of = of;
        self.head.remove_header("last-event-id");
        if let (Ok(value), false) = (HeaderValue::from_bytes(id), id.is_empty()) {
            // One more field fits.
            let _ = self.head.insert_header("Last-Event-ID", value);
        }
    }

    /// As the server reads it.
    pub(super) fn said(
        &self,
        request: &Request,
        service: &HttpService,
    ) -> Result<http::Request<Full<Bytes>>> {
        let mut told = self.head.clone();
        // First, so that a client cannot name what is only said then.
        for name in named(&self.head.headers).into_iter().chain(["connection".to_owned()]) {
            told.remove_header(&name);
        }
        if self.id_of.is_some_and(|of| request.epoch() != Some(of)) {
            told.remove_header("last-event-id");
        }
        front::introduce(&self.head, &mut told, request)?;
        let (host, version) = (front::authority(&self.head), self.version(service.version));
        let uri = match (version, &service.tls) {
            (HttpVersion::One, _) => target(&self.head).to_owned(),
            (HttpVersion::Two, ServiceTls::None) => format!("http://{host}{}", target(&self.head)),
            (HttpVersion::Two, _) => format!("https://{host}{}", target(&self.head)),
        };
        let mut said = http::Request::builder().method(self.head.method.clone()).uri(uri);
        if let Some(fields) = said.headers_mut() {
            copy(&told.headers, fields);
            match self.lane {
                Lane::Events => drop(fields.remove("accept-encoding")),
                Lane::Socket => {
                    fields.insert("connection", HeaderValue::from_static("Upgrade"));
                    fields.insert("upgrade", HeaderValue::from_static("websocket"));
                }
                Lane::Poll => {}
            }
            if version == HttpVersion::One {
                let host = HeaderValue::from_str(host);
                fields.insert("host", host.or_err(ErrorType::InvalidHTTPHeader, "host")?);
            }
        }
        said.body(Full::new(self.body.clone()))
            .map_err(|error| Error::explain(ErrorType::InvalidHTTPHeader, error.to_string()))
    }
}

/// Fields that `Connection` says are for this connection only.
fn named(from: &HeaderMap) -> Vec<String> {
    let fields = from.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|names| names.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// All fields that are for whoever comes next.
fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    let named = named(from);
    let goes = |name: &HeaderName| {
        !HOPS.contains(&name.as_str()) && !named.iter().any(|other| other == name.as_str())
    };
    for (name, value) in from.iter().filter(|(name, _)| goes(name)) {
        to.append(name.clone(), value.clone());
    }
}

/// The head of an answer without what is for one connection only.
pub(super) fn head<T>(answer: &http::Response<T>) -> Result<ResponseHeader> {
    let fields = answer.headers();
    let mut head = ResponseHeader::build(answer.status(), Some(fields.len() + 4))?;
    for (name, value) in fields {
        head.append_header(name.clone(), value.clone())?;
    }
    front::undress(&mut head)?;
    head.remove_header(&header::TRANSFER_ENCODING);
    Ok(head)
}
