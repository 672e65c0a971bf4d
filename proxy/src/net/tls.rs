//! TLS towards clients and towards pools.
//!
//! Rule: configurations are built once, at load, so that a wrong file is found before the first client comes.

use std::sync::Arc;

use bascule_certs::CertError;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::{
    config::{Pool, Protocol, ServiceTls},
    net::{secure::Secure, stream::Leg},
    topology::PoolId,
};

/// TLS towards the pools, by pool.
#[derive(Debug, Default)]
pub struct Connectors(Vec<[Option<Connector>; PROTOCOLS.len()]>);

/// Whose legs may be protected.
const PROTOCOLS: [Protocol; 4] = [Protocol::Imap, Protocol::Smtp, Protocol::Submission, Protocol::Lmtp];

/// TLS towards one service.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connectors {
    /// Builds them for all pools.
    pub fn new(pools: &[Arc<Pool>]) -> Result<Self, CertError> {
        let of_pool = |pool: &Arc<Pool>| -> Result<_, CertError> {
            let mut connectors = [const { None }; PROTOCOLS.len()];
            for (slot, protocol) in connectors.iter_mut().zip(PROTOCOLS) {
                if let Some(service) = pool.service(protocol) {
                    *slot = connector(&service.tls)?;
                }
            }
            Ok(connectors)
        };
        pools.iter().map(of_pool).collect::<Result<_, _>>().map(Self)
    }

    /// The one for a pool; `None` where the leg is clear text.
    pub fn of(&self, pool: PoolId, protocol: Protocol) -> Option<&Connector> {
        let at = PROTOCOLS.iter().position(|one| *one == protocol)?;
        self.0.get(usize::from(pool.0))?.get(at)?.as_ref()
    }
}

fn connector(tls: &ServiceTls) -> Result<Option<Connector>, CertError> {
    let verify = match tls {
        ServiceTls::None => return Ok(None),
        ServiceTls::Starttls(verify) | ServiceTls::Implicit(verify) => verify,
    };
    let config = bascule_certs::client_config(verify.ca.as_deref())?;
    let Ok(name) = ServerName::try_from(verify.name.clone()) else { return Ok(None) };
    Ok(Some(Connector { config, name }))
}

impl Connector {
    /// The handshake.
    pub async fn connect(&self, tcp: TcpStream) -> std::io::Result<Leg> {
        Ok(Leg::tls(Secure::connect(tcp, self.config.clone(), self.name.clone()).await?))
    }
}
