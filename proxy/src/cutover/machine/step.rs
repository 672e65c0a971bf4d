//! The transitions of the machine.
//!
//! Rule: before the decision every bad event leads home, after it every event leads forward, and what can do
//! neither stays in Limbo with the gate shut.

use super::{
    Effect::{self, *},
    Event, Mark, Question, Reach, Reaction, Reason, Return, Side, State, Step, Stuck, Terms, Undo,
};
use crate::cutover::types::Stage;

const IN_DOUBT: &str = "the record of the decision may or may not be on the disk: say which pool serves with \
                        `bascule cutover adopt`";
const PROMOTED_FOR_GOOD: &str = "the new pool may be promoted, and its fence does not undo that: say which pool \
                                 serves with `bascule cutover adopt`";
const SLOW: &str = "the way back takes longer than max_hold; it goes on";

impl State {
    /// After a restart: the journal shows a cutover that had entered `stage` and was not decided.
    pub fn restarted(terms: Terms, stage: Stage) -> (Self, Reaction) {
        let reach = match stage {
            Stage::Idle | Stage::Armed | Stage::Holding => Reach::Sessions,
            Stage::Fenced | Stage::CaughtUp => Reach::Fence,
            // Of the later states only Deciding is journalled, and then the operator is asked; the furthest reach is the
            // safe reading.
            Stage::Promoted
            | Stage::Verified
            | Stage::Deciding
            | Stage::Decided
            | Stage::Switching
            | Stage::Resuming
            | Stage::Soaking
            | Stage::Aborting
            | Stage::Limbo => Reach::Promote,
        };
        Self::Aborting(Return { terms, reason: Reason::Restarted(stage), reach }, Step::LeaveNew).enter()
    }

    /// After a restart: the last record is torn and may have been the decision.
    pub fn in_doubt(terms: Terms) -> (Self, Reaction) {
        let home = Return { terms, reason: Reason::Restarted(Stage::Deciding), reach: Reach::Promote };
        Self::Limbo(home, Stuck::Asks(Question::Record), IN_DOUBT.into()).enter()
    }

    /// After a restart: the decision stands and the new pool is the active one already.
    pub fn decided(terms: Terms) -> (Self, Reaction) {
        Self::Soaking(terms).enter()
    }

    /// The one transition function.
    pub fn step(self, event: Event) -> (Self, Reaction) {
        match event {
            Event::Start(terms) => self.start(terms),
            Event::Done => self.done(),
            Event::Failed(why) => self.failed(why),
            Event::Panicked(why) => self.panicked(why),
            Event::Abort(why) => self.abort(why),
            Event::Expired(waited) => self.expired(waited),
            Event::Overdue => self.overdue(),
            Event::Finish => self.finish(),
            Event::Adopt(side) => self.adopt(side),
        }
    }

    /// Why it turned back, on the way home and in Limbo.
    pub fn turned_back(&self) -> Option<&Reason> {
        if let Self::Aborting(home, _) | Self::Limbo(home, ..) = self { Some(&home.reason) } else { None }
    }

