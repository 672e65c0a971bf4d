//! How much one client may do in a minute.
//!
//! Rule: counted by address before the login and by name after it; who is over is told to come back, and loses nothing.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config;

/// The rates of one listener.
#[derive(Debug)]
pub struct Rates {
    exempt: Vec<config::Network>,
    connections: Option<DefaultKeyedRateLimiter<IpAddr>>,
    messages: Option<DefaultKeyedRateLimiter<IpAddr>>,
    identities: Option<DefaultKeyedRateLimiter<String>>,
    requests: Option<DefaultKeyedRateLimiter<IpAddr>>,
    requests_of: Option<DefaultKeyedRateLimiter<String>>,
}

/// The key of the configuration that is reached.
pub type Reached = &'static str;

impl Rates {
    /// As configured; nobody has done anything yet.
    pub fn new(config: &config::Rates) -> Self {
        Self {
            exempt: config.exempt.clone(),
            connections: limiter(config.address_connections),
            messages: limiter(config.address_messages),
            identities: limiter(config.identity_messages),
            requests: limiter(config.address_requests),
            requests_of: limiter(config.identity_requests),
        }
    }

    /// One more connection of this address.
    pub fn connection(&self, peer: IpAddr) -> Result<(), Reached> {
        match self.counted(peer) {
            Some(address) => check(self.connections.as_ref(), &address, "address_connections"),
            None => Ok(()),
        }
    }

    /// One more message of this address, and of whoever is logged in.
    pub fn message(&self, peer: IpAddr, identity: &str) -> Result<(), Reached> {
        let Some(address) = self.counted(peer) else { return Ok(()) };
        check(self.messages.as_ref(), &address, "address_messages")?;
        if let (Some(identities), false) = (&self.identities, identity.is_empty()) {
            check(Some(identities), &identity.to_owned(), "identity_messages")?;
        }
        Ok(())
    }

    /// One more request of this address.
    pub fn request(&self, peer: IpAddr) -> Result<(), Reached> {
        match self.requests.as_ref().and_then(|_| self.counted(peer)) {
            Some(address) => check(self.requests.as_ref(), &address, "address_requests"),
            None => Ok(()),
        }
    }

    /// One more of whoever comes with this name, which is known to be theirs.
    pub fn request_of(&self, peer: IpAddr, identity: &str) -> Result<(), Reached> {
        match self.requests_of.as_ref().and_then(|_| self.counted(peer)) {
            Some(_) => check(self.requests_of.as_ref(), &identity.to_owned(), "identity_requests"),
            None => Ok(()),
        }
    }

    /// Forgets who has done nothing for a while.
    pub fn forget(&self) {
        self.connections.iter().chain(&self.messages).chain(&self.requests).for_each(|limiter| {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        });
        self.identities.iter().chain(&self.requests_of).for_each(|limiter| limiter.retain_recent());
    }

    /// As whom an address is counted. `None`: it is not.
    fn counted(&self, peer: IpAddr) -> Option<IpAddr> {
        match peer.to_canonical() {
            peer if self.exempt.iter().any(|network| network.contains(peer)) => None,
            IpAddr::V4(v4) => Some(v4.into()),
            // What one customer has at the least (RFC 6177).
            IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into()),
        }
    }
}

fn limiter<K: Hash + Eq + Clone>(per_minute: Option<NonZeroU32>) -> Option<DefaultKeyedRateLimiter<K>> {
    per_minute.map(|count| RateLimiter::keyed(Quota::per_minute(count)))
}

fn check<K: Hash + Eq + Clone>(
    limiter: Option<&DefaultKeyedRateLimiter<K>>,
    key: &K,
    name: Reached,
) -> Result<(), Reached> {
    match limiter {
        Some(limiter) if limiter.check_key(key).is_err() => Err(name),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates::new(&config::Rates {
            address_connections: NonZeroU32::new(2),
            address_messages: NonZeroU32::new(3),
            identity_messages: NonZeroU32::new(1),
            address_requests: NonZeroU32::new(2),
            identity_requests: NonZeroU32::new(1),
            exempt: vec![config::Network { address: [10, 0, 0, 0].into(), prefix: 8 }],
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_may_do_so_much_and_another_one_as_much() {
        let rates = rates();
        let connects = |peer: &str| rates.connection(ip(peer));
        assert_eq!([connects("192.0.2.1"), connects("::ffff:192.0.2.1")], [Ok(()); 2]);
        assert_eq!(connects("192.0.2.1"), Err("address_connections"));
        assert_eq!(connects("192.0.2.2"), Ok(()));
        assert_eq!([connects("2001:db8::1"), connects("2001:db8::ffff:2")], [Ok(()); 2]);
        assert_eq!(connects("2001:db8::3"), Err("address_connections"), "of one /64");
        assert_eq!(connects("2001:db8:0:1::1"), Ok(()));
        assert!((0..9).all(|_| connects("10.1.2.3").is_ok()), "not counted");
    }

    #[test]
    fn requests_are_counted_like_messages() {
        let rates = rates();
        let asks = |peer: &str| rates.request(ip(peer));
        assert_eq!([asks("192.0.2.1"), asks("192.0.2.1")], [Ok(()); 2]);
        assert_eq!(asks("192.0.2.1"), Err("address_requests"));
        assert_eq!(rates.request_of(ip("192.0.2.2"), "anna"), Ok(()));
        assert_eq!(rates.request_of(ip("192.0.2.3"), "anna"), Err("identity_requests"));
        assert!((0..9).all(|_| asks("10.1.2.3").is_ok()));
        assert_eq!(rates.request_of(ip("10.1.2.3"), "anna"), Ok(()), "not counted");
        let none = Rates::new(&config::Rates::default());
        assert!((0..9).all(|_| none.request(ip("192.0.2.1")).is_ok()));
    }

    #[test]
    fn whoever_is_logged_in_is_counted_by_name_as_well() {
        let rates = rates();
        let sends = |peer: &str, who: &str| rates.message(ip(peer), who);
        assert_eq!(sends("192.0.2.1", "anna"), Ok(()));
        assert_eq!(sends("192.0.2.2", "anna"), Err("identity_messages"), "wherever she is");
        assert_eq!(sends("192.0.2.1", "bert"), Ok(()));
        assert_eq!(sends("192.0.2.1", ""), Ok(()));
        assert_eq!(sends("192.0.2.1", ""), Err("address_messages"));
        rates.forget();
        assert_eq!(sends("192.0.2.1", ""), Err("address_messages"), "a minute is not over");
    }
}
