//! How probes reach a pool: a dial, a login, and whether anybody answers at all.
//!
//! Rule: a connection that came to be is evidence, one that did not is evidence only if it was refused.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::{
    checks::{
        Answer,
        mailbox::{Failure, Mailbox},
    },
    config::Account,
    net::stream::Leg,
    session::{
        World,
        imap::open::{OpenError, open},
    },
    topology::PoolId,
};

/// Longest answer to one command of a probe. Who asks while the gate is shut bounds the whole proof as well.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between the two rounds of a proof.
pub(super) const GAP: Duration = Duration::from_millis(100);
/// A dial on the local network is accepted or refused well within this.
const DIAL: Duration = Duration::from_secs(1);

/// Opens greeted connections to one pool.
pub(super) trait Dial: Sync {
    /// What comes of it.
    type Stream: AsyncBufRead + AsyncWrite + Unpin + Send;

    /// One more connection.
    fn dial(&self) -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;
}

/// A pool as sessions reach it.
pub(super) struct Reach<'a> {
    /// What all share.
    pub(super) world: &'a World,
    /// Which pool.
    pub(super) pool: PoolId,
}

impl Dial for Reach<'_> {
    type Stream = Leg;

    async fn dial(&self) -> Result<Leg, OpenError> {
        open(self.world, self.pool).await
    }
}

/// Why a probe account is not logged in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoEntry {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] OpenError),
    /// No login.
    #[error("login of {user}: {failure}")]
    Login {
        /// Whose.
        user: String,
        /// What was answered.
        failure: Failure,
    },
}

/// Dials and logs in with the account's own password.
pub(super) async fn enter<D: Dial>(dial: &D, account: &Account) -> Result<Mailbox<D::Stream>, NoEntry> {
    let mut mailbox = Mailbox::new(dial.dial().await?, PATIENCE);
    let entered = mailbox.login(account).await;
    entered.map_err(|failure| NoEntry::Login { user: account.user.clone(), failure })?;
    Ok(mailbox)
}

/// Whether all connections to `server` reach the same one, as far as its name says: a proof asks one.
pub(super) async fn is_one(server: &str) -> Answer {
    match resolved(server).await {
        Ok(addresses) => one_of(server, addresses.map(|at| at.ip())),
        Err(why) => Answer::Unknown(why),
    }
}

fn one_of(server: &str, addresses: impl Iterator<Item = IpAddr>) -> Answer {
    // Both of `localhost` are this machine.
    let others: BTreeSet<IpAddr> = addresses.filter(|ip| !ip.is_loopback()).collect();
    if others.len() <= 1 {
        return Answer::Pass;
    }
    let list: Vec<String> = others.iter().map(IpAddr::to_string).collect();
    Answer::Fail(format!(
        "{server} has {} addresses ({}): each may be a server of its own, and a fence is proved on one of them; name one",
        others.len(),
        list.join(", ")
    ))
}

async fn resolved(server: &str) -> Result<impl Iterator<Item = SocketAddr> + use<'_>, String> {
    match timeout(DIAL, lookup_host(server)).await {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(format!("{server} does not resolve: {error}")),
        Err(_) => Err(format!("{server} does not resolve in time")),
    }
}

/// Whether nobody listens at any address of `server` now.
pub(super) async fn refused_everywhere(server: &str) -> Answer {
    let addresses = match resolved(server).await {
        Ok(addresses) => addresses,
        Err(why) => return Answer::Unknown(why),
    };
    let mut asked = 0;
    for address in addresses {
        asked += 1;
        match timeout(DIAL, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(Ok(_)) => return Answer::Fail(format!("{address} still accepts connections")),
            Ok(Err(error)) => return Answer::Unknown(format!("dial to {address}: {error}")),
            Err(_) => return Answer::Unknown(format!("dial to {address} is neither accepted nor refused")),
        }
    }
    if asked == 0 { Answer::Unknown(format!("{server} has no address")) } else { Answer::Pass }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(addresses: &[&str]) -> Answer {
        one_of("imap.v4:143", addresses.iter().map(|address| address.parse().unwrap()))
    }

    #[test]
    fn a_name_of_several_servers_is_not_one() {
        assert_eq!(named(&["192.0.2.1"]), Answer::Pass);
        assert_eq!(named(&["::1", "127.0.0.1"]), Answer::Pass, "this machine");
        assert_eq!(named(&["192.0.2.1", "192.0.2.1"]), Answer::Pass, "said twice");
        let Answer::Fail(saw) = named(&["192.0.2.1", "192.0.2.2"]) else { panic!() };
        assert!(saw.contains("imap.v4:143 has 2 addresses (192.0.2.1, 192.0.2.2)"), "{saw}");
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_unknown() {
        assert!(matches!(is_one("no address").await, Answer::Unknown(_)));
        assert_eq!(is_one("127.0.0.1:143").await, Answer::Pass);
    }
}