    /// The state's name.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Idle => Stage::Idle,
            Self::Armed(_) => Stage::Armed,
            Self::Holding(_) => Stage::Holding,
            Self::Fenced(_) => Stage::Fenced,
            Self::CaughtUp(_) => Stage::CaughtUp,
            Self::Promoted(_) => Stage::Promoted,
            Self::Verified(_) => Stage::Verified,
            Self::Deciding(_) => Stage::Deciding,
            Self::Decided(_) => Stage::Decided,
            Self::Switching(_) => Stage::Switching,
            Self::Resuming(_) => Stage::Resuming,
            Self::Soaking(_) => Stage::Soaking,
            Self::Aborting(..) => Stage::Aborting,
            Self::Limbo(..) => Stage::Limbo,
        }
    }

    /// What a state begins with. The record of the next state is the last thing that a state does.
    fn enter(self) -> (Self, Reaction) {
        let entered = |stage| Journal(Mark::Entered(stage));
        let effects = match &self {
            Self::Idle => vec![],
            Self::Armed(_) => vec![entered(Stage::Armed), Arm, entered(Stage::Holding)],
            Self::Holding(_) => vec![Shut, Drain, Leave(Side::Old), entered(Stage::Fenced)],
            Self::Fenced(_) => vec![Engage(Side::Old), ProveFenced, entered(Stage::CaughtUp)],
            Self::CaughtUp(_) => vec![Barriers, entered(Stage::Promoted)],
            Self::Promoted(terms) => [terms.make_new_write(), vec![entered(Stage::Verified)]].concat(),
            Self::Verified(_) => vec![Verify, ProveFenced, Decide],
            Self::Deciding(_) => vec![Journal(Mark::Decided)],
            Self::Decided(_) => vec![Settle],
            Self::Switching(_) => vec![Swap],
            Self::Resuming(_) => vec![Open(Side::New), Attach],
            Self::Soaking(_) => vec![Rest, Soak],
            Self::Aborting(home, step) => home.terms.effects_of(*step),
            Self::Limbo(home, stuck, _) => stuck.effects(home.terms),
        };
        (self, Reaction::Go(effects))
    }

    fn start(self, terms: Terms) -> (Self, Reaction) {
        if self == Self::Idle {
            return Self::Armed(terms).enter();
        }
        (self, Reaction::Refuse("another cutover is not over yet"))
    }

    fn done(self) -> (Self, Reaction) {
        match self {
            Self::Idle => (Self::Idle, Reaction::Stay),
            Self::Armed(terms) => Self::Holding(terms).enter(),
            Self::Holding(terms) => Self::Fenced(terms).enter(),
            Self::Fenced(terms) => Self::CaughtUp(terms).enter(),
            Self::CaughtUp(terms) => Self::Promoted(terms).enter(),
            Self::Promoted(terms) => Self::Verified(terms).enter(),
            Self::Verified(terms) => Self::Deciding(terms).enter(),
            Self::Deciding(terms) => Self::Decided(terms).enter(),
            Self::Decided(terms) => Self::Switching(terms).enter(),
            Self::Switching(terms) => Self::Resuming(terms).enter(),
            Self::Resuming(terms) => Self::Soaking(terms).enter(),
            Self::Soaking(_) => ended(Mark::Done),
            Self::Aborting(home, step) => match home.after(step) {
                None => ended(Mark::Undone),
                Some(Step::FenceNew) if home.terms.undo() == Undo::Impossible => home.asks(Question::Promote),
                Some(next) => Self::Aborting(home, next).enter(),
            },
            Self::Limbo(home, stuck, why) => unstuck(home, stuck, why),
        }
    }

    fn failed(self, why: String) -> (Self, Reaction) {
        let stage = self.stage();
        if let Some((terms, reach)) = self.returnable() {
            return Return { terms, reason: Reason::Failed(stage, why), reach }.begin();
        }
        match self {
            Self::Deciding(terms) => {
                let reason = Reason::Failed(stage, why);
                Return { terms, reason, reach: Reach::Promote }.asks(Question::Record)
            }
            Self::Aborting(home, step) => Self::Limbo(home, Stuck::Pausing(step), why).enter(),
            Self::Limbo(home, stuck, needs) => still_stuck(home, stuck, needs, why),
            // After the decision nothing goes back. What these do cannot fail outside; if it did, it is done again.
            Self::Decided(_) | Self::Switching(_) | Self::Resuming(_) => self.enter(),
            Self::Soaking(_) => self.done(),
            Self::Idle
            | Self::Armed(_)
            | Self::Holding(_)
            | Self::Fenced(_)
            | Self::CaughtUp(_)
            | Self::Promoted(_)
            | Self::Verified(_) => (self, Reaction::Stay),
        }
    }

    /// As after a failure, but in Limbo from here on: somebody has to look.
    fn panicked(self, why: String) -> (Self, Reaction) {
        match (self.returnable(), &self) {
            (
                Some((terms, reach)),
                Self::Holding(_)
                | Self::Fenced(_)
                | Self::CaughtUp(_)
                | Self::Promoted(_)
                | Self::Verified(_),
            ) => {
                let home = Return { terms, reason: Reason::Failed(self.stage(), why.clone()), reach };
                Self::Limbo(home, Stuck::Home(Step::LeaveNew), why).enter()
            }
            (_, Self::Aborting(home, step)) => Self::Limbo(home.clone(), Stuck::Home(*step), why).enter(),
            (_, Self::Limbo(..)) => self.enter(),
            // The gate is open while Armed, and what follows the decision is done again.
            _ => self.failed(why),
        }
    }

    fn abort(self, why: String) -> (Self, Reaction) {
        if let Some((terms, reach)) = self.returnable() {
            return Return { terms, reason: Reason::Aborted(why), reach }.begin();
        }
        let answer = match &self {
            Self::Aborting(..) | Self::Limbo(_, Stuck::Home(_) | Stuck::Pausing(_), _) => {
                "the cutover is on its way back already"
            }
            Self::Limbo(..) => {
                "neither way is known to be open: say which pool serves with `bascule cutover adopt`"
            }
            Self::Deciding(_)
            | Self::Decided(_)
            | Self::Switching(_)
            | Self::Resuming(_)
            | Self::Soaking(_) => "the decision stands; the way back is a cutover in the other direction",
            Self::Idle
            | Self::Armed(_)
            | Self::Holding(_)
            | Self::Fenced(_)
            | Self::CaughtUp(_)
            | Self::Promoted(_)
            | Self::Verified(_) => "no cutover runs",
        };
        (self, Reaction::Refuse(answer))
    }

    fn expired(self, waited: String) -> (Self, Reaction) {
        match self.returnable() {
            // Armed holds nobody: an expiry that arrives there belongs to an earlier hold.
            Some((terms, reach)) if self.stage() != Stage::Armed => {
                Return { terms, reason: Reason::Expired(self.stage(), waited), reach }.begin()
            }
            Some(_) | None => (self, Reaction::Stay),
        }
    }

    /// `max_hold` passed: what still keeps the gate shut is Limbo, and goes on as Limbo.
    fn overdue(self) -> (Self, Reaction) {
        if let Self::Deciding(terms) = self {
            let reason = Reason::Expired(Stage::Deciding, "the record of the decision".into());
            let home = Return { terms, reason, reach: Reach::Promote };
            let why = "the record of the decision is still being written".into();
            return (Self::Limbo(home, Stuck::Recording(Side::New), why), Reaction::Stay);
        }
        if let Self::Aborting(home, step) = self {
            if step == Step::Reopen {
                return (Self::Aborting(home, step), Reaction::Stay);
            }
            return (Self::Limbo(home, Stuck::Home(step), SLOW.into()), Reaction::Stay);
        }
        (self, Reaction::Stay)
    }

    fn finish(self) -> (Self, Reaction) {
        if matches!(self, Self::Soaking(_)) {
            return ended(Mark::Done);
        }
        (self, Reaction::Refuse("nothing soaks"))
    }

    fn adopt(self, side: Side) -> (Self, Reaction) {
        let Self::Limbo(home, stuck, why) = self else {
            return (self, Reaction::Refuse("no cutover is stuck"));
        };
        let next = match (stuck, side) {
            (Stuck::Asks(question), Side::New) => Stuck::Adopting(Some(question)),
            (Stuck::Asks(Question::Record), Side::Old) => Stuck::Recording(Side::Old),
            (Stuck::Asks(Question::Promote), Side::Old) => Stuck::Home(Step::FenceNew),
            (Stuck::Home(step) | Stuck::Pausing(step), Side::Old) => Stuck::Home(step),
            // Only while the old pool's fence has not been touched on the way back.
            (
                Stuck::Home(Step::LeaveNew | Step::FenceNew)
                | Stuck::Pausing(Step::LeaveNew | Step::FenceNew),
                Side::New,
            ) if home.reach == Reach::Promote => Stuck::Adopting(None),
            (Stuck::Home(_) | Stuck::Pausing(_), Side::New) => {
                let answer = "the old pool may write again: only the way back to it is open";
                return (Self::Limbo(home, stuck, why), Reaction::Refuse(answer));
            }
            (Stuck::Recording(_) | Stuck::Adopting(_), Side::Old | Side::New) => {
                let answer = "an earlier word is still being carried out";
                return (Self::Limbo(home, stuck, why), Reaction::Refuse(answer));
            }
        };
        Self::Limbo(home, next, why).enter()
    }

    /// Before the decision: what can be gone back from, and how far it went outside.
    fn returnable(&self) -> Option<(Terms, Reach)> {
        match self {
            Self::Armed(terms) | Self::Holding(terms) => Some((*terms, Reach::Sessions)),
            Self::Fenced(terms) | Self::CaughtUp(terms) => Some((*terms, Reach::Fence)),
            Self::Promoted(terms) | Self::Verified(terms) => Some((*terms, Reach::Promote)),
            Self::Idle
            | Self::Deciding(_)
            | Self::Decided(_)
            | Self::Switching(_)
            | Self::Resuming(_)
            | Self::Soaking(_)
            | Self::Aborting(..)
            | Self::Limbo(..) => None,
        }
    }
}

