//! Runs a dialogue of `protocols::imap::restore` on a leg.
//!
//! Rule: it reads no byte beyond the dialogue's last line, so that the relay can go on from there.

use std::time::Duration;

use bascule_protocols::imap::{
    restore::{Dialogue, Failure, Login, Next, Outcome, Plan},
    tag::TagMaker,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    config::{Restore, Service},
    net::stream::Leg,
};
use bascule_protocols::imap::login::Credentials;

/// How long the end of a connection is awaited after LOGOUT.
pub(super) const LEAVE: Duration = Duration::from_secs(5);

/// Carries `plan` out on `leg`, within `limit`.
pub(super) async fn converse(leg: &mut Leg, plan: Plan, limit: Duration) -> Result<Outcome, Failure> {
    match timeout(limit, run(leg, plan)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unavailable(format!("no answer within {limit:?}"))),
    }
}

async fn run(leg: &mut Leg, plan: Plan) -> Result<Outcome, Failure> {
    let lost = |error: std::io::Error| Failure::Unavailable(error.to_string());
    let mut tags = TagMaker::new(fastrand::u64(..));
    let (mut dialogue, first) = Dialogue::new(plan, &mut tags);
    let Some(mut bytes) = first else { return Ok(Outcome::default()) };
    loop {
        leg.write_all(&bytes).await.map_err(lost)?;
        leg.flush().await.map_err(lost)?;
        bytes = loop {
            let input = leg.fill_buf().await.map_err(lost)?;
            if input.is_empty() {
                return Err(Failure::Unavailable("connection closed".to_owned()));
            }
            let (n, next) = dialogue.step(input, &mut tags);
            leg.consume(n);
            match next {
                Next::More => {}
                Next::Send(bytes) => break bytes,
                Next::Done(outcome) => return Ok(outcome),
                Next::Failed(failure) => return Err(failure),
            }
        };
    }
}

/// Says LOGOUT and sees the connection end: on shared storage nobody may come after before the server's
/// process is gone, and that is what its end of file tells. True: it ended in time.
pub(super) async fn leave(mut leg: Leg, idling: bool) -> bool {
    let mut farewell = Vec::new();
    if idling {
        farewell.extend_from_slice(b"DONE\r\n");
    }
    farewell.extend_from_slice(b"ZZ LOGOUT\r\n");
    let end = async {
        leg.write_all(&farewell).await?;
        leg.flush().await?;
        until_end(&mut leg).await
    };
    // An error is an end too: the server was faster.
    timeout(LEAVE, end).await.is_ok()
}

/// Sees a connection end that cannot be told LOGOUT, because a command stands half sent on it.
pub(super) async fn cut(mut leg: Leg) -> bool {
    let end = async {
        leg.shutdown().await?;
        until_end(&mut leg).await
    };
    timeout(LEAVE, end).await.is_ok()
}

async fn until_end(leg: &mut Leg) -> std::io::Result<()> {
    loop {
        let n = leg.fill_buf().await?.len();
        if n == 0 {
            return Ok(());
        }
        leg.consume(n);
    }
}

/// Whose words a restore uses: the client's own, or the pool's master for the same identity.
pub(super) fn words(service: &Service, credentials: &Credentials) -> Login {
    match &service.restore {
        Restore::Client => Login::Client(credentials.clone()),
        Restore::Master(master) => Login::Master {
            identity: credentials.identity().to_vec(),
            user: master.user.clone().into_bytes(),
            password: zeroize::Zeroizing::new(master.password.0.to_vec()),
        },
    }
}
