//! The plan: everything that speaks for or against a cutover, looked at before anything is begun.
//!
//! Rule: it changes nothing, and what could not be found out forbids as much as what was found wrong.

use std::{sync::Arc, time::Duration};

use crate::{
    checks::{Answer, exec::Phase, http::portable::Look},
    config::{Pool, Protocol, StandbyLogin, Storage, Unmovable},
    cutover::{
        course::Course,
        driver::asked,
        outside::Outside,
        types::{Finding, Item, Plan, Refusal, Stage, Status},
    },
    session::World,
    topology::{PoolId, Topology},
};

/// How often a standby is asked for markers that replication has to bring, and the pause between.
const MARKER_TRIES: u32 = 20;
/// See [`MARKER_TRIES`].
const MARKER_PAUSE: Duration = Duration::from_millis(250);

/// The pools of a cutover to the pool of this name.
pub(super) fn pools(topology: &Topology, to: &str) -> Result<[PoolId; 2], Refusal> {
    let names: Vec<&str> = topology.pools.iter().map(|pool| &*pool.name).collect();
    let Some(id) = topology.find(to) else {
        return Err(Refusal::new(
            format!("there is no pool {to:?}"),
            format!("the pools are {}", names.join(", ")),
        ));
    };
    if id == topology.active {
        return Err(Refusal::new(format!("{to} is the active pool already"), ""));
    }
    Ok([topology.active, id])
}

/// Looks at everything.
pub(super) async fn plan(world: &World, outside: &dyn Outside, course: &Course, status: &Status) -> Plan {
    let stage = status.state;
    let topology = world.topology.load();
    let (from, to) = (topology.pool(course.from), topology.pool(course.to));
    let mut items = vec![not_busy(stage)];
    if items.iter().any(|item| item.answer.blocks()) {
        // The pools are being fenced and promoted: probes would disturb, and see what will not last.
        let way_back = course.way_back(stage);
        return Plan { go: false, from: from.name.clone(), to: to.name.clone(), items, way_back };
    }
    items.extend(journal(status.journal.as_deref()));
    items.extend(contracts(world, from, to, course));
    for (id, pool) in [(course.from, from), (course.to, to)] {
        if pool.fence.is_some() {
            items.push(answered(format!("addresses of {}", pool.name), outside.asks_all(id).await));
        }
        let known = outside.capabilities(id).await;
        items.push(match known {
            Ok(list) => {
                item(format!("capabilities of {}", pool.name), Finding::Pass, format!("{} known", list.len()))
            }
            Err(why) => item(format!("capabilities of {}", pool.name), Finding::Unknown, why),
        });
    }
    items.push(answered(format!("identity on {}", from.name), outside.identity(course.from).await));
    items.push(match to.contract.standby_login {
        StandbyLogin::Yes => {
            answered(format!("identity on {}", to.name), standby_identity(outside, course.to).await)
        }
        StandbyLogin::No | StandbyLogin::Forbidden => {
            let saw = "the standby takes no logins; it is proved after the promote";
            item(format!("identity on {}", to.name), Finding::Note, saw)
        }
    });
    items.extend(answers(outside, from, course.from, true).await);
    items.extend(answers(outside, to, course.to, to.contract.standby_login == StandbyLogin::Yes).await);
    items.extend(relays(outside, from, course.from, true).await);
    items.extend(relays(outside, to, course.to, false).await);
    items.extend(shared_servers(from, to));
    let guards =
        world.config.cutover.checks.iter().filter(|c| c.guard && c.from == from.name && c.to == to.name);
    for check in guards {
        items.push(answered(
            format!("guard {}", check.name),
            asked(world, outside, check, Phase::Guard).await,
        ));
    }
    let allowed = allowed(world);
    items.extend(outside.web(course.from, course.to, allowed).await.into_iter().map(looked));
    items.push(sessions(world, allowed));
    items.extend(streams(world));
    let before = if to.promote.is_some() || to.fence.is_some() { Stage::Verified } else { Stage::Fenced };
    let way_back = format!(
        "until the decision: {}; after it: {}",
        course.way_back(before),
        course.way_back(Stage::Soaking)
    );
    let go = !items.iter().any(|item| item.answer.blocks());
    Plan { go, from: from.name.clone(), to: to.name.clone(), items, way_back }
}

