//! What the pools can do: declared, or learnt by their probe accounts after the login.
//!
//! Rule: a pool whose capabilities are unknown pins nothing, and then nobody is served; what was learnt once
//! outlives a restart and a pool that is down.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use bascule_protocols::imap::capability::{Capabilities, Pinned, pin};

use crate::{
    checks::{
        Answer, proof,
        server::{Dial, Reach, enter},
    },
    config::{Account, Config, Pool, StandbyLogin},
    session::World,
    topology::PoolId,
};

/// The file in `state_dir`.
const FILE: &str = "capabilities.json";

/// The capabilities of the configured pools, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, Vec<String>>);

impl Record {
    /// What is declared, and for the other pools what was learnt before. A file that cannot be read is as
    /// good as none: everything in it can be learnt again.
    pub fn load(config: &Config) -> Self {
        let kept = fs::read(config.server.state_dir.join(FILE)).unwrap_or_default();
        let mut learnt: BTreeMap<String, Vec<String>> = serde_json::from_slice(&kept).unwrap_or_default();
        let known = config.pools.iter().filter_map(|pool| {
            let list = pool.capabilities.clone().or_else(|| learnt.remove(&pool.name))?;
            Some((pool.name.clone(), list))
        });
        Self(known.collect())
    }

    /// The names of the pools that nothing is known of.
    pub fn missing<'a>(&self, config: &'a Config) -> Vec<&'a str> {
        let unknown = |pool: &&'a Arc<Pool>| !self.0.contains_key(&pool.name);
        config.pools.iter().filter(unknown).map(|pool| &*pool.name).collect()
    }

    /// What clients are shown, once every pool is known.
    pub fn pinned(&self, config: &Config) -> Option<Pinned> {
        if !self.missing(config).is_empty() {
            return None;
        }
        let parse = |list: &Vec<String>| Capabilities::parse(list.join(" ").as_bytes());
        let lists: Vec<Capabilities> = self.0.values().map(parse).collect();
        Some(pin(&lists.iter().collect::<Vec<_>>()))
    }

    /// Replaces the file as a whole.
    fn keep(&self, state_dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
        file.write_all(&serde_json::to_vec_pretty(&self.0)?)?;
        file.as_file().sync_all()?;
        file.persist(state_dir.join(FILE)).map_err(|error| error.error)?;
        Ok(())
    }
}

/// The capabilities of a pool, as declared or as its first probe account sees them after the login.
pub async fn learn(world: &World, pool: PoolId) -> Result<Vec<String>, String> {
    let topology = world.topology.load();
    let config = topology.pool(pool);
    if let Some(declared) = &config.capabilities {
        return Ok(declared.clone());
    }
    let hint = format!("declare them in pool.{}.capabilities", config.name);
    if topology.active != pool && config.contract.standby_login != StandbyLogin::Yes {
        // It was asked when it was active, or nobody knows.
        let kept = Record::load(&world.config).0.remove(&config.name);
        return kept.ok_or_else(|| format!("pool {} is a standby without logins; {hint}", config.name));
    }
    let Some(account) = config.probes.first() else {
        return Err(format!("pool {} has no probe account; {hint}", config.name));
    };
    let asked = ask(&Reach { world, pool }, account).await;
    asked.map_err(|why| format!("capabilities of pool {}: {why}", config.name))
}

/// Whether a pool that was just promoted has everything that clients are shown (design §5.1): what was declared
/// or learnt of a standby is a promise, and this is when it is kept or not.
pub async fn prove(world: &World, pool: PoolId) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let Some(account) = proof::prover(&config) else {
        return Answer::Unknown(format!("pool {} has no probe account", config.name));
    };
    let list = match ask(&Reach { world, pool }, account).await {
        Ok(list) => list,
        Err(why) => return Answer::Unknown(format!("capabilities of pool {}: {why}", config.name)),
    };
    let server = list.iter().map(String::as_str).collect();
    let pinned = world.pinned.load_full();
    let missing = pinned.as_ref().as_ref().map_or_else(Vec::new, |pinned| pinned.beyond(&server));
    if missing.is_empty() {
        return Answer::Pass;
    }
    Answer::Fail(format!("pool {} lacks what clients are shown: {}", config.name, missing.join(" ")))
}

