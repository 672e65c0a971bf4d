//! A connection to a pool's SMTP or LMTP server, up to the point where a message may be said.
//!
//! Rule: closed when it is not what the configuration says: no TLS where there must be, no XCLIENT where the client's
//! address must reach the server (a proxy's address in its trusted networks would make it an open relay).

use std::{io, net::SocketAddr, time::Duration};

use bascule_protocols::smtp::{
    auth::Credentials,
    keywords::Keywords,
    relay::{Hello, Role},
    reply::{Class, Replies, Reply},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::address;
use crate::{
    config::{ClientAddress, Protocol, Service, ServiceTls},
    net::{stream::Leg, tls::Connector},
    session::World,
    topology::{PoolId, Topology},
};

/// A server that may be spoken to.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) leg: Leg,
    pub(crate) keywords: Keywords,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Nobody answered the dial. Nothing was sent.
    #[error("{server}: {error}")]
    Dial {
        /// `host:port`
        server: String,
        /// What the system said.
        error: io::Error,
    },
    /// It cannot serve now, or not as it must: another try may.
    #[error("{0}")]
    Unavailable(String),
    /// The server says no, but not to a login.
    #[error("{}", .0.text())]
    Said(Reply),
    /// The server's own word on the login.
    #[error("refused")]
    Refused(Reply),
}

impl OpenError {
    fn passing(self) -> Self {
        match self {
            Self::Refused(reply) => Self::Said(reply),
            Self::Dial { .. } | Self::Unavailable(_) | Self::Said(_) => self,
        }
    }
}

/// Whose connection it will be.
#[derive(Debug, Clone)]
pub(crate) struct Whom {
    pub(crate) protocol: Protocol,
    pub(crate) role: Role,
    pub(crate) hello: Hello,
    pub(crate) client: SocketAddr,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) credentials: Option<Credentials>,
}

/// A server that has greeted, and was told nothing but the client's address.
#[derive(Debug)]
pub(crate) struct Greeted(Server);

/// How the servers of one protocol of a pool are reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) service: &'a Service,
    pub(crate) connector: Option<&'a Connector>,
}

impl<'a> Way<'a> {
    fn of(world: &'a World, topology: &'a Topology, pool: PoolId, whom: &Whom) -> Result<Self, OpenError> {
        let service = topology.pool(pool).service(whom.protocol);
        let service = service.ok_or_else(|| OpenError::Unavailable("no such service".to_owned()))?;
        Ok(Self { service, connector: world.connectors.of(pool, whom.protocol) })
    }

    /// Dials and introduces the client, within the time for a dial.
    pub(crate) async fn open(self, whom: &Whom) -> Result<Opened, OpenError> {
        let opening = async {
            let Greeted(server) = self.greeting(whom).await.map_err(OpenError::passing)?;
            introduced(self, whom, server).await
        };
        within(self.service.dial_timeout, opening).await
    }

    async fn greeting(self, whom: &Whom) -> Result<Greeted, OpenError> {
        let mut server = Server::dial(self, whom).await?;
        let reply = server.ask(None).await?;
        if reply.class() == Class::Done { Ok(Greeted(server)) } else { Err(OpenError::Refused(reply)) }
    }
}

