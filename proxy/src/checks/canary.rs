//! Canary sessions: opened before the fence, tried after it.
//!
//! Rule: a fence is proved by what happens to a session that could write before, and to a fresh login, twice
//! (design §5.3). Only probe accounts are used, and only a mailbox of their own.

use std::{mem, time::Duration};

use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    time::timeout,
};

use crate::{
    checks::{
        Answer,
        mailbox::Mailbox,
        server::{Dial, GAP, Reach, enter, refused_everywhere},
        trial::{self, Bait, Write},
    },
    config::{Account, FenceKind},
    net::stream::Leg,
    session::World,
    topology::PoolId,
};

/// The mailbox of the canaries; whatever is in it is theirs.
const FOLDER: &str = "bascule-canary";
/// A stopped service has closed before its hook returned; the end of file is only on its way.
const FAREWELL: Duration = Duration::from_millis(500);

/// Whose answer it is.
const BEFORE: &str = "the session opened before the fence";

/// The canaries of one pool: for now one session, since a pool has one server.
#[derive(Debug)]
pub struct Canaries {
    pool: PoolId,
    watch: Watch,
    canary: Canary<Leg>,
    /// Proved in two rounds; asked again, one shows that it still holds.
    proved: bool,
}

/// What the proof is asked with.
#[derive(Debug)]
struct Watch {
    account: Account,
    kind: FenceKind,
    server: String,
}

#[derive(Debug)]
struct Canary<S> {
    session: Session<S>,
    bait: Bait,
}

/// The session that was opened before the fence.
#[derive(Debug)]
enum Session<S> {
    /// It still stands.
    Open(Mailbox<S>),
    /// The server ended it while nothing of ours was under way.
    Ended,
    /// Nobody knows any more what it can do; this is why.
    Lost(String),
}

impl Canaries {
    /// Logs the first probe account of `pool` in and shows that its writes succeed.
    pub async fn open(world: &World, pool: PoolId) -> Result<Self, String> {
        let config = world.topology.load().pool(pool).clone();
        let Some(fence) = &config.fence else {
            return Err(format!("pool {} has no fence", config.name));
        };
        let Some(account) = config.probes.first() else {
            return Err(format!("pool {} has no probe account", config.name));
        };
        let watch = Watch { account: account.clone(), kind: fence.kind, server: config.imap.server.clone() };
        let canary = release(&Reach { world, pool }, account).await;
        let canary = canary.map_err(|why| format!("canary on pool {}: {why}", config.name))?;
        Ok(Self { pool, watch, canary, proved: false })
    }

    /// Whether nobody can write to the pool. Asked again after a Pass it is proved anew. After a Fail it is of
    /// no use to ask on: what the canary writes keeps its session busy (Dovecot 2.3 ends an idle one ten
    /// seconds after `dovecot stop`, one that is asked every second after thirty).
    pub async fn prove_fenced(&mut self, world: &World) -> Answer {
        let reach = Reach { world, pool: self.pool };
        let share = world.config.cutover.fence;
        let proof = async {
            if self.proved {
                once(&mut self.canary, &self.watch, &reach, Duration::ZERO).await
            } else {
                prove(&mut self.canary, &self.watch, &reach).await
            }
        };
        let answer = timeout(share, proof).await;
        let answer =
            answer.unwrap_or_else(|_| Answer::Unknown(format!("the fence was not proved within {share:?}")));
        self.proved |= answer.passed();
        answer
    }

    /// Takes away what the canaries left, where they still can, and logs out.
    pub async fn close(self) {
        if let Session::Open(mut mailbox) = self.canary.session {
            // On a pool that is fenced this is refused, and the next canary takes it away.
            let _ = trial::empty(&mut mailbox).await;
            mailbox.logout().await;
        }
    }
}

/// The positive control: what is to be refused later succeeds now.
async fn release<D: Dial>(dial: &D, account: &Account) -> Result<Canary<D::Stream>, String> {
    let mut mailbox = enter(dial, account).await.map_err(|why| why.to_string())?;
    let control = async {
        let bait = trial::succeed(&mut mailbox, FOLDER).await?;
        trial::lay(&mut mailbox, &bait).await?;
        Ok::<_, Write>(bait)
    };
    let bait = control.await.map_err(|write| write.wanted().to_string())?;
    Ok(Canary { session: Session::Open(mailbox), bait })
}

/// Two rounds with a gap: what passed the old pool's door a moment before the fence shows in the second.
async fn prove<D: Dial>(canary: &mut Canary<D::Stream>, watch: &Watch, dial: &D) -> Answer {
    let first = once(canary, watch, dial, GAP).await;
    if !first.passed() {
        return first;
    }
    if watch.kind == FenceKind::Stop {
        tokio::time::sleep(GAP).await;
    }
    once(canary, watch, dial, GAP).await
}

