//! Every state, every event, every effect that succeeds, fails, or is cut off half-way, under every contract.
//!
//! Rule: the model below knows what is true outside; the machine does not. Each invariant is shown to bite by
//! a machine with one known mistake.

use std::collections::{HashMap, VecDeque};

use super::*;

/// What is true about a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pool {
    writes: bool,
    /// A promote or release that was cut off may still take effect, until a fence is engaged.
    loose: bool,
    /// Sessions are connected to it.
    sessions: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Gate {
    Open(Side),
    Shut,
    Expired,
    Deciding,
    Decided,
    FailStop,
}

/// What the disk says. After a failed write both readings are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Journal {
    Closed(Side),
    Entered(Stage),
    Decided,
    AdoptedOld(Stage),
}

/// The world outside the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    old: Pool,
    new: Pool,
    gate: Gate,
    journal: Journal,
    active: Side,
    /// The old pool was proved unable to write, and nothing since can have changed that.
    fence_proved: bool,
    /// Barriers passed since.
    caught_up: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    state: State,
    queue: VecDeque<Effect>,
    world: World,
}

type Broken = String;
type Machine = fn(State, Event) -> (State, Reaction);

fn all_terms() -> impl Iterator<Item = Terms> {
    (0..16u8).map(|bits| Terms {
        fence_reversible: bits & 1 != 0,
        has_promote: bits & 2 != 0,
        promote_reversible: bits & 4 != 0,
        new_has_fence: bits & 8 != 0,
    })
}

impl World {
    fn new(terms: Terms) -> Self {
        let pool = |writes, sessions| Pool { writes, loose: false, sessions };
        Self {
            old: pool(true, true),
            // A new pool without promote and fence is able to write at all times; nobody is sent to it.
            new: pool(terms.undo() == Undo::Nothing, false),
            gate: Gate::Open(Side::Old),
            journal: Journal::Closed(Side::Old),
            active: Side::Old,
            fence_proved: false,
            caught_up: false,
        }
    }

    fn pool(&mut self, side: Side) -> &mut Pool {
        match side {
            Side::Old => &mut self.old,
            Side::New => &mut self.new,
        }
    }

