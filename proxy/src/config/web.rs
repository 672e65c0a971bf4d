//! How a service of HTTP is proved: what a fence has to stop there, and what a person's session is.
//!
//! Rule: nothing is taken for granted. A service of which nobody says how it is written to, is not known to be fenced.

/// `probe` and `session` of `[pool.NAME.http.SERVICE]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpProof {
    /// What is written to see whether the service can be written to.
    pub writes: HttpWrites,
    /// How a person logs in, where sessions are the service's own.
    pub session: Option<WebSession>,
}

/// `probe = "/path" | "none"`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HttpWrites {
    /// Nothing is said.
    #[default]
    Unsaid,
    /// The service stores nothing by itself: what it writes goes through protocols that are proved.
    None,
    /// A path that every probe account may PUT, GET and DELETE; `{user}` is the account's name.
    At(String),
}

/// `session = { login = "/login", form = "user={user}&password={password}", cookie = "sid", page = "/mail" }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSession {
    /// Where the form is posted to.
    pub login: String,
    /// The form's fields; `{user}` and `{password}` are a probe account's.
    pub form: String,
    /// The cookie that is the session.
    pub cookie: String,
    /// A page that is answered 200 with a session, and otherwise is not.
    pub page: String,
}
