//! The relay self-test: a stranger must not be able to send mail to strangers.
//!
//! Rule: it takes the way that clients take, as a client from a network that is nobody's, and never says DATA. Only a
//! recipient that was accepted shows an open relay, and only a refusal that may be meant for strangers shows none; of a
//! server that cannot be reached nothing is known.

use std::net::Ipv4Addr;

use bascule_protocols::smtp::reply::{Class, Reply};

use crate::{
    checks::{
        Answer,
        mail::{
            Post,
            line::{Line, No},
        },
    },
    config::{Config, Protocol},
    net::tls::Connectors,
    session::{World, relays::Verdict},
    topology::PoolId,
};

/// From the first network for documentation (RFC 5737): no server has a reason to trust it.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HELLO: &str = "stranger.example.com";
/// A server may refuse a sender that is a stranger's, but never that of a bounce (RFC 5321 §4.5.5).
const SENDERS: [&str; 2] = ["bascule-relay-test@example.com", ""];
/// A domain may be refused because nothing is known of it; an address of a machine needs no knowledge.
const RECIPIENTS: [&str; 2] = ["bascule-relay-test@example.net", "bascule-relay-test@[192.0.2.2]"];

/// Asks a pool's servers, and keeps what was seen.
pub async fn ask(world: &World, pool: PoolId, protocol: Protocol) -> Answer {
    let Some(post) = Post::of(world, pool, protocol) else {
        return Answer::Unknown(format!("there is no {}", protocol.name()));
    };
    let answer = test(&post).await;
    world.found_relay(
        pool,
        protocol,
        match answer {
            Answer::Pass => Verdict::Refuses,
            Answer::Fail(_) => Verdict::Relays,
            Answer::Unknown(_) => Verdict::Unknown,
        },
    );
    answer
}

/// Asks the servers of a pool of a configuration that is not in force.
pub async fn would(config: &Config, connectors: &Connectors, pool: PoolId, protocol: Protocol) -> Answer {
    let service = config.pools.get(usize::from(pool.0)).and_then(|pool| pool.service(protocol));
    let Some(service) = service.cloned() else {
        return Answer::Unknown(format!("there is no {}", protocol.name()));
    };
    test(&Post::new(config, service, connectors.of(pool, protocol), protocol)).await
}

async fn test(post: &Post<'_>) -> Answer {
    let mut line = match post.open(STRANGER, HELLO, None).await {
        Ok(line) => line,
        Err(error) => return Answer::Unknown(error.to_string()),
    };
    let mut answer = Answer::Pass;
    for from in SENDERS {
        for to in RECIPIENTS {
            answer = answer.and(relays(&mut line, from, to).await);
            if !answer.passed() {
                line.quit().await;
                return answer;
            }
        }
    }
    line.quit().await;
    answer
}

async fn relays(line: &mut Line, from: &str, to: &str) -> Answer {
    let said = async {
        line.expect(&format!("MAIL FROM:<{from}>")).await?;
        line.expect(&format!("RCPT TO:<{to}>")).await
    };
    let answer = match said.await {
        Ok(()) => Answer::Fail(format!(
            "an open relay: a client at {STRANGER} may send to <{to}>. Set client_address so that the server sees the \
             client's address, or take the proxy's address out of the networks that it trusts"
        )),
        Err(No::Said(reply)) if meant_for_strangers(&reply) => Answer::Pass,
        Err(No::Said(reply)) => Answer::Unknown(format!("<{to}>: {}", reply.text())),
        Err(No::Lost(lost)) => return Answer::Unknown(lost.to_string()),
    };
    match line.expect("RSET").await {
        Err(No::Lost(lost)) => answer.and(Answer::Unknown(lost.to_string())),
        Ok(()) | Err(No::Said(_)) => answer,
    }
}

/// 5yz; of 4yz only what Postfix says for its default `defer_unauth_destination`. Others mean to accept it later.
fn meant_for_strangers(reply: &Reply) -> bool {
    reply.class() == Class::Never || reply.code == 454
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::mail::fake::Fake;

    async fn asked(fake: &Fake) -> Answer {
        test(&fake.post(Protocol::Smtp)).await
    }

    #[tokio::test]
    async fn strangers_are_refused_at_the_recipient_or_before() {
        let fake = Fake::start().await;
        for (command, reply) in [
            ("RCPT", "554 5.7.1 Relay access denied"),
            ("RCPT", "454 4.7.1 Relay access denied"),
            ("MAIL", "530 5.7.0 Authentication required"),
        ] {
            fake.mends();
            fake.says(command, reply);
            assert_eq!(asked(&fake).await, Answer::Pass, "{reply}");
        }
        let heard = fake.heard();
        assert!(heard.contains(&"XCLIENT ADDR=192.0.2.1".to_owned()), "as a stranger: {heard:?}");
        assert!(!heard.iter().any(|command| command.starts_with("DATA")), "{heard:?}");
        let senders = ["MAIL FROM:<bascule-relay-test@example.com>", "MAIL FROM:<>"];
        assert!(senders.iter().all(|sender| heard.contains(&(*sender).to_owned())), "{heard:?}");
    }

    #[tokio::test]
    async fn one_recipient_that_is_taken_is_an_open_relay() {
        for (refused, open) in [
            ("RCPT TO:<bascule-relay-test@[", "example.net"),
            ("RCPT TO:<bascule-relay-test@e", "[192.0.2.2]"),
        ] {
            let fake = Fake::start().await;
            fake.says(refused, "550 5.7.1 no");
            let Answer::Fail(saw) = asked(&fake).await else { panic!("{open}") };
            assert!(saw.contains("an open relay") && saw.contains(open), "{saw}");
            assert!(saw.contains("client_address"), "what to do: {saw}");
        }
    }

    #[tokio::test]
    async fn who_says_nothing_about_strangers_is_not_known() {
        let fake = Fake::start().await;
        for (command, reply, why) in [
            ("RCPT", "450 4.2.0 Greylisted", "Greylisted"),
            ("MAIL", "451 4.3.2 not able to do this now", "not able"),
            ("RCPT", "", "ended"),
            ("EHLO", "421 4.3.2 busy", "busy"),
            ("XCLIENT", "550 5.7.0 not from you", "not from you"),
        ] {
            fake.mends();
            fake.says(command, reply);
            let Answer::Unknown(saw) = asked(&fake).await else { panic!("{command} {reply}") };
            assert!(saw.contains(why), "{saw}");
        }
        fake.stop().await;
        assert!(matches!(asked(&fake).await, Answer::Unknown(_)), "unreachable is not open");
    }
}
