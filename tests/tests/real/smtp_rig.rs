//! What the tests of mail begin with: two Dovecots, a Postfix beside each, and a proxy in front of all of them.
//!
//! Rule: the recommended layout. Every Postfix hands what it has accepted to the proxy's LMTP listener, so that mail
//! finds the server that is active; the old one's ports are shut by the fence while its queue works on.

use std::net::SocketAddr;

use bascule_tests::{
    bascule::{Bascule, Fence, Pool, Ran, Service, Setup},
    dovecot::{Dovecot, Options, Pair},
    ledger::{Ledger, Verdict},
    postfix::{Next, Postfix},
    sites::Site,
};

use super::scene::{all_moved, patient};

pub(super) const FROM: &str = "someone@example.net";

/// What takes mail from users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// Postfix, which asks Dovecot for the password.
    Postfix,
    /// Dovecot, which hands the mail to Postfix.
    Dovecot,
}

/// Dovecot 2.3 with its Postfix, Dovecot 2.4 with its Postfix, and a proxy that serves from the first.
pub(super) struct Post {
    // Dropped in this order.
    pub(super) proxy: Bascule,
    pub(super) postfixes: [Postfix; 2],
    pub(super) sites: Vec<Site>,
    pub(super) pair: Pair,
    pub(super) ledger: Ledger,
}

impl Post {
    pub(super) async fn new(sender: Sender) -> Self {
        Self::with(sender, |_| {}).await
    }

    /// With a setup that was changed.
    pub(super) async fn with(sender: Sender, change: impl FnOnce(&mut Setup)) -> Self {
        let pair = Pair::shared(Options::default()).await.unwrap();
        let setup = patient(&pair);
        Self::of(pair, setup, Vec::new(), sender, change).await
    }

    /// With web sites beside the servers.
    pub(super) async fn with_sites(sender: Sender) -> Self {
        let pair = Pair::shared(Options::default()).await.unwrap();
        let mut setup = patient(&pair);
        let sites = sites(&pair, &mut setup).await;
        Self::of(pair, setup, sites, sender, |_| {}).await
    }

    async fn of(
        pair: Pair,
        mut setup: Setup,
        sites: Vec<Site>,
        sender: Sender,
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        for (pool, server) in setup.pools.iter_mut().zip([&pair.old, &pair.new]) {
            pool.mail = services(&pair, server, sender);
        }
        let mut proxy = Bascule::lay(&setup).unwrap();
        let next = Next { lmtp: proxy.lmtp(), outbound: None };
        let old = Postfix::start(&pair, &pair.old, next).await.unwrap();
        let postfixes = [old, Postfix::start(&pair, &pair.new, next).await.unwrap()];
        postfixes[1].act(false).await.unwrap();
        for (pool, postfix) in setup.pools.iter_mut().zip(&postfixes) {
            belongs(pool, |open| postfix.fence(open));
        }
        change(&mut setup);
        proxy.configure(&setup).unwrap();
        let init = proxy.run(&["init", "--active", "old"]).await.unwrap();
        assert_eq!(init.code, 0, "{init:?}");
        proxy.serve().await.unwrap();
        Self { proxy, postfixes, sites, pair, ledger: Ledger::default() }
    }

    /// Moves everything to the new servers and keeps every session.
    pub(super) async fn moved(&self) -> Ran {
        let ran = self.proxy.cutover("new").await.unwrap();
        all_moved(&ran);
        ran
    }

    /// Waits until nothing is left in the queues.
    pub(super) async fn delivered(&self) {
        let deadline = tokio::time::Instant::now() + tokio::time::Duration::from_secs(60);
        for postfix in &self.postfixes {
            // What has no recipient left was delivered, and is tidied up when the queue is scanned.
            while let queue = postfix.queue().await.unwrap()
                && queue.iter().any(|message| message["recipients"] != serde_json::json!([]))
            {
                assert!(tokio::time::Instant::now() < deadline, "{queue:?}\n{}", postfix.log());
                tokio::time::sleep(tokio::time::Duration::from_millis(50)).await;
            }
        }
    }

    /// What a user has in INBOX at one of the servers.
    pub(super) async fn bodies(&self, server: &Dovecot, user: &str) -> Vec<Vec<u8>> {
        let mut session = server.session(user).await.unwrap();
        session.select("INBOX").await.unwrap().ok().unwrap();
        session.bodies().await.unwrap()
    }

    /// Judges by the INBOXes of these users at one of the servers, once the queues are empty, and by what else was found.
    pub(super) async fn judged(
        &self,
        server: &Dovecot,
        users: &[&str],
        mut found: Vec<(String, Vec<u8>)>,
    ) -> Verdict {
        self.delivered().await;
        for user in users {
            let bodies = self.bodies(server, user).await;
            found.extend(bodies.into_iter().map(|body| (format!("{user}@example.org"), body)));
        }
        self.ledger.judge_mail(found)
    }