async fn within<T>(
    limit: Duration,
    opening: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, OpenError> {
    let late = |_| Err(OpenError::Unavailable(format!("no answer within {limit:?}")));
    timeout(limit, opening).await.unwrap_or_else(late)
}

/// Dials and introduces the client, within `limit`. `greeted`: the first half of it was done before.
pub(crate) async fn open(
    world: &World,
    pool: PoolId,
    whom: &Whom,
    greeted: Option<Greeted>,
    limit: Duration,
) -> Result<Opened, OpenError> {
    let topology = world.topology.load();
    let way = Way::of(world, &topology, pool, whom)?;
    let opening = async {
        let Greeted(server) = match greeted {
            Some(greeted) => greeted,
            // Without a login its opinion is one on the proxy, and may change.
            None => way.greeting(whom).await.map_err(OpenError::passing)?,
        };
        introduced(way, whom, server).await
    };
    within(limit, opening).await
}

/// Dials, and hears the greeting. What the server thinks of the client already is [`OpenError::Refused`].
pub(crate) async fn greeting(world: &World, pool: PoolId, whom: &Whom) -> Result<Greeted, OpenError> {
    let topology = world.topology.load();
    Way::of(world, &topology, pool, whom)?.greeting(whom).await
}

async fn introduced(way: Way<'_>, whom: &Whom, mut server: Server) -> Result<Opened, OpenError> {
    let mut keywords = server.hello(whom).await?;
    if let ServiceTls::Starttls(_) = way.service.tls {
        server.expect(Some(b"STARTTLS\r\n")).await?;
        server = server.secure(way).await?;
        keywords = server.hello(whom).await?;
    }
    if way.service.client_address == ClientAddress::Xclient {
        let line = address::xclient(&keywords, whom).ok_or_else(|| {
            OpenError::Unavailable("the server does not let us say XCLIENT ADDR".to_owned())
        })?;
        server.expect(Some(&line)).await?;
        keywords = server.hello(whom).await?;
    }
    if way.service.client_address == ClientAddress::Xforward && !address::takes(&keywords, "XFORWARD", "ADDR")
    {
        return Err(OpenError::Unavailable("the server does not let us say XFORWARD ADDR".to_owned()));
    }
    if let Some(credentials) = &whom.credentials {
        server.login(credentials, &keywords).await?;
    }
    Ok(Opened { leg: server.leg, keywords })
}

/// A connection with what was read of the next reply.
#[derive(Debug)]
struct Server {
    leg: Leg,
    replies: Replies,
}

impl Server {
    async fn dial(way: Way<'_>, whom: &Whom) -> Result<Self, OpenError> {
        let service = way.service;
        let mut tcp = TcpStream::connect(&service.server)
            .await
            .map_err(|error| OpenError::Dial { server: service.server.clone(), error })?;
        let _ = tcp.set_nodelay(true);
        if service.client_address == ClientAddress::ProxyV2 {
            let local = whom.local.unwrap_or(whom.client);
            let header = crate::net::proxy_protocol::header(whom.client, local);
            let failed = |error| OpenError::Unavailable(format!("{}: {error}", service.server));
            tcp.write_all(&header).await.map_err(failed)?;
        }
        let leg = match &service.tls {
            ServiceTls::None | ServiceTls::Starttls(_) => Leg::plain(tcp),
            ServiceTls::Implicit(_) => connect(way, tcp).await?,
        };
        Ok(Self { leg, replies: Replies::default() })
    }

    async fn secure(self, way: Way<'_>) -> Result<Self, OpenError> {
        let tcp = self.leg.into_tcp().ok_or_else(|| OpenError::Unavailable("TLS twice".to_owned()))?;
        Ok(Self { leg: connect(way, tcp).await?, replies: Replies::default() })
    }

    /// EHLO or LHLO, whatever the client said: what it is shown is ours to say.
    async fn hello(&mut self, whom: &Whom) -> Result<Keywords, OpenError> {
        let word: &[u8] = if whom.role == Role::Lmtp { b"LHLO " } else { b"EHLO " };
        let reply = self.expect(Some(&[word, &whom.hello.name, b"\r\n"].concat())).await?;
        Ok(Keywords::of_ehlo(reply.texts()))
    }

    async fn login(&mut self, credentials: &Credentials, keywords: &Keywords) -> Result<(), OpenError> {
        let lines = credentials.lines(keywords);
        let lines = lines.ok_or_else(|| OpenError::Unavailable("no mechanism in common".to_owned()))?;
        for (at, line) in lines.iter().enumerate() {
            let reply = self.ask(Some(line)).await?;
            let last = at + 1 == lines.len();
            match reply.class() {
                Class::Done if last => return Ok(()),
                Class::Go if !last => {}
                // XOAUTH2 tells its errors in a challenge that the client answers with an empty line.
                Class::Go => return Err(refused(self.ask(Some(b"\r\n")).await?)),
                Class::Done | Class::Later | Class::Never => return Err(refused(reply)),
            }
        }
        Err(OpenError::Unavailable("a login without an end".to_owned()))
    }

    /// Says `line` and wants a 2yz.
    async fn expect(&mut self, line: Option<&[u8]>) -> Result<Reply, OpenError> {
        let reply = self.ask(line).await?;
        if reply.class() == Class::Done {
            return Ok(reply);
        }
        Err(OpenError::Refused(reply).passing())
    }

    async fn ask(&mut self, line: Option<&[u8]>) -> Result<Reply, OpenError> {
        let failed = |error: io::Error| OpenError::Unavailable(error.to_string());
        if let Some(line) = line {
            self.leg.write_all(line).await.map_err(failed)?;
            self.leg.flush().await.map_err(failed)?;
        }
        loop {
            let input = self.leg.fill_buf().await.map_err(failed)?;
            if input.is_empty() {
                return Err(OpenError::Unavailable("connection closed".to_owned()));
            }
            let (n, reply) = self.replies.next(input);
            self.leg.consume(n);
            if let Some(reply) = reply.map_err(|error| OpenError::Unavailable(error.to_string()))? {
                return Ok(reply);
            }
        }
    }
}

/// Only 5yz is a word on the password (RFC 4954 §6).
fn refused(reply: Reply) -> OpenError {
    if reply.class() == Class::Never {
        return OpenError::Refused(reply);
    }
    // Without its words, which may repeat ours.
    OpenError::Said(Reply::own(reply.code, "is the answer to the login"))
}

async fn connect(way: Way<'_>, tcp: TcpStream) -> Result<Leg, OpenError> {
    let connector = way.connector.ok_or_else(|| OpenError::Unavailable("no TLS configuration".to_owned()))?;
    connector.connect(tcp).await.map_err(|error| OpenError::Unavailable(format!("TLS: {error}")))
}
