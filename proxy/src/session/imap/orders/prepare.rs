//! What a session does while a cutover is Armed and traffic flows, and what it has missed of that in the hold: its view,
//! and a spare connection.
//!
//! Rule: nothing here keeps a command waiting, and what a look ahead finds decides nothing: it may be what
//! replication has not brought yet. The looks that count come after the fence.

use std::sync::Arc;

use bascule_protocols::imap::{restore::Failure, state::Unmovable};

use super::{
    super::{open::reach, relay::Session},
    ErrandResult, Look, Looking, Spare,
};
use crate::{
    config::StandbyLogin,
    session::registry::Progress,
    topology::{PoolId, Topology},
};

/// Searches for one view before the session counts as unmovable.
const PROBES: u8 = 3;

impl Session {
    pub(super) fn prepare(&mut self, topology: &Topology) {
        if !self.knows_view() {
            return;
        }
        let standby = self.world().topology.target();
        let dials = |pool: &PoolId| {
            let pool = topology.pool(*pool);
            pool.contract.standby_login == StandbyLogin::Yes && !self.world().config.cutover.prewarms(pool)
        };
        if let Some(pool) = standby.filter(|pool| !self.orders.dialled && self.spare.is_none() && dials(pool))
        {
            let world = self.door.world.clone();
            self.orders.dialled = true;
            self.orders.dialling = true;
            return self
                .start(Box::pin(async move { ErrandResult::Dialled(pool, reach(&world, pool).await.ok()) }));
        }
        self.accept();
    }

    /// Whether the view is as well known as it can be; if not, the step that leads there was taken.
    fn knows_view(&mut self) -> bool {
        if self.backend.is_none() || self.errand.is_some() || self.uploads_unkept() {
            return false;
        }
        if let Some(selected) = &self.relay.state.selected
            && let Err(why) = selected.movable()
        {
            if self.can_learn(why) {
                // What waits behind a shut gate stays there, so nothing of the client's comes behind the search.
                let releases = self.flows() && !self.queue.is_empty();
                return !releases && self.learn_view();
            }
            let esearch = self.backend.as_ref().is_some_and(|b| b.capabilities.has(b"ESEARCH"));
            self.refuse(if esearch { why.label() } else { "no_esearch" });
            return false;
        }
        true
    }

    /// Whether a search is all that this session lacks.
    pub(super) fn can_learn(&mut self, lacks: Unmovable) -> bool {
        // Another mailbox, another search.
        if self.orders.probes.0 != self.relay.selections() {
            self.orders.probes = (self.relay.selections(), 0);
        }
        lacks == Unmovable::NoView
            && self.orders.probes.1 < PROBES
            && self.backend.as_ref().is_some_and(|b| b.capabilities.has(b"ESEARCH"))
    }

    /// Asks for the view at a quiet moment. True: it is known without asking.
    pub(super) fn learn_view(&mut self) -> bool {
        if !self.quiet() {
            return false;
        }
        let search = self.relay.probe();
        if let Some(bytes) = &search {
            self.orders.probes.1 += 1;
            self.tell_backend(bytes);
        }
        search.is_none()
    }

    /// Whether the backend has answered everything and would read a question now.
    pub(super) fn quiet(&self) -> bool {
        self.relay.safepoint() && self.backend.as_ref().is_some_and(|b| b.out.is_empty())
    }

    /// Once for each order: whoever gave it paces the logins, also those that replace a lost one.
    pub(super) fn prewarm(&mut self, topology: &Arc<Topology>) {
        if !self.knows_view() {
            return;
        }
        let Some(pool) = self.world().topology.target() else { return self.refuse("no_target") };
        let warm = |spare: &Spare| spare.user_on().is_some() && spare.serves(pool, &self.relay.state);
        if self.spare.as_ref().is_some_and(warm) {
            return self.accept();
        }
        if let Some(progress) = self.orders.prewarmed {
            return self.report(progress);
        }
        self.orders.verifying = Some(pool);
        self.orders.looking = Some(Looking::Ahead);
        let work = self.restore(topology, pool, true);
        self.start(Box::pin(async move { ErrandResult::Prewarmed(work.look().await) }));
    }

    pub(super) fn on_prewarmed(&mut self, look: Look) {
        self.orders.verifying = None;
        self.orders.looking = None;
        let progress = match look {
            Ok((spare, found)) => {
                self.spare = Some(spare);
                let known = self.relay.state.selected.as_ref().and_then(|selected| selected.uidvalidity);
                let found = found.map(|found| found.uidvalidity);
                // All else may differ for as long as replication takes.
                if known == found { Progress::Done } else { Progress::Refused }
            }
            Err(Failure::Unavailable(_)) => Progress::Later,
            Err(failure) => {
                tracing::info!(session = self.entry.handle.id.0, %failure, "prewarm");
                Progress::Refused
            }
        };
        self.orders.prewarmed = Some(progress);
        self.report(progress);
    }

    /// The server has ended the spare connection. Whoever prewarms hears of it, and asks again.
    pub(in crate::session::imap) fn on_spare_end(&mut self) {
        self.spare = None;
        self.sync_word();
        self.entry.handle.word_changed();
    }
}