    /// Nothing was lost, doubled or changed, and nobody was left without an answer: so many messages are there.
    pub(super) async fn holds(&self, server: &Dovecot, users: &[&str], messages: usize) {
        let verdict = self.judged(server, users, Vec::new()).await;
        assert!(verdict.clean() && verdict.unknown == 0, "{verdict:?}");
        assert_eq!(verdict.acknowledged, messages, "{verdict:?}");
    }
}

/// The report says that all went well. Who says QUIT in the hold, as Postfix may to the LMTP listener, goes, and is not
/// counted as kept.
pub(super) fn went_well(ran: &Ran) {
    assert_eq!((ran.code, &ran.json["unmovable"]), (0, &serde_json::json!({})), "{ran:?}");
}

/// Web sites beside both servers with the calendars in one place; the second does not run yet.
pub(super) async fn sites(pair: &Pair, setup: &mut Setup) -> Vec<Site> {
    sites_on(pair, setup, ["calendars"; 2]).await
}

/// The same with calendars of their own. The promotion of the second copies them there.
pub(super) async fn sites_apart(pair: &Pair, setup: &mut Setup) -> Vec<Site> {
    let sites = sites_on(pair, setup, ["calendars-old", "calendars-new"]).await;
    let new = &mut setup.pools[1];
    new.promote = new.promote.take().map(|promote| sites[1].takes_over(&sites[0], &promote));
    sites
}

async fn sites_on(pair: &Pair, setup: &mut Setup, stores: [&str; 2]) -> Vec<Site> {
    let mut sites = Vec::new();
    for ((pool, server), store) in setup.pools.iter_mut().zip([&pair.old, &pair.new]).zip(stores) {
        let site = Site::start(pair, server, store).await.unwrap();
        belongs(pool, |open| site.fence(open));
        let clear = "tls = { mode = \"none\" }\n";
        let calendar = format!("{clear}probe = \"/{{user}}/calendar/bascule-probe.ics\"\n");
        pool.http = vec![
            ("pages", vec![site.pages()], format!("{clear}probe = \"none\"\n")),
            ("calendars", vec![site.calendars()], calendar),
        ];
        sites.push(site);
    }
    sites[1].act(false).await.unwrap();
    setup.tables += "[limits.http]\nhold = \"90s\"\n";
    let pages = Site::PAGES;
    setup.http = format!(
        "routes = [{{ host = {pages:?}, path = \"/\", service = \"pages\" }}, {{ path = \"/\", service = \"calendars\" }}]\n"
    );
    sites
}

/// The fence of a pool shuts this too.
fn belongs(pool: &mut Pool, fence: impl Fn(bool) -> Vec<String>) {
    // What was joined before is a line already.
    let line = |words: &[String]| match words {
        [_, option, line] if option == "-c" => line.clone(),
        words => words.join(" "),
    };
    let both = |first: &[String], then: &[String]| {
        let line = format!("{} && {}", line(first), line(then));
        ["/bin/bash", "-c", &line].map(str::to_owned).to_vec()
    };
    let [shut, open] = [false, true].map(fence);
    pool.fence = pool.fence.take().map(|fence| Fence {
        engage: both(&shut, &fence.engage),
        release: both(&fence.release, &open),
        ..fence
    });
    pool.promote = pool.promote.take().map(|promote| both(&promote, &open));
}

fn services(pair: &Pair, server: &Dovecot, sender: Sender) -> Vec<Service> {
    let tls = Some((pair.ca(), Pair::HOST.to_owned()));
    let relay = SocketAddr::from((server.relay(), Postfix::RELAY));
    let submission = match sender {
        Sender::Postfix => SocketAddr::from((server.relay(), Postfix::SUBMISSION)),
        Sender::Dovecot => server.submission(),
    };
    let declared = server.name() == "new";
    let service = |protocol, server, tls, keywords: &[&str]| {
        let mut lines = "client_address = \"xclient\"\n".to_owned();
        // A server that does not run cannot be asked.
        if declared {
            lines += &format!("keywords = {keywords:?}\n");
        }
        Service { protocol, server, tls, lines }
    };
    let by_user = if sender == Sender::Dovecot { &Pair::SUBMISSION_24[..] } else { &Postfix::KEYWORDS };
    vec![
        service("smtp", relay, tls.clone(), &Postfix::KEYWORDS),
        service("submission", submission, tls, by_user),
        service("lmtp", server.lmtp(), None, &Pair::LMTP_24),
    ]
}
