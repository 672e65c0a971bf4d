//! What people read: status, plan, report, sessions and refusals as plain text.
//!
//! Rule: pure functions from data to text; whatever came from a wire is shown without control characters.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    admin::appliance::SessionRow,
    cutover::types::{Doing, Finding, Outcome, Plan, Refusal, Report, Running, Stage, Status},
    session::holds::Summary,
};

/// `bascule status`, readable at three in the morning.
pub fn status(status: &Status, now_ms: u64) -> String {
    let mut facts = vec![
        ("active pool", active(status, now_ms)),
        ("state", format!("{}: {}", status.state, meaning(status.state))),
    ];
    if let Some(running) = &status.cutover {
        facts.extend(running_facts(running, now_ms));
    }
    if let Some(needs) = &status.limbo {
        facts.push(("needs", needs.clone()));
    }
    if !status.not_reached.is_empty() {
        facts.push(("NOT REACHED", status.not_reached.join("; ")));
    }
    if let Some(why) = &status.journal {
        facts.push((
            "JOURNAL",
            format!("the last record could not be written, and no cutover can begin: {why}"),
        ));
    }
    if !status.not_served.is_empty() {
        facts.push(("NOT SERVED", status.not_served.join("; ")));
    }
    facts.push(("gate", status.gate.name().to_owned()));
    facts.push(("sessions", format!("{}, commands held: {}", status.sessions, status.held)));
    facts.push(("what next", next_step(status)));
    pairs(&facts)
}

fn active(status: &Status, now_ms: u64) -> String {
    let since = status.active_since_ms.map_or_else(String::new, |ms| {
        let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms));
        format!(", since {at} ({} ago)", rough(now_ms.saturating_sub(ms)))
    });
    format!("{} (epoch {}){since}", status.active, status.epoch.0)
}

fn running_facts(running: &Running, now_ms: u64) -> Vec<(&'static str, String)> {
    let age = rough(now_ms.saturating_sub(running.since_ms));
    let mut facts = vec![
        ("cutover", format!("{}: {} → {}, begun {age} ago", running.id, running.from, running.to)),
        ("waits for", waits(running, |doing| format!("{} (for {})", doing.what, seconds(doing.ms)))),
    ];
    if let Some(left) = running.budget_left_ms {
        facts.push(("time left", format!("{}, then it aborts by itself", seconds(left))));
    }
    facts.push(("way back", running.way_back.clone()));
    facts
}

/// What a cutover waits for: the step, said so, and who has still to answer.
pub fn waits(running: &Running, step: impl Fn(&Doing) -> String) -> String {
    let all: Vec<String> = running.doing.iter().map(step).chain(running.waits_for.iter().cloned()).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join("; ") }
}

/// One line about each state.
pub fn meaning(stage: Stage) -> &'static str {
    match stage {
        Stage::Idle => "no cutover runs",
        Stage::Armed => "preparing, traffic flows",
        Stage::Holding => "commands wait, writes that were sent are finishing",
        Stage::Fenced => "commands wait, the old pool is being made unable to write",
        Stage::CaughtUp => "commands wait, checking that the new pool has everything",
        Stage::Promoted => "commands wait, the new pool is being made able to write",
        Stage::Verified => "commands wait, sessions are tried on the new pool",
        Stage::Deciding => "commands wait, the decision is being written",
        Stage::Decided => "decided for the new pool, only forward from here",
        Stage::Switching => "the new pool becomes the active one",
        Stage::Resuming => "sessions are moving to the new pool",
        Stage::Soaking => "all moved, the new pool is watched",
        Stage::Aborting => "going back to the old pool",
        Stage::Limbo => "LIMBO, neither pool takes writes",
    }
}

fn next_step(status: &Status) -> String {
    if let (Stage::Idle | Stage::Soaking, [first, ..]) = (status.state, &status.not_reached[..]) {
        let server = first.split(": ").next().unwrap_or(first);
        return format!(
            "bring back {server} of pool {}: its clients wait, and are told to come back later at their ceilings",
            status.active
        );
    }
    let text = match status.state {
        Stage::Idle => "nothing. `bascule cutover plan POOL` says whether a switch would be possible",
        Stage::Armed
        | Stage::Holding
        | Stage::Fenced
        | Stage::CaughtUp
        | Stage::Promoted
        | Stage::Verified => "wait (`bascule cutover watch`), or go back: `bascule cutover abort`",
        Stage::Deciding | Stage::Decided | Stage::Switching | Stage::Resuming => {
            "wait: `bascule cutover watch` follows it; it can no longer be aborted"
        }
        Stage::Soaking => "keep the old pool fenced and watch the new one; the cutover ends by itself",
        Stage::Aborting => "wait: `bascule cutover watch` follows it",
        Stage::Limbo => {
            "repair what it needs; it is tried again by itself. If that is impossible: `bascule cutover adopt OTHER \
             --reason TEXT`, which proves what it does; or stop bascule, make sure that one pool cannot write, say it \
             with --unproved of the other, and start it again"
        }
    };
    text.to_owned()
}