/// Idle. The record that says how the cutover ended comes last: a restart without it does the same again.
fn ended(mark: Mark) -> (State, Reaction) {
    (State::Idle, Reaction::Go(vec![Rest, Journal(mark)]))
}

/// What Limbo waited for is done.
fn unstuck(home: Return, stuck: Stuck, why: String) -> (State, Reaction) {
    let next = match stuck {
        Stuck::Home(step) => match home.after(step) {
            None => return ended(Mark::Undone),
            Some(Step::FenceNew) if home.terms.undo() == Undo::Impossible => {
                return home.asks(Question::Promote);
            }
            // It stays Limbo until the gate opens: this way home is longer than a hold may be. That is the next thing now, and
            // from then on the old pool serves, however long its sessions take.
            Some(Step::Reopen) => return State::Aborting(home, Step::Reopen).enter(),
            Some(next) => Stuck::Home(next),
        },
        Stuck::Pausing(step) => Stuck::Home(step),
        Stuck::Asks(_) => return (State::Limbo(home, stuck, why), Reaction::Stay),
        Stuck::Recording(Side::New) => return State::Decided(home.terms).enter(),
        Stuck::Recording(Side::Old) => Stuck::Home(Step::LeaveNew),
        Stuck::Adopting(_) => Stuck::Recording(Side::New),
    };
    State::Limbo(home, next, why).enter()
}

