//! Whether a login leads to one's own mailbox, by every method that sessions use.
//!
//! Rule: a backend that ignores an authzid would show everybody the master's mail. Two probe accounts must
//! each find their own marker and not the other's; anything less is Unknown. The markers are written on the
//! active pool, once, and reach a standby as all mail does: nothing is ever written on a standby.

use tokio::io::{AsyncBufRead, AsyncWrite};

use crate::{
    checks::{
        Answer,
        mailbox::{Access, Mailbox},
        server::{Dial, NoEntry, PATIENCE, Reach, enter},
        trial::{self, Write},
    },
    config::{Account, Restore},
    session::World,
    topology::PoolId,
};

/// The mailbox of the markers, which stay there; proofs of writing empty theirs.
const FOLDER: &str = "bascule-identity";

/// How a probe logs in.
#[derive(Debug, Clone, Copy)]
enum Method<'a> {
    /// With its own password.
    Own,
    /// As a master, with the probe's name as authzid.
    Master(&'a Account),
}

/// Whether two probe users of the pool see their own mail and not each other's.
pub async fn prove(world: &World, pool: PoolId) -> Answer {
    let config = world.topology.load().pool(pool).clone();
    let [first, second, ..] = &*config.probes else {
        let needs = "a second probe account, to see that one does not see the other's mail";
        return Answer::Unknown(format!("pool {} needs {needs} (pool.{}.probe)", config.name, config.name));
    };
    let reach = Reach { world, pool };
    let access = if world.topology.load().active == pool { Access::Write } else { Access::Look };
    let own = apart(&reach, [first, second], Method::Own, access).await;
    let answer = match &config.imap.restore {
        Restore::Master(master) if own.passed() => {
            apart(&reach, [first, second], Method::Master(master), access).await.named("by master login")
        }
        Restore::Master(_) | Restore::Client => own,
    };
    answer.named(&format!("pool {}", config.name))
}

async fn apart<D: Dial>(dial: &D, users: [&Account; 2], method: Method<'_>, access: Access) -> Answer {
    let [first, second] = users;
    if first.user.eq_ignore_ascii_case(&second.user) {
        return Answer::Unknown(format!("both probe accounts are {}", first.user));
    }
    // Both at once: of a pool that was just promoted it is asked while everybody waits.
    let mut probes = match tokio::join!(Probe::enter(dial, first, method), Probe::enter(dial, second, method))
    {
        (Ok(first), Ok(second)) => [first, second],
        (Err(answer), _) | (_, Err(answer)) => return answer,
    };
    let answer = compare(&mut probes, access).await.unwrap_or_else(Write::unclear);
    for probe in probes {
        probe.mailbox.logout().await;
    }
    answer
}

/// Both markers lie there before anybody looks.
async fn compare<S>([first, second]: &mut [Probe<S>; 2], access: Access) -> Result<Answer, Write>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    first.mark(access).await?;
    second.mark(access).await?;
    Ok(first.looks_for(second).await?.and(second.looks_for(first).await?))
}