/// One round. A canary that still listens does so for `listen` before it tries.
async fn once<D: Dial>(canary: &mut Canary<D::Stream>, watch: &Watch, dial: &D, listen: Duration) -> Answer {
    match watch.kind {
        FenceKind::Stop => {
            let ended = canary.stopped().await;
            if ended.passed() { refused_everywhere(&watch.server).await } else { ended }
        }
        FenceKind::Refuse => refused(canary, watch, dial, listen).await,
    }
}

/// One round: both at once, since a server takes its time to refuse a login.
async fn refused<D: Dial>(
    canary: &mut Canary<D::Stream>,
    watch: &Watch,
    dial: &D,
    listen: Duration,
) -> Answer {
    let bait = canary.bait.clone();
    let (before, after) =
        tokio::join!(canary.refused(listen), trial::afresh(dial, &watch.account, Some(&bait)));
    before.and(after)
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Canary<S> {
    /// `kind = "refuse"`: its writes are refused, or the server has ended it. It listens first, which is
    /// the gap between two rounds as well.
    async fn refused(&mut self, listen: Duration) -> Answer {
        let Some(mut mailbox) = self.take(listen).await else { return self.answer() };
        let write = trial::attempt(&mut mailbox, &self.bait).await;
        self.session = match &write {
            Write::Refused { closed: true, .. } => Session::Ended,
            Write::Unclear(why) => Session::Lost(why.clone()),
            Write::Refused { closed: false, .. } | Write::Done(_) => Session::Open(mailbox),
        };
        write.unwanted().named(BEFORE)
    }

    /// `kind = "stop"`: the server has ended it before anything was sent. If not, it is tried, so that the
    /// answer can say whether it still writes.
    async fn stopped(&mut self) -> Answer {
        let Some(mut mailbox) = self.take(FAREWELL).await else { return self.answer() };
        let write = trial::attempt(&mut mailbox, &self.bait).await;
        let (session, answer) = match write {
            Write::Done(_) => (Session::Open(mailbox), write.unwanted()),
            Write::Refused { said, closed: false } => {
                let saw = format!("the service is not stopped, it answers {said}");
                (Session::Open(mailbox), Answer::Unknown(saw))
            }
            Write::Refused { said: why, closed: true } | Write::Unclear(why) => {
                (Session::Lost(why.clone()), Answer::Unknown(why))
            }
        };
        self.session = session;
        answer.named(BEFORE)
    }

    /// The session, if the server does not end it within `wait`. Until it is put back it counts as lost: a
    /// proof may be cut off in the middle of a command.
    async fn take(&mut self, wait: Duration) -> Option<Mailbox<S>> {
        let Session::Open(mailbox) = &mut self.session else { return None };
        if mailbox.ended(wait).await {
            self.session = Session::Ended;
            return None;
        }
        let lost = Session::Lost("a proof was cut off while a write was under way".to_owned());
        match mem::replace(&mut self.session, lost) {
            Session::Open(mailbox) => Some(mailbox),
            Session::Ended | Session::Lost(_) => None,
        }
    }

    /// What a session that is gone proves.
    fn answer(&self) -> Answer {
        match &self.session {
            Session::Ended => Answer::Pass,
            Session::Lost(why) => Answer::Unknown(why.clone()).named(BEFORE),
            Session::Open(_) => Answer::Unknown("still open".to_owned()).named(BEFORE),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::checks::fake::{Fake, Habit, account};

    async fn canary(fake: &Fake) -> Canary<<Fake as Dial>::Stream> {
        release(fake, &account("probe1")).await.unwrap()
    }

    /// An address that refuses dials: its listener is gone.
    async fn nobody() -> String {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
    }

    fn watch(kind: FenceKind, server: &str) -> Watch {
        Watch { account: account("probe1"), kind, server: server.to_owned() }
    }

    async fn refuse(habit: Habit) -> Answer {
        let fake = Fake::new(Habit::Serves);
        let mut canary = canary(&fake).await;
        fake.becomes(habit);
        prove(&mut canary, &watch(FenceKind::Refuse, "unused"), &fake).await
    }

    #[tokio::test]
    async fn a_canary_needs_a_pool_that_writes() {
        for (habit, why) in [
            (Habit::RefusesWrites, "APPEND: NO"),
            (Habit::RefusesLogins, "login of probe1: NO"),
            (Habit::Pretends, "APPEND: NO"),
            (Habit::Full, "OVERQUOTA"),
            (Habit::ReadOnly, "read-only"),
        ] {
            let refused = release(&Fake::new(habit), &account("probe1")).await.unwrap_err();
            assert!(refused.contains(why), "{habit:?}: {refused}");
        }
        for habit in [Habit::Serves, Habit::NoUidplus, Habit::Prefixed] {
            release(&Fake::new(habit), &account("probe1")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn writes_that_are_refused_on_both_prove_a_refusing_fence() {
        for habit in [Habit::RefusesWrites, Habit::RefusesAll] {
            assert_eq!(refuse(habit).await, Answer::Pass, "{habit:?}");
        }
    }

    #[tokio::test]
    async fn a_fence_that_only_refuses_logins_is_caught() {
        let Answer::Fail(saw) = refuse(Habit::RefusesLogins).await else { panic!() };
        assert_eq!(saw, "the session opened before the fence: APPEND was answered OK");
    }

    #[tokio::test]
    async fn a_fence_that_only_ends_old_sessions_is_caught() {
        let fake = Fake::new(Habit::Serves);
        let mut canary = canary(&fake).await;
        fake.becomes(Habit::SaysBye);
        assert_eq!(canary.refused(GAP).await, Answer::Pass);
        fake.becomes(Habit::Serves);
        let answer = prove(&mut canary, &watch(FenceKind::Refuse, "unused"), &fake).await;
        assert_eq!(answer, Answer::Fail("fresh login: APPEND was answered OK".into()));
    }

    #[tokio::test]
    async fn refusals_for_other_reasons_and_lost_answers_are_unknown() {
        for (habit, why) in [
            (Habit::Full, "OVERQUOTA"),
            (Habit::Drops, "ended after the command was sent"),
            (Habit::Pretends, "STORE: OK, but without effect"),
        ] {
            let Answer::Unknown(saw) = refuse(habit).await else { panic!("{habit:?}") };
            assert!(saw.contains(why), "{habit:?}: {saw}");
        }
    }

    #[tokio::test]
    async fn a_proof_that_was_cut_off_stays_unknown() {
        let fake = Fake::new(Habit::Serves);
        let mut canary = canary(&fake).await;
        fake.becomes(Habit::Hangs);
        let watch = watch(FenceKind::Refuse, "unused");
        let cut = timeout(3 * GAP, prove(&mut canary, &watch, &fake)).await;
        assert!(cut.is_err());
        fake.becomes(Habit::RefusesAll);
        let answer = prove(&mut canary, &watch, &fake).await;
        assert!(matches!(answer, Answer::Unknown(_)), "{answer}");
    }

    #[tokio::test]
    async fn a_stopped_service_is_proved_by_its_end_and_refused_dials() {
        let fake = Fake::new(Habit::Serves);
        let mut canary = canary(&fake).await;
        fake.stop();
        let gone = watch(FenceKind::Stop, &nobody().await);
        assert_eq!(prove(&mut canary, &gone, &fake).await, Answer::Pass);
        // Asked again, right before the decision.
        assert_eq!(prove(&mut canary, &gone, &fake).await, Answer::Pass);
    }

    #[tokio::test]
    async fn a_service_that_still_accepts_dials_is_not_stopped() {
        let fake = Fake::new(Habit::Serves);
        let mut canary = canary(&fake).await;
        fake.stop();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let answer = prove(&mut canary, &watch(FenceKind::Stop, &server), &fake).await;
        assert_eq!(answer, Answer::Fail(format!("{server} still accepts connections")));
        let nowhere = watch(FenceKind::Stop, "no address");
        assert!(matches!(prove(&mut canary, &nowhere, &fake).await, Answer::Unknown(_)));
    }

    #[tokio::test]
    async fn a_stop_that_returned_too_early_is_caught() {
        for (habit, fails, why) in [
            (Habit::Serves, true, "APPEND was answered OK"),
            (Habit::RefusesWrites, false, "the service is not stopped"),
            (Habit::Drops, false, "ended after the command was sent"),
            (Habit::SaysBye, false, "BYE"),
        ] {
            let fake = Fake::new(Habit::Serves);
            let mut canary = canary(&fake).await;
            fake.becomes(habit);
            let answer = prove(&mut canary, &watch(FenceKind::Stop, &nobody().await), &fake).await;
            assert_eq!(matches!(answer, Answer::Fail(_)), fails, "{habit:?}: {answer}");
            assert!(!answer.passed() && answer.to_string().contains(why), "{habit:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn an_end_after_sending_never_becomes_a_proof() {
        let fake = Fake::new(Habit::Serves);
        let mut canary = canary(&fake).await;
        fake.becomes(Habit::Drops);
        let gone = watch(FenceKind::Stop, &nobody().await);
        assert!(!prove(&mut canary, &gone, &fake).await.passed());
        fake.stop();
        assert!(matches!(prove(&mut canary, &gone, &fake).await, Answer::Unknown(_)));
    }
}