/// The markers were written on the active pool a moment ago: replication is given time to bring them.
async fn standby_identity(outside: &dyn Outside, pool: PoolId) -> Answer {
    for _ in 0..MARKER_TRIES {
        match outside.identity(pool).await {
            Answer::Unknown(_) => tokio::time::sleep(MARKER_PAUSE).await,
            answer @ (Answer::Pass | Answer::Fail(_)) => return answer,
        }
    }
    outside.identity(pool).await
}

/// Servers that are not there would be found missing while everybody waits. A standby that takes no logins need not run.
async fn answers(outside: &dyn Outside, pool: &Pool, id: PoolId, runs: bool) -> Vec<Item> {
    let answers = outside.answers(id).await.into_iter();
    let item = |(what, look)| {
        let look = match look {
            Look::Bad(Answer::Unknown(why)) if !runs => {
                Look::Note(format!("{why}; it is proved after the promote"))
            }
            look @ (Look::Good(_) | Look::Note(_) | Look::Bad(_)) => look,
        };
        looked((format!("{what} on {}", pool.name), look))
    };
    answers.map(item).collect()
}

/// The relay self-test. A standby may have nobody who answers, or take no mail at all.
async fn relays(outside: &dyn Outside, pool: &Pool, id: PoolId, active: bool) -> Vec<Item> {
    let answers = outside.relays(id).await.into_iter();
    let item = |(protocol, answer)| {
        let name = format!("relay test of {protocol} on {}", pool.name);
        match answer {
            Answer::Unknown(why) if !active => {
                item(name, Finding::Note, format!("{why}; it is tested after the promote"))
            }
            answer @ (Answer::Pass | Answer::Fail(_) | Answer::Unknown(_)) => answered(name, answer),
        }
    };
    answers.map(item).collect()
}

/// Servers for mail that both pools have: no fence of one pool could stop them.
fn shared_servers(from: &Pool, to: &Pool) -> Option<Item> {
    let server = |pool: &Pool, protocol| pool.service(protocol).map(|service| service.server.clone());
    let same =
        |protocol: &Protocol| server(from, *protocol).is_some_and(|s| server(to, *protocol) == Some(s));
    let mail = [Protocol::Smtp, Protocol::Submission, Protocol::Lmtp];
    let shared: Vec<&str> = mail.into_iter().filter(same).map(Protocol::name).collect();
    let saw = format!("{} is one server for both pools: the fence is not proved for it", shared.join(", "));
    (!shared.is_empty()).then(|| item("mail servers", Finding::Note, saw))
}

fn item(name: impl Into<String>, answer: Finding, saw: impl Into<String>) -> Item {
    Item { name: name.into(), answer, saw: saw.into() }
}

fn answered(name: String, answer: Answer) -> Item {
    match answer {
        Answer::Pass => item(name, Finding::Pass, "pass"),
        Answer::Fail(saw) => item(name, Finding::Fail, saw),
        Answer::Unknown(why) => item(name, Finding::Unknown, why),
    }
}

fn not_busy(stage: Stage) -> Item {
    match stage {
        Stage::Idle => item("state", Finding::Pass, "no cutover runs"),
        Stage::Soaking => item("state", Finding::Note, "a cutover soaks; starting another ends that"),
        Stage::Armed
        | Stage::Holding
        | Stage::Fenced
        | Stage::CaughtUp
        | Stage::Promoted
        | Stage::Verified
        | Stage::Deciding
        | Stage::Decided
        | Stage::Switching
        | Stage::Resuming
        | Stage::Aborting
        | Stage::Limbo => item("state", Finding::Fail, format!("a cutover is {stage}")),
    }
}

/// A journal that cannot be written: every cutover would have to turn back.
fn journal(failed: Option<&str>) -> Option<Item> {
    failed.map(|why| item("journal", Finding::Fail, format!("the last record could not be written: {why}")))
}

