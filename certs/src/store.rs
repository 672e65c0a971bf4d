//! The certificates that clients are shown.
//!
//! Rule: one snapshot behind one `ArcSwap`; a reload builds the whole next one or changes nothing.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::aws_lc_rs::Ticketer,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use crate::{CertError, provider};

/// Where one certificate comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in the configuration; the one named `default` is shown to clients that ask for no known name.
    pub name: String,
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// All certificates, chosen by the names that stand in them.
#[derive(Debug)]
pub struct Store {
    sources: Vec<Source>,
    /// Never empty; the default is the first.
    current: ArcSwap<Vec<Arc<CertifiedKey>>>,
}

impl Store {
    /// Loads every source. The default is the one named `default`, or the first.
    pub fn load(sources: impl IntoIterator<Item = Source>) -> Result<Arc<Self>, CertError> {
        let mut sources: Vec<Source> = sources.into_iter().collect();
        sources.sort_by_key(|source| source.name != "default");
        let current = ArcSwap::from_pointee(load_all(&sources)?);
        Ok(Arc::new(Self { sources, current }))
    }

    /// Reads all files again. New handshakes see the new certificates; after an error, still the old ones.
    pub fn reload(&self) -> Result<(), CertError> {
        self.current.store(Arc::new(load_all(&self.sources)?));
        Ok(())
    }

    /// The certificate for a client that asked for `name`: one that carries the name itself, else one with a
    /// wildcard that covers it, else the default (many mail clients are set up with a name of their own).
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let all = self.current.load();
        let default = all.first().cloned();
        let Some((name, name_text)) = name.and_then(|n| Some((ServerName::try_from(n).ok()?, n))) else {
            return default;
        };
        let mut covering = all.iter().filter(|key| carries(key, &name));
        let first = covering.clone().next();
        let exact = covering.find(|key| !by_wildcard(key, name_text));
        exact.or(first).cloned().or(default)
    }
}

impl ResolvesServerCert for Store {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

/// A configuration for listeners: TLS 1.2 and 1.3, tickets that this process can open, no client certificates.
pub fn server_config(store: Arc<Store>) -> Result<Arc<ServerConfig>, CertError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.ticketer = Ticketer::new()?;
    // A client that names protocols must name this one (RFC 7301 §3.2; it keeps browsers out, ALPACA); those
    // that name none, nearly all mail clients, are served.
    config.alpn_protocols = vec![b"imap".to_vec()];
    Ok(Arc::new(config))
}

fn load_all(sources: &[Source]) -> Result<Vec<Arc<CertifiedKey>>, CertError> {
    if sources.is_empty() {
        return Err(CertError::Empty);
    }
    sources.iter().map(|source| load_one(source).map(Arc::new)).collect()
}

fn load_one(source: &Source) -> Result<CertifiedKey, CertError> {
    let no_certificate = |path| CertError::NoCertificate { path };
    let chain = CertificateDer::pem_file_iter(&source.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| CertError::reading(&source.cert, &e, no_certificate))?;
    let Some(leaf) = chain.first() else {
        return Err(no_certificate(source.cert.clone()));
    };
    ParsedCertificate::try_from(leaf)
        .map_err(|error| CertError::Leaf { path: source.cert.clone(), source: error })?;
    let key = PrivateKeyDer::from_pem_file(&source.key)
        .map_err(|e| CertError::reading(&source.key, &e, |path| CertError::NoKey { path }))?;
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| CertError::Key { path: source.key.clone(), source: error })?;
    let certified = CertifiedKey::new(chain, key);
    // A key whose public half cannot be told is taken at its word, as rustls does.
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(CertError::Mismatch { cert: source.cert.clone(), key: source.key.clone() })
        }
        _ => Ok(certified),
    }
}

