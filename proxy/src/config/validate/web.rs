//! `probe` and `session` of a service of HTTP.
//!
//! Rule: what is wrong here would be found in the night of the cutover, so it is found now.

use serde_spanned::Spanned;

use super::table::Table;
use crate::config::{ConfigError, HttpProof, HttpWrites, WebSession, raw};

pub(super) fn proof(table: &Table<'_>, raw: &raw::HttpService) -> Result<HttpProof, ConfigError> {
    let writes = match &raw.probe {
        None => HttpWrites::Unsaid,
        Some(word) if word.get_ref() == "none" => HttpWrites::None,
        Some(path) => {
            let instead = "allowed: `{user}`, which is the probe account's name";
            fields(table, "probe", path, &["user"], instead)?;
            let or = "\"none\", if the service stores nothing by itself";
            HttpWrites::At(self::path(table, "probe", path, or)?)
        }
    };
    let session = raw.session.as_ref().map(|raw| session(&table.table("session", raw.span()), raw.get_ref()));
    Ok(HttpProof { writes, session: session.transpose()? })
}

fn session(table: &Table<'_>, raw: &raw::WebSession) -> Result<WebSession, ConfigError> {
    let form = raw.form.get_ref();
    if !(form.contains("{user}") && form.contains("{password}")) {
        let what = "nobody could log in with it";
        let instead = "write the fields as a browser posts them, such as \"user={user}&password={password}\"";
        return Err(table.refuse("form", raw.form.span(), what, instead));
    }
    let cookie = table.plain("cookie", &raw.cookie)?;
    if cookie.contains(['=', ';', ',']) {
        let what = format!("`{cookie}` is not a cookie's name");
        return Err(table.refuse("cookie", raw.cookie.span(), what, "write its name alone, such as \"sid\""));
    }
    for (key, path) in [("login", &raw.login), ("page", &raw.page)] {
        fields(table, key, path, &[], "write the path as it is; only `form` is filled in")?;
    }
    Ok(WebSession {
        login: path(table, "login", &raw.login, "the path that the form is posted to")?,
        form: form.clone(),
        cookie,
        page: path(table, "page", &raw.page, "the path of a page that only who is logged in gets to see")?,
    })
}

/// Whether what stands in braces is filled in: anything else would be said as it stands.
fn fields(
    table: &Table<'_>,
    key: &str,
    raw: &Spanned<String>,
    known: &[&str],
    instead: &str,
) -> Result<(), ConfigError> {
    for part in raw.get_ref().split('{').skip(1) {
        let name = part.split_once('}').map(|(name, _)| name);
        if !name.is_some_and(|name| known.contains(&name)) {
            let shown = name.map_or_else(|| format!("{{{part}"), |name| format!("{{{name}}}"));
            return Err(table.refuse(key, raw.span(), format!("`{shown}` is not filled in here"), instead));
        }
    }
    Ok(())
}

fn path(table: &Table<'_>, key: &str, raw: &Spanned<String>, or: &str) -> Result<String, ConfigError> {
    let path = table.plain(key, raw)?;
    if path.starts_with('/') && !path.contains('#') {
        return Ok(path);
    }
    let what = format!("`{path}` is not a path");
    Err(table.refuse(key, raw.span(), what, format!("write one that begins with a slash, or {or}")))
}
