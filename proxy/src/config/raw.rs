//! The file as it is written: serde's view, before anything is checked.
//!
//! Rule: no key is accepted that is not listed here, and whatever a check may refuse carries its place in the file.

use std::{collections::BTreeMap, fmt, marker::PhantomData, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};
use serde_spanned::Spanned;

/// A table per name.
pub(super) type Named<T> = BTreeMap<String, Spanned<T>>;
/// A key that may be left out.
pub(super) type Maybe<T> = Option<Spanned<T>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) server: Spanned<Server>,
    #[serde(default)]
    pub(super) tls: Tls,
    #[serde(default)]
    pub(super) listener: Named<Listener>,
    #[serde(default)]
    pub(super) pool: Named<Pool>,
    pub(super) cutover: Maybe<Cutover>,
    pub(super) limits: Maybe<Limits>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub(super) hostname: Spanned<String>,
    pub(super) state_dir: Spanned<PathBuf>,
    pub(super) observe: Maybe<String>,
    pub(super) threads: Maybe<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    #[serde(default)]
    pub(super) certificate: Named<Certificate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub(super) cert: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) protocol: Spanned<String>,
    pub(super) bind: Spanned<Vec<Spanned<String>>>,
    pub(super) tls: Spanned<String>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) relay: Maybe<String>,
    pub(super) dial: Maybe<String>,
    pub(super) bare_newline: Maybe<String>,
    pub(super) ambiguous: Maybe<String>,
    pub(super) devices: Maybe<Vec<Spanned<String>>>,
    pub(super) rates: Maybe<Rates>,
    pub(super) routes: Maybe<Vec<Spanned<Route>>>,
    pub(super) redirect: Maybe<String>,
    pub(super) hsts: Maybe<Time>,
    pub(super) acme: Maybe<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) host: Maybe<String>,
    pub(super) path: Spanned<String>,
    pub(super) service: Spanned<String>,
    pub(super) priority: Maybe<String>,
    pub(super) long_poll: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rates {
    pub(super) address_connections: Maybe<u32>,
    pub(super) address_messages: Maybe<u32>,
    pub(super) identity_messages: Maybe<u32>,
    pub(super) address_requests: Maybe<u32>,
    pub(super) identity_requests: Maybe<u32>,
    pub(super) exempt: Maybe<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProtocol {
    pub(super) trusted: Spanned<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) contract: Spanned<Contract>,
    #[serde(default)]
    pub(super) probe: Vec<Spanned<Account>>,
    pub(super) imap: Spanned<Service>,
    pub(super) smtp: Maybe<Service>,
    pub(super) submission: Maybe<Service>,
    pub(super) lmtp: Maybe<Service>,
    #[serde(default)]
    pub(super) http: Named<HttpService>,
    pub(super) capabilities: Maybe<Vec<Spanned<String>>>,
    pub(super) promote: Maybe<Promote>,
    pub(super) fence: Maybe<Fence>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contract {
    pub(super) storage: Spanned<String>,
    pub(super) standby_login: Maybe<String>,
    pub(super) fence_reversible: Option<bool>,
    pub(super) fence_keeps_reads: Maybe<bool>,
    pub(super) promote_reversible: Maybe<bool>,
    pub(super) reverse: Maybe<String>,
    pub(super) decision: Maybe<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    pub(super) user: Spanned<String>,
    pub(super) password_file: Spanned<PathBuf>,
    pub(super) address: Maybe<String>,
}

impl Pool {
    /// Every service's name and servers, as they are written.
    pub(super) fn servers(&self) -> impl Iterator<Item = (String, &[Spanned<String>])> {
        let mail = [("smtp", &self.smtp), ("submission", &self.submission), ("lmtp", &self.lmtp)];
        let mail = mail.into_iter().filter_map(|(name, service)| Some((name, service.as_ref()?.get_ref())));
        let all = std::iter::once(("imap", self.imap.get_ref())).chain(mail);
        let all = all.map(|(name, service)| (name.to_owned(), service.servers.get_ref().as_slice()));
        let http = self.http.iter();
        all.chain(
            http.map(|(name, one)| (format!("http.{name}"), one.get_ref().servers.get_ref().as_slice())),
        )
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) servers: Spanned<Vec<Spanned<String>>>,
    pub(super) tls: Spanned<ServiceTls>,
    pub(super) balance: Maybe<String>,
    pub(super) restore: Maybe<Restore>,
    pub(super) client_address: Maybe<String>,
    pub(super) dial_timeout: Maybe<Time>,
    pub(super) keywords: Maybe<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpService {
    pub(super) servers: Spanned<Vec<Spanned<String>>>,
    pub(super) tls: Spanned<ServiceTls>,
    pub(super) version: Maybe<String>,
    pub(super) client_address: Maybe<String>,
    pub(super) balance: Maybe<String>,
    pub(super) concurrency: Maybe<usize>,
    pub(super) queue: Maybe<usize>,
    pub(super) dial_timeout: Maybe<Time>,
    pub(super) silence: Maybe<Time>,
    pub(super) probe: Maybe<String>,
    pub(super) session: Maybe<WebSession>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebSession {
    pub(super) login: Spanned<String>,
    pub(super) form: Spanned<String>,
    pub(super) cookie: Spanned<String>,
    pub(super) page: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTls {
    pub(super) mode: Spanned<String>,
    pub(super) ca: Maybe<PathBuf>,
    pub(super) name: Maybe<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    pub(super) mode: Spanned<String>,
    pub(super) user: Maybe<String>,
    pub(super) password_file: Maybe<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Promote {
    pub(super) run: Spanned<Hook>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fence {
    pub(super) engage: Spanned<Hook>,
    pub(super) release: Spanned<Hook>,
    pub(super) kind: Maybe<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) exec: Spanned<Vec<String>>,
    pub(super) timeout: Maybe<Time>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cutover {
    pub(super) max_hold: Maybe<Time>,
    pub(super) drain: Maybe<Time>,
    pub(super) fence: Maybe<Time>,
    pub(super) barrier: Maybe<Time>,
    pub(super) decide: Maybe<Time>,
    pub(super) abort_reserve: Maybe<Time>,
    pub(super) arm_timeout: Maybe<Time>,
    pub(super) guard_passes: Maybe<u32>,
    pub(super) guard_interval: Maybe<Time>,
    pub(super) prewarm: Option<bool>,
    pub(super) login_rate: Maybe<u32>,
    pub(super) verify_sample: Option<usize>,
    pub(super) unmovable: Maybe<toml::Value>,
    pub(super) restore_concurrency: Maybe<usize>,
    pub(super) resume_within: Maybe<Time>,
    pub(super) soak: Maybe<Time>,
    #[serde(default)]
    pub(super) check: Named<Check>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    pub(super) kind: Spanned<String>,
    pub(super) exec: Spanned<Vec<String>>,
    pub(super) timeout: Maybe<Time>,
    pub(super) from: Spanned<String>,
    pub(super) to: Spanned<String>,
    #[serde(rename = "as")]
    pub(super) roles: Maybe<Vec<Spanned<String>>>,
    pub(super) local: Maybe<Vec<Spanned<String>>>,
    pub(super) allowed: Maybe<usize>,
    pub(super) ignore: Maybe<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) connections: Maybe<usize>,
    pub(super) line: Maybe<Size>,
    pub(super) command: Maybe<Size>,
    pub(super) held_bytes: Maybe<Size>,
    pub(super) held_commands: Maybe<usize>,
    pub(super) upload_memory: Maybe<Size>,
    pub(super) upload: Maybe<Size>,
    pub(super) spool: Maybe<Size>,
    pub(super) spool_memory: Maybe<Size>,
    pub(super) login: Maybe<Time>,
    pub(super) command_ceiling: Maybe<Time>,
    pub(super) login_ceiling: Maybe<Time>,
    pub(super) keepalive: Maybe<Time>,
    pub(super) idle_keepalive: Maybe<Time>,
    pub(super) autologout: Maybe<Time>,
    pub(super) handshake: Maybe<Time>,
    pub(super) failed_logins: Maybe<u32>,
    pub(super) shutdown: Maybe<Time>,
    pub(super) http: Maybe<HttpLimits>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpLimits {
    pub(super) header: Maybe<Time>,
    pub(super) header_size: Maybe<Size>,
    pub(super) body: Maybe<Time>,
    pub(super) body_size: Maybe<Size>,
    pub(super) idle: Maybe<Time>,
    pub(super) hold: Maybe<Time>,
    pub(super) held_requests: Maybe<usize>,
    pub(super) held_bytes: Maybe<Size>,
    pub(super) streams: Maybe<u32>,
}

/// A duration with its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

/// A number of bytes with its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Time {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        humantime::parse_duration(text).map(Self).map_err(drop)
    }
}

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bare = text.chars().all(|c| c.is_ascii_digit());
        let size = text.parse::<bytesize::ByteSize>().map_err(drop)?;
        if bare { Err(()) } else { Ok(Self(size.as_u64())) }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(WithUnit(r#"a duration with its unit, such as "8s" or "500ms""#, PhantomData))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(WithUnit(r#"a size with its unit, such as "64KiB" or "2GiB""#, PhantomData))
    }
}

struct WithUnit<T>(&'static str, PhantomData<T>);

impl<T: FromStr> de::Visitor<'_> for WithUnit<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
