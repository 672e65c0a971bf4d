//! SIGHUP: certificates are read again, pools are tested for open relays; of everything else it is said what a restart
//! would change.
//!
//! Rule: all or nothing; after an error everything stays as it was.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use miette::Diagnostic as _;

use crate::{app::relays, config::Config, session::World};

/// Reads the configuration and the certificates again, and tests for open relays.
pub(super) async fn reload(world: &Arc<World>, certificates: Option<&bascule_certs::Store>) {
    let running = &*world.config;
    let loaded = Config::load(&running.path);
    if let Ok(new) = &loaded
        && let Err(why) = relays::would_open(new).await
    {
        tracing::error!(why, "reload: the configuration is refused, nothing changed");
        return;
    }
    tokio::spawn(relays::watch(world.clone()));
    let new = match loaded {
        Ok(new) => new,
        Err(error) => {
            let instead = error.help().map(|help| help.to_string()).unwrap_or_default();
            tracing::error!(%error, instead, "reload: the configuration is refused, nothing changed");
            return;
        }
    };
    let changed = changes(running, &new);
    if changed.is_empty() {
        // Secrets do not print, so they are not compared.
        tracing::info!("reload: nothing in the configuration needs a restart; a new password does");
    }
    for what in changed {
        tracing::warn!("reload: {what} changed and needs a restart");
    }
    let Some(certificates) = certificates else { return };
    match certificates.reload() {
        Ok(()) => tracing::info!("reload: certificates read again"),
        Err(error) => tracing::error!(%error, "reload: certificates are refused, the old ones stay"),
    }
}

/// The tables that differ. They are compared as they print, which leaves out secrets: a changed password file
/// alone is not noticed.
fn changes(old: &Config, new: &Config) -> Vec<String> {
    let pools = |config: &Config| config.pools.iter().map(|p| (p.name.clone(), p.clone())).collect();
    let mut changed = Vec::new();
    let mut whole = |name: &str, old: &dyn Debug, new: &dyn Debug| {
        if format!("{old:?}") != format!("{new:?}") {
            changed.push(format!("[{name}]"));
        }
    };
    whole("server", &old.server, &new.server);
    whole("cutover", &old.cutover, &new.cutover);
    whole("limits", &old.limits, &new.limits);
    changed.extend(tables("tls.certificate", &old.certificates, &new.certificates));
    changed.extend(tables("listener", &old.listeners, &new.listeners));
    changed.extend(tables::<Arc<crate::config::Pool>>("pool", &pools(old), &pools(new)));
    changed
}

fn tables<T: Debug>(name: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Vec<String> {
    let print = |table: Option<&T>| table.map(|t| format!("{t:?}"));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differs = |key: &&&String| print(old.get(**key)) != print(new.get(**key));
    keys.iter().filter(differs).map(|key| format!("[{name}.{key}]")).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const FILE: &str = r#"
[server]
hostname = "mail.example.org"
state_dir = "/var/lib/bascule"

[listener.imap]
protocol = "imap"
bind = ["127.0.0.1:1143"]
tls = "none"

[pool.v4]
contract = { storage = "replicated" }
capabilities = ["IMAP4rev1"]
[pool.v4.imap]
servers = ["127.0.0.1:143"]
tls = { mode = "none" }
"#;

    fn load(dir: &Path, text: &str) -> Config {
        let path = dir.join("bascule.toml");
        fs::write(&path, text).unwrap();
        Config::load(&path).unwrap_or_else(|error| panic!("{}", error.render()))
    }

    #[test]
    fn changes_are_named_by_their_tables() {
        let dir = tempfile::tempdir().unwrap();
        let old = load(dir.path(), FILE);
        assert!(changes(&old, &load(dir.path(), FILE)).is_empty());

        let moved = FILE.replace("127.0.0.1:143\"", "127.0.0.2:143\"").replace(":1143", ":1144");
        assert_eq!(changes(&old, &load(dir.path(), &moved)), ["[listener.imap]", "[pool.v4]"]);

        let more = format!("{FILE}\n[cutover]\nsoak = \"3m\"\n[limits]\nconnections = 7\n");
        assert_eq!(changes(&old, &load(dir.path(), &more)), ["[cutover]", "[limits]"]);

        let renamed = FILE.replace("listener.imap", "listener.mail");
        assert_eq!(changes(&old, &load(dir.path(), &renamed)), ["[listener.imap]", "[listener.mail]"]);
    }
}
