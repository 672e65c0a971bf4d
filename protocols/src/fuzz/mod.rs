//! What a fuzzer and the property tests throw at the machines, and what must hold of the answer.
//!
//! Rule: a target takes any bytes and panics where a machine breaks its word. Whoever brings the bytes (libFuzzer
//! in `protocols/fuzz`, proptest in `tests.rs`), it is the same function.

mod byhand;
mod client;
mod fragment;
mod http;
pub(crate) mod input;
mod login;
mod reconcile;
mod response;
mod restore;
mod seeds;
mod server;
pub(crate) mod session;
mod smtp;
#[cfg(test)]
mod tests;
mod uidset;
mod view;

pub use seeds::seeds;

/// One function to throw bytes at.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is the binary's in `protocols/fuzz`.
    pub name: &'static str,
    /// Panics where an invariant breaks.
    pub run: fn(&[u8]),
    /// What inputs are likely to be made of.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "fragment", run: fragment::run, words: fragment::WORDS },
    Target { name: "client", run: client::run, words: client::WORDS },
    Target { name: "server", run: server::run, words: server::WORDS },
    Target { name: "response", run: response::run, words: response::WORDS },
    Target { name: "uidset", run: uidset::run, words: uidset::WORDS },
    Target { name: "view", run: view::run, words: &[] },
    Target { name: "reconcile", run: reconcile::run, words: &[] },
    Target { name: "login", run: login::run, words: login::WORDS },
    Target { name: "restore", run: restore::run, words: restore::WORDS },
    Target { name: "session", run: session::run, words: &[] },
    Target { name: "streams", run: session::streams::run, words: session::streams::WORDS },
    Target { name: "smtp", run: smtp::run, words: &[] },
    Target { name: "http", run: http::run, words: http::WORDS },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