    /// An effect begins: what is forbidden at this moment?
    fn begin(&self, effect: Effect, terms: Terms) -> Result<(), Broken> {
        let entered = |stage| match self.journal {
            Journal::Entered(now) | Journal::AdoptedOld(now) => now >= stage,
            Journal::Decided => true,
            Journal::Closed(_) => false,
        };
        let rules = match effect {
            Effect::Engage(Side::Old) => {
                vec![
                    (entered(Stage::Fenced), "the old pool is fenced without a record"),
                    (!self.old.sessions, "sessions linger at the fence"),
                ]
            }
            Effect::Promote | Effect::Release(Side::New) => vec![
                (entered(Stage::Promoted), "the new pool is promoted without a record"),
                (self.fence_proved, "the new pool is promoted before the old one is proved fenced"),
                (self.caught_up, "the new pool is promoted before it has caught up"),
            ],
            Effect::Release(Side::Old) => vec![
                (!self.new_may_write(terms), "the old pool is released while the new one may write"),
                (!self.new.sessions, "the old pool is released while sessions are on the new one"),
                (self.journal != Journal::Decided, "the old pool is released after the decision"),
            ],
            Effect::Verify => {
                vec![(self.fence_proved && !self.old.sessions, "sessions verified with the old pool alive")]
            }
            Effect::Journal(Mark::Decided) => vec![
                (self.gate == Gate::Deciding, "the decision is written without the gate's word"),
                (self.fence_proved && self.new.writes, "the decision is written on hope"),
            ],
            Effect::Journal(Mark::Adopted(Side::New)) => {
                vec![(self.fence_proved && self.new.writes, "the new pool is adopted on hope")]
            }
            Effect::Swap => vec![(self.journal == Journal::Decided, "swapped without a decision")],
            Effect::Open(Side::New) => {
                vec![(
                    self.journal == Journal::Decided && self.active == Side::New,
                    "opened on new without a decision",
                )]
            }
            Effect::Open(Side::Old) => vec![
                (
                    self.journal != Journal::Decided && self.active == Side::Old,
                    "opened on old after the decision",
                ),
                (self.old.writes, "opened on an old pool that does not write"),
                (!self.new_may_write(terms), "opened on old while new may write"),
            ],
            Effect::Journal(Mark::Entered(_) | Mark::Undone | Mark::Done | Mark::Adopted(Side::Old))
            | Effect::Arm
            | Effect::Shut
            | Effect::Drain
            | Effect::Leave(_)
            | Effect::Engage(Side::New)
            | Effect::ProveFenced
            | Effect::ProveRefuses(_)
            | Effect::ProveWrites(_)
            | Effect::Barriers
            | Effect::Decide
            | Effect::Settle
            | Effect::FailStop
            | Effect::Attach
            | Effect::Rest
            | Effect::Soak
            | Effect::Pause => vec![],
        };
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, broken)| Err((*broken).into()))
    }

    fn new_may_write(&self, terms: Terms) -> bool {
        terms.undo() != Undo::Nothing && (self.new.writes || self.new.loose)
    }

    /// Every world after an effect that was reported as carried out.
    fn succeed(&self, effect: Effect) -> Vec<Self> {
        let with = |change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            next
        };
        match effect {
            Effect::Journal(mark) => vec![with(&|w| w.journal = w.journal.and(mark))],
            Effect::Shut => vec![with(&|w| w.gate = Gate::Shut)],
            Effect::Leave(side) => vec![with(&|w| w.pool(side).sessions = false)],
            // A hook that says "done" may be wrong: that is what proofs are for.
            Effect::Engage(side) => vec![
                with(&|w| (w.pool(side).writes, w.pool(side).loose) = (false, false)),
                with(&|w| w.pool(side).loose = false),
            ],
            Effect::Release(side) => vec![with(&|w| w.set_writes(side)), with(&|w| w.touch(side))],
            Effect::Promote => vec![with(&|w| w.set_writes(Side::New)), with(&|w| w.touch(Side::New))],
            Effect::ProveFenced | Effect::ProveRefuses(Side::Old) if !self.old.writes => {
                vec![with(&|w| w.fence_proved = true)]
            }
            Effect::ProveRefuses(Side::New) if !self.new.writes => vec![self.clone()],
            Effect::ProveWrites(Side::New) if self.new.writes => vec![with(&|w| w.new.loose = false)],
            Effect::ProveWrites(Side::Old) if self.old.writes => vec![self.clone()],
            Effect::ProveFenced | Effect::ProveRefuses(_) | Effect::ProveWrites(_) => vec![],
            Effect::Barriers => vec![with(&|w| w.caught_up = w.fence_proved)],
            Effect::Verify => vec![with(&|w| w.new.sessions = true)],
            Effect::Decide if self.gate == Gate::Shut => vec![with(&|w| w.gate = Gate::Deciding)],
            Effect::Decide => vec![],
            Effect::Settle if self.gate == Gate::Deciding => vec![with(&|w| w.gate = Gate::Decided)],
            Effect::FailStop if self.gate == Gate::Deciding => vec![with(&|w| w.gate = Gate::FailStop)],
            Effect::Swap => vec![with(&|w| w.active = Side::New)],
            Effect::Open(_) if self.gate == Gate::Deciding => vec![],
            Effect::Open(side) => vec![with(&|w| w.gate = Gate::Open(side))],
            Effect::Attach => vec![with(&|w| w.pool(w.active).sessions = true)],
            Effect::Rest => vec![with(&|w| {
                if w.active == Side::Old { w.new.sessions = false } else { w.old.sessions = false }
            })],
            Effect::Arm
            | Effect::Drain
            | Effect::Settle
            | Effect::FailStop
            | Effect::Soak
            | Effect::Pause => {
                vec![self.clone()]
            }
        }
    }

    /// Every world after an effect that was begun and not reported as carried out.
    fn cut_off(&self, effect: Effect) -> Vec<Self> {
        let mut worlds = vec![self.clone()];
        match effect {
            // One store each: it happens and is reported, or it does not happen.
            Effect::Shut
            | Effect::Decide
            | Effect::Settle
            | Effect::FailStop
            | Effect::Swap
            | Effect::Open(_) => {}
            Effect::Promote => worlds.push(self.touched(Side::New)),
            Effect::Release(side) => worlds.push(self.touched(side)),
            Effect::Journal(_)
            | Effect::Arm
            | Effect::Drain
            | Effect::Leave(_)
            | Effect::Engage(_)
            | Effect::ProveFenced
            | Effect::ProveRefuses(_)
            | Effect::ProveWrites(_)
            | Effect::Barriers
            | Effect::Verify
            | Effect::Attach
            | Effect::Rest
            | Effect::Soak
            | Effect::Pause => {
                worlds.extend(self.succeed(effect));
            }
        }
        worlds
    }

    fn touched(&self, side: Side) -> Self {
        let mut world = self.clone();
        world.touch(side);
        world
    }

    fn set_writes(&mut self, side: Side) {
        self.touch(side);
        self.pool(side).writes = true;
        self.pool(side).loose = false;
    }

    /// From now on the side may write at any time.
    fn touch(&mut self, side: Side) {
        self.pool(side).loose = true;
        if side == Side::Old {
            self.fence_proved = false;
            self.caught_up = false;
        }
    }

    fn check(&self, terms: Terms) -> Result<(), Broken> {
        let both = self.old.writes && self.new_may_write(terms);
        if both {
            return Err("both pools may write".into());
        }
        match self.gate {
            Gate::Open(Side::New) if self.old.writes || self.old.loose => {
                Err("open on new, old may write".into())
            }
            Gate::Open(_) | Gate::Shut | Gate::Expired | Gate::Deciding | Gate::Decided | Gate::FailStop => {
                Ok(())
            }
        }
    }
}

