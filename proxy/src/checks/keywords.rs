//! What the pools' SMTP and LMTP servers can do: declared, or asked at the start and kept for the next one.
//!
//! Rule: clients are shown what every pool has, so nothing is pinned before every pool is known; what was learnt is kept
//! in the state directory, and a pool that is down later stops nobody. What is declared is never asked.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bascule_protocols::smtp::keywords::{Keywords, Pinned};

use crate::{
    checks::Answer,
    config::{Config, Pool, Protocol, ServiceTls},
    session::{World, smtp},
    topology::PoolId,
};

/// The protocols that have keywords.
const PROTOCOLS: [Protocol; 3] = [Protocol::Smtp, Protocol::Submission, Protocol::Lmtp];

/// By pool and protocol, the lines of the EHLO reply.
type Lines = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// What was learnt.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    lines: Lines,
}

impl Record {
    /// What an earlier run kept; nothing where it cannot be read.
    pub fn load(config: &Config) -> Self {
        let path = config.server.state_dir.join("keywords.json");
        let lines = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, lines: lines.unwrap_or_default() }
    }

    /// Pins what every pool is known to have, where every pool is known.
    pub fn pin(&self, world: &World) -> bool {
        let listened = PROTOCOLS.into_iter().filter(|protocol| listens(&world.config, *protocol));
        let pins: Vec<bool> = listened.map(|protocol| self.pin_one(world, protocol)).collect();
        pins.into_iter().all(|pinned| pinned)
    }

    fn pin_one(&self, world: &World, protocol: Protocol) -> bool {
        let config = &world.config;
        let known = |pool: &Pool| {
            let learnt = || self.lines.get(&pool.name)?.get(protocol.name());
            Some(declared(pool, protocol).or_else(learnt)?.iter().map(String::as_str).collect())
        };
        let pools: Option<Vec<Keywords>> = config.pools.iter().map(|pool| known(pool)).collect();
        let Some(pools) = pools else { return false };
        let verified = config
            .pools
            .iter()
            .all(|pool| pool.service(protocol).is_some_and(|service| service.tls != ServiceTls::None));
        let pinned = Pinned::of(&pools.iter().collect::<Vec<_>>(), config.limits.upload, verified);
        if world.keywords.of(protocol).as_deref() != Some(&pinned) {
            world.keywords.pin(protocol, pinned);
        }
        true
    }

    /// Asks every pool that declares nothing. Returns who did not answer, and why.
    pub async fn ask(&mut self, world: &Arc<World>) -> Vec<(String, String)> {
        let mut silent = Vec::new();
        for (at, pool) in world.config.pools.iter().enumerate() {
            let asked = |protocol: &Protocol| {
                listens(&world.config, *protocol) && declared(pool, *protocol).is_none()
            };
            for protocol in PROTOCOLS.into_iter().filter(asked) {
                let id = PoolId(u8::try_from(at).unwrap_or(u8::MAX));
                match smtp::keywords(world, id, protocol).await {
                    Ok(keywords) => {
                        let lines = keywords.iter().map(str::to_owned).collect();
                        self.lines
                            .entry(pool.name.clone())
                            .or_default()
                            .insert(protocol.name().to_owned(), lines);
                    }
                    Err(why) => silent.push((format!("{}.{}", pool.name, protocol.name()), why)),
                }
            }
        }
        if let Err(error) = self.save() {
            tracing::warn!(%error, path = %self.path.display(), "keywords cannot be kept");
        }
        silent
    }

    fn save(&self) -> std::io::Result<()> {
        let dir = self.path.parent().unwrap_or(&self.path);
        let file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&file, &self.lines)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

fn declared(pool: &Pool, protocol: Protocol) -> Option<&Vec<String>> {
    pool.service(protocol)?.keywords.as_ref()
}

/// Whether a pool that was just promoted has every keyword that clients are shown.
pub async fn prove(world: &World, pool: PoolId) -> Answer {
    let mut all = Answer::Pass;
    for protocol in PROTOCOLS.into_iter().filter(|protocol| listens(&world.config, *protocol)) {
        let answer = match (smtp::keywords(world, pool, protocol).await, world.keywords.of(protocol)) {
            (Ok(keywords), Some(pinned)) => lacks(&pinned.beyond(&keywords)),
            (Ok(_), None) => Answer::Pass,
            (Err(why), _) => Answer::Unknown(why),
        };
        all = all.and(answer.named(protocol.name()));
    }
    all
}

fn lacks(keywords: &[&str]) -> Answer {
    if keywords.is_empty() {
        return Answer::Pass;
    }
    Answer::Fail(format!("the server lacks what clients are shown: {}", keywords.join(" ")))
}

/// Whether clients come with this protocol.
pub fn listens(config: &Config, protocol: Protocol) -> bool {
    config.listeners.values().any(|listener| listener.protocol == protocol)
}
