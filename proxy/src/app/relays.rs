//! The relay self-test, at the start and after a reload.
//!
//! Rule: every pool is asked; an active one that relays, or has not answered, is asked again until it refuses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    checks::{Answer, keywords::listens, relays},
    config::{Config, Protocol},
    net::tls::Connectors,
    session::{World, relays::Verdict},
    topology::PoolId,
};

/// Pause between two rounds while the active pool has not answered.
const PAUSE: Duration = Duration::from_secs(2);
/// The same while it relays: somebody has to mend it first.
const REPAIR: Duration = Duration::from_secs(10);

/// Asks until the active pool refuses strangers.
pub(super) async fn watch(world: Arc<World>) {
    // What is known is not said again.
    let mut said = BTreeMap::new();
    loop {
        let active = world.topology.load().active;
        let mut all = listened(&world.config);
        // Its clients wait for the answer.
        all.sort_by_key(|(pool, _)| *pool != active);
        for (at, protocol) in all {
            let name = &world.config.pools[usize::from(at.0)].name;
            let news = match relays::ask(&world, at, protocol).await {
                Answer::Pass => None,
                Answer::Fail(why) | Answer::Unknown(why) => Some(why),
            };
            if let Some(why) = news.as_ref().filter(|_| said.get(&(at, protocol.name())) != Some(&news)) {
                tracing::warn!(pool = name, protocol = protocol.name(), why, "relay self-test");
            }
            said.insert((at, protocol.name()), news);
        }
        let verdicts = listened(&world.config).into_iter().filter(|(pool, _)| *pool == active);
        let verdicts: Vec<_> = verdicts.map(|(pool, protocol)| world.relays.of(pool, protocol)).collect();
        if verdicts.contains(&Some(Verdict::Relays)) {
            tokio::time::sleep(REPAIR).await;
        } else if verdicts.contains(&Some(Verdict::Unknown)) {
            tokio::time::sleep(PAUSE).await;
        } else {
            return;
        }
    }
}

/// What a configuration that is not in force would open.
pub(super) async fn would_open(config: &Config) -> Result<(), String> {
    let connectors = Connectors::new(&config.pools).map_err(|error| error.to_string())?;
    for (pool, protocol) in listened(config) {
        let name = &config.pools[usize::from(pool.0)].name;
        if let Answer::Fail(why) = relays::would(config, &connectors, pool, protocol).await {
            return Err(format!("with it {} of pool {name} would be {why}", protocol.name()));
        }
    }
    Ok(())
}

/// What clients come for, on every pool.
fn listened(config: &Config) -> Vec<(PoolId, Protocol)> {
    let listened = |protocol: &Protocol| listens(config, *protocol);
    let protocols: Vec<Protocol> = Protocol::RELAYS.into_iter().filter(listened).collect();
    let pools = (0..config.pools.len()).filter_map(|at| u8::try_from(at).ok()).map(PoolId);
    pools.flat_map(|pool| protocols.iter().map(move |protocol| (pool, *protocol))).collect()
}
