//! What a plan looks at in the services of HTTP: whether a person's session on one pool is good on the other, and whether
//! a pool sends its clients to names that are not the proxy's.
//!
//! Rule: a session is portable when the other pool shows its page for it, and shows it to nobody without.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    ask::{Ask, At, Said, Talk},
    host, own, unsaid,
};
use crate::{
    checks::{Answer, mail},
    config::{Account, Config, HttpService, HttpWrites, Pool, Route, StandbyLogin, WebSession},
    session::{World, http::Shared},
    topology::PoolId,
};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// As it should be.
    Good(String),
    /// Worth to be known.
    Note(String),
    /// It is in the way.
    Bad(Answer),
}

/// Longest look at one thing: an operator waits for all of them.
const LONGEST: Duration = Duration::from_secs(10);
/// Redirects that are followed.
const HOPS: usize = 5;

/// Looks at every service of both pools. So many sessions of people may be lost.
pub async fn look(world: &World, from: PoolId, to: PoolId, allowed: usize) -> Vec<(String, Look)> {
    let topology = world.topology.load();
    let (old, new) = (topology.pool(from).clone(), topology.pool(to).clone());
    let mut all = Vec::new();
    for (name, service) in &old.http {
        let Some(theirs) = new.http.get(name) else { continue };
        let label = |what: &str, pool: &Pool| format!("http {name}: {what} {}", pool.name);
        for pool in [&old, &new] {
            all.extend(fence(&world.config, pool, name).map(|look| (label("fence of", pool), look)));
        }
        let host = &*host(&world.config, name);
        let site = |service| Site { http: &world.http, service, host };
        for (pool, service) in [(&old, service), (&new, theirs)] {
            let found = timeout(LONGEST, leaks(&world.config, site(service), name)).await;
            let found = found.unwrap_or_else(|_| Err(format!("it takes longer than {LONGEST:?}")));
            all.push((label("names shown by", pool), shown(found, pool.name == new.name)));
        }
        if let (Some(session), Some(account)) = (&service.proof.session, old.probes.first()) {
            let both = Both { old: site(service), new: site(theirs), session, account };
            let portable = match new.contract.standby_login {
                StandbyLogin::Yes => timeout(LONGEST, both.portable())
                    .await
                    .unwrap_or_else(|_| Portable::NotAsked(format!("it takes longer than {LONGEST:?}"))),
                // To be somebody there is to be logged in.
                StandbyLogin::No | StandbyLogin::Forbidden => {
                    Portable::NotAsked("the standby takes no logins".to_owned())
                }
            };
            all.push((label("sessions on", &new), kept(portable, world.http.people(name), allowed)));
        }
    }
    all
}

/// A service of one pool.
#[derive(Clone, Copy)]
struct Site<'a> {
    http: &'a Shared,
    service: &'a HttpService,
    host: &'a str,
}

impl Site<'_> {
    /// On a connection of its own: not every server keeps one.
    async fn asked(self, ask: Ask<'_>) -> Result<Said, String> {
        let Self { http, service, host } = self;
        let server = service.servers.first().ok_or("it has no server")?;
        let talk = Talk::open(At { http, service, server, host }).await;
        let mut talk = talk.map_err(|error| format!("{server}: {error}"))?;
        talk.ask(ask).await.map_err(|lost| format!("{} {}: {lost}", ask.method, ask.path))
    }
}

/// How the service is fenced, where that is not proved by writing.
fn fence(config: &Config, pool: &Pool, name: &str) -> Option<Look> {
    let writes = &pool.http.get(name)?.proof.writes;
    match writes {
        _ if own(config, pool, name).is_empty() => Some(Look::Note(
            "its servers are the other pool's as well: the fence is not proved for them".to_owned(),
        )),
        HttpWrites::At(_) => None,
        HttpWrites::None => Some(Look::Note("it is said to store nothing by itself".to_owned())),
        HttpWrites::Unsaid => Some(Look::Bad(Answer::Unknown(unsaid(&pool.name, name)))),
    }
}

// ---- sessions of people -------------------------------------------------------------------------------------

/// A service on both pools.
struct Both<'a> {
    old: Site<'a>,
    new: Site<'a>,
    session: &'a WebSession,
    account: &'a Account,
}

/// Whether a session of the old pool is good on the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Portable {
    Yes,
    /// What the new pool answered.
    No(u16),
    /// The new pool does not answer now.
    NotAsked(String),
    /// The old pool did not show what a session is.
    Unknown(String),
}

fn kept(portable: Portable, live: usize, allowed: usize) -> Look {
    match portable {
        Portable::Yes => {
            Look::Good(format!("a session of the old pool is good on the new one; {live} are live"))
        }
        Portable::No(status) if live > allowed => Look::Bad(Answer::Fail(format!(
            "a session of the old pool is answered {status} by the new one: {live} live ones would have to log in again, \
             {allowed} may be lost (cutover.unmovable)"
        ))),
        Portable::No(status) => Look::Note(format!(
            "a session of the old pool is answered {status} by the new one; {live} are live"
        )),
        Portable::NotAsked(why) => Look::Note(format!(
            "whether sessions are good on the new pool is not known: {why}; {live} are live"
        )),
        Portable::Unknown(why) => Look::Bad(Answer::Unknown(why)),
    }
}