/// `bascule cutover plan`
pub fn plan(plan: &Plan) -> String {
    let verdict = if plan.go { "GO" } else { "NO-GO" };
    let rows =
        plan.items.iter().map(|item| vec![finding(item.answer).into(), item.name.clone(), item.saw.clone()]);
    let mut text = format!("{verdict}: {} → {}\n\n", clean(&plan.from), clean(&plan.to));
    text.push_str(&table(&["answer", "what", "seen"], rows.collect()));
    let _ = writeln!(text, "\nway back: {}", clean(&plan.way_back));
    text
}

fn finding(answer: Finding) -> &'static str {
    match answer {
        Finding::Pass => "pass",
        Finding::Fail => "FAIL",
        Finding::Unknown => "UNKNOWN",
        Finding::Note => "note",
    }
}

/// `bascule cutover report`, and the end of `bascule cutover start`.
pub fn report(report: &Report) -> String {
    let outcome = match report.outcome {
        Outcome::Done => format!("done: {} serves", report.to),
        Outcome::Aborted => format!("aborted: {} serves as before", report.from),
        Outcome::Limbo => "LIMBO: neither pool takes writes".to_owned(),
    };
    let mut facts =
        vec![("cutover", format!("{}: {} → {}", report.id, report.from, report.to)), ("outcome", outcome)];
    if !report.reason.is_empty() {
        facts.push(("reason", report.reason.clone()));
    }
    let phases: Vec<String> = report.phases.iter().map(|p| format!("{} {}", p.name, seconds(p.ms))).collect();
    facts.extend([
        ("gate shut", seconds(report.pause_ms)),
        ("phases", if phases.is_empty() { "none".to_owned() } else { phases.join(", ") }),
        ("sessions", format!("{}: {} kept, {} moved", report.sessions, report.kept, report.moved)),
        ("messages", counted(&report.messages)),
        ("streams", counted(&report.streams)),
        ("unmovable", counted(&report.unmovable)),
    ]);
    let mut text = pairs(&facts);
    let rows = vec![hold("hold", &report.hold), hold("hold_own", &report.hold_own)];
    text.push('\n');
    text.push_str(&table(&["held commands", "count", "p50", "p99", "max"], rows));
    text
}

fn counted(numbers: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<String> = numbers.iter().map(|(what, n)| format!("{n} {what}")).collect();
    if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") }
}

fn hold(name: &str, summary: &Summary) -> Vec<String> {
    let millis = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
    vec![
        name.to_owned(),
        summary.count.to_string(),
        millis(summary.p50_us),
        millis(summary.p99_us),
        millis(summary.max_us),
    ]
}

/// `bascule sessions list`
pub fn sessions(sessions: &[SessionRow]) -> String {
    let head = ["id", "user", "from", "listener", "protocol", "age", "pool", "mailbox", "doing", "unmovable"];
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |s: &SessionRow| {
        vec![
            s.id.to_string(),
            if s.identity.is_empty() { "-".to_owned() } else { s.identity.clone() },
            s.peer.clone(),
            s.listener.clone(),
            s.protocol.clone(),
            rough(s.age_s * 1000),
            s.spare
                .as_ref()
                .map_or_else(|| dash(&s.backend), |spare| format!("{}+{spare}", dash(&s.backend))),
            dash(&s.mailbox),
            doing(s),
            dash(&s.unmovable),
        ]
    };
    format!("{}\nsessions: {}\n", table(&head, sessions.iter().map(row).collect()), sessions.len())
}

fn doing(session: &SessionRow) -> String {
    let count = |n: u64, what: &str| (n > 0).then(|| format!("{n} {what}"));
    let parts: Vec<String> = [
        session.pipe.then(|| "pipe".to_owned()),
        session.idle.then(|| "idle".to_owned()),
        session.upload.map(|(got, of)| format!("upload {got}/{of}")),
        count(session.writes.into(), "writing"),
        count(session.reads.into(), "reading"),
        count(session.held, "held"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Why something was not done, and what to do instead.
pub fn refusal(refusal: &Refusal) -> String {
    let mut text: String = refusal.why.iter().map(|why| format!("bascule: {}\n", clean(why))).collect();
    if !refusal.instead.is_empty() {
        let _ = writeln!(text, "instead: {}", clean(&refusal.instead));
    }
    text
}

/// Seconds with two digits: 1.24 s.
pub fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// The two largest units: "2days 3h".
fn rough(ms: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Control characters would let a mailbox name move the cursor of whoever looks at it.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn pairs(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    facts.iter().map(|(name, value)| format!("{name:width$}   {}\n", clean(value))).collect()
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|&h| h.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(rows)
        .map(|row: Vec<String>| row.iter().map(|c| clean(c)).collect())
        .collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
