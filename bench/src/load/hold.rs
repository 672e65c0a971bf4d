//! Sessions that wait in IDLE.
//!
//! Rule: at the end every one of them is asked whether it still is one.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{Caller, wire::Target};

/// Logins at once.
const PACE: usize = 16;
/// Read buffer of a session.
const BUFFER: usize = 1024;

pub(crate) async fn idle(target: &Target, steps: &[usize], mut caller: Caller) -> Result<()> {
    // What a process allocates once is not to count for the first sessions.
    for user in 0..PACE {
        target.session(user, BUFFER).await?.logout().await?;
    }
    caller.told(&json!({ "ready": 0 })).await?;
    let (mut sessions, pace) = (Vec::new(), Arc::new(Semaphore::new(PACE)));
    for &step in steps {
        let mut tasks = JoinSet::new();
        for user in sessions.len()..step {
            let (target, pace) = (target.clone(), pace.clone());
            tasks.spawn(async move {
                let _turn = pace.acquire().await?;
                let mut wire = target.session(user, BUFFER).await?;
                wire.send(b"IDLE").await?;
                wire.go_ahead().await?;
                anyhow::Ok(wire)
            });
        }
        while let Some(session) = tasks.join_next().await {
            sessions.push(session?.with_context(|| format!("session {} of {step}", sessions.len() + 1))?);
        }
        caller.told(&json!({ "idle": step })).await?;
    }
    for session in &mut sessions {
        session.raw(b"DONE\r\n").await?;
        session.reply().await.context("DONE")?;
    }
    caller.told(&json!({ "alive": sessions.len() })).await
}
