//! Commands that work on files: `init`, `check-config`, and `cutover adopt` while nobody serves.
//!
//! Rule: the whole configuration is checked before anything is written.

use std::{path::Path, sync::Arc};

use miette::Diagnostic as _;

use crate::{
    admin::{
        cli::Exit,
        command::{Output, tell},
    },
    app::process,
    config::{Config, ConfigError},
    cutover::{journal, types::Refusal},
    net::tls::Connectors,
    session::http,
};

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The configuration, or a file that it names.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// What the system has to have beside them: authorities that vouch for servers.
    #[error(transparent)]
    Named(bascule_certs::CertError),
    /// Everything else, with what to do in its text.
    #[error("{0:#}")]
    Other(anyhow::Error),
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        error.downcast().map_or_else(Self::Other, Self::Named)
    }
}

impl Failed {
    fn refusal(&self) -> Refusal {
        let instead = match self {
            Self::Config(error) => error.help().map(|help| help.to_string()),
            Self::Named(_) | Self::Other(_) => None,
        };
        Refusal::new(self.to_string(), instead.unwrap_or_default())
    }
}

/// Says why it failed, if it did.
pub(super) fn ended(result: Result<(), Failed>, output: Output) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(Failed::Config(error)) if !output.json => {
            tell(&error.render());
            Exit::Usage
        }
        Err(failed) => {
            output.refuse(&failed.refusal());
            match failed {
                Failed::Config(_) | Failed::Named(_) => Exit::Usage,
                Failed::Other(_) => Exit::Refused,
            }
        }
    }
}

/// `bascule init`
pub(super) fn init(path: &Path, active: &str, output: Output) -> Result<(), Failed> {
    let config = Config::load(path)?;
    known(&config, active)?;
    let dir = &config.server.state_dir;
    process::create_state_dir(dir)?;
    journal::init(dir, active).map_err(anyhow::Error::from)?;
    let done = serde_json::json!({ "active": active, "state_dir": dir });
    output.say(&done, |_| format!("{active} is the active pool. Next: bascule serve\n"));
    Ok(())
}

