//! Cutovers that turn back, from every state: whoever was there is served by the old pool, nothing that was asked
//! for is lost, and the next cutover goes through.
//!
//! Rule: every way back is walked with the same people: somebody in IDLE, held commands of several kinds, an upload
//! that was begun before, a login that came during the hold.

use bascule_tests::{
    client::Client,
    fake::{Reaction, Stall},
};

use super::rig::{BARRIER, FENCE, MAIL, PASSWORD, PROMOTE, Plan, Rig, Running, aborted, heard};

const USERS: &[&str] = &["alice", "bob", "carol", "dave", "erin", "frank"];

/// Those who live through it.
struct People {
    /// In IDLE.
    alice: Client,
    /// Has a mailbox selected.
    bob: Client,
    /// Stores a message that does not wait for `+`.
    carol: Client,
    /// Has nothing selected.
    dave: Client,
    /// Is half-way through a message; with a mailbox selected the cutover would wait for its end to learn the view.
    erin: Client,
    /// Has not logged in.
    frank: Client,
    upload: (String, String, Vec<u8>),
}

/// What they were promised an answer to.
struct Asked {
    bob: String,
    carol: (String, String),
    dave: String,
    frank: String,
}

/// Held by then: bob's, carol's, dave's, erin's and frank's.
const HELD: u64 = 5;

impl People {
    async fn gather(rig: &Rig) -> Self {
        let mut erin = rig.login("erin").await;
        let (id, message) = rig.ledger.message(1000);
        let tag = erin.begin(&format!("APPEND INBOX {{{}}}", message.len())).await.unwrap();
        assert_eq!(erin.go_ahead(&tag).await.unwrap(), None);
        erin.write(&message[..500]).await.unwrap();
        Self {
            alice: rig.idler("alice").await,
            bob: rig.inbox("bob").await,
            carol: rig.login("carol").await,
            dave: rig.login("dave").await,
            erin,
            frank: rig.proxy.connect().await.unwrap(),
            upload: (id, tag, message),
        }
    }

    /// Everybody asks for something while the gate is shut.
    async fn ask(&mut self, rig: &Rig) -> Asked {
        let (id, message) = rig.ledger.message(2000);
        let asked = Asked {
            bob: self.bob.start("UID FETCH 1:* (FLAGS)").await.unwrap(),
            carol: (id, self.carol.start_append("INBOX", &message).await.unwrap()),
            dave: self.dave.start("STATUS INBOX (MESSAGES)").await.unwrap(),
            frank: self.frank.start(&format!("LOGIN frank {PASSWORD}")).await.unwrap(),
        };
        self.erin.complete(&self.upload.1, &self.upload.2[500..]).await.unwrap();
        rig.held(HELD).await;
        asked
    }

    /// Everybody is answered.
    async fn answered(&mut self, rig: &Rig, asked: Asked) {
        let flags = self.bob.finish(&asked.bob).await.unwrap().ok().unwrap();
        assert_eq!(flags.lines.len(), MAIL as usize, "{flags:?}");
        for (client, (id, tag)) in [
            (&mut self.carol, &asked.carol),
            (&mut self.erin, &(self.upload.0.clone(), self.upload.1.clone())),
        ] {
            let reply = client.finish(tag).await.unwrap().ok().unwrap();
            assert!(reply.text.starts_with("[APPENDUID "), "{reply:?}");
            rig.settle(id, &reply);
        }
        self.dave.finish(&asked.dave).await.unwrap().ok().unwrap();
        self.frank.finish(&asked.frank).await.unwrap().ok().unwrap();
    }

    /// Everybody is alive and served by the pool of this name.
    async fn live_on(&mut self, rig: &Rig, pool: &str) {
        assert_eq!(rig.active().await, pool);
        assert_eq!(heard(&self.alice), "", "in IDLE there was nothing to hear");
        let store = rig.pair.platform(pool).unwrap().store().clone();
        store.deliver("alice", "INBOX", b"Subject: news\r\n\r\n");
        assert!(self.alice.notice().await.unwrap().text().ends_with(" EXISTS"));
        assert!(self.alice.notice().await.unwrap().text().ends_with(" RECENT"));
        self.alice.done().await.unwrap().ok().unwrap();
        for client in
            [&mut self.alice, &mut self.bob, &mut self.carol, &mut self.dave, &mut self.erin, &mut self.frank]
        {
            let (id, message) = rig.ledger.message(100);
            let reply = client.append("INBOX", &message).await.unwrap();
            rig.settle(&id, &reply);
            reply.ok().unwrap();
        }
        rig.unharmed().await;
    }

    /// The way is free: all go to the new pool.
    async fn go_through(&mut self, rig: &Rig) {
        assert_eq!(self.alice.idle().await.unwrap(), None);
        self.alice.keep_transcript();
        rig.cutover("new").await;
        self.live_on(rig, "new").await;
    }
}

/// A cutover that `spoil` makes turn back while everybody waits, and one that goes through after `mend`. What the
/// report must say is `because`.
async fn turns_back(plan: Plan, spoil: impl Fn(&Rig), mend: impl Fn(&Rig), because: &str) {
    let rig = plan.start(USERS).await;
    let mut people = People::gather(&rig).await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    let asked = people.ask(&rig).await;
    spoil(&rig);
    fence.release();
    let report = aborted(cutover.end().await);
    assert!(report["reason"].as_str().unwrap().contains(because), "{report}");
    people.answered(&rig, asked).await;
    let commit = [&people.upload.2[..], b"\r\n"].concat();
    assert_eq!(rig.arrived(&commit), [1, 0], "D3: to the old pool and nowhere else");
    people.live_on(&rig, "old").await;
    mend(&rig);
    people.go_through(&rig).await;
}

