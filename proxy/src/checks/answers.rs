//! Whether the servers of a pool answer at all: those of mail and of HTTP, which nothing else in a plan knocks at.
//!
//! Rule: a connection as sessions open it, and nothing said on it that could change anything. A server that says not now
//! is there; whether it does what it is for is proved in the cutover.

use std::net::Ipv4Addr;

use super::{
    Answer,
    http::{self, portable::Look},
    mail::{self, Post},
};
use crate::{
    session::{World, smtp::open::OpenError},
    topology::PoolId,
};

/// Knocks at every server. By protocol or service, what came of it.
pub async fn ask(world: &World, pool: PoolId) -> Vec<(String, Look)> {
    let mut all = Vec::new();
    for protocol in mail::PROTOCOLS {
        let Some(post) = Post::of(world, pool, protocol) else { continue };
        all.push((protocol.name().to_owned(), by_mail(&post).await));
    }
    all.extend(http::answers(world, pool).await);
    all
}

async fn by_mail(post: &Post<'_>) -> Look {
    match post.open(Ipv4Addr::LOCALHOST, &post.hostname, None).await {
        Ok(line) => {
            line.quit().await;
            Look::Good(format!("{} answers", post.service.server))
        }
        Err(error @ (OpenError::Said(_) | OpenError::Refused(_))) => {
            Look::Note(format!("{} answers: {error}", post.service.server))
        }
        Err(error @ (OpenError::Dial { .. } | OpenError::Unavailable(_))) => {
            Look::Bad(Answer::Unknown(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checks::mail::fake::Fake, config::Protocol};

    #[tokio::test]
    async fn a_server_that_says_not_now_is_there_and_one_that_says_nothing_is_not() {
        for protocol in mail::PROTOCOLS {
            let fake = Fake::start().await;
            assert!(matches!(by_mail(&fake.post(protocol)).await, Look::Good(_)), "{protocol:?}");
            let said = fake.heard();
            assert!(said.iter().all(|line| !line.starts_with("MAIL")), "{said:?}");
            fake.says(if protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" }, "421 4.3.2 a standby");
            let look = by_mail(&fake.post(protocol)).await;
            assert!(matches!(&look, Look::Note(saw) if saw.contains("a standby")), "{look:?}");
            fake.stop().await;
            let look = by_mail(&fake.post(protocol)).await;
            assert!(matches!(&look, Look::Bad(Answer::Unknown(saw)) if saw.contains("refused")), "{look:?}");
        }
    }
}
