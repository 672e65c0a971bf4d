//! What can be wrong with a certificate file, in words for the operator.
//!
//! Rule: every message names the file and says what to do.

use std::path::PathBuf;

use rustls_pki_types::pem;

/// Why certificates could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// The file is missing, unreadable or not PEM.
    #[error("{path}: {why}: the proxy must be able to read it, and it must be PEM (`-----BEGIN …-----`)")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the PEM reader says.
        why: String,
    },
    /// No certificate in it.
    #[error("{path} contains no certificate: write the chain as PEM, the server's own certificate first")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// No usable private key in it.
    #[error(
        "{path} contains no private key that can be used: write an unencrypted PKCS#8, PKCS#1 or SEC1 key as PEM"
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is read but the provider cannot use it.
    #[error(
        "{path}: the key cannot be used ({source}): use RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519"
    )]
    Key {
        /// The file of the key.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The first certificate is not one.
    #[error(
        "{path}: the first certificate cannot be read ({source}): write the server's own certificate first"
    )]
    Leaf {
        /// The file of the chain.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Certificate and key belong to different pairs.
    #[error(
        "{key} is not the key of the first certificate in {cert}: the server's own certificate comes first, \
             and both files must be from the same issue"
    )]
    Mismatch {
        /// The file of the chain.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// Nothing to serve.
    #[error("no certificate is configured: add [tls.certificate.default] with `cert` and `key`")]
    Empty,
    /// The system has no authorities.
    #[error(
        "the system's certificate authorities cannot be loaded ({why}): install ca-certificates, or name a \
             file with `tls = {{ ca = … }}` of the pool"
    )]
    NoRoots {
        /// What the loader says.
        why: String,
    },
    /// An authority that cannot serve as one.
    #[error("{path}: a certificate of an authority cannot be used: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The provider refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl CertError {
    /// A reading error, with `empty` for a file that is PEM but lacks what is sought.
    pub(crate) fn reading(path: &std::path::Path, error: &pem::Error, empty: fn(PathBuf) -> Self) -> Self {
        if matches!(error, pem::Error::NoItemsFound) {
            return empty(path.to_owned());
        }
        let why = if let pem::Error::Io(io) = error { io.to_string() } else { error.to_string() };
        Self::Unreadable { path: path.to_owned(), why }
    }
}