/// `bascule check-config`
pub(super) fn check(path: &Path, output: Output) -> Result<(), Failed> {
    let config = Config::load(path)?;
    certificates(&config)?;
    Connectors::new(&config.pools).map_err(anyhow::Error::from)?;
    http::Shared::new(&config).map_err(anyhow::Error::from)?;
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
    let found = serde_json::json!({
        "file": path,
        "listeners": names(config.listeners.keys().collect()),
        "pools": names(config.pools.iter().map(|pool| &pool.name).collect()),
        "checks": names(config.cutover.checks.iter().map(|check| &check.name).collect()),
    });
    output.say(&found, |found| {
        let list = |key: &str| {
            let names = found[key].as_array().into_iter().flatten().filter_map(|name| name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            if names.is_empty() { "none".to_owned() } else { names }
        };
        let (listeners, pools, checks) = (list("listeners"), list("pools"), list("checks"));
        format!("{} is valid\nlisteners: {listeners}\npools: {pools}\nchecks: {checks}\n", path.display())
    });
    Ok(())
}

/// `bascule cutover adopt` on the journal itself; its lock keeps a running bascule out.
pub(super) fn adopt(path: &Path, pool: &str, reason: &str, unproved: bool) -> Result<(), Failed> {
    let config = Config::load(path)?;
    known(&config, pool)?;
    let dir = &config.server.state_dir;
    process::check_state_dir(dir)?;
    journal::adopt(dir, pool, reason, unproved).map_err(anyhow::Error::from)?;
    Ok(())
}

fn known(config: &Config, pool: &str) -> anyhow::Result<()> {
    if config.pools.iter().any(|p| p.name == pool) {
        return Ok(());
    }
    let names: Vec<&str> = config.pools.iter().map(|p| p.name.as_str()).collect();
    anyhow::bail!("there is no pool {pool:?} in {}; it has {}", config.path.display(), names.join(", "))
}

/// The certificates for clients; `None` where no listener uses TLS and none is named.
pub(super) fn certificates(config: &Config) -> anyhow::Result<Option<Arc<bascule_certs::Store>>> {
    if config.certificates.is_empty() {
        return Ok(None);
    }
    let sources = config.certificates.iter().map(|(name, certificate)| bascule_certs::Source {
        name: name.clone(),
        cert: certificate.cert.clone(),
        key: certificate.key.clone(),
    });
    Ok(Some(bascule_certs::Store::load(sources)?))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    const QUIET: Output = Output { json: true };

    /// A configuration with the pools v4 and v5, and its state_dir, not yet there.
    fn rig() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (file, state) = (dir.path().join("bascule.toml"), dir.path().join("state"));
        let pool = |name: &str| {
            format!(
                "[pool.{name}]\ncontract = {{ storage = \"replicated\" }}\ncapabilities = [\"IMAP4rev1\"]\n\
                 [pool.{name}.imap]\nservers = [\"{name}.test:143\"]\ntls = {{ mode = \"none\" }}\n"
            )
        };
        let text = format!(
            "[server]\nhostname = \"m\"\nstate_dir = {state:?}\n[listener.imap]\nprotocol = \"imap\"\n\
             bind = [\"127.0.0.1:1143\"]\ntls = \"none\"\n{}{}",
            pool("v4"),
            pool("v5")
        );
        fs::write(&file, text).unwrap();
        (dir, file, state)
    }

    #[test]
    fn init_is_done_once_and_only_for_a_pool_of_the_configuration() {
        let (_dir, file, state) = rig();
        let error = init(&file, "v9", QUIET).unwrap_err().to_string();
        assert!(error.contains("v9") && error.contains("v4, v5"), "{error}");
        assert!(!state.exists(), "a refused init leaves nothing behind");

        init(&file, "v4", QUIET).unwrap();
        assert_eq!(ended(init(&file, "v5", QUIET), QUIET), Exit::Refused);
    }

    #[test]
    fn adopt_repairs_the_journal_of_a_bascule_that_does_not_run() {
        let (_dir, file, state) = rig();
        let failed = adopt(&file, "v5", "test", false).unwrap_err();
        assert!(failed.to_string().contains("bascule init"), "{failed}");
        assert_eq!(ended(Err(failed), QUIET), Exit::Refused);

        init(&file, "v4", QUIET).unwrap();
        adopt(&file, "v5", "test", false).unwrap();
        let config = Config::load(&file).unwrap();
        let (_, recovered) = journal::open(&state, &config).unwrap();
        assert_eq!(config.pools[usize::from(recovered.active.0)].name, "v5");
    }

    #[test]
    fn a_wrong_configuration_has_its_own_exit_code_and_says_what_to_write() {
        let (dir, file, _state) = rig();
        check(&file, QUIET).unwrap();
        let broken = dir.path().join("broken.toml");
        fs::write(&broken, fs::read_to_string(&file).unwrap().replace("hostname", "hostnam")).unwrap();
        let failed = check(&broken, QUIET).unwrap_err();
        assert!(failed.refusal().instead.contains("hostname"), "{:?}", failed.refusal());
        assert_eq!(ended(Err(failed), QUIET), Exit::Usage);
        let nobody = bascule_certs::CertError::NoCertificate { path: broken.clone() };
        assert_eq!(ended(Err(anyhow::Error::from(nobody).into()), QUIET), Exit::Usage);
        // Every command that works on files.
        let broken = broken.to_str().unwrap();
        for line in [&["init", "--active", "v4"][..], &["cutover", "adopt", "v5", "--reason", "test"]] {
            let words = [&["bascule", "--json", "--config", broken][..], line].concat();
            let cli = <crate::admin::cli::Cli as clap::Parser>::try_parse_from(words).unwrap();
            assert_eq!(crate::app::run(cli), Exit::Usage, "{line:?}");
        }
    }
}
