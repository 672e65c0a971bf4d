//! The canaries of one pool: a session for each way in, and the proof that all of them are shut.
//!
//! Rule: a fence is proved when every protocol refuses; one of them taking mail is a pool that writes.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    checks::{
        Answer,
        canary::{Canary, Entrance, once, prove},
        http::{Put, by_http},
        mail::{
            self, Post,
            offer::{ByMail, Offer},
        },
        reader::{ByImap, Reader, release},
        server::Reach,
        trial::{Bait, Write},
        unanswered::Unanswered,
    },
    config::{Account, FenceKind, Protocol},
    net::stream::Leg,
    session::World,
    topology::PoolId,
};

/// One session by mail protocol, since a pool has one server for each, and one by server of HTTP.
#[derive(Debug)]
pub struct Canaries {
    pool: PoolId,
    account: Account,
    kind: FenceKind,
    server: String,
    reader: Canary<Reader<Leg>>,
    bait: Bait,
    mail: Vec<(Protocol, Canary<Offer>)>,
    http: Vec<Canary<Put>>,
    /// Proved in two rounds; asked again, one shows that it still holds.
    proved: bool,
}

impl Canaries {
    /// Opens a session of the first probe account of `pool` by each protocol, and shows that it can write.
    pub async fn open(world: &World, pool: PoolId) -> Result<Self, String> {
        let config = world.topology.load().pool(pool).clone();
        let Some(fence) = &config.fence else {
            return Err(format!("pool {} has no fence", config.name));
        };
        let Some(account) = config.probes.first() else {
            return Err(format!("pool {} has no probe account", config.name));
        };
        let named = |why: String| format!("canary on pool {}: {why}", config.name);
        let reader = release(&Reach { world, pool }, account).await.map_err(named)?;
        let mut mail = Vec::new();
        for (protocol, way) in by_mail(world, pool, account) {
            // What it would leave behind is seen and taken away now, or the proof could not be trusted to.
            let takes = way.takes(&Reach { world, pool }).await;
            if !takes.passed() {
                return Err(named(takes.to_string()));
            }
            let offer =
                way.open().await.map_err(|write| named(write.wanted().named(protocol.name()).to_string()))?;
            mail.push((protocol, Canary::new(offer)));
        }
        let mut http = Vec::new();
        for (name, way) in by_http(world, pool, account).map_err(named)? {
            let put = way.open().await.map_err(|write| named(write.wanted().named(&name).to_string()))?;
            http.push(Canary::new(put));
        }
        let (account, kind, server) = (account.clone(), fence.kind, config.imap.server.clone());
        let bait = reader.bait().clone();
        Ok(Self { pool, account, kind, server, bait, reader: Canary::new(reader), mail, http, proved: false })
    }

    /// Opens anew what has ended since, and shows again that it can write: right before the fence, so that only the
    /// fence can have ended what is found ended after it. (A server of HTTP that keeps no connections may go on so:
    /// on it nothing is older than the fence.)
    pub async fn stand(&mut self, world: &World) -> Result<(), String> {
        let Self { pool, account, reader, bait, mail, http, .. } = self;
        let reach = Reach { world, pool: *pool };
        let unwanted = |name: &str, write: Write| format!("canary: {}", write.wanted().named(name));
        if reader.is_over().await {
            let fresh = release(&reach, account).await.map_err(|why| format!("canary: {why}"))?;
            (*bait, *reader) = (fresh.bait().clone(), Canary::new(fresh));
        }
        for ((protocol, canary), (_, way)) in mail.iter_mut().zip(by_mail(world, *pool, account)) {
            if canary.is_over().await {
                *canary = Canary::new(way.open().await.map_err(|write| unwanted(protocol.name(), write))?);
            }
        }
        for (canary, (name, way)) in http.iter_mut().zip(by_http(world, *pool, account)?) {
            if canary.is_over().await {
                *canary = Canary::new(way.open().await.map_err(|write| unwanted(&name, write))?);
            }
        }
        Ok(())
    }

    /// Whether nobody can write to the pool. Asked again after a Pass it is proved anew. After a Fail it is of
    /// no use to ask on: what the canary writes keeps its session busy (Dovecot 2.3 ends an idle one ten
    /// seconds after `dovecot stop`, one that is asked every second after thirty).
    pub async fn prove_fenced(&mut self, world: &World, unanswered: &Unanswered) -> Answer {
        let share = world.config.cutover.fence;
        let late = async {
            sleep(share).await;
            format!("the fence was not proved within {share:?}: {}", unanswered.lines().join("; "))
        };
        let answer = tokio::select! {
            biased;
            answer = self.prove(world, unanswered) => answer,
            why = late => Answer::Unknown(why),
        };
        self.proved |= answer.passed();
        answer
    }

    async fn prove(&mut self, world: &World, unanswered: &Unanswered) -> Answer {
        let Self { pool, account, kind, server, reader, bait, mail, http, proved } = self;
        let reach = Reach { world, pool: *pool };
        let imap = ByImap { dial: &reach, account, server, bait: Some(bait.clone()) };
        let ways = by_mail(world, *pool, account);
        let mail = async {
            let mut all = Answer::Pass;
            for ((protocol, canary), (_, way)) in mail.iter_mut().zip(&ways) {
                let proof = unanswered.until(protocol.name(), rounds(canary, *kind, way, *proved));
                all = all.and(proof.await.named(protocol.name()));
            }
            all
        };
        let web = async {
            let ways = match by_http(world, *pool, account) {
                Ok(ways) => ways,
                Err(why) => return Answer::Unknown(why),
            };
            let mut all = Answer::Pass;
            for (canary, (name, way)) in http.iter_mut().zip(&ways) {
                all = all.and(unanswered.until(name, rounds(canary, *kind, way, *proved)).await.named(name));
            }
            all
        };
        let imap = unanswered.until("imap", rounds(reader, *kind, &imap, *proved));
        let (imap, mail, web) = tokio::join!(imap, mail, web);
        imap.and(mail).and(web)
    }

    /// Takes away what the canaries left, where they still can, and logs out.
    pub async fn close(self, world: &World) {
        if let Some(reader) = self.reader.into_open() {
            let lmtp = self.mail.iter().any(|(protocol, _)| *protocol == Protocol::Lmtp);
            if lmtp && !self.proved {
                // A fence that did not hold may have let a message in.
                mail::offer::tidy(&Reach { world, pool: self.pool }, &self.account).await;
            }
            reader.close().await;
        }
        for (_, canary) in self.mail {
            if let Some(offer) = canary.into_open() {
                offer.close().await;
            }
        }
    }
}

async fn rounds<E: Entrance>(
    canary: &mut Canary<E::Session>,
    kind: FenceKind,
    at: &E,
    proved: bool,
) -> Answer {
    if proved { once(canary, kind, at, Duration::ZERO).await } else { prove(canary, kind, at).await }
}

/// The ways in by mail that a pool's fence is to shut.
pub(super) fn by_mail<'a>(world: &'a World, pool: PoolId, account: &Account) -> Vec<(Protocol, ByMail<'a>)> {
    let config = world.topology.load().pool(pool).clone();
    let post = |protocol| Some((protocol, Post::of(world, pool, protocol)?));
    let own = mail::own(&world.config, &config).into_iter().filter_map(post);
    own.map(|(protocol, post)| (protocol, ByMail { post, account: account.clone() })).collect()
}
