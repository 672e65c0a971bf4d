//! Where people log in to a webmail, and the page that only they get to see.
//!
//! Rule: a session is a cookie with its server's name in it; whether another server takes it is for the test to say.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{lock, message::Head, shelf::Said};

/// Where the form is posted to.
const LOGIN: &str = "/login";
/// What is shown to who is logged in.
const PAGE: &str = "/inbox";

/// Sessions of people.
#[derive(Debug, Default)]
pub struct Desk {
    takes_others: AtomicBool,
    /// Where it sends whom it does not know, instead of to the login.
    elsewhere: std::sync::Mutex<Option<String>>,
}

impl Desk {
    /// Sessions of the other server are good here.
    pub fn takes_others(&self) {
        self.takes_others.store(true, Ordering::Relaxed);
    }

    /// Who is not logged in is sent there.
    pub fn sends_to(&self, place: String) {
        *lock(&self.elsewhere) = Some(place);
    }

    /// The answer, if it is for here.
    pub(super) fn answer(&self, server: &str, head: &Head) -> Option<Said> {
        let form = format!("<form><input name=\"token\" value=\"{server}\"></form>");
        match (head.method.as_str(), head.target.as_str()) {
            ("GET", LOGIN) => Some((200, String::new(), form.into_bytes())),
            ("POST", LOGIN) => {
                Some((303, format!("Set-Cookie: sid={server}; HttpOnly\r\nLocation: {PAGE}\r\n"), Vec::new()))
            }
            ("GET", PAGE) if self.knows(server, head) => Some((200, String::new(), b"mail".to_vec())),
            ("GET", PAGE) => {
                let place = lock(&self.elsewhere).clone().unwrap_or_else(|| LOGIN.to_owned());
                Some((302, format!("Location: {place}\r\n"), Vec::new()))
            }
            _ => None,
        }
    }

    fn knows(&self, server: &str, head: &Head) -> bool {
        let session =
            head.field("cookie").and_then(|cookies| cookies.split("; ").find_map(|c| c.strip_prefix("sid=")));
        session.is_some_and(|session| session == server || self.takes_others.load(Ordering::Relaxed))
    }
}
