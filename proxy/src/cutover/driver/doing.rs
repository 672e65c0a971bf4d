//! What is being done, in words: for whoever waits for it, and for the account where it is given up.
//!
//! Rule: whatever may take long has a name, and its time is booked also where it never ends.

use tokio::time::Instant;

use super::{Run, lock};
use crate::{
    checks::unanswered::Unanswered,
    cutover::{
        book,
        machine::{Effect, Side},
        types::Stage,
    },
};

/// An effect under way.
pub(super) struct Doing<'a> {
    run: &'a Run,
    /// The part of the budget that it belongs to.
    share: Option<&'static str>,
    begun: Instant,
}

impl<'a> Doing<'a> {
    pub(super) fn begin(run: &'a Run, stage: Stage, effect: Effect) -> Self {
        run.board.begins(run.words_for(effect));
        Self { run, share: book::share(stage, effect), begun: Instant::now() }
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        if let Some(share) = self.share {
            lock(&self.run.book).spent(share, self.begun.elapsed());
        }
        self.run.board.begins(None);
    }
}

impl Run {
    /// What an effect waits for; `None`: nothing that takes time, or it tells by itself.
    fn words_for(&self, effect: Effect) -> Option<String> {
        let pool = |side| format!("pool {}", self.name(self.course.pool(side)));
        let active = || format!("pool {}", self.world.topology.load().active().name);
        Some(match effect {
            Effect::Journal(_) => "a record of the journal".into(),
            Effect::Drain => "answers to what was sent".into(),
            Effect::Leave(side) => format!("sessions leaving {}", pool(side)),
            Effect::Engage(side) => format!("hook fence engage of {}", pool(side)),
            Effect::Release(side) => format!("hook fence release of {}", pool(side)),
            Effect::Promote => format!("hook promote of {}", pool(Side::New)),
            Effect::ProveFenced => format!("proof that {} is fenced", pool(Side::Old)),
            Effect::ProveRefuses(side) => format!("proof that {} refuses writes", pool(side)),
            Effect::ProveWrites(side) => format!("proof that {} takes writes", pool(side)),
            Effect::Barriers => "barriers".into(),
            Effect::Verify => format!("sessions verified on {}", pool(Side::New)),
            Effect::Attach => format!("sessions attached to {}", active()),
            Effect::Arm
            | Effect::Shut
            | Effect::Decide
            | Effect::Settle
            | Effect::FailStop
            | Effect::Swap
            | Effect::Open(_)
            | Effect::Rest
            | Effect::Soak
            | Effect::Pause => return None,
        })
    }

    /// For a proof, which says here whose answer it waits for.
    pub(super) fn unanswered(&self) -> Unanswered {
        let board = self.board.clone();
        Unanswered::told(move |lines| board.waits("proof", lines))
    }
}