/// Learns what can be learnt, keeps it, and pins what all pools can do for new connections. For each pool
/// that did not answer: why. Its earlier list, if there is one, still counts.
pub async fn refresh(world: &World) -> BTreeMap<String, String> {
    let config = &*world.config;
    let (mut record, mut silent) = (Record::load(config), BTreeMap::new());
    for (pool, id) in config.pools.iter().zip((0..).map(PoolId)) {
        match learn(world, id).await {
            Ok(list) => {
                record.0.insert(pool.name.clone(), list);
            }
            Err(why) => {
                silent.insert(pool.name.clone(), why);
            }
        }
    }
    if let Err(error) = record.keep(&config.server.state_dir) {
        tracing::warn!(%error, "the pools' capabilities could not be kept");
    }
    if let Some(pinned) = record.pinned(config) {
        world.pinned.store(Arc::new(Some(pinned)));
    }
    silent
}

async fn ask<D: Dial>(dial: &D, account: &Account) -> Result<Vec<String>, String> {
    let mut mailbox = enter(dial, account).await.map_err(|why| why.to_string())?;
    let list = mailbox.capabilities().await;
    mailbox.logout().await;
    match list {
        Ok(list) if list.is_empty() => Err("the server lists none".to_owned()),
        list => list.map_err(|failure| failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bascule_protocols::imap::capability::Stage;

    use super::*;
    use crate::checks::fake::{Fake, Habit, account};

    #[tokio::test]
    async fn a_probe_asks_after_the_login() {
        let fake = Fake::new(Habit::Serves);
        assert_eq!(ask(&fake, &account("probe1")).await.unwrap(), ["IMAP4rev1", "IDLE", "UIDPLUS"]);
        fake.becomes(Habit::RefusesLogins);
        assert!(ask(&fake, &account("probe1")).await.unwrap_err().contains("login of probe1"));
    }

    #[test]
    fn what_was_learnt_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let record = |word: &str| Record([("v4".to_owned(), vec![word.to_owned()])].into());
        for word in ["IDLE", "MOVE"] {
            record(word).keep(dir.path()).unwrap();
            let kept: BTreeMap<String, Vec<String>> =
                serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap();
            assert_eq!(Record(kept), record(word));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        assert!(record("IDLE").keep(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn every_pool_must_be_known_and_a_declaration_wins() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            server = { hostname = "mail.test", state_dir = "STATE" }
            listener.imap = { protocol = "imap", bind = ["127.0.0.1:0"], tls = "none" }
            [pool.v4]
            contract = { storage = "shared" }
            capabilities = ["IMAP4rev1", "UIDPLUS", "MOVE"]
            imap = { servers = ["imap.v4.test:143"], tls = { mode = "none" } }
            [pool.v5]
            contract = { storage = "shared" }
            probe = [{ user = "probe1", password_file = "STATE/secret" }]
            imap = { servers = ["imap.v5.test:143"], tls = { mode = "none" } }
        "#;
        let path = dir.path().join("bascule.toml");
        fs::write(dir.path().join("secret"), "pass").unwrap();
        fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, text.replace("STATE", dir.path().to_str().unwrap())).unwrap();
        let config = Config::load(&path).map_err(|error| error.render()).unwrap();
        for unusable in [None, Some("{ torn"), Some(r#"{ "v3": ["MOVE"] }"#)] {
            if let Some(kept) = unusable {
                fs::write(dir.path().join(FILE), kept).unwrap();
            }
            let record = Record::load(&config);
            assert_eq!(record.missing(&config), ["v5"]);
            assert!(record.pinned(&config).is_none());
        }
        let learnt = [("v4", "IDLE"), ("v5", "UIDPLUS")].map(|(pool, word)| (pool.into(), vec![word.into()]));
        Record(learnt.into()).keep(dir.path()).unwrap();
        let pinned = Record::load(&config).pinned(&config).unwrap();
        let shown = String::from_utf8(pinned.bytes(Stage::Authenticated).to_vec()).unwrap();
        let words: Vec<&str> = shown.split(' ').collect();
        assert!(words.contains(&"UIDPLUS") && !words.contains(&"MOVE"), "{shown}");
    }
}