/// What Limbo tried has failed.
fn still_stuck(home: Return, stuck: Stuck, needs: String, why: String) -> (State, Reaction) {
    match stuck {
        Stuck::Home(Step::FenceNew) if home.terms.undo() == Undo::Impossible => home.asks(Question::Promote),
        Stuck::Home(step) | Stuck::Pausing(step) => State::Limbo(home, Stuck::Pausing(step), why).enter(),
        Stuck::Recording(_) | Stuck::Adopting(Some(Question::Record)) => home.asks(Question::Record),
        Stuck::Adopting(Some(Question::Promote)) => home.asks(Question::Promote),
        Stuck::Adopting(None) => State::Limbo(home, Stuck::Home(Step::LeaveNew), why).enter(),
        Stuck::Asks(_) => (State::Limbo(home, stuck, needs), Reaction::Stay),
    }
}

impl Return {
    fn begin(self) -> (State, Reaction) {
        State::Aborting(self, Step::LeaveNew).enter()
    }

    fn asks(self, question: Question) -> (State, Reaction) {
        let needs = match question {
            Question::Record => IN_DOUBT,
            Question::Promote => PROMOTED_FOR_GOOD,
        };
        State::Limbo(self, Stuck::Asks(question), needs.into()).enter()
    }

    /// The step after this one; the new pool comes before the old one, always.
    fn after(&self, step: Step) -> Option<Step> {
        let fence_new = self.reach == Reach::Promote && self.terms.undo() != Undo::Nothing;
        match step {
            Step::LeaveNew if fence_new => Some(Step::FenceNew),
            Step::LeaveNew if self.reach == Reach::Sessions => Some(Step::Reopen),
            Step::LeaveNew | Step::FenceNew => Some(Step::ReleaseOld),
            Step::ReleaseOld => Some(Step::Reopen),
            Step::Reopen => None,
        }
    }
}

impl Stuck {
    fn effects(self, terms: Terms) -> Vec<Effect> {
        match self {
            Self::Home(step) => terms.effects_of(step),
            Self::Pausing(_) => vec![Pause],
            Self::Asks(_) => vec![FailStop],
            Self::Recording(side) => vec![Journal(Mark::Adopted(side))],
            // The fence again: a release that a crash cut off may still have been under way.
            Self::Adopting(_) => {
                [vec![Engage(Side::Old), ProveRefuses(Side::Old), Barriers], terms.make_new_write()].concat()
            }
        }
    }
}

impl Terms {
    /// Whether a new pool that was made able to write can be made unable again.
    pub fn promote_can_be_undone(self) -> bool {
        self.undo() != Undo::Impossible
    }

    fn make_new_write(self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.has_promote {
            effects.push(Promote);
        }
        if self.new_has_fence {
            effects.push(Release(Side::New));
        }
        effects.push(ProveWrites(Side::New));
        effects
    }

    fn effects_of(self, step: Step) -> Vec<Effect> {
        match step {
            Step::LeaveNew => vec![Leave(Side::New)],
            Step::FenceNew => match self.undo() {
                Undo::Fence => vec![Engage(Side::New), ProveRefuses(Side::New)],
                // The operator has said that it cannot write; that much is still proved.
                Undo::Impossible | Undo::Nothing => vec![ProveRefuses(Side::New)],
            },
            // A fence that cannot be released by us may have been by hand: the proof decides.
            Step::ReleaseOld if self.fence_reversible => vec![Release(Side::Old), ProveWrites(Side::Old)],
            Step::ReleaseOld => vec![ProveWrites(Side::Old)],
            Step::Reopen => vec![Open(Side::Old), Attach],
        }
    }
}
