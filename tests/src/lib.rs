//! What the integration tests, the demo and the benchmarks stand on: platforms, clients and judges.
//!
//! Rule: nothing here uses `bascule-protocols`; a mistake in the proxy's parser must not be repeated by its
//! judges.

pub mod bascule;
pub mod client;
pub mod cyrus;
pub mod dovecot;
pub mod fake;
pub mod http;
pub mod instance;
pub mod ledger;
pub mod oracle;
pub mod postfix;
pub mod process;
pub mod sites;
pub mod smtp;
pub mod thunderbird;
pub mod tools;
pub mod web;

/// Any byte stream, plain or TLS.
pub(crate) trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + Sync {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + Sync> Stream for T {}
