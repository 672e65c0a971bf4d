//! Proofs by mail, for relay, submission and LMTP: connections as sessions open them, and a message to a probe account.
//!
//! Rule: nobody but a probe account ever gets a message of ours. A relay and submission are never given one: what they
//! accept goes into a queue, and comes out of it when nobody looks. LMTP delivers at once, and is given one where only
//! the reply to it proves anything; it is looked for by IMAP and taken away again.

#[cfg(test)]
pub(super) mod fake;
pub(super) mod line;
pub(super) mod offer;

use std::net::{Ipv4Addr, SocketAddr};

use bascule_protocols::smtp::{
    auth::Credentials,
    relay::{Hello, Role},
};

use self::line::Line;
use crate::{
    checks::server::PATIENCE,
    config::{Account, Config, Pool, Protocol, Service},
    net::tls::Connector,
    session::{
        World,
        smtp::open::{OpenError, Opened, Way, Whom},
    },
    topology::PoolId,
};

/// The protocols that mail takes.
pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::Smtp, Protocol::Submission, Protocol::Lmtp];

/// The servers of one mail protocol of a pool.
#[derive(Debug)]
pub(super) struct Post<'a> {
    pub(super) protocol: Protocol,
    pub(super) service: Service,
    connector: Option<&'a Connector>,
    pub(super) hostname: String,
}

impl<'a> Post<'a> {
    /// Those of `pool`, if it has any.
    pub(super) fn of(world: &'a World, pool: PoolId, protocol: Protocol) -> Option<Self> {
        let service = world.topology.load().pool(pool).service(protocol)?.clone();
        Some(Self::new(&world.config, service, world.connectors.of(pool, protocol), protocol))
    }

    pub(super) fn new(
        config: &Config,
        service: Service,
        connector: Option<&'a Connector>,
        protocol: Protocol,
    ) -> Self {
        Self { protocol, service, connector, hostname: config.server.hostname.clone() }
    }

    /// A connection as `client`, logged in as `account` where that is given.
    pub(super) async fn open(
        &self,
        client: Ipv4Addr,
        hello: &str,
        account: Option<&Account>,
    ) -> Result<Line, OpenError> {
        let unusable = || OpenError::Unavailable("the account's name or password cannot be said".to_owned());
        let own =
            |account: &Account| Credentials::own(&account.user, &account.password.0).ok_or_else(unusable);
        let lmtp = self.protocol == Protocol::Lmtp;
        let whom = Whom {
            protocol: self.protocol,
            role: if lmtp { Role::Lmtp } else { Role::Relay },
            hello: Hello { extended: true, name: hello.as_bytes().into() },
            // Dovecot takes no port 0 for a client's.
            client: SocketAddr::from((client, 1)),
            local: None,
            credentials: account.map(own).transpose()?,
        };
        let Opened { leg, .. } =
            Way { service: &self.service, connector: self.connector }.open(&whom).await?;
        Ok(Line::new(leg, PATIENCE))
    }

    /// A connection for messages to and from `account`, which is logged in where users are.
    async fn open_for(&self, account: &Account) -> Result<Line, OpenError> {
        let login = (self.protocol == Protocol::Submission).then_some(account);
        self.open(Ipv4Addr::LOCALHOST, &self.hostname, login).await
    }
}

/// The mail protocols of a pool by servers that no other pool has as well: those that its fence is to stop.
pub(super) fn own(config: &Config, pool: &Pool) -> Vec<Protocol> {
    let server = |pool: &Pool, protocol| pool.service(protocol).map(|service| service.server.clone());
    let alone = |protocol: &Protocol| {
        let mine = server(pool, *protocol);
        let others = config.pools.iter().filter(|other| other.name != pool.name);
        mine.is_some() && others.into_iter().all(|other| server(other, *protocol) != mine)
    };
    PROTOCOLS.into_iter().filter(alone).collect()
}
