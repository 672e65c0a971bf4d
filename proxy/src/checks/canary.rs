//! Canary sessions: opened before the fence, tried after it.
//!
//! Rule: a fence is proved by what happens to a session that could write before, and to a fresh one, twice (design §5.3).

use std::{mem, time::Duration};

use crate::{
    checks::{
        Answer,
        server::{GAP, refused_everywhere},
        trial::Write,
    },
    config::FenceKind,
};

/// A stopped service has closed before its hook returned; the end of file is only on its way.
const FAREWELL: Duration = Duration::from_millis(500);

/// Whose answer it is.
const BEFORE: &str = "the session opened before the fence";

/// A way to write into a pool: IMAP, or one of the mail protocols.
pub(super) trait Entrance: Sync {
    /// What a canary has open.
    type Session: Tried;

    /// `host:port`
    fn server(&self) -> &str;

    /// Whether a session that begins now cannot write.
    fn afresh(&self) -> impl Future<Output = Answer> + Send;
}

/// An open session that can be tried.
pub(super) trait Tried: Sized + Send {
    /// Whether the server ends it within `wait`, with nothing sent by us.
    fn ended(&mut self, wait: Duration) -> impl Future<Output = bool> + Send;

    /// Tries to write, and gives the session back if it can be tried again.
    fn attempt(self) -> impl Future<Output = (Write, Option<Self>)> + Send;
}

#[derive(Debug)]
pub(super) struct Canary<S>(Session<S>);

/// The session that was opened before the fence.
#[derive(Debug)]
enum Session<S> {
    /// It still stands.
    Open(S),
    /// The server ended it while nothing of ours was under way.
    Ended,
    /// Nobody knows any more what it can do; this is why.
    Lost(String),
}

/// Two rounds with a gap: what passed the old pool's door a moment before the fence shows in the second.
pub(super) async fn prove<E: Entrance>(canary: &mut Canary<E::Session>, kind: FenceKind, at: &E) -> Answer {
    let first = once(canary, kind, at, GAP).await;
    if !first.passed() {
        return first;
    }
    if kind == FenceKind::Stop {
        tokio::time::sleep(GAP).await;
    }
    once(canary, kind, at, GAP).await
}

/// One round. A canary that still listens does so for `listen` before it tries. A server takes its time to refuse
/// somebody, so both are tried at once.
pub(super) async fn once<E: Entrance>(
    canary: &mut Canary<E::Session>,
    kind: FenceKind,
    at: &E,
    listen: Duration,
) -> Answer {
    match kind {
        FenceKind::Stop => {
            let ended = canary.stopped().await;
            if ended.passed() { refused_everywhere(at.server()).await } else { ended }
        }
        FenceKind::Refuse => {
            let (before, after) = tokio::join!(canary.refused(listen), at.afresh());
            before.and(after)
        }
    }
}

impl<S: Tried> Canary<S> {
    /// Of a session that has just shown that it can write.
    pub(super) fn new(session: S) -> Self {
        Self(Session::Open(session))
    }

    /// Whether it is of no use before a fence: what ended then was ended by something else.
    pub(super) async fn is_over(&mut self) -> bool {
        match &mut self.0 {
            Session::Open(session) => session.ended(Duration::ZERO).await,
            Session::Ended | Session::Lost(_) => true,
        }
    }

    /// The session, where it still stands.
    pub(super) fn into_open(self) -> Option<S> {
        if let Session::Open(session) = self.0 { Some(session) } else { None }
    }

    /// `kind = "refuse"`: its writes are refused, or the server has ended it. It listens first, which is
    /// the gap between two rounds as well.
    async fn refused(&mut self, listen: Duration) -> Answer {
        let Some(session) = self.take(listen).await else { return self.answer() };
        let (write, session) = session.attempt().await;
        self.0 = match (&write, session) {
            (Write::Refused { closed: true, .. }, _) => Session::Ended,
            (Write::Unclear(why), _) => Session::Lost(why.clone()),
            (_, Some(session)) => Session::Open(session),
            (_, None) => Session::Lost("it is over".to_owned()),
        };
        write.unwanted().named(BEFORE)
    }

    /// `kind = "stop"`: the server has ended it before anything was sent. If not, it is tried, so that the
    /// answer can say whether it still writes.
    async fn stopped(&mut self) -> Answer {
        let Some(session) = self.take(FAREWELL).await else { return self.answer() };
        let (write, session) = session.attempt().await;
        let answer = match &write {
            Write::Done(_) => write.clone().unwanted(),
            Write::Refused { said, closed: false, .. } => {
                Answer::Unknown(format!("the service is not stopped, it answers {said}"))
            }
            Write::Refused { said: why, closed: true, .. } | Write::Unclear(why) => {
                Answer::Unknown(why.clone())
            }
        };
        self.0 = match (write, session) {
            (Write::Refused { said: why, closed: true, .. } | Write::Unclear(why), _) => Session::Lost(why),
            (_, Some(session)) => Session::Open(session),
            (_, None) => Session::Lost("it is over".to_owned()),
        };
        answer.named(BEFORE)
    }

    /// The session, if the server does not end it within `wait`. Until it is put back it counts as lost: a
    /// proof may be cut off in the middle of a command.
    async fn take(&mut self, wait: Duration) -> Option<S> {
        let Session::Open(session) = &mut self.0 else { return None };
        if session.ended(wait).await {
            self.0 = Session::Ended;
            return None;
        }
        let lost = Session::Lost("a proof was cut off while a write was under way".to_owned());
        match mem::replace(&mut self.0, lost) {
            Session::Open(session) => Some(session),
            Session::Ended | Session::Lost(_) => None,
        }
    }

    /// What a session that is gone proves.
    fn answer(&self) -> Answer {
        match &self.0 {
            Session::Ended => Answer::Pass,
            Session::Lost(why) => Answer::Unknown(why.clone()).named(BEFORE),
            Session::Open(_) => Answer::Unknown("still open".to_owned()).named(BEFORE),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::timeout};

    use super::*;
    use crate::{
        checks::{
            fake::{Fake, Habit, account},
            reader::{ByImap, Reader, release},
            server::Dial,
        },
        config::Account,
    };

    type Stream = <Fake as Dial>::Stream;

    async fn canary(fake: &Fake) -> Canary<Reader<Stream>> {
        Canary::new(release(fake, &account("probe1")).await.unwrap())
    }

    /// The proof by IMAP.
    async fn prove(canary: &mut Canary<Reader<Stream>>, watch: &Watch, fake: &Fake) -> Answer {
        let bait = match &canary.0 {
            Session::Open(reader) => Some(reader.bait().clone()),
            Session::Ended | Session::Lost(_) => None,
        };
        let at = ByImap { dial: fake, account: &watch.account, server: &watch.server, bait };
        super::prove(canary, watch.kind, &at).await
    }

    struct Watch {
        account: Account,
        kind: FenceKind,
        server: String,
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

    /// By a balancer's idle timeout, the server's own, or a restart.
    #[tokio::test]
    async fn a_canary_that_ended_before_the_fence_is_known_to_prove_nothing() {
        let before = Fake::new(Habit::Serves);
        let mut ended = canary(&before).await;
        before.stop();
        // The pool lives on, and a fence that only refuses logins is engaged on it.
        let pool = Fake::new(Habit::Serves);
        let mut other = canary(&pool).await;
        assert!(ended.is_over().await && !other.is_over().await);
        pool.becomes(Habit::RefusesLogins);
        let answer = prove(&mut other, &watch(FenceKind::Refuse, "unused"), &pool).await;
        assert!(matches!(answer, Answer::Fail(_)), "{answer}");
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
