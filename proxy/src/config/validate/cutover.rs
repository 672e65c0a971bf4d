//! `[cutover]`: its budget and its checks.
//!
//! Rule: the shares of the budget fit into `max_hold`, and `max_hold` into what clients bear.

use std::time::Duration;

use serde_spanned::Spanned;

use super::table::{Table, span};
use crate::config::{Check, CheckKind, ConfigError, Cutover, Queue, Unmovable, defaults, raw};

pub(super) fn cutover(table: &Table<'_>, raw: &raw::Cutover, pools: &[&str]) -> Result<Cutover, ConfigError> {
    let time = |key: &str, value: &raw::Maybe<raw::Time>, default: Duration| table.time(key, value, default);
    let cutover = Cutover {
        max_hold: time("max_hold", &raw.max_hold, defaults::MAX_HOLD)?,
        drain: time("drain", &raw.drain, defaults::DRAIN)?,
        fence: time("fence", &raw.fence, defaults::FENCE)?,
        barrier: time("barrier", &raw.barrier, defaults::BARRIER)?,
        decide: time("decide", &raw.decide, defaults::DECIDE)?,
        abort_reserve: time("abort_reserve", &raw.abort_reserve, defaults::ABORT_RESERVE)?,
        arm_timeout: time("arm_timeout", &raw.arm_timeout, defaults::ARM_TIMEOUT)?,
        guard_passes: table.count("guard_passes", &raw.guard_passes, defaults::GUARD_PASSES)?,
        guard_interval: time("guard_interval", &raw.guard_interval, defaults::GUARD_INTERVAL)?,
        prewarm: raw.prewarm.unwrap_or(defaults::PREWARM),
        login_rate: table.count("login_rate", &raw.login_rate, defaults::LOGIN_RATE)?,
        verify_sample: raw.verify_sample.unwrap_or(defaults::VERIFY_SAMPLE),
        unmovable: unmovable(table, &raw.unmovable)?,
        restore_concurrency: table.count(
            "restore_concurrency",
            &raw.restore_concurrency,
            defaults::RESTORE_CONCURRENCY,
        )?,
        resume_within: time("resume_within", &raw.resume_within, defaults::RESUME_WITHIN)?,
        soak: time("soak", &raw.soak, defaults::SOAK)?,
        checks: raw.check.iter().map(|check| self::check(table, check, pools)).collect::<Result<_, _>>()?,
    };
    budget(table, raw, &cutover)?;
    guards(table, raw, &cutover)?;
    Ok(cutover)
}

fn budget(table: &Table<'_>, raw: &raw::Cutover, cutover: &Cutover) -> Result<(), ConfigError> {
    let at = table.place(&raw.max_hold);
    let hold = span(cutover.max_hold);
    if cutover.max_hold > defaults::MAX_HOLD_LIMIT {
        let limit = span(defaults::MAX_HOLD_LIMIT);
        let what = format!("{hold} is more than {limit}, and clients do not wait that long");
        return Err(table.refuse("max_hold", at, what, format!("write {limit} or less")));
    }
    let shares = [
        ("drain", cutover.drain),
        ("fence", cutover.fence),
        ("barrier", cutover.barrier),
        ("decide", cutover.decide),
        ("abort_reserve", cutover.abort_reserve),
    ];
    let sum = shares.iter().fold(Duration::ZERO, |sum, (_, share)| sum.saturating_add(*share));
    if sum > cutover.max_hold {
        let list: Vec<String> =
            shares.iter().map(|(name, share)| format!("{name} {}", span(*share))).collect();
        let what = format!("{} make {}, which is more than max_hold {hold}", list.join(" + "), span(sum));
        let limit = span(defaults::MAX_HOLD_LIMIT);
        let instead = match sum > defaults::MAX_HOLD_LIMIT {
            true => format!("write smaller shares: max_hold is {limit} at most"),
            false => format!("write max_hold = \"{}\" (at most {limit}) or smaller shares", span(sum)),
        };
        return Err(table.refuse("max_hold", at, what, instead));
    }
    Ok(())
}

/// Guards that cannot have passed in time would refuse every cutover.
fn guards(table: &Table<'_>, raw: &raw::Cutover, cutover: &Cutover) -> Result<(), ConfigError> {
    let takes = cutover.guard_interval.saturating_mul(cutover.guard_passes.saturating_sub(1));
    if takes < cutover.arm_timeout {
        return Ok(());
    }
    let what = format!(
        "{} passes, one each {}, do not fit into arm_timeout {}",
        cutover.guard_passes,
        span(cutover.guard_interval),
        span(cutover.arm_timeout)
    );
    let instead = "write fewer passes, a shorter guard_interval or a longer arm_timeout";
    Err(table.refuse("guard_passes", table.place(&raw.guard_passes), what, instead))
}

