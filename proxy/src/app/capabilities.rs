//! What the pools can do, from the start on: what is kept is served at once, and asked again.
//!
//! Rule: a pool that does not answer stops nobody who can be served without it.

use std::{sync::Arc, time::Duration};

use crate::{
    checks::{capability, keywords},
    session::World,
};

/// Pause between two rounds while nobody can be served.
const PAUSE: Duration = Duration::from_secs(2);

/// Pins what is declared or kept from an earlier run.
pub(super) fn load(world: &World) {
    if let Some(pinned) = capability::Record::load(&world.config).pinned(&world.config) {
        world.pinned.store(Arc::new(Some(pinned)));
    }
    keywords::Record::load(&world.config).pin(world);
}

/// Asks the pools, and goes on asking while nothing is pinned.
pub(super) async fn learn(world: Arc<World>) {
    tokio::join!(learn_capabilities(&world), learn_keywords(&world));
}

async fn learn_keywords(world: &Arc<World>) {
    let mut record = keywords::Record::load(&world.config);
    loop {
        for (service, why) in record.ask(world).await {
            tracing::warn!(service, why, "keywords");
        }
        if record.pin(world) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn learn_capabilities(world: &Arc<World>) {
    loop {
        for (pool, why) in capability::refresh(world).await {
            tracing::warn!(pool, why, "capabilities");
        }
        if world.pinned.load().is_some() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
