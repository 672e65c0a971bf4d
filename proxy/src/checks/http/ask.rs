//! Requests of our own to one server of a service, on one connection.
//!
//! Rule: what was not answered is told apart by whether it was sent: only what was never sent has no effect for certain.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, body::Incoming};
use tokio::time::{error::Elapsed, timeout};

use crate::{
    checks::server::PATIENCE,
    config::{HttpAddress, HttpService, HttpVersion, ServiceTls},
    session::http::{
        Shared,
        line::{Line, To},
    },
};

/// The most of a page that is looked at.
const LARGEST: usize = 256 * 1024;
/// Whose requests these are, for servers that are told; no port is 0 (as in proofs by mail).
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 1);

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) http: &'a Shared,
    pub(super) service: &'a HttpService,
    pub(super) server: &'a str,
    /// The name by which clients reach it.
    pub(super) host: &'a str,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Talk {
    line: Line,
    host: String,
    version: HttpVersion,
    secure: bool,
    told: bool,
}

/// An answer; of a long page the beginning.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) fields: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, fields: &[], body: &[] }
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// The connection had ended.
    #[error("the connection was closed")]
    Unsent,
    /// It may have been carried out.
    #[error("no answer to what was sent: {0}")]
    Unanswered(String),
    /// Nothing that could be said.
    #[error("not a request: {0}")]
    Nonsense(String),
}

impl Talk {
    /// Connects.
    pub(super) async fn open(at: At<'_>) -> io::Result<Self> {
        let At { http, service, server, host } = at;
        let from = (service.client_address == HttpAddress::ProxyV2)
            .then(|| (SocketAddr::from(CLIENT), SocketAddr::from(CLIENT)));
        let opening = http.line(To { service, server, from, version: service.version });
        let limit = service.dial_timeout;
        let line = timeout(limit, opening).await.unwrap_or_else(|_: Elapsed| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}")))
        })?;
        let (secure, told) =
            (!matches!(service.tls, ServiceTls::None), service.client_address == HttpAddress::Headers);
        Ok(Self { line, host: host.to_owned(), version: service.version, secure, told })
    }

    /// Whether the server ends the connection within `wait`.
    pub(super) async fn ended(&mut self, wait: Duration) -> bool {
        self.line.ended(wait).await
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask(&mut self, ask: Ask<'_>) -> Result<Said, Lost> {
        let request = self.request(ask)?;
        let answer = timeout(PATIENCE, async {
            self.line.ready().await.map_err(|_| Lost::Unsent)?;
            let (head, body) = self.line.ask(request).await.map_err(unanswered)?.into_parts();
            let body = beginning(body).await.map_err(unanswered)?;
            Ok(Said { status: head.status.as_u16(), fields: head.headers, body })
        });
        answer.await.unwrap_or_else(|_: Elapsed| Err(Lost::Unanswered(format!("within {PATIENCE:?}"))))
    }

    fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, Lost> {
        let mut request = Request::builder().method(ask.method).header("User-Agent", "bascule");
        request = match self.version {
            HttpVersion::One => request.uri(ask.path).header("Host", &self.host),
            HttpVersion::Two => {
                let scheme = if self.secure { "https" } else { "http" };
                request.uri(format!("{scheme}://{}{}", self.host, ask.path))
            }
        };
        if self.told {
            // As a client's: a server that wants TLS would send anybody else away.
            let client = CLIENT.0.to_string();
            request = request.header("X-Forwarded-For", client).header("X-Forwarded-Proto", "https");
            request = request.header("X-Forwarded-Host", &self.host);
        }
        for (name, value) in ask.fields {
            request = request.header(*name, *value);
        }
        request
            .body(Full::new(Bytes::copy_from_slice(ask.body)))
            .map_err(|error| Lost::Nonsense(format!("{} {}: {error}", ask.method, ask.path)))
    }
}

fn unanswered(error: hyper::Error) -> Lost {
    if error.is_canceled() { Lost::Unsent } else { Lost::Unanswered(error.to_string()) }
}

/// As much of a body as is looked at. What is left of it ends with the connection.
async fn beginning(mut body: Incoming) -> hyper::Result<Bytes> {
    let mut all = BytesMut::new();
    while all.len() < LARGEST
        && let Some(frame) = body.frame().await
    {
        all.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data));
    }
    all.truncate(LARGEST);
    Ok(all.freeze())
}