/// One of the two users.
struct Probe<S> {
    user: String,
    mailbox: Mailbox<S>,
    marker: String,
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Probe<S> {
    async fn enter<D: Dial<Stream = S>>(
        dial: &D,
        account: &Account,
        method: Method<'_>,
    ) -> Result<Self, Answer> {
        let mailbox = match method {
            Method::Own => enter(dial, account).await,
            Method::Master(master) => enter_as(dial, &account.user, master).await,
        };
        let mailbox = mailbox.map_err(|why| Answer::Unknown(why.to_string()))?;
        Ok(Self { user: account.user.clone(), mailbox, marker: marker(&account.user) })
    }

    /// Opens the mailbox; where that is allowed, it leaves the marker if it is not there yet.
    async fn mark(&mut self, access: Access) -> Result<(), Write> {
        let (folder, _) = trial::open(&mut self.mailbox, FOLDER, access).await?;
        let own = self.marker.clone();
        if access == Access::Look || self.finds(&own).await? {
            return Ok(());
        }
        trial::append(&mut self.mailbox, &folder, &own).await.map(drop)
    }

    async fn looks_for(&mut self, other: &Self) -> Result<Answer, Write> {
        if self.finds(&other.marker).await? {
            return Ok(Answer::Fail(format!("{} sees the mail of {}", self.user, other.user)));
        }
        if self.finds(&self.marker.clone()).await? {
            return Ok(Answer::Pass);
        }
        Ok(Answer::Unknown(format!("{} does not find its own marker in {FOLDER}", self.user)))
    }

    async fn finds(&mut self, marker: &str) -> Result<bool, Write> {
        let found = self.mailbox.search("Message-ID", marker).await;
        found.map(|uids| !uids.is_empty()).map_err(|failure| Write::failed("SEARCH", &failure))
    }
}

/// What a user's marker is searched by: contained in no other user's.
fn marker(user: &str) -> String {
    let hex: String = user.to_lowercase().bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("identity.{hex}.probe")
}

async fn enter_as<D: Dial>(dial: &D, user: &str, master: &Account) -> Result<Mailbox<D::Stream>, NoEntry> {
    let mut mailbox = Mailbox::new(dial.dial().await?, PATIENCE);
    let entered = mailbox.login_as(user, master).await;
    entered.map_err(|failure| NoEntry::Login { user: user.to_owned(), failure })?;
    Ok(mailbox)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fake::{Fake, Habit, account};

    async fn asked(fake: &Fake, method: Method<'_>, access: Access) -> Answer {
        apart(fake, [&account("probe1"), &account("probe10")], method, access).await
    }

    #[tokio::test]
    async fn each_sees_its_own_and_only_that() {
        let fake = Fake::new(Habit::Serves);
        let master = account("bascule");
        for method in [Method::Own, Method::Master(&master)] {
            assert_eq!(asked(&fake, method, Access::Write).await, Answer::Pass);
        }
        assert_eq!(fake.messages(), 2, "the markers are written once");
    }

    #[tokio::test]
    async fn an_ignored_authzid_is_a_breach() {
        let fake = Fake::new(Habit::Serves);
        let master = account("bascule");
        assert_eq!(asked(&fake, Method::Own, Access::Write).await, Answer::Pass);
        fake.becomes(Habit::IgnoresAuthzid);
        let answer = asked(&fake, Method::Master(&master), Access::Write).await;
        assert_eq!(answer, Answer::Fail("probe1 sees the mail of probe10".into()));
        // On a standby nothing is written, and a mailbox of somebody else has no marker.
        let Answer::Unknown(_) = asked(&Fake::new(Habit::IgnoresAuthzid), Method::Own, Access::Look).await
        else {
            panic!()
        };
        let mixed = asked(&Fake::new(Habit::Mixes), Method::Own, Access::Write).await;
        assert!(matches!(mixed, Answer::Fail(_)));
    }

    #[tokio::test]
    async fn a_standby_is_only_looked_at() {
        let fake = Fake::new(Habit::Serves);
        let Answer::Unknown(saw) = asked(&fake, Method::Own, Access::Look).await else { panic!() };
        assert!(saw.contains("NONEXISTENT"), "{saw}");
        assert_eq!(asked(&fake, Method::Own, Access::Write).await, Answer::Pass);
        fake.becomes(Habit::RefusesWrites);
        assert_eq!(asked(&fake, Method::Own, Access::Look).await, Answer::Pass);
    }

    #[tokio::test]
    async fn one_user_twice_proves_nothing() {
        let fake = Fake::new(Habit::Serves);
        let twice = apart(&fake, [&account("probe1"), &account("Probe1")], Method::Own, Access::Write).await;
        assert!(matches!(twice, Answer::Unknown(_)));
        fake.becomes(Habit::RefusesLogins);
        assert!(matches!(asked(&fake, Method::Own, Access::Write).await, Answer::Unknown(_)));
    }
}
