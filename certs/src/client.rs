//! TLS towards a pool's servers.
//!
//! Rule: a server's certificate is always verified, against the pool's own authorities or the system's.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::CertificateResult;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{CertError, provider};

/// A configuration for connections to a pool; `ca` is a PEM file of authorities, `None` means the system's.
pub fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, CertError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities(ca)?);
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The authorities that such a configuration trusts, never none.
pub fn authorities(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, CertError> {
    match ca {
        Some(path) => of_file(path),
        None => of_system(rustls_native_certs::load_native_certs()),
    }
}

fn of_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let no_certificate = |path| CertError::NoCertificate { path };
    let reading = |error: &_| CertError::reading(path, error, no_certificate);
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| reading(&e))? {
        let certificate = certificate.map_err(|e| reading(&e))?;
        usable(&certificate).map_err(|source| CertError::Authority { path: path.to_owned(), source })?;
        all.push(certificate);
    }
    if all.is_empty() { Err(no_certificate(path.to_owned())) } else { Ok(all) }
}

/// Systems carry authorities that rustls does not take, and files that nobody can read; the others are enough.
fn of_system(found: CertificateResult) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let mut all = found.certs;
    all.retain(|certificate| usable(certificate).is_ok());
    if all.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(CertError::NoRoots { why });
    }
    Ok(all)
}

fn usable(certificate: &CertificateDer<'static>) -> Result<(), rustls::Error> {
    RootCertStore::empty().add(certificate.clone())
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

    #[test]
    fn the_system_is_asked_for_what_it_has_and_refused_when_that_is_nothing() {
        let io = || rustls_native_certs::Error {
            context: "reading",
            kind: rustls_native_certs::ErrorKind::Io {
                inner: std::io::Error::other("no such place"),
                path: "/x".into(),
            },
        };
        let dir = tempfile::tempdir().unwrap();
        let ca = authorities(Some(&Authority::new().write(dir.path()).unwrap())).unwrap();
        let mut found = CertificateResult::default();
        found.errors.push(io());
        let error = of_system(found).unwrap_err().to_string();
        assert!(error.contains("no such place") && error.contains("ca-certificates"), "{error}");

        let mut found = CertificateResult::default();
        found.errors.push(io());
        found.certs = vec![CertificateDer::from(vec![1, 2, 3]), ca[0].clone()];
        assert_eq!(of_system(found).unwrap(), ca, "one file that cannot be read is not the end of all");
    }
}
