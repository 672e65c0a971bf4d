//! An authority that lives in memory and issues certificates for tests and the demo.
//!
//! Rule: never part of a proxy that serves people; only the feature `testing` brings it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use rustls::ServerConfig;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};

use crate::provider;

/// A certificate authority.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// An issued certificate with its key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("cert", &self.cert).finish_non_exhaustive()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new authority with a key of its own.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bascule test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("the provider has random numbers");
        let certificate = params.self_signed(&key).expect("these parameters are legal");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Issues a certificate for these host names (`*.example` is one) and addresses.
    ///
    /// # Panics
    /// If a name is not ASCII.
    pub fn issue(&self, names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).expect("names are ASCII");
        let key = KeyPair::generate().expect("the provider has random numbers");
        let certificate = params.signed_by(&key, &self.issuer).expect("these parameters are legal");
        Leaf { cert: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes the authority's certificate to `dir/ca.pem`.
    pub fn write(&self, dir: &Path) -> io::Result<PathBuf> {
        let path = dir.join("ca.pem");
        std::fs::write(&path, self.pem())?;
        Ok(path)
    }
}

impl Leaf {
    /// Writes `dir/NAME.crt` and `dir/NAME.key` and returns both paths.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert)?;
        std::fs::write(&key, &self.key)?;
        Ok((cert, key))
    }

    /// A configuration for servers in memory that show it.
    pub fn serving(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let wrong = |error: pem::Error| rustls::Error::General(error.to_string());
        let chain =
            CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().map_err(wrong)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(wrong)?;
        let versions =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        Ok(Arc::new(versions.with_no_client_auth().with_single_cert(chain, key)?))
    }
}
