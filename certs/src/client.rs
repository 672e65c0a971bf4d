//! TLS towards a pool's servers.
//!
//! Rule: a server's certificate is always verified, against the pool's own authorities or the system's.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{CertError, provider};

/// A configuration for connections to a pool; `ca` is a PEM file of authorities, `None` means the system's.
pub fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, CertError> {
    let roots = match ca {
        Some(path) => file_roots(path)?,
        None => system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn file_roots(path: &Path) -> Result<RootCertStore, CertError> {
    let no_certificate = |path| CertError::NoCertificate { path };
    let reading = |error: &_| CertError::reading(path, error, no_certificate);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| reading(&e))? {
        roots
            .add(certificate.map_err(|e| reading(&e))?)
            .map_err(|source| CertError::Authority { path: path.to_owned(), source })?;
    }
    if roots.is_empty() { Err(no_certificate(path.to_owned())) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, CertError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry authorities that rustls does not take; the others are enough.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(CertError::NoRoots { why });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

    #[test]
    fn authorities_come_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new().write(dir.path()).unwrap();
        assert!(client_config(Some(&ca)).is_ok());
    }

    #[test]
    fn a_file_without_authorities_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for (content, said) in [
            ("", "contains no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "must be PEM"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = client_config(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("ca.pem"), "{error}");
        }
        let error = client_config(Some(&dir.path().join("gone.pem"))).unwrap_err().to_string();
        assert!(error.contains("gone.pem: No such file"), "{error}");
    }
}