impl Both<'_> {
    async fn portable(&self) -> Portable {
        let cookies = match self.log_in().await {
            Ok(cookies) => cookies,
            Err(why) => return Portable::Unknown(why),
        };
        match self.page(self.new, Some(&cookies)).await {
            Ok(200) => match self.page(self.new, None).await {
                Ok(200) => {
                    Portable::Unknown(format!("{} is shown to anybody by the new pool", self.session.page))
                }
                Ok(_) => Portable::Yes,
                Err(why) => Portable::NotAsked(why),
            },
            Ok(status) => Portable::No(status),
            Err(why) => Portable::NotAsked(why),
        }
    }

    /// The cookies of a session on the old pool that was seen to be one.
    async fn log_in(&self) -> Result<String, String> {
        let WebSession { login, form, cookie, page } = self.session;
        let shown = self.old.asked(Ask::get(login)).await?;
        let before = jar(&shown, String::new());
        let body = filled(form, self.account, &String::from_utf8_lossy(&shown.body))?;
        let fields = [("Content-Type", "application/x-www-form-urlencoded"), ("Cookie", &*before)];
        let fields = if before.is_empty() { &fields[..1] } else { &fields[..] };
        let ask = Ask { method: "POST", path: login, fields, body: body.as_bytes() };
        let cookies = jar(&self.old.asked(ask).await?, before);
        if !cookies.split("; ").any(|pair| pair.split('=').next() == Some(cookie)) {
            return Err(format!("the old pool gave {} no cookie {cookie} at {login}", self.account.user));
        }
        match (self.page(self.old, Some(&cookies)).await?, self.page(self.old, None).await?) {
            (200, 200) => Err(format!("{page} is shown to anybody by the old pool")),
            (200, _) => Ok(cookies),
            (status, _) => Err(format!("{page} is answered {status} on the old pool after the login")),
        }
    }

    async fn page(&self, site: Site<'_>, cookies: Option<&str>) -> Result<u16, String> {
        let fields = cookies.map(|cookies| ("Cookie", cookies));
        let ask = Ask { fields: fields.as_slice(), ..Ask::get(&self.session.page) };
        site.asked(ask).await.map(|said| said.status)
    }
}

/// The cookies that a client has after this answer, as it says them.
fn jar(said: &Said, before: String) -> String {
    let mut pairs: Vec<String> =
        before.split("; ").filter(|pair| !pair.is_empty()).map(str::to_owned).collect();
    for set in said.fields.get_all("set-cookie") {
        let Some(pair) = set.to_str().ok().and_then(|text| text.split(';').next()) else { continue };
        let name = pair.split('=').next().unwrap_or_default().trim();
        pairs.retain(|other| other.split('=').next() != Some(name));
        pairs.push(pair.trim().to_owned());
    }
    pairs.join("; ")
}