/// What the configuration alone says.
fn contracts(world: &World, from: &Arc<Pool>, to: &Arc<Pool>, course: &Course) -> Vec<Item> {
    let (old, new) = (from.contract.storage, to.contract.storage);
    let mut items = vec![match (old, new) {
        (Storage::Shared, Storage::Shared) => {
            item("storage", Finding::Pass, "shared: one user on one pool at a time")
        }
        (Storage::Replicated, Storage::Replicated) => item("storage", Finding::Pass, "replicated"),
        (Storage::Shared, Storage::Replicated) | (Storage::Replicated, Storage::Shared) => {
            item("storage", Finding::Fail, format!("{} says {old:?}, {} says {new:?}", from.name, to.name))
        }
    }];
    items.push(match (&from.fence, from.contract.fence_reversible) {
        (None, _) => item(
            "fence",
            Finding::Fail,
            format!("pool {} has none: nothing could stop its writes", from.name),
        ),
        (Some(_), true) => {
            item("fence", Finding::Pass, format!("{} has one, and it can be released", from.name))
        }
        (Some(_), false) => item(
            "fence",
            Finding::Note,
            format!("{}'s cannot be released: an abort after it ends in Limbo", from.name),
        ),
    });
    items.push(if to.promote.is_none() && to.fence.is_none() {
        let saw = format!("{} has neither promote nor fence: it is able to write at all times", to.name);
        item("promote", Finding::Note, saw)
    } else if course.terms.promote_can_be_undone() {
        item("promote", Finding::Pass, format!("{} can be made able to write, and unable again", to.name))
    } else {
        let saw = format!("{}'s cannot be undone by its fence: an abort after it ends in Limbo", to.name);
        item("promote", Finding::Note, saw)
    });
    items.extend([from, to].into_iter().filter_map(|pool| probes(pool)));
    let barriers: Vec<&str> = (world.config.cutover.checks.iter())
        .filter(|check| check.barrier && check.from == from.name && check.to == to.name)
        .map(|check| &*check.name)
        .collect();
    items.push(match (barriers.is_empty(), old) {
        (false, _) => item("barriers", Finding::Pass, barriers.join(", ")),
        (true, Storage::Shared) => item("barriers", Finding::Note, "none: both pools use one store"),
        (true, Storage::Replicated) => {
            let saw = "none: nothing would show that the new pool has everything";
            item("barriers", Finding::Fail, saw)
        }
    });
    let budget = &world.config.cutover;
    items.push(item(
        "decision",
        Finding::Note,
        format!("bascule decides, at most {:?} after the gate shut", budget.max_hold - budget.abort_reserve),
    ));
    items
}

/// Two accounts, also where a standby is asked for them only after the promote.
fn probes(pool: &Pool) -> Option<Item> {
    let lacks = match pool.probes.len() {
        0 => "no probe account: nothing can be proved on it",
        1 => "one probe account, and it takes two to see that one does not see the other's mail",
        _ => return None,
    };
    let name = &pool.name;
    let saw = format!("pool {name} has {lacks}; name two accounts in pool.{name}.probe");
    Some(item("probes", Finding::Fail, saw))
}

/// What of HTTP is open for longer than a request.
fn streams(world: &World) -> Option<Item> {
    let metrics = &world.metrics;
    let [events, polls, sockets] =
        [&metrics.http_events, &metrics.http_polls, &metrics.http_sockets].map(prometheus::IntGauge::get);
    let saw = format!(
        "{events} streams of events and {polls} long polls move unseen, {sockets} WebSockets are told to come back"
    );
    (events + polls + sockets > 0).then(|| item("streams", Finding::Note, saw))
}

fn looked((name, look): (String, Look)) -> Item {
    match look {
        Look::Good(saw) => item(name, Finding::Pass, saw),
        Look::Note(saw) => item(name, Finding::Note, saw),
        Look::Bad(answer) => answered(name, answer),
    }
}

/// How many sessions may be lost.
fn allowed(world: &World) -> usize {
    match world.config.cutover.unmovable {
        Unmovable::Abort => 0,
        Unmovable::Upto(allowed) => allowed,
    }
}

fn sessions(world: &World, allowed: usize) -> Item {
    let all = world.registry.all();
    let unmovable =
        all.iter().filter(|handle| handle.info().pipe || handle.info().unmovable.is_some()).count();
    let saw = format!("{} sessions, {unmovable} of them known to be unmovable", all.len());
    if unmovable > allowed {
        return item("sessions", Finding::Fail, format!("{saw}; {allowed} are allowed (cutover.unmovable)"));
    }
    item("sessions", if unmovable > 0 { Finding::Note } else { Finding::Pass }, saw)
}
