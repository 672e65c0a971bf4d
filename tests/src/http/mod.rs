//! Clients for HTTP: one that writes requests byte by byte, one for HTTP/2, and one that writes its frames.
//!
//! Rule: nothing is said again and nothing is mended; what comes back is what was said.

mod events;
mod frames;
mod one;
mod two;

pub use self::{
    events::{Event, Events},
    frames::{Frame, Frames},
    one::Client,
    two::{Begun, Two, Upload, Uploads},
};

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether it is a success.
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}
