//! A connection to a pool's IMAP server, up to the point where somebody may log in.
//!
//! Rule: what comes back has been greeted, is protected as the configuration says, and has no byte unread that
//! came before TLS.

use std::{io, time::Duration};

use bascule_protocols::{
    imap::{
        fragment::text,
        response::{Response, Status},
    },
    lines::Lines,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    config::{Pool, Protocol, ServiceTls},
    net::{stream::Leg, tls::Connector},
    session::World,
    topology::PoolId,
};

/// Why no usable connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answered the dial: refused, unreachable. Nothing was sent.
    #[error("{server}: dial: {error}")]
    Dial {
        /// `host:port`
        server: String,
        /// What the system said.
        error: io::Error,
    },
    /// It took longer than `dial_timeout`.
    #[error("{server}: no greeting within {limit:?}")]
    Timeout {
        /// `host:port`
        server: String,
        /// `dial_timeout`
        limit: Duration,
    },
    /// The server answered, but not as an IMAP server that can be used (BYE, PREAUTH, TLS refused …).
    #[error("{server}: {saw}")]
    Unusable {
        /// `host:port`
        server: String,
        /// What was seen.
        saw: String,
    },
}

/// Dials the pool's IMAP server: TCP, TLS or STARTTLS, greeting read.
pub async fn open(world: &World, pool: PoolId) -> Result<Leg, OpenError> {
    let topology = world.topology.load();
    let connector = world.connectors.of(pool, Protocol::Imap);
    let pool = topology.pool(pool);
    let limit = pool.imap.dial_timeout;
    let server = || pool.imap.server.clone();
    match timeout(limit, greeted(pool, connector)).await {
        Ok(result) => result,
        Err(_) => Err(OpenError::Timeout { server: server(), limit }),
    }
}

/// The same for a session: whether it came to be is told to whoever runs the servers.
pub async fn reach(world: &World, pool: PoolId) -> Result<Leg, OpenError> {
    let opened = open(world, pool).await;
    let topology = world.topology.load();
    let failed = opened.as_ref().err().map(|error| error as &dyn std::fmt::Display);
    world.tried(pool, Protocol::Imap, &topology.pool(pool).imap.server, failed);
    opened
}

async fn greeted(pool: &Pool, connector: Option<&Connector>) -> Result<Leg, OpenError> {
    let server = &pool.imap.server;
    let tcp = TcpStream::connect(server)
        .await
        .map_err(|error| OpenError::Dial { server: server.clone(), error })?;
    let _ = tcp.set_nodelay(true);
    let unusable = |saw: String| OpenError::Unusable { server: server.clone(), saw };
    let secure = |tcp| async move {
        let connector = connector.ok_or_else(|| io::Error::other("no TLS configuration for this server"))?;
        connector.connect(tcp).await
    };
    match &pool.imap.tls {
        ServiceTls::None => greeting(Leg::plain(tcp)).await.map_err(unusable),
        ServiceTls::Implicit(_) => {
            let leg = secure(tcp).await.map_err(|e| unusable(format!("TLS: {e}")))?;
            greeting(leg).await.map_err(unusable)
        }
        ServiceTls::Starttls(_) => {
            let mut leg = greeting(Leg::plain(tcp)).await.map_err(unusable)?;
            starttls(&mut leg).await.map_err(unusable)?;
            let tcp = leg.into_tcp().ok_or_else(|| unusable("TLS twice".to_owned()))?;
            secure(tcp).await.map_err(|e| unusable(format!("STARTTLS: {e}")))
        }
    }
}

async fn greeting(mut leg: Leg) -> Result<Leg, String> {
    let line = line(&mut leg).await?;
    match Response::parse(text(&line)) {
        Ok(Response::Untagged { status: Status::Ok, .. }) => Ok(leg),
        // PREAUTH would be somebody else's identity.
        _ => Err(format!("greeting: {}", String::from_utf8_lossy(text(&line)))),
    }
}

async fn starttls(leg: &mut Leg) -> Result<(), String> {
    let write = async {
        leg.write_all(b"S STARTTLS\r\n").await?;
        leg.flush().await
    };
    write.await.map_err(|e| e.to_string())?;
    loop {
        let line = line(leg).await?;
        match Response::parse(text(&line)) {
            Ok(Response::Tagged { status: Status::Ok, .. }) => return Ok(()),
            Ok(Response::Tagged { .. }) | Err(_) => {
                return Err(format!("STARTTLS: {}", String::from_utf8_lossy(text(&line))));
            }
            Ok(_) => {}
        }
    }
}

/// One line of a greeting; longer ones than 8 KiB are nobody's.
async fn line(leg: &mut Leg) -> Result<Vec<u8>, String> {
    let mut lines = Lines::default();
    loop {
        let input = leg.fill_buf().await.map_err(|e| e.to_string())?;
        if input.is_empty() {
            return Err("closed without a greeting".to_owned());
        }
        let (n, line) = lines.next(input, 8192);
        let line = line.map_err(|e| e.to_string())?.map(<[u8]>::to_vec);
        leg.consume(n);
        if let Some(line) = line {
            return Ok(line);
        }
    }
}
