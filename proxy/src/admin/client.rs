//! The command line's side of the control API: HTTP over the Unix socket.
//!
//! Rule: whoever did not answer is told apart from whoever refused.

use std::{io, path::PathBuf};

use axum::{
    body::Bytes,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    admin::{
        api::{Abort, Adopt, Started, Target},
        appliance::SessionRow,
    },
    cutover::types::{Plan, Refusal, Report, Status},
};

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("not running: {socket}: {error}", socket = .socket.display())]
    NotRunning {
        /// The socket's path.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The socket may not be opened by this user.
    #[error("{socket}: {error}", socket = .socket.display())]
    Forbidden {
        /// The socket's path.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The connection ended, or what came is not HTTP.
    #[error("stopped answering: {0}")]
    Lost(#[from] hyper::Error),
    /// The stream of changes ended: bascule is stopping.
    #[error("stopped answering")]
    Ended,
    /// The answer is not understood.
    #[error("the answer is not what this version understands ({0}): do both have the same version?")]
    Foreign(String),
    /// It was understood and refused.
    #[error(transparent)]
    Refused(Refusal),
}

/// A caller of the control API; each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Calls whoever listens on this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Where things stand.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Whether a cutover to this pool would be allowed.
    pub async fn plan(&self, to: &str) -> Result<Plan, ClientError> {
        self.get(&format!("/v1/plan?to={}", encode(to))).await
    }

    /// Begins a cutover; its number.
    pub async fn start(&self, to: &str) -> Result<u64, ClientError> {
        let started: Started = self.post("/v1/cutover", &Target { to: to.to_owned() }).await?;
        Ok(started.id)
    }

    /// Sends the running cutover back.
    pub async fn abort(&self, reason: &str) -> Result<(), ClientError> {
        self.post::<serde_json::Value>("/v1/abort", &Abort { reason: reason.to_owned() }).await.map(|_| ())
    }

    /// Declares by hand which pool is active.
    pub async fn adopt(&self, pool: &str, reason: &str) -> Result<(), ClientError> {
        let adopt = Adopt { pool: pool.to_owned(), reason: reason.to_owned() };
        self.post::<serde_json::Value>("/v1/adopt", &adopt).await.map(|_| ())
    }

    /// Every session.
    pub async fn sessions(&self) -> Result<Vec<SessionRow>, ClientError> {
        self.get("/v1/sessions").await
    }

    /// The last cutover's account; `None` if there was none.
    pub async fn report(&self) -> Result<Option<Report>, ClientError> {
        let (_connection, status, body) = self.send(Method::GET, "/v1/report", Bytes::new()).await?;
        if status == StatusCode::NOT_FOUND { Ok(None) } else { read(status, body).await.map(Some) }
    }

    /// The status at every change from now on; the first comes at once.
    pub async fn watch(&self) -> Result<Watch, ClientError> {
        let (connection, status, body) = self.send(Method::GET, "/v1/cutover/watch", Bytes::new()).await?;
        if !status.is_success() {
            return Err(refusal(status, body).await);
        }
        Ok(Watch { body, unread: Vec::new(), _connection: connection })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (_connection, status, body) = self.send(Method::GET, path, Bytes::new()).await?;
        read(status, body).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(foreign)?;
        let (_connection, status, body) = self.send(Method::POST, path, bytes.into()).await?;
        read(status, body).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Sent, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (mut connection, driver) = handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        // It ends with the connection; its error reaches us through the answer.
        tokio::spawn(driver);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "bascule")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(foreign)?;
        let (parts, body) = connection.send_request(request).await?.into_parts();
        Ok((connection, parts.status, body))
    }

    fn unreachable(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        if error.kind() == io::ErrorKind::PermissionDenied {
            return ClientError::Forbidden { socket, error };
        }
        ClientError::NotRunning { socket, error }
    }
}

/// The connection stays open as long as its first part lives.
type Sent = (SendRequest<Full<Bytes>>, StatusCode, Incoming);

async fn read<T: DeserializeOwned>(status: StatusCode, body: Incoming) -> Result<T, ClientError> {
    if !status.is_success() {
        return Err(refusal(status, body).await);
    }
    serde_json::from_slice(&body.collect().await?.to_bytes()).map_err(foreign)
}

async fn refusal(status: StatusCode, body: Incoming) -> ClientError {
    match body.collect().await {
        Ok(body) => serde_json::from_slice(&body.to_bytes())
            .map_or_else(|e| ClientError::Foreign(format!("{status}, {e}")), ClientError::Refused),
        Err(error) => ClientError::Lost(error),
    }
}

fn foreign(error: impl std::fmt::Display) -> ClientError {
    ClientError::Foreign(error.to_string())
}

/// Percent-encodes everything but RFC 3986's unreserved bytes.
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The status at every change.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    unread: Vec<u8>,
    _connection: SendRequest<Full<Bytes>>,
}

impl Watch {
    /// The next status; `None` when bascule has ended. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Result<Option<Status>, ClientError> {
        loop {
            if let Some(end) = self.unread.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(foreign);
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => self.unread.extend(frame.into_data().unwrap_or_default()),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_the_query() {
        assert_eq!(encode("v5-b.example_~"), "v5-b.example_~");
        assert_eq!(encode("a&b c=ü"), "a%26b%20c%3D%C3%BC");
    }
}
