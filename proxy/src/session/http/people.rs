//! Whose sessions are live: what a cutover would do to them is a matter of how many there are.
//!
//! Rule: of a session only a hash is kept, for a while.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pingora_http::RequestHeader;

use super::cookie;
use crate::config::Config;

/// Who has asked nothing for so long is not there (webmail polls every minute or so).
const LIVE: Duration = Duration::from_secs(15 * 60);
/// Most sessions of a service that are counted.
const MOST: usize = 200_000;

/// Sessions that were seen, by service.
#[derive(Debug, Default)]
pub(super) struct People {
    services: BTreeMap<String, Service>,
    hash: RandomState,
}

#[derive(Debug)]
struct Service {
    cookie: String,
    seen: Mutex<HashMap<u64, Instant>>,
}

impl People {
    /// For the services whose sessions are known by a cookie.
    pub(super) fn new(config: &Config) -> Self {
        let services = config.pools.iter().flat_map(|pool| &pool.http);
        let known = services.filter_map(|(name, service)| {
            let cookie = service.proof.session.as_ref()?.cookie.clone();
            Some((name.clone(), Service { cookie, seen: Mutex::default() }))
        });
        Self { services: known.collect(), hash: RandomState::new() }
    }

    /// A request for this service.
    pub(super) fn saw(&self, service: &str, head: &RequestHeader, now: Instant) {
        let Some(service) = self.services.get(service) else { return };
        let Some(value) = cookie::of(head, &service.cookie) else { return };
        let mut seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST {
            seen.retain(|_, at| now.saturating_duration_since(*at) < LIVE);
        }
        if seen.len() < MOST {
            seen.insert(self.hash.hash_one(value), now);
        }
    }

    /// How many sessions of the service are live.
    pub(super) fn count(&self, service: &str, now: Instant) -> usize {
        let Some(service) = self.services.get(service) else { return 0 };
        let mut seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, at| now.saturating_duration_since(*at) < LIVE);
        seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_once_and_for_a_while() {
        let service = Service { cookie: "sid".into(), seen: Mutex::default() };
        let people = People { services: [("webmail".into(), service)].into(), hash: RandomState::new() };
        let begun = Instant::now();
        for (value, after) in [("sid=1", 0), ("sid=2; x=1", 0), ("x=1; sid=2", 600), ("other=3", 600)] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.insert_header("Cookie", value).unwrap();
            people.saw("webmail", &head, begun + Duration::from_secs(after));
            people.saw("dav", &head, begun);
        }
        assert_eq!(people.count("webmail", begun + Duration::from_secs(700)), 2);
        assert_eq!(people.count("webmail", begun + Duration::from_secs(1000)), 1);
        assert_eq!((people.count("webmail", begun + LIVE * 3), people.count("dav", begun)), (0, 0));
    }
}
