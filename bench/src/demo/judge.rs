//! What is there in the end.
//!
//! Rule: the judge asks the platform that serves, around the proxy.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bascule_tests::{
    client::Client,
    ledger::{self, Ledger, Verdict},
};

use crate::{
    audience::Felt,
    display::millis,
    platforms::{Platforms, Pool},
};

/// Reads every INBOX and compares it with what clients were told.
pub(crate) async fn judge(pool: &Pool, platforms: &Platforms, ledger: &Ledger) -> Result<Verdict> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for user in &platforms.users {
        let context = || format!("{user} on {}", pool.name);
        for id in effects(pool, user, platforms.password).await.with_context(context)? {
            *found.entry(id).or_default() += 1;
        }
    }
    Ok(ledger.judge_counts(&found))
}

async fn effects(pool: &Pool, user: &str, password: &str) -> Result<Vec<String>> {
    let mut client = Client::connect(pool.address, pool.security.clone()).await?;
    client.login(user, password).await?.ok()?;
    client.command("EXAMINE INBOX").await?.ok()?;
    let reply = client.command("UID FETCH 1:* (BODY.PEEK[HEADER])").await?.ok()?;
    let headers = reply.lines.iter().flat_map(|response| response.literals());
    Ok(headers.filter_map(ledger::id_of).map(String::from).collect())
}

/// What clients felt and what there is, in figures.
pub(crate) fn table(felt: &Felt, effects: &Verdict) -> String {
    let waits = [0.5, 0.99, 1.0].map(|q| millis(felt.waits.value_at_quantile(q)));
    format!(
        "sessions {}, commands {}, notices {}; waits p50 {}, p99 {}, max {}\n\
         disconnected {}, refused {}, protocol violations {}\n\
         appended {}: lost {}, doubled {}, there in spite of a refusal {}, unknown {}",
        felt.sessions,
        felt.commands,
        felt.notices,
        waits[0],
        waits[1],
        waits[2],
        felt.disconnected,
        felt.refused,
        felt.wrong.len(),
        effects.acknowledged,
        effects.lost.len(),
        effects.doubled.len(),
        effects.phantom.len(),
        effects.unknown,
    )
}
