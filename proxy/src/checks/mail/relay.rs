//! The relay self-test: a stranger must not be able to send mail to strangers.
//!
//! Rule: it takes the way that clients take, as a client from a network that is nobody's, and never says DATA. Only a
//! recipient that was accepted shows an open relay, and only a refusal that may be meant for strangers shows none; of a
//! server that cannot be reached nothing is known.

use std::net::Ipv4Addr;

use bascule_protocols::smtp::reply::{Class, Reply};

use super::{
    Post,
    line::{Line, No},
};
use crate::{
    checks::Answer,
    config::Protocol,
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
    world.found_relay(pool, protocol, match answer {
        Answer::Pass => Verdict::Refuses,
        Answer::Fail(_) => Verdict::Relays,
        Answer::Unknown(_) => Verdict::Unknown,
    });
    answer
}

/// Asks servers, whatever pool they belong to.
pub async fn test(post: &Post<'_>) -> Answer {
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