fn unmovable(table: &Table<'_>, raw: &raw::Maybe<toml::Value>) -> Result<Unmovable, ConfigError> {
    let Some(value) = raw else {
        return Ok(Unmovable::Abort);
    };
    if value.get_ref().as_str() == Some("abort") {
        return Ok(Unmovable::Abort);
    }
    let number = value.get_ref().as_integer().and_then(|number| usize::try_from(number).ok());
    number.map(Unmovable::Upto).ok_or_else(|| {
        let what = format!("{} is not allowed", value.get_ref());
        let instead = "write \"abort\" (one session that cannot be moved stops the cutover) or how many may be given up";
        table.refuse("unmovable", value.span(), what, instead)
    })
}

fn check(
    cutover: &Table<'_>,
    (name, raw): (&String, &Spanned<raw::Check>),
    pools: &[&str],
) -> Result<Check, ConfigError> {
    let table = &cutover.table(&format!("check.{name}"), raw.span());
    let raw = raw.get_ref();
    let kinds = [("exec", false), ("queue", true)];
    let queue = table.word("kind", &raw.kind, &kinds, &["kafka", "postgres", "s3", "http", "imap"])?;
    let known: Vec<(&str, &str)> = pools.iter().map(|pool| (*pool, *pool)).collect();
    let from = table.word("from", &raw.from, &known, &[])?;
    let to = table.word("to", &raw.to, &known, &[])?;
    if from == to {
        let what = format!("`from` and `to` are both `{to}`");
        return Err(table.refuse("to", raw.to.span(), what, "name two pools"));
    }
    let (guard, barrier) = roles(table, &raw.roles)?;
    Ok(Check {
        name: name.clone(),
        from: from.to_owned(),
        to: to.to_owned(),
        guard,
        barrier,
        hook: table.program(&raw.exec, &raw.timeout)?,
        kind: if queue { CheckKind::Queue(self::queue(table, raw)?) } else { exec(table, raw)? },
    })
}

fn exec(table: &Table<'_>, raw: &raw::Check) -> Result<CheckKind, ConfigError> {
    let keys = [
        ("local", raw.local.as_ref().map(Spanned::span)),
        ("allowed", raw.allowed.as_ref().map(Spanned::span)),
        ("ignore", raw.ignore.as_ref().map(Spanned::span)),
    ];
    match keys.into_iter().find_map(|(key, at)| Some((key, at?))) {
        None => Ok(CheckKind::Exec),
        Some((key, at)) => {
            let instead = "leave it out, or write kind = \"queue\"";
            Err(table.refuse(key, at, "it says nothing to an exec check", instead))
        }
    }
}

fn queue(table: &Table<'_>, raw: &raw::Check) -> Result<Queue, ConfigError> {
    let instead = "write the domains whose mail ends in this platform's mailboxes, such as [\"example.org\"]; mail for \
                   others holds nothing up";
    let Some(domains) = raw.local.as_ref().filter(|domains| !domains.get_ref().is_empty()) else {
        let what = "a queue check does not know which mail is local";
        return Err(table.refuse("local", table.place(&raw.local), what, instead));
    };
    let domain = |written: &Spanned<String>| {
        let domain = table.plain("local", written)?.trim_end_matches('.').to_ascii_lowercase();
        if domain.is_empty() || domain.contains(['@', '*']) {
            let what = format!("`{}` is not a domain", written.get_ref());
            return Err(table.refuse("local", written.span(), what, instead));
        }
        Ok(domain)
    };
    // What is neither held nor given up is on its way, and not for the operator to ignore.
    let queues = ["hold", "deferred", "corrupt"].map(|name| (name, name));
    let ignored = raw.ignore.iter().flat_map(|list| list.get_ref());
    let ignored = ignored.map(|word| table.word("ignore", word, &queues, &[]).map(str::to_owned));
    Ok(Queue {
        local: domains.get_ref().iter().map(domain).collect::<Result<_, _>>()?,
        allowed: raw.allowed.as_ref().map_or(0, |allowed| *allowed.get_ref()),
        ignore: ignored.collect::<Result<_, _>>()?,
    })
}

/// `(guard, barrier)`. Left out: both, since a check that cannot pass is better known before the gate shuts.
fn roles(table: &Table<'_>, raw: &raw::Maybe<Vec<Spanned<String>>>) -> Result<(bool, bool), ConfigError> {
    let Some(list) = raw else {
        return Ok((true, true));
    };
    let (mut guard, mut barrier) = (false, false);
    for word in list.get_ref() {
        let is_guard = table.word("as", word, &[("guard", true), ("barrier", false)], &[])?;
        guard |= is_guard;
        barrier |= !is_guard;
    }
    if guard || barrier {
        return Ok((guard, barrier));
    }
    Err(table.refuse(
        "as",
        list.span(),
        "a check that is never asked",
        "write [\"guard\", \"barrier\"] or one of them",
    ))
}