impl Journal {
    fn and(self, mark: Mark) -> Self {
        match (mark, self) {
            (Mark::Entered(stage), _) => Self::Entered(stage),
            (Mark::Decided | Mark::Adopted(Side::New), _) => Self::Decided,
            (Mark::Undone, _) => Self::Closed(Side::Old),
            (Mark::Done, _) => Self::Closed(Side::New),
            (Mark::Adopted(Side::Old), Self::Entered(stage) | Self::AdoptedOld(stage)) => {
                Self::AdoptedOld(stage)
            }
            (Mark::Adopted(Side::Old), Self::Decided | Self::Closed(_)) => Self::AdoptedOld(Stage::Verified),
        }
    }
}

/// What the process finds when it comes up again.
fn restart(world: &World, terms: Terms) -> Option<Node> {
    match world.journal {
        Journal::Closed(_) => None,
        Journal::Entered(Stage::Deciding) => Some(up(State::in_doubt(terms), world)),
        Journal::Entered(stage) | Journal::AdoptedOld(stage) => {
            Some(up(State::restarted(terms, stage), world))
        }
        Journal::Decided => Some(up(State::decided(terms), world)),
    }
}

fn up((mut state, reaction): (State, Reaction), world: &World) -> Node {
    if let State::Aborting(home, _) | State::Limbo(home, ..) = &mut state {
        home.reason = Reason::Expired(Stage::Idle, String::new());
    }
    let mut world = world.clone();
    let decided = world.journal == Journal::Decided;
    world.active = if decided { Side::New } else { Side::Old };
    world.gate = if decided { Gate::Open(Side::New) } else { Gate::Shut };
    (world.old.sessions, world.new.sessions) = (false, false);
    let Reaction::Go(effects) = reaction else { unreachable!("a restart begins something") };
    Node { state, queue: effects.into(), world }
}

/// A node after an event, and whether what was being done has been left.
fn on(machine: Machine, node: &Node, event: Event, world: World) -> (Node, bool) {
    let (mut state, reaction) = machine(node.state.clone(), event);
    // Why it turned back has no bearing on how: without it there are a tenth of the nodes.
    if let State::Aborting(home, _) | State::Limbo(home, ..) = &mut state {
        home.reason = Reason::Expired(Stage::Idle, String::new());
    }
    match reaction {
        Reaction::Go(effects) => (Node { state, queue: effects.into(), world }, true),
        Reaction::Stay | Reaction::Refuse(_) => (Node { state, queue: node.queue.clone(), world }, false),
    }
}

