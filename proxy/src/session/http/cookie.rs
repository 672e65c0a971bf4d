//! The proxy's own cookie: which server a browser began with, in which epoch.
//!
//! Rule: it tells nothing to whom it is given, and nobody else can make one; where it does not fit it is as if there
//! were none.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use http::header;
use pingora_http::RequestHeader;

use crate::topology::Epoch;

/// The file with the key, in the folder of the process's state. Proxies that serve the same names share a copy.
const FILE: &str = "cookie.key";
/// Its length, and that of a whole MAC.
const LONG: usize = 32;
/// So much of a MAC is kept: enough that nobody guesses it.
const SHORT: usize = 16;

/// What cookies are signed with.
#[derive(Debug)]
pub(super) struct Key(hmac::Key);

impl Key {
    /// The one in this folder; it is made when there is none.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(&path).map_err(named)?,
            read => read.map_err(named)?,
        };
        if bytes.len() < LONG {
            let why = format!("{LONG} random bytes are expected: remove it, and a new one is made");
            return Err(named(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        Ok(Self(hmac::Key::new(HMAC_SHA256, &bytes)))
    }

    fn make(path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; LONG];
        aws_lc_rs::rand::fill(&mut bytes).map_err(io::Error::other)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(bytes)
    }

    /// The cookie's value for one server of a service.
    pub(super) fn value(&self, epoch: Epoch, service: &str, server: &str) -> String {
        let mut bytes = epoch.0.to_be_bytes().to_vec();
        bytes.extend(&self.mac(epoch, service, server).as_ref()[..SHORT]);
        BASE64.encode(bytes)
    }

    /// Which of these servers a value of this epoch names.
    pub(super) fn server(
        &self,
        value: &[u8],
        epoch: Epoch,
        service: &str,
        servers: &[String],
    ) -> Option<usize> {
        let bytes = BASE64.decode(value).ok()?;
        let (begun, mac) = bytes.split_at_checked(4)?;
        if begun != epoch.0.to_be_bytes() || mac.len() != SHORT {
            return None;
        }
        let same = |server: &String| {
            let own = self.mac(epoch, service, server);
            aws_lc_rs::constant_time::verify_slices_are_equal(&own.as_ref()[..SHORT], mac).is_ok()
        };
        servers.iter().position(same)
    }

    fn mac(&self, epoch: Epoch, service: &str, server: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [&epoch.0.to_be_bytes()[..], service.as_bytes(), b"\0", server.as_bytes()] {
            context.update(part);
        }
        context.sign()
    }
}

/// What the cookie of a service is called.
pub(super) fn name(service: &str) -> String {
    format!("bascule-{service}")
}

/// `Set-Cookie`: until the browser ends, for no script to read.
pub(super) fn setting(service: &str, value: &str, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}", name(service))
}

/// The value of a cookie.
pub(super) fn of<'a>(head: &'a RequestHeader, name: &str) -> Option<&'a [u8]> {
    let all = head.headers.get_all(header::COOKIE).iter().flat_map(|value| pairs(value.as_bytes()));
    let mut found = all.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    found.next()
}

/// The value that an answer gives to a cookie.
pub(super) fn set<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pairs(field).next()?.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Takes our own cookie out of a request: no server needs it.
pub(super) fn hide(head: &mut RequestHeader, service: &str) -> pingora_error::Result<()> {
    if !head.headers.contains_key(header::COOKIE) {
        return Ok(());
    }
    let name = name(service);
    if of(head, &name).is_none() {
        return Ok(());
    }
    let is_ours = |pair: &[u8]| pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
    let fields = head.headers.get_all(header::COOKIE).iter();
    let left: Vec<Vec<u8>> = fields
        .map(|field| match pairs(field.as_bytes()).any(is_ours) {
            true => {
                pairs(field.as_bytes()).filter(|pair| !is_ours(pair)).collect::<Vec<_>>().join(&b"; "[..])
            }
            false => field.as_bytes().to_vec(),
        })
        .filter(|field| !field.is_empty())
        .collect();
    head.remove_header(&header::COOKIE);
    for field in left {
        head.append_header("Cookie", field)?;
    }
    Ok(())
}

/// HTTP/2 may cut them into crumbs (RFC 9113 §8.2.3), as browsers do. Servers of HTTP/1.1 read one field, or join fields with
/// a comma.
pub(super) fn join(head: &mut RequestHeader) -> pingora_error::Result<()> {
    let all: Vec<&[u8]> = head.headers.get_all(header::COOKIE).iter().map(|value| value.as_bytes()).collect();
    if all.len() < 2 {
        return Ok(());
    }
    let one = all.join(&b"; "[..]);
    head.insert_header("Cookie", one)
}

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|b| *b == b';').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(cookies: &[&str]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for cookie in cookies {
            head.append_header("Cookie", *cookie).unwrap();
        }
        head
    }

    #[test]
    fn a_cookie_names_its_server_in_its_epoch_and_service_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::of(folder.path()).unwrap();
        let servers = ["web1:80".to_owned(), "web2:80".to_owned()];
        let value = key.value(Epoch(7), "webmail", "web2:80");
        let of = |value: &str, epoch, service| key.server(value.as_bytes(), Epoch(epoch), service, &servers);
        assert_eq!(of(&value, 7, "webmail"), Some(1));
        assert_eq!((of(&value, 8, "webmail"), of(&value, 7, "dav")), (None, None));
        // What is not ours: changed, cut, of nobody.
        let changed = format!("{}{}", &value[..10], value[10..].to_ascii_lowercase());
        for other in [&changed, &value[..value.len() - 2], "", "AAAA", "not base64!"] {
            assert_eq!(of(other, 7, "webmail"), None, "{other}");
        }
        assert_eq!(key.server(value.as_bytes(), Epoch(7), "webmail", &servers[..1]), None, "it has gone");
        assert!(!value.contains("web"), "it tells no names");
    }

    #[test]
    fn the_key_is_kept_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let value = |key: &Key| key.value(Epoch(1), "a", "b");
        let one = value(&Key::of(folder.path()).unwrap());
        assert_eq!(value(&Key::of(folder.path()).unwrap()), one);
        let file = folder.path().join(FILE);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, b"short").unwrap();
        let error = Key::of(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cookie.key") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn cookies_are_found_and_ours_is_hidden() {
        let mut request = head(&["a=1; bascule-web=x; bascule-web2=y", "bascule-web=z", "b=\"2;3\""]);
        assert_eq!(of(&request, "a"), Some(&b"1"[..]));
        assert_eq!(of(&request, "bascule-we"), None);
        hide(&mut request, "web").unwrap();
        let left: Vec<_> = request.headers.get_all("cookie").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, ["a=1; bascule-web2=y", "b=\"2;3\""]);
        assert_eq!(set(b"SESSION=abc; Path=/", "SESSION"), Some(&b"abc"[..]));
        assert_eq!(set(b"X=1; SESSION=abc", "SESSION"), None);
    }
}
