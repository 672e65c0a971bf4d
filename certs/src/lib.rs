//! Certificates for a mail proxy: loaded from PEM, reloaded all or nothing, chosen by the name that the client asks for.
//!
//! Rule: what is served was checked as a whole before; a bad file never replaces a good certificate. The crypto
//! provider is named in every configuration, never taken from the process.

mod client;
mod error;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use crate::{
    client::{authorities, client_config},
    error::CertError,
    store::{Source, Store, server_config},
};

/// The one provider, with post-quantum key exchange first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