fn interrupts(node: &Node) -> Vec<(Event, World)> {
    let mut events = vec![
        (Event::Abort("x".into()), node.world.clone()),
        (Event::Finish, node.world.clone()),
        (Event::Adopt(Side::Old), node.world.clone()),
        (Event::Adopt(Side::New), node.world.clone()),
        (Event::Overdue, node.world.clone()),
    ];
    // The operator who says "old" about a promote that no fence undoes has seen to it himself.
    if matches!(node.state, State::Limbo(_, Stuck::Asks(Question::Promote), _)) {
        (events[2].1.new.writes, events[2].1.new.loose) = (false, false);
    }
    if node.world.gate == Gate::Shut {
        let mut expired = node.world.clone();
        expired.gate = Gate::Expired;
        events.push((Event::Expired(String::new()), expired));
    }
    events
}

fn successors(machine: Machine, node: &Node, terms: Terms) -> Result<Vec<Node>, Broken> {
    let mut next: Vec<Node> = restart(&node.world, terms).into_iter().collect();
    for side in [Side::Old, Side::New] {
        let mut late = node.clone();
        if late.world.pool(side).loose {
            late.world.pool(side).writes = true;
            next.push(late);
        }
    }
    if node.state != State::Idle {
        next.extend(interrupts(node).into_iter().map(|(event, world)| on(machine, node, event, world).0));
    }
    // A fence that cannot be released by us is released by hand, once Limbo asks for it.
    if matches!(node.state, State::Limbo(_, Stuck::Pausing(Step::ReleaseOld), _)) && !terms.fence_reversible {
        let mut repaired = node.clone();
        repaired.world.set_writes(Side::Old);
        next.push(repaired);
    }
    let Some(effect) = node.queue.front().copied() else {
        next.push(on(machine, node, Event::Done, node.world.clone()).0);
        if node.state == State::Idle && node.world.active == Side::Old {
            next.push(on(machine, node, Event::Start(terms), node.world.clone()).0);
        }
        return Ok(next);
    };
    node.world.begin(effect, terms)?;
    for world in node.world.succeed(effect) {
        let queue = node.queue.iter().skip(1).copied().collect();
        next.push(Node { state: node.state.clone(), queue, world });
    }
    if effect == Effect::Journal(Mark::Decided) {
        // A torn record: the doubt is noted in its place.
        let mut torn = node.world.clone();
        torn.journal = Journal::Entered(Stage::Deciding);
        next.push(up(State::in_doubt(terms), &torn));
    }
    for world in node.world.cut_off(effect) {
        next.extend(restart(&world, terms));
        let (mut failed, left) = on(machine, node, Event::Failed("x".into()), world.clone());
        if !left {
            failed.queue.clear();
        }
        next.push(failed);
        if node.state != State::Idle {
            next.push(on(machine, node, Event::Panicked("x".into()), world.clone()).0);
        }
        let there = Node { world, ..node.clone() };
        let cut = |(event, world)| Some(on(machine, &there, event, world)).filter(|(_, left)| *left);
        next.extend(interrupts(&there).into_iter().filter_map(cut).map(|(node, _)| node));
    }
    Ok(next)
}

/// A state in which nothing is owed to anybody.
fn at_rest(node: &Node) -> bool {
    node.state == State::Idle && node.queue.is_empty() && node.world.gate == Gate::Open(node.world.active)
}

/// Every node from Idle, checked; the number of nodes.
fn walk(machine: Machine, terms: Terms) -> Result<usize, Broken> {
    let start = Node { state: State::Idle, queue: VecDeque::new(), world: World::new(terms) };
    let mut index = HashMap::from([(start.clone(), 0usize)]);
    let mut nodes = vec![start];
    let mut came_from: Vec<Vec<usize>> = vec![vec![]];
    let mut at = 0;
    while at < nodes.len() {
        let node = nodes[at].clone();
        let told = |broken: Broken| format!("{broken}\n  {terms:?}\n  {node:?}");
        node.world.check(terms).map_err(told)?;
        holds_end(machine, &node).map_err(told)?;
        for next in successors(machine, &node, terms).map_err(told)? {
            let to = *index.entry(next.clone()).or_insert_with(|| {
                nodes.push(next);
                came_from.push(vec![]);
                nodes.len() - 1
            });
            came_from[to].push(at);
        }
        at += 1;
    }
    reaches_rest(&nodes, &came_from)?;
    Ok(nodes.len())
}

