//! Where a stream of events comes from.
//!
//! Rule: whoever lets go of it ends it.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pingora_core::protocols::http::v1::client::HttpSession;

use super::{super::line::Line, Found};

/// A server's answer, from behind its head.
pub(super) enum Source {
    /// On a line of its own.
    Own { _line: Line, body: Incoming },
    /// On a connection of the direct way.
    Adopted(Box<HttpSession>),
}

/// The server is lost.
#[derive(Debug)]
pub(super) struct Lost;

impl From<Found> for Source {
    fn from(found: Found) -> Self {
        Self::Own { _line: found.line, body: found.answer.into_body() }
    }
}

impl Source {
    /// A stream may be silent for as long as it likes.
    pub(super) fn adopted(mut line: HttpSession) -> Self {
        line.read_timeout = None;
        Self::Adopted(Box::new(line))
    }

    /// What comes next; `None`: the end. May be dropped.
    pub(super) async fn piece(&mut self) -> Option<Result<Bytes, Lost>> {
        match self {
            Self::Own { body, .. } => {
                let frame = body.frame().await?;
                Some(frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(|_| Lost))
            }
            Self::Adopted(line) => match line.is_body_done() {
                true => None,
                false => line.read_body_bytes().await.map_err(|_| Lost).transpose(),
            },
        }
    }
}