#[tokio::test]
async fn scenario_29_a_barrier_that_fails_goes_back_and_the_old_pool_answers() {
    let plan = Plan::replicated().barrier("1500ms");
    turns_back(plan, |rig| rig.hooks.refuse(BARRIER), |rig| rig.hooks.mend(BARRIER), "barrier").await;
}

#[tokio::test]
async fn scenario_30_a_fence_hook_that_fails_aborts() {
    turns_back(Plan::replicated(), |rig| rig.hooks.refuse(FENCE), |rig| rig.hooks.mend(FENCE), "fence").await;
}

#[tokio::test]
async fn scenario_30_a_fence_that_does_not_hold_aborts() {
    let plan = Plan::replicated();
    turns_back(
        plan,
        |rig| rig.old_pool().leak(true),
        |rig| rig.old_pool().leak(false),
        "opened before the fence",
    )
    .await;
}

#[tokio::test]
async fn scenario_30_a_fence_that_was_only_said_to_hold_aborts() {
    let plan = Plan::replicated();
    turns_back(plan, |rig| rig.hooks.pretend(FENCE), |rig| rig.hooks.mend(FENCE), "answered OK").await;
}

#[tokio::test]
async fn scenario_30_a_promote_that_fails_aborts() {
    let plan = Plan::replicated();
    turns_back(plan, |rig| rig.hooks.refuse(PROMOTE), |rig| rig.hooks.mend(PROMOTE), "promote").await;
}

#[tokio::test]
async fn scenario_30_a_promoted_pool_that_refuses_writes_aborts() {
    let plan = Plan::replicated().barrier("1500ms");
    turns_back(
        plan,
        |rig| rig.hooks.pretend(PROMOTE),
        |rig| rig.hooks.mend(PROMOTE),
        "CREATE: NO [UNAVAILABLE]",
    )
    .await;
}

#[tokio::test]
async fn scenario_30_a_verify_that_is_refused_aborts() {
    let refused = Reaction { refuse: Some("NO [NONEXISTENT] not here".into()), ..Reaction::default() };
    let spoil = move |rig: &Rig| rig.new_pool().react("EXAMINE", refused.clone());
    turns_back(Plan::replicated(), spoil, |rig| rig.new_pool().calm(), "mailbox_refused").await;
}

#[tokio::test]
async fn scenario_30_a_barrier_that_nobody_waits_for_is_aborted_by_the_operator() {
    by_the_operator("caught_up", |rig| rig.hooks.stall(BARRIER)).await;
}

#[tokio::test]
async fn scenario_30_a_promote_is_aborted_by_the_operator() {
    by_the_operator("promoted", |rig| rig.hooks.stall(PROMOTE)).await;
}

#[tokio::test]
async fn scenario_30_a_verify_is_aborted_by_the_operator() {
    let looks = |rig: &Rig| {
        let stall = Stall::default();
        rig.new_pool().react("EXAMINE", Reaction { stall: Some(stall.clone()), ..Reaction::default() });
        stall
    };
    by_the_operator("verified", looks).await;
}

/// The operator calls a cutover off while it waits in this state.
async fn by_the_operator(state: &str, stall: impl Fn(&Rig) -> Stall) {
    let rig = Plan::replicated().start(USERS).await;
    let mut people = People::gather(&rig).await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    let asked = people.ask(&rig).await;
    let there = stall(&rig);
    fence.release();
    cutover.reaches(&there).await;
    rig.state(state).await;
    called_off(&rig, cutover, people, asked, there).await;
}

#[tokio::test]
async fn scenario_30_a_fence_is_aborted_by_the_operator() {
    let rig = Plan::replicated().start(USERS).await;
    let mut people = People::gather(&rig).await;
    let fence = rig.hooks.stall(FENCE);
    let mut cutover = rig.begin("new");
    cutover.reaches(&fence).await;
    let asked = people.ask(&rig).await;
    rig.state("fenced").await;
    called_off(&rig, cutover, people, asked, fence).await;
}

async fn called_off(rig: &Rig, cutover: Running, mut people: People, asked: Asked, there: Stall) {
    rig.abort().await;
    let report = aborted(cutover.end().await);
    assert!(report["reason"].as_str().unwrap().contains("a test"), "{report}");
    people.answered(rig, asked).await;
    there.release();
    for hook in [FENCE, BARRIER, PROMOTE] {
        rig.hooks.mend(hook);
    }
    rig.new_pool().calm();
    people.live_on(rig, "old").await;
    people.go_through(rig).await;
}

#[tokio::test]
async fn scenario_30_an_armed_cutover_is_aborted_by_the_operator() {
    let rig = Plan::replicated().start(USERS).await;
    let mut people = People::gather(&rig).await;
    let mut writer = rig.inbox("bob").await;
    let stall = Stall::default();
    rig.old_pool().react("STORE", Reaction { stall: Some(stall.clone()), ..Reaction::default() });
    let store = writer.start("STORE 1 +FLAGS (\\Flagged)").await.unwrap();
    stall.reached(1).await;
    // The canary's own STORE is answered.
    rig.old_pool().calm();
    let cutover = rig.begin("new");
    rig.state("armed").await;
    assert_eq!(rig.proxy.status().await.unwrap()["gate"], "open");
    rig.abort().await;
    aborted(cutover.end().await);
    stall.release();
    writer.finish(&store).await.unwrap().ok().unwrap();
    people.erin.complete(&people.upload.1, &people.upload.2[500..]).await.unwrap();
    let reply = people.erin.finish(&people.upload.1).await.unwrap().ok().unwrap();
    rig.settle(&people.upload.0, &reply);
    people.frank.login("frank", PASSWORD).await.unwrap().ok().unwrap();
    people.live_on(&rig, "old").await;
    people.go_through(&rig).await;
}