/// D4: while the gate is shut before a decision, the deadline leads home, and past `max_hold` it is Limbo.
fn holds_end(machine: Machine, node: &Node) -> Result<(), Broken> {
    let stage = node.state.stage();
    let waits = !matches!(node.world.gate, Gate::Open(_));
    if waits && (Stage::Holding..=Stage::Verified).contains(&stage) {
        let (state, _) = machine(node.state.clone(), Event::Expired(String::new()));
        if state.stage() != Stage::Aborting {
            return Err("the deadline leads nowhere".into());
        }
    }
    let reopens = matches!(node.state, State::Aborting(_, Step::Reopen));
    if waits && (stage == Stage::Aborting || stage == Stage::Deciding) && !reopens {
        let (state, _) = machine(node.state.clone(), Event::Overdue);
        if state.stage() != Stage::Limbo {
            return Err("a hold is overdue and does not say so".into());
        }
    }
    Ok(())
}

/// D1: from everywhere a state can be reached in which whoever was held has been let go.
fn reaches_rest(nodes: &[Node], came_from: &[Vec<usize>]) -> Result<(), Broken> {
    let mut seen = vec![false; nodes.len()];
    let mut open: Vec<usize> = (0..nodes.len()).filter(|&i| at_rest(&nodes[i])).collect();
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut seen[i], true) {
            open.extend(&came_from[i]);
        }
    }
    match seen.iter().position(|seen| !seen) {
        None => Ok(()),
        Some(i) => Err(format!("no way to an end\n  {:?}", nodes[i])),
    }
}

#[test]
fn every_path_under_every_contract_keeps_the_invariants() {
    for terms in all_terms() {
        let nodes = walk(State::step, terms).unwrap_or_else(|broken| panic!("{broken}"));
        println!("{nodes} nodes: {terms:?}");
        assert!(nodes > 500, "{nodes} nodes cannot be all of {terms:?}");
    }
}

/// The walk finds this mistake under at least one contract.
fn caught(machine: Machine, broken: &str) {
    let mut found = all_terms().filter_map(|terms| walk(machine, terms).err());
    assert!(found.any(|found| found.starts_with(broken)), "the walk does not find that {broken}");
}

/// The machine, with one effect forgotten.
fn without(forgotten: Effect, state: State, event: Event) -> (State, Reaction) {
    let (state, mut reaction) = state.step(event);
    if let Reaction::Go(effects) = &mut reaction {
        effects.retain(|effect| *effect != forgotten);
    }
    (state, reaction)
}

#[test]
fn a_machine_that_releases_old_before_it_fences_new_is_caught() {
    caught(
        |state, event| match state.step(event) {
            (state @ State::Aborting(_, Step::FenceNew), _) => {
                (state, Reaction::Go(vec![Effect::Release(Side::Old), Effect::Engage(Side::New)]))
            }
            other => other,
        },
        "the old pool is released while the new one may write",
    );
}

#[test]
fn a_machine_that_believes_its_fence_hook_is_caught() {
    caught(
        |state, event| without(Effect::ProveFenced, state, event),
        "the new pool is promoted before the old one is proved fenced",
    );
}

#[test]
fn a_machine_that_decides_without_the_gate_is_caught() {
    caught(
        |state, event| without(Effect::Decide, state, event),
        "the decision is written without the gate's word",
    );
}

#[test]
fn a_machine_that_fences_without_a_record_is_caught() {
    caught(
        |state, event| without(Effect::Journal(Mark::Entered(Stage::Fenced)), state, event),
        "the old pool is fenced without a record",
    );
}

#[test]
fn a_machine_that_aborts_while_it_decides_is_caught() {
    caught(
        |state, event| match (state, event) {
            (State::Deciding(terms), Event::Abort(why)) => State::Verified(terms).step(Event::Abort(why)),
            (state, event) => state.step(event),
        },
        "the old pool is released after the decision",
    );
}

#[test]
fn a_machine_that_ignores_the_deadline_is_caught() {
    caught(
        |state, event| {
            if matches!(event, Event::Expired(_)) { (state, Reaction::Stay) } else { state.step(event) }
        },
        "the deadline leads nowhere",
    );
}

#[test]
fn a_machine_that_gives_up_in_limbo_is_caught() {
    caught(
        |state, event| match (state, event) {
            (state @ State::Limbo(_, Stuck::Pausing(_) | Stuck::Home(_), _), _) => (state, Reaction::Stay),
            (state, event) => state.step(event),
        },
        "no way to an end",
    );
}
