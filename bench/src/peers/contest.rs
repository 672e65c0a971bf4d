//! The rounds: who is measured when.
//!
//! Rule: the proxies take turns within every round, in an order that rotates from round to round. While one is
//! measured the others run and stand still; what needs many sessions gets a fresh process that runs alone.

use anyhow::{Context as _, Result};

use crate::{
    backend::Backend,
    book::{Book, Figure},
    contender::{Contender, Running},
    leg::{Leg, Speech},
    measure,
    options::{Plan, Topic},
};

/// The bad habits: the load's name, what it is, whether there are many.
const HABITS: [(&str, &str, bool); 5] = [
    ("silent", "silent after the dial", true),
    ("nameless", "silent before the login", true),
    ("handshake", "handshakes byte by byte", false),
    ("reader", "slow readers of 5 MB", false),
    ("writer", "slow writers of 5 MB", false),
];

/// Everything that the plan says about one leg.
pub(crate) struct Contest<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) backend: &'a Backend,
    pub(crate) leg: Leg,
    pub(crate) book: &'a mut Book,
}

impl Contest<'_> {
    pub(crate) async fn play(mut self) -> Result<()> {
        let topics = [Topic::Noop, Topic::Fetch, Topic::Login, Topic::Latency];
        if topics.iter().any(|topic| self.plan.has(*topic)) {
            self.together().await?;
        }
        // TLS towards the servers of mail is not measured: it costs what it costs for IMAP.
        if self.plan.has(Topic::Mail) && self.leg != Leg::TlsTls {
            self.mail().await?;
        }
        // As above.
        if self.plan.has(Topic::Web) && self.leg != Leg::TlsTls {
            self.web().await?;
        }
        if self.plan.has(Topic::Kept) && self.leg != Leg::TlsTls {
            for round in 0..self.plan.idle_rounds {
                for contender in turns(&self.plan.able(self.leg, Speech::Http), round) {
                    let done = self.kept(contender).await;
                    self.failed(&contender.name, "kept", done);
                }
            }
        }
        if self.plan.has(Topic::Idle) {
            for round in 0..self.plan.idle_rounds {
                for contender in turns(&self.plan.able(self.leg, Speech::Imap), round) {
                    let done = self.idle(contender).await;
                    self.failed(&contender.name, "idle", done);
                }
            }
        }
        // What misbehaving clients do is the same whatever stands behind.
        if self.plan.has(Topic::Edges) && self.plan.legs.first() == Some(&self.leg) {
            for (round, habit) in HABITS.iter().enumerate() {
                for contender in turns(&self.plan.able(self.leg, Speech::Imap), round) {
                    let done = self.edge(contender, *habit).await;
                    self.failed(&contender.name, habit.0, done);
                }
            }
        }
        Ok(())
    }

    /// What is measured while all proxies run.
    async fn together(&mut self) -> Result<()> {
        let (plan, leg, backend) = (self.plan, self.leg, self.backend);
        let all = all(plan, leg, Speech::Imap, backend).await?;
        let all: Vec<_> = all.iter().collect();
        for round in 0..plan.rounds {
            for topic in [Topic::Noop, Topic::Fetch, Topic::Login] {
                for proxy in turns(&all, round).filter(|_| plan.has(topic)) {
                    let done = self.costs(proxy, topic).await;
                    self.failed(proxy.name, "CPU", done);
                }
            }
            if plan.has(Topic::Latency) {
                self.latencies(turns(&all, round)).await?;
            }
        }
        Ok(())
    }

    /// Messages by SMTP, while all proxies run.
    async fn mail(&mut self) -> Result<()> {
        let (plan, leg, backend) = (self.plan, self.leg, self.backend);
        let all = all(plan, leg, Speech::Smtp, backend).await?;
        let all: Vec<_> = all.iter().collect();
        for round in 0..plan.rounds {
            for (kilobytes, size, text) in
                [(1, "1kb", "1 kB"), (100, "100kb", "100 kB"), (1000, "1mb", "1 MB")]
            {
                for proxy in turns(&all, round) {
                    let done = self.messages(proxy, kilobytes, size, text).await;
                    self.failed(proxy.name, "mail", done);
                }
            }
        }
        Ok(())
    }

    async fn messages(&mut self, proxy: &Running<'_>, kilobytes: u32, size: &str, text: &str) -> Result<()> {
        let Plan { seconds, mail_connections, .. } = self.plan;
        let work =
            format!("mail --kilobytes {kilobytes} --connections {mail_connections} --seconds {seconds}");
        let cost = measure::cost(proxy, &work).await?;
        let title = format!("CPU per message by SMTP, {text}");
        self.note(Figure::new(format!("mail_{size}_cpu_us"), title, "µs", 1), proxy.name, cost.micros_each());
        Ok(())
    }

    /// Requests by HTTP, while all proxies run.
    async fn web(&mut self) -> Result<()> {
        let (plan, leg, backend) = (self.plan, self.leg, self.backend);
        let all = all(plan, leg, Speech::Http, backend).await?;
        let all: Vec<_> = all.iter().collect();
        for round in 0..plan.rounds {
            // Browsers speak HTTP/2 with TLS only.
            let versions = if leg.secure() { &["web", "two"][..] } else { &["web"] };
            for (kilobytes, version) in
                [1, 64].into_iter().flat_map(|size| versions.iter().map(move |v| (size, *v)))
            {
                for proxy in turns(&all, round) {
                    let done = self.requests(proxy, version, kilobytes).await;
                    self.failed(proxy.name, "web", done);
                }
            }
        }
        Ok(())
    }

    async fn requests(&mut self, proxy: &Running<'_>, version: &str, kilobytes: u32) -> Result<()> {
        let Plan { seconds, web_connections, two_connections, .. } = self.plan;
        let (name, connections) =
            if version == "two" { ("HTTP/2", two_connections) } else { ("HTTP/1.1", web_connections) };
        let work =
            format!("{version} --kilobytes {kilobytes} --connections {connections} --seconds {seconds}");
        let cost = measure::cost(proxy, &work).await?;
        let title = format!("CPU per request by {name}, answers of {kilobytes} kB");
        let figure = Figure::new(format!("{version}_{kilobytes}kb_cpu_us"), title, "µs", 1);
        self.note(figure, proxy.name, cost.micros_each());
        Ok(())
    }

    async fn kept(&mut self, contender: &Contender) -> Result<()> {
        let proxy = contender.start(self.leg, Speech::Http, self.backend).await?;
        let found = measure::idle(&proxy, "kept", &self.plan.idle).await;
        let found = found.with_context(|| proxy.log())?;
        for (count, bytes) in self.plan.idle.iter().zip(found) {
            let title = format!("private memory per kept connection of HTTP/1.1, {count} of them");
            self.note(Figure::new(format!("kept_{count}_kb"), title, "kB", 2), proxy.name, bytes / 1e3);
        }
        proxy.stop().await
    }

    async fn costs(&mut self, proxy: &Running<'_>, topic: Topic) -> Result<()> {
        let Plan { seconds, noop_connections, fetch_connections, login_connections, .. } = self.plan;
        let loops = |count: &usize| format!("--connections {count} --seconds {seconds}");
        match topic {
            Topic::Noop => {
                let cost = measure::cost(proxy, &format!("noop {}", loops(noop_connections))).await?;
                let figure = Figure::new("noop_cpu_us", "CPU per NOOP round trip", "µs", 2);
                self.note(figure, proxy.name, cost.micros_each());
            }
            Topic::Fetch => {
                for (kilobytes, size, text) in [(64, "64kb", "64 kB"), (5000, "5mb", "5 MB")] {
                    let work = format!("fetch --kilobytes {kilobytes} {}", loops(fetch_connections));
                    let cost = measure::cost(proxy, &work).await?;
                    let title = format!("CPU per GB of FETCH, bodies of {text}");
                    let figure = Figure::new(format!("fetch_{size}_cpu_s_per_gb"), title, "s", 3);
                    self.note(figure, proxy.name, cost.seconds_per_gigabyte());
                }
            }
            Topic::Login => {
                let cost = measure::cost(proxy, &format!("login {}", loops(login_connections))).await?;
                let figure = Figure::new("login_cpu_us", "CPU per connection, login and logout", "µs", 1);
                self.note(figure, proxy.name, cost.micros_each());
            }
            Topic::Latency | Topic::Mail | Topic::Web | Topic::Kept | Topic::Idle | Topic::Edges => {}
        }
        Ok(())
    }

    /// Each proxy's latency less that of the backend itself in the same round.
    async fn latencies<'p>(&mut self, proxies: impl Iterator<Item = &'p Running<'p>>) -> Result<()> {
        let Plan { seconds, rate, paced_connections, .. } = self.plan;
        let work = format!("paced --rate {rate} --connections {paced_connections} --seconds {seconds}");
        let direct = measure::latency(&self.backend.direct(self.leg), &work).await?.micros();
        for proxy in proxies {
            let (proxied, cpu) = match measure::paced(proxy, &work).await {
                Ok((latency, cpu)) => (latency.micros(), cpu),
                Err(error) => {
                    self.failed(proxy.name, "latency", Err(error));
                    continue;
                }
            };
            let title = format!("CPU per NOOP round trip at {rate}/s");
            self.note(Figure::new("noop_paced_cpu_us", title, "µs", 2), proxy.name, cpu);
            for ((name, direct), proxied) in ["p50", "p99"].into_iter().zip(direct).zip(proxied) {
                let title = format!("added latency at {rate} NOOP/s, {name}");
                let figure = Figure::new(format!("added_{name}_us"), title, "µs", 0);
                self.note(figure, proxy.name, proxied - direct);
            }
        }
        Ok(())
    }

    async fn idle(&mut self, contender: &Contender) -> Result<()> {
        let proxy = contender.start(self.leg, Speech::Imap, self.backend).await?;
        let found = measure::idle(&proxy, "idle", &self.plan.idle).await;
        let found = found.with_context(|| proxy.log())?;
        for (count, bytes) in self.plan.idle.iter().zip(found) {
            let title = format!("private memory per session in IDLE, {count} of them");
            self.note(Figure::new(format!("idle_{count}_kb"), title, "kB", 2), proxy.name, bytes / 1e3);
        }
        proxy.stop().await
    }

    async fn edge(&mut self, contender: &Contender, habit: (&str, &str, bool)) -> Result<()> {
        let (habit, text, many) = habit;
        let count = if many { self.plan.silent } else { self.plan.slow };
        let healthy = format!("paced --rate 400 --connections 8 --seconds {}", self.plan.seconds);
        let proxy = contender.start(self.leg, Speech::Imap, self.backend).await?;
        let harm = measure::edge(&proxy, habit, count, &healthy).await.with_context(|| proxy.log())?;
        for (name, value) in ["p50", "p99"].into_iter().zip(harm.alone.micros()) {
            let title = format!("8 healthy sessions alone: NOOP, {name}");
            self.note(Figure::new(format!("healthy_{name}_us"), title, "µs", 0), proxy.name, value);
        }
        let title = format!("{count} {text}");
        let memory = Figure::new(format!("{habit}_kb"), format!("{title}: private memory each"), "kB", 2);
        self.note(memory, proxy.name, harm.memory / 1e3);
        let left = Figure::new(format!("{habit}_left_percent"), format!("{title}: not hung up on"), "%", 0);
        self.note(left.aside(), proxy.name, harm.left * 100.0);
        for (name, value) in ["p50", "p99"].into_iter().zip(harm.meanwhile.micros()) {
            let (key, title) =
                (format!("{habit}_healthy_{name}_us"), format!("{title}: healthy NOOP, {name}"));
            self.note(Figure::new(key, title, "µs", 0), proxy.name, value);
        }
        proxy.stop().await
    }

    #[expect(clippy::print_stderr, reason = "somebody waits for twenty minutes")]
    fn note(&mut self, figure: Figure, name: &str, value: f64) {
        let Figure { key, digits, unit, .. } = &figure;
        eprintln!("{:11} {name:10} {key:24} {value:10.digits$} {unit}", self.leg.name());
        self.book.note(self.leg, figure, name, value);
    }

    /// A proxy that cannot do something does not keep the others from it.
    #[expect(clippy::print_stderr, reason = "somebody waits for twenty minutes")]
    fn failed(&mut self, name: &str, what: &str, done: Result<()>) {
        if let Err(error) = done {
            let failure = format!("{} {name} {what}: {error:#}", self.leg.name());
            eprintln!("{failure}");
            self.book.failures.push(failure);
        }
    }
}

/// All proxies that can speak this, running.
async fn all<'a>(plan: &'a Plan, leg: Leg, speech: Speech, backend: &'a Backend) -> Result<Vec<Running<'a>>> {
    let mut all = Vec::new();
    for contender in plan.able(leg, speech) {
        let started = contender.start(leg, speech, backend).await;
        all.push(started.with_context(|| contender.name.clone())?);
    }
    Ok(all)
}

/// All of them, beginning with another one in every round.
fn turns<'a, T>(all: &[&'a T], round: usize) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let mut all = all.to_vec();
    let first = round % all.len().max(1);
    all.rotate_left(first);
    all.into_iter()
}