fn carries(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = key.end_entity_cert().ok();
    let parsed = leaf.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

/// Whether the certificate covers a sibling that nobody has: then it covers `name` by a wildcard.
fn by_wildcard(key: &CertifiedKey, name: &str) -> bool {
    let sibling = name.split_once('.').map(|(_, parent)| format!("bascule-no-such-host.{parent}"));
    sibling.and_then(|s| ServerName::try_from(s).ok()).is_some_and(|sibling| carries(key, &sibling))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::{Authority, Leaf};

    fn source(dir: &Path, name: &str, leaf: &Leaf) -> Source {
        let (cert, key) = leaf.write(dir, name).unwrap();
        Source { name: name.to_owned(), cert, key }
    }

    fn der(leaf: &Leaf) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(leaf.cert.as_bytes()).unwrap()
    }

    fn shown(store: &Store, name: Option<&str>) -> CertificateDer<'static> {
        store.choose(name).unwrap().cert[0].clone()
    }

    #[test]
    fn the_name_itself_wins_over_a_wildcard_and_the_default_takes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let wild = authority.issue(&["*.example.org"]);
        let exact = authority.issue(&["imap.example.org"]);
        let default = authority.issue(&["mail.example.net"]);
        let sources = [("a", &wild), ("b", &exact), ("default", &default)];
        let store = Store::load(sources.map(|(name, leaf)| source(dir.path(), name, leaf))).unwrap();

        assert_eq!(shown(&store, Some("imap.example.org")), der(&exact));
        assert_eq!(shown(&store, Some("IMAP.Example.org")), der(&exact));
        assert_eq!(shown(&store, Some("pop.example.org")), der(&wild));
        assert_eq!(shown(&store, Some("a.b.example.org")), der(&default));
        assert_eq!(shown(&store, Some("nobody.test")), der(&default));
        assert_eq!(shown(&store, Some("not a name")), der(&default));
        assert_eq!(shown(&store, None), der(&default));
    }

    #[test]
    fn without_one_named_default_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (first, second) = (authority.issue(&["a.test"]), authority.issue(&["b.test"]));
        let store = Store::load([source(dir.path(), "z", &first), source(dir.path(), "y", &second)]).unwrap();
        assert_eq!(shown(&store, None), der(&first));
    }

    #[test]
    fn a_reload_is_all_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (one, two) = (authority.issue(&["one.test"]), authority.issue(&["two.test"]));
        let sources = [source(dir.path(), "default", &one), source(dir.path(), "two", &two)];
        let store = Store::load(sources.clone()).unwrap();

        let renewed = authority.issue(&["one.test"]);
        renewed.write(dir.path(), "default").unwrap();
        std::fs::write(&sources[1].cert, "").unwrap();
        assert!(matches!(store.reload(), Err(CertError::NoCertificate { .. })));
        assert_eq!(shown(&store, Some("one.test")), der(&one));
        assert_eq!(shown(&store, Some("two.test")), der(&two));

        two.write(dir.path(), "two").unwrap();
        store.reload().unwrap();
        assert_eq!(shown(&store, Some("one.test")), der(&renewed));
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (one, two) = (authority.issue(&["one.test"]), authority.issue(&["two.test"]));
        let refused = |cert: &str, key: &str| {
            let source = source(dir.path(), "x", &Leaf { cert: cert.to_owned(), key: key.to_owned() });
            Store::load([source]).unwrap_err().to_string()
        };
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (cert, key, file, said) in [
            (&*one.cert, &*two.key, "x.key", "is not the key of the first certificate"),
            ("", &one.key, "x.crt", "contains no certificate"),
            (&one.cert, "", "x.key", "no private key"),
            (&one.cert, &one.cert, "x.key", "no private key"),
            (garbage, &one.key, "x.crt", "the first certificate cannot be read"),
            (&one.cert, bad_key, "x.key", "cannot be used"),
        ] {
            let error = refused(cert, key);
            assert!(error.contains(file) && error.contains(said), "{error}");
        }
        assert!(matches!(Store::load([]), Err(CertError::Empty)));
    }

    #[test]
    fn a_handshake_verifies_with_and_without_alpn() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let ca = authority.write(dir.path()).unwrap();
        let leaf = authority.issue(&["imap.test"]);
        let store = Store::load([source(dir.path(), "default", &leaf)]).unwrap();
        let server = server_config(store).unwrap();
        for (alpn, works) in [(None, true), (Some("imap"), true), (Some("http/1.1"), false)] {
            let mut client = (*crate::client_config(Some(&ca)).unwrap()).clone();
            client.alpn_protocols = alpn.map(|a| a.as_bytes().to_vec()).into_iter().collect();
            assert_eq!(handshake(client, server.clone(), "imap.test").is_ok(), works, "{alpn:?}");
        }
        let client = (*crate::client_config(Some(&ca)).unwrap()).clone();
        assert!(handshake(client, server, "other.test").is_err());
    }

    fn handshake(
        client: rustls::ClientConfig,
        server: Arc<ServerConfig>,
        name: &'static str,
    ) -> Result<(), rustls::Error> {
        let mut client =
            rustls::ClientConnection::new(Arc::new(client), ServerName::try_from(name).unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &*wire).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &*wire).unwrap();
            client.process_new_packets()?;
            wire.clear();
        }
        Ok(())
    }
}
