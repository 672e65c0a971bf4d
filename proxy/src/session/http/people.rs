//! Whose sessions are live: what a cutover would do to them is a matter of how many there are.
//!
//! Rule: a session is what a server took for one; of it only a hash is kept, for a while.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::header;
use pingora_http::{RequestHeader, ResponseHeader};

use super::cookie;
use crate::config::Config;

/// Who has asked nothing for so long is not there (webmail polls every minute or so).
const LIVE: Duration = Duration::from_secs(15 * 60);
/// See [`Seen::tidied`].
const TIDY: Duration = Duration::from_secs(60);
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
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    sessions: HashMap<u64, Instant>,
    /// When those that are over were taken out last, because there were too many.
    tidied: Option<Instant>,
}

impl Seen {
    fn tidy(&mut self, now: Instant) {
        self.sessions.retain(|_, at| now.saturating_duration_since(*at) < LIVE);
        self.tidied = Some(now);
    }

    /// Whether there is room for one more. Many that come at once do not make each of them costly.
    fn has_room(&mut self, now: Instant) -> bool {
        let tidied = self.tidied.is_some_and(|at| now.saturating_duration_since(at) < TIDY);
        if self.sessions.len() >= MOST && !tidied {
            self.tidy(now);
        }
        self.sessions.len() < MOST
    }
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

    /// A server of this service has answered. A cookie that it does not know is turned away, or exchanged.
    pub(super) fn saw(&self, service: &str, asked: &RequestHeader, answer: &ResponseHeader, now: Instant) {
        let Some(service) = self.services.get(service) else { return };
        let Some(value) = cookie::of(asked, &service.cookie) else { return };
        let mut set = answer.headers.get_all(header::SET_COOKIE).iter();
        if !answer.status.is_success()
            || set.any(|field| cookie::set(field.as_bytes(), &service.cookie).is_some())
        {
            return;
        }
        let hash = self.hash.hash_one(value);
        let mut seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.sessions.contains_key(&hash) || seen.has_room(now) {
            seen.sessions.insert(hash, now);
        }
    }

    /// How many sessions of the service are live.
    pub(super) fn count(&self, service: &str, now: Instant) -> usize {
        let Some(service) = self.services.get(service) else { return 0 };
        let mut seen = service.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.tidy(now);
        seen.sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people() -> People {
        let service = Service { cookie: "sid".into(), seen: Mutex::default() };
        People { services: [("webmail".into(), service)].into(), hash: RandomState::new() }
    }

    fn asked(cookie: &str) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.insert_header("Cookie", cookie).unwrap();
        head
    }

    fn answer(status: u16, set: Option<&str>) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        if let Some(set) = set {
            head.insert_header("Set-Cookie", set).unwrap();
        }
        head
    }

    #[test]
    fn sessions_are_counted_once_and_for_a_while() {
        let (people, begun) = (people(), Instant::now());
        for (value, after) in [("sid=1", 0), ("sid=2; x=1", 0), ("x=1; sid=2", 600), ("other=3", 600)] {
            people.saw("webmail", &asked(value), &answer(200, None), begun + Duration::from_secs(after));
            people.saw("dav", &asked(value), &answer(200, None), begun);
        }
        assert_eq!(people.count("webmail", begun + Duration::from_secs(700)), 2);
        assert_eq!(people.count("webmail", begun + Duration::from_secs(1000)), 1);
        assert_eq!((people.count("webmail", begun + LIVE * 3), people.count("dav", begun)), (0, 0));
    }

    #[test]
    fn what_a_server_does_not_take_for_a_session_is_none() {
        let (people, now) = (people(), Instant::now());
        for (status, set) in [(302, None), (401, None), (503, None), (200, Some("sid=new; Path=/"))] {
            people.saw("webmail", &asked("sid=made-up"), &answer(status, set), now);
        }
        assert_eq!(people.count("webmail", now), 0);
        people.saw("webmail", &asked("sid=1"), &answer(200, Some("theme=dark")), now);
        assert_eq!(people.count("webmail", now), 1);
    }

    #[test]
    fn too_many_are_not_looked_through_for_each_of_them() {
        let (people, now) = (people(), Instant::now());
        for n in 0..MOST + 10 {
            people.saw("webmail", &asked(&format!("sid={n}")), &answer(200, None), now);
        }
        let seen = people.services["webmail"].seen.lock().unwrap();
        assert_eq!((seen.sessions.len(), seen.tidied), (MOST, Some(now)));
        drop(seen);
        people.saw("webmail", &asked("sid=later"), &answer(200, None), now + LIVE);
        assert_eq!(people.count("webmail", now + LIVE), 1);
    }
}