/// The form with the account's name and password, and with the hidden fields of the page that it stands on.
fn filled(form: &str, account: &Account, page: &str) -> Result<Zeroizing<String>, String> {
    let encoded = |text: &[u8]| percent_encode(text, NON_ALPHANUMERIC).to_string();
    let (mut out, mut rest) = (Zeroizing::new(String::new()), form);
    while let Some((before, (name, after))) =
        rest.split_once('{').and_then(|(before, more)| Some((before, more.split_once('}')?)))
    {
        out.push_str(before);
        out.push_str(&match name {
            "user" => encoded(account.user.as_bytes()),
            "password" => encoded(&account.password.0),
            hidden => encoded(
                value(page, hidden)
                    .ok_or_else(|| format!("the login page has no field {hidden}"))?
                    .as_bytes(),
            ),
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of a field of a page.
fn value<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let tag = page.split('<').find(|tag| tag.contains(&format!("name=\"{name}\"")))?;
    tag.split_once("value=\"")?.1.split('"').next()
}

// ---- names --------------------------------------------------------------------------------------------------

fn shown(found: Result<Vec<String>, String>, new: bool) -> Look {
    match found {
        Ok(leaks) if leaks.is_empty() => Look::Good("none that clients should not see".to_owned()),
        Ok(leaks) if new => {
            Look::Bad(Answer::Fail(format!("clients are sent around the proxy: {}", leaks.join(", "))))
        }
        Ok(leaks) => Look::Note(format!("clients are sent around the proxy: {}", leaks.join(", "))),
        Err(why) => Look::Note(format!("not looked at: {why}")),
    }
}

/// Where a service sends its clients that is not the proxy.
async fn leaks(config: &Config, site: Site<'_>, name: &str) -> Result<Vec<String>, String> {
    let routes = || config.listeners.values().flat_map(|listener| &listener.http.routes);
    let inside = inside(config, &routes().filter_map(|route| route.host.clone()).collect());
    let mut paths: BTreeSet<String> = routes()
        .filter(asks_at_once)
        .filter(|route| route.service == name)
        .map(|route| route.path.clone())
        .collect();
    let pages = |session: &WebSession| [session.login.clone(), session.page.clone()];
    paths.extend(site.service.proof.session.iter().flat_map(pages));
    let mut found = BTreeSet::new();
    for path in paths {
        let (mut path, mut hops) = (path, 0);
        while hops < HOPS {
            hops += 1;
            let said = site.asked(Ask::get(&path)).await?;
            let place = said.fields.get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let body = String::from_utf8_lossy(&said.body);
            for text in [place, &*body] {
                found.extend(named(text, &inside).map(|name| format!("{name} by {path}")));
            }
            match place.strip_prefix('/') {
                Some(next) if !next.starts_with('/') && place != path => path = place.to_owned(),
                Some(_) | None => break,
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// What is answered when something happens would keep an operator waiting for it.
fn asks_at_once(route: &&Route) -> bool {
    !route.long_poll
}

/// The names of the pools' servers, as far as they are not clients' names for the proxy as well.
fn inside(config: &Config, public: &BTreeSet<String>) -> BTreeSet<String> {
    let of = |pool: &Arc<Pool>| {
        let web = pool.http.values().flat_map(|service| service.servers.clone());
        let mail =
            mail::PROTOCOLS.into_iter().filter_map(|protocol| Some(pool.service(protocol)?.server.clone()));
        web.chain(mail).chain([pool.imap.server.clone()]).collect::<Vec<_>>()
    };
    let servers = config.pools.iter().flat_map(of);
    let hosts = servers.filter_map(|server| Some(server.rsplit_once(':')?.0.to_ascii_lowercase()));
    hosts.filter(|name| !public.contains(name) && *name != config.server.hostname).collect()
}

/// The names of `inside` that stand in absolute addresses.
fn named<'a>(text: &'a str, inside: &'a BTreeSet<String>) -> impl Iterator<Item = String> + 'a {
    text.split("://").skip(1).filter_map(|rest| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let end = match rest.strip_prefix('[') {
            Some(v6) => v6.find(']').map(|at| at + 2),
            None => rest.find(|c| !plain(c)),
        };
        let name = rest[..end.unwrap_or(rest.len())].to_ascii_lowercase();
        inside.contains(&name).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::account;

    #[test]
    fn a_form_is_filled_with_the_account_and_the_page_s_own_fields() {
        let page = r#"<form><input type="hidden" name="_token" value="a b"><input name="user"></form>"#;
        let mut account = account("anna@example.org");
        account.password.0 = Arc::new(Zeroizing::new(b"p&w".to_vec()));
        let body = filled("_token={_token}&u={user}&p={password}&x=1", &account, page);
        assert_eq!(body.as_ref().map(|body| &***body), Ok("_token=a%20b&u=anna%40example%2Eorg&p=p%26w&x=1"));
        let missing = filled("t={other}&u={user}&p={password}", &account, page);
        assert_eq!(missing, Err("the login page has no field other".to_owned()));
    }

    #[test]
    fn cookies_are_kept_as_a_browser_keeps_them() {
        let mut said = Said { status: 200, fields: hyper::HeaderMap::new(), body: bytes::Bytes::new() };
        for set in ["sid=2; Path=/; HttpOnly", "theme=dark"] {
            said.fields.append("set-cookie", set.parse().unwrap());
        }
        assert_eq!(jar(&said, "a=1; sid=1".to_owned()), "a=1; sid=2; theme=dark");
    }

    #[test]
    fn only_whole_names_in_addresses_are_leaks() {
        let inside = ["web1.internal".to_owned(), "[fd00::5]".to_owned()].into();
        let text = r#"<a href="https://web1.internal:8443/x">, http://web1.internal.example.org, web1.internal, http://WEB1.internal, http://[fd00::5]:80/ http://[fd00::5"#;
        assert_eq!(named(text, &inside).collect::<Vec<_>>(), ["web1.internal", "web1.internal", "[fd00::5]"]);
    }

    #[test]
    fn what_people_would_lose_is_in_the_way_unless_it_is_allowed() {
        assert!(matches!(kept(Portable::Yes, 5, 0), Look::Good(_)));
        assert!(matches!(kept(Portable::No(302), 5, 4), Look::Bad(Answer::Fail(_))));
        assert!(matches!(kept(Portable::No(302), 5, 5), Look::Note(_)));
        assert!(matches!(kept(Portable::NotAsked("x".into()), 5, 0), Look::Note(_)));
        assert!(matches!(kept(Portable::Unknown("x".into()), 0, 9), Look::Bad(Answer::Unknown(_))));
    }
}
