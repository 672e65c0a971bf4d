//! HTTP/1.1, one connection.
//!
//! Rule: a body that ends before its length is an error, whatever came before.

use std::{fmt, io, net::SocketAddr};

use super::Answer;
use crate::client::{Error, Link, Result, Security, take_line};

/// One connection.
pub struct Client {
    link: Link,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects.
    pub async fn connect(to: SocketAddr, security: Security) -> Result<Self> {
        let link = match security {
            Security::Plain | Security::Starttls(..) => Link::plain(to).await?,
            Security::Tls(config, name) => Link::tls(to, config, name).await?,
        };
        Ok(Self { link })
    }

    /// Where it comes from.
    pub fn local(&self) -> SocketAddr {
        self.link.local()
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.link.write(bytes.as_ref()).await
    }

    /// Sends a request without further fields, and waits for its answer.
    pub async fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        self.ask_with(method, target, "", body).await
    }

    /// The same with further fields, a line each.
    pub async fn ask_with(
        &mut self,
        method: &str,
        target: &str,
        fields: &str,
        body: &[u8],
    ) -> Result<Answer> {
        self.write([Self::head(method, target, fields, body.len()).as_bytes(), body].concat()).await?;
        self.answer().await
    }

    /// A request's head.
    pub fn head(method: &str, target: &str, fields: &str, length: usize) -> String {
        let length = if length > 0 || matches!(method, "POST" | "PUT" | "PATCH") {
            format!("Content-Length: {length}\r\n")
        } else {
            String::new()
        };
        format!("{method} {target} HTTP/1.1\r\nHost: mail.bascule.test\r\n{length}{fields}\r\n")
    }

    /// The next answer; informational ones are passed over.
    pub async fn answer(&mut self) -> Result<Answer> {
        loop {
            let answer = self.any_answer().await?;
            if answer.status >= 200 || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    /// The next answer, whatever it is.
    pub async fn any_answer(&mut self) -> Result<Answer> {
        let mut answer = self.answer_head().await?;
        let status = answer.status;
        if status >= 200 && status != 204 && status != 304 {
            answer.body = self.body(&answer).await?;
        }
        Ok(answer)
    }

    /// The head of the next answer; its body is not read.
    pub async fn answer_head(&mut self) -> Result<Answer> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(wrong)?;
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { break };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Answer { status, fields, body: Vec::new() })
    }

    /// The next chunk of a body that comes in chunks; an empty one is its end.
    pub async fn chunk(&mut self) -> Result<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await?, 16).map_err(|_| wrong())?;
        let chunk = self.bytes(size).await?;
        if !self.line().await?.is_empty() {
            return Err(wrong());
        }
        Ok(chunk)
    }

    async fn body(&mut self, answer: &Answer) -> Result<Vec<u8>> {
        if let Some(length) = answer.field("content-length") {
            return self.bytes(length.parse().map_err(|_| wrong())?).await;
        }
        if answer.field("transfer-encoding").is_none() {
            return Err(wrong());
        }
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }

    /// So many bytes as they are.
    pub async fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if count == 0 {
            return Ok(bytes);
        }
        self.link
            .next(|chunk| {
                let taken = chunk.len().min(count - bytes.len());
                bytes.extend_from_slice(&chunk[..taken]);
                Ok((taken, (bytes.len() == count).then(|| std::mem::take(&mut bytes))))
            })
            .await
    }

    /// The next line without its end.
    pub async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let whole = self.link.next(|chunk| take_line(&mut line, chunk)).await?;
        String::from_utf8(whole).map_err(|_| wrong())
    }

    /// Whether the server has ended the connection, and said nothing more.
    pub async fn ended(&mut self) -> bool {
        matches!(self.bytes(1).await, Err(Error::Closed(_) | Error::Io(_)))
    }
}

fn wrong() -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP"))
}
