//! One run: everybody comes in, everything moves there and back, and the accounts are made.
//!
//! Rule: meters begin before the cutover is asked for and end when its report is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bascule_bench::{
    beside_us,
    operator::{self, Report},
};
use bascule_tests::{
    bascule::Bascule,
    client::{Client, Security},
    fake::apart::{Apart, Plan},
    ledger::{self, Verdict},
};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    crowd::{Crowd, Felt, Load, SESSIONS_PER_USER},
    meters::{self, Logins},
};

/// Messages in every INBOX.
const MESSAGES: usize = 20;

/// What is measured.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) sessions: usize,
    pub(crate) load: Load,
    pub(crate) shared: bool,
    /// Of load before, between and after.
    pub(crate) pause: Duration,
    pub(crate) rounds: usize,
    /// Further lines of `[cutover]`.
    pub(crate) cutover: String,
}

/// One cutover.
#[derive(Debug, Serialize)]
pub(crate) struct Cutover {
    pub(crate) report: Report,
    /// CPU seconds of bascule from the order to the report.
    pub(crate) cpu_s: f64,
    /// The most memory resident meanwhile, kB.
    pub(crate) peak_kb: u64,
    /// Logins at the pool that it went to, with those of the probes.
    pub(crate) logins: u64,
    /// The most of them within a second.
    pub(crate) logins_per_second: u64,
    /// The longest wait of a busy client meanwhile, hooks and barriers included, milliseconds.
    pub(crate) felt_max_ms: f64,
    pub(crate) felt_p50_ms: f64,
    pub(crate) felt_p99_ms: f64,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) sessions: usize,
    pub(crate) load: String,
    pub(crate) storage: &'static str,
    pub(crate) cutovers: Vec<Cutover>,
    /// Memory of bascule's own before the first cutover, kB.
    pub(crate) private_kb: u64,
    /// Answers that busy clients got without a cutover, a second.
    pub(crate) answers_per_second: f64,
    /// Sessions that are alive in the end.
    pub(crate) kept: usize,
    /// Bytes that sessions in IDLE heard.
    pub(crate) idle_heard: u64,
    pub(crate) acknowledged: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) phantom: usize,
    /// What clients and platforms did not like.
    pub(crate) wrong: Vec<String>,
}

impl Measured {
    pub(crate) fn well(&self) -> bool {
        self.cutovers.iter().all(|cutover| cutover.report.went_through())
            && self.kept == self.sessions
            && self.idle_heard == 0
            && self.lost + self.doubled + self.phantom == 0
            && self.wrong.is_empty()
    }
}

pub(crate) async fn measure(course: &Course) -> Result<Measured> {
    let program = beside_us("bascule-fake")?;
    let users = course.sessions.div_ceil(SESSIONS_PER_USER);
    let plan = Plan { program: &program, users, messages: MESSAGES, shared: course.shared };
    let platforms = Arc::new(Apart::start(&plan).await?);
    let mut setup = platforms.setup.clone();
    setup.cutover += &course.cutover;
    let proxy = Bascule::start(&setup, "old").await?;
    let process = proxy.id().context("bascule runs")?;
    let mut crowd = Crowd::gather(&proxy, course.sessions).await?;
    let private_kb = meters::private(process)?;

    crowd.begin(course.load);
    sleep(course.pause).await;
    let before = crowd.felt();
    let answers_per_second = before.waits.len() as f64 / course.pause.as_secs_f64();
    let mut wrong = before.wrong;
    let mut cutovers = Vec::new();
    for to in ["new", "old"].into_iter().cycle().take(2 * course.rounds) {
        operator::plan(&proxy, to).await?;
        wrong.extend(crowd.felt().wrong);
        let (cutover, felt) = one(&proxy, process, &platforms, &crowd, to).await?;
        let through = cutover.report.went_through();
        cutovers.push(cutover);
        wrong.extend(felt.wrong);
        if !through {
            wrong.push(proxy.log());
            break;
        }
        sleep(course.pause).await;
    }
    let alive = crowd.busy();
    crowd.finish().await;
    wrong.extend(crowd.felt().wrong);
    let idlers = crowd.rouse().await;
    wrong.extend(idlers.wrong);
    wrong.extend(platforms.violations().await?);
    let verdict = judge(&proxy, &platforms, users, &crowd).await?;
    Ok(Measured {
        sessions: course.sessions,
        load: course.load.name(),
        storage: if course.shared { "shared" } else { "replicated" },
        cutovers,
        private_kb,
        answers_per_second,
        kept: alive + idlers.kept,
        idle_heard: idlers.heard,
        acknowledged: verdict.acknowledged,
        lost: verdict.lost.len(),
        doubled: verdict.doubled.len(),
        phantom: verdict.phantom.len(),
        wrong,
    })
}

async fn one(
    proxy: &Bascule,
    process: u32,
    platforms: &Arc<Apart>,
    crowd: &Crowd,
    to: &'static str,
) -> Result<(Cutover, Felt)> {
    meters::forget_peak(process)?;
    let (cpu, logins) = (meters::cpu(process)?, Logins::watch(platforms.clone(), to));
    let report = operator::cutover(proxy, to).await?;
    let (cpu_s, peak_kb) = (meters::cpu(process)? - cpu, meters::peak(process)?);
    let (logins, felt) = (logins.end().await?, crowd.felt());
    let felt_ms = |q| felt.waits.value_at_quantile(q) as f64 / 1000.0;
    let cutover = Cutover {
        report,
        cpu_s,
        peak_kb,
        logins: logins.total,
        logins_per_second: logins.peak_per_second,
        felt_max_ms: felt_ms(1.0),
        felt_p50_ms: felt_ms(0.5),
        felt_p99_ms: felt_ms(0.99),
    };
    Ok((cutover, felt))
}

/// Asks the platform that serves, around the proxy, for every effect.
async fn judge(proxy: &Bascule, platforms: &Apart, users: usize, crowd: &Crowd) -> Result<Verdict> {
    let active = operator::active(proxy).await?;
    let at = Apart::NAMES.iter().position(|name| *name == active).context("a pool of ours serves")?;
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for user in 1..=users {
        let mut client = Client::connect(platforms.addresses[at], Security::Plain).await?;
        client.login(&format!("user{user}"), Apart::PASSWORD).await?.ok()?;
        client.command("EXAMINE INBOX").await?.ok()?;
        let reply = client.command("UID FETCH 1:* (BODY.PEEK[HEADER])").await?.ok()?;
        let headers = reply.lines.iter().flat_map(|response| response.literals());
        for id in headers.filter_map(ledger::id_of) {
            *found.entry(id.to_owned()).or_default() += 1;
        }
    }
    Ok(crowd.ledger().judge_counts(&found))
}
