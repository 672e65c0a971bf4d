//! The command line, what it shows, and the API with its client, against a scripted appliance.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
};

use clap::{CommandFactory as _, Parser as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
};

use crate::{
    admin::{
        api,
        appliance::{Appliance, Life, SessionRow},
        cli::{Cli, Command, Cutover, DEFAULT_CONFIG, Exit, Sessions},
        client::{Client, ClientError},
        command::{self, Output},
        observe, show, socket,
    },
    cutover::types::*,
    gate::Phase,
    session::holds::Summary,
    telemetry::{LogFormat, labels},
    topology::Epoch,
};

fn idle(active: &str) -> Status {
    Status {
        state: Stage::Idle,
        active: active.into(),
        active_since_ms: Some(1_700_000_000_000),
        epoch: Epoch(3),
        cutover: None,
        gate: Phase::Open,
        sessions: 212,
        held: 0,
        limbo: None,
        not_reached: vec![],
        journal: None,
        not_served: vec![],
    }
}

fn holding() -> Status {
    let running = Running {
        id: 7,
        from: "v4".into(),
        to: "v5".into(),
        since_ms: 1_700_000_000_000,
        doing: Some(Doing { what: "answers to what was sent".into(), ms: 1800 }),
        waits_for: vec!["2 writes: alice, bob".into()],
        budget_left_ms: Some(4200),
        way_back: "abort: v4 serves again, nothing is lost".into(),
    };
    Status { state: Stage::Holding, cutover: Some(running), gate: Phase::Shut, held: 14, ..idle("v4") }
}

fn done(outcome: Outcome) -> Report {
    let held = Summary { count: 14, p50_us: 812, p99_us: 12_345, max_us: 1_000_001 };
    Report {
        id: 7,
        from: "v4".into(),
        to: "v5".into(),
        outcome,
        reason: if outcome == Outcome::Done { String::new() } else { "barrier cdc: FAIL lag 12".into() },
        phases: vec![
            PhaseTime { name: "drain".into(), ms: 12 },
            PhaseTime { name: "fence".into(), ms: 1240 },
        ],
        hold: held,
        hold_own: held,
        sessions: 212,
        prewarmed: 200,
        kept: 211,
        moved: 210,
        messages: BTreeMap::from([("held".into(), 3), ("relayed".into(), 41)]),
        streams: BTreeMap::from([("events_moved".into(), 5), ("sockets_told".into(), 2)]),
        unmovable: BTreeMap::from([("pipe".into(), 1)]),
        pause_ms: 1560,
    }
}

fn item(name: &str, answer: Finding, saw: &str) -> Item {
    Item { name: name.into(), answer, saw: saw.into() }
}

fn plan(go: bool) -> Plan {
    let answer = if go { Finding::Pass } else { Finding::Unknown };
    let items =
        vec![item("capabilities", Finding::Pass, "both known"), item("check cdc", answer, "timed out")];
    Plan { go, from: "v4".into(), to: "v5".into(), items, way_back: "until the decision: abort".into() }
}

/// Plays cutover 7: each start publishes the given states and leaves the report.
struct Fake {
    status: watch::Sender<Status>,
    go: bool,
    script: Vec<Status>,
    report: Mutex<Option<Report>>,
    outcome: Outcome,
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn new(outcome: Outcome) -> Self {
        let ended = if outcome == Outcome::Done { idle("v5") } else { idle("v4") };
        Self {
            status: watch::Sender::new(idle("v4")),
            go: true,
            script: vec![holding(), ended],
            report: Mutex::default(),
            outcome,
            calls: Mutex::default(),
        }
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Appliance for Fake {
    fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    async fn plan(&self, to: &str) -> Result<Plan, Refusal> {
        if to == "v5" { Ok(plan(self.go)) } else { Err(Refusal::new(format!("no pool {to:?}"), "v4, v5")) }
    }

    async fn start(self: &Arc<Self>, to: &str) -> Result<u64, Refusal> {
        self.called(format!("start {to}"));
        let fake = self.clone();
        tokio::spawn(async move {
            for status in fake.script.clone() {
                if matches!(status.state, Stage::Idle | Stage::Soaking) {
                    *fake.report.lock().unwrap() = Some(done(fake.outcome));
                }
                fake.status.send_replace(status);
                tokio::task::yield_now().await;
            }
        });
        Ok(7)
    }

    fn close(&self) {
        self.called("close".into());
    }

    async fn abort(&self, reason: &str) -> Result<(), Refusal> {
        self.called(format!("abort {reason}"));
        Err(Refusal::new("the decision stands", "a cutover in the other direction"))
    }

    async fn adopt(&self, pool: &str, reason: &str) -> Result<(), Refusal> {
        self.called(format!("adopt {pool} {reason}"));
        Ok(())
    }

    fn report(&self) -> Option<Report> {
        self.report.lock().unwrap().clone()
    }

    fn sessions(&self) -> Vec<SessionRow> {
        vec![row()]
    }

    fn metrics(&self) -> String {
        "bascule_epoch 3\n".into()
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

fn row() -> SessionRow {
    SessionRow {
        id: 12,
        identity: "alice@example.org".into(),
        peer: "192.0.2.7:50123".into(),
        listener: "imaps".into(),
        protocol: "imap".into(),
        age_s: 3700,
        backend: Some("v4".into()),
        spare: Some("v5".into()),
        mailbox: Some("INBOX\x1b[2J".into()),
        idle: true,
        held: 2,
        writes: 0,
        reads: 1,
        upload: None,
        pipe: false,
        unmovable: None,
    }
}

/// A fake behind a real socket.
struct Rig {
    fake: Arc<Fake>,
    client: Client,
    life: watch::Sender<Life>,
    dir: tempfile::TempDir,
}

async fn rig(fake: Fake) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(socket::NAME);
    let listener = socket::bind(&path).await.unwrap();
    let (fake, life) = (Arc::new(fake), watch::Sender::new(Life::Serving));
    tokio::spawn(api::serve(listener, fake.clone(), life.subscribe()));
    Rig { fake, client: Client::new(path), life, dir }
}

const JSON: Output = Output { json: true };

async fn run(client: &Client, command: Cutover) -> Exit {
    command::cutover(command, client, JSON, |_, _, _| panic!("not offline")).await
}

fn start_v5() -> Cutover {
    Cutover::Start { to: "v5".into(), yes: true }
}

#[tokio::test]
async fn a_cutover_is_followed_to_its_report_and_exit_code() {
    for (outcome, exit) in
        [(Outcome::Done, Exit::Done), (Outcome::Aborted, Exit::Aborted), (Outcome::Limbo, Exit::Limbo)]
    {
        let rig = rig(Fake::new(outcome)).await;
        assert_eq!(run(&rig.client, start_v5()).await, exit);
        assert_eq!(run(&rig.client, Cutover::Report).await, exit);
        assert_eq!(*rig.fake.calls.lock().unwrap(), ["start v5"]);
    }
}

#[tokio::test]
async fn a_cutover_that_enters_limbo_does_not_hang_the_command() {
    let stuck = Status { state: Stage::Limbo, limbo: Some("release v4's fence".into()), ..holding() };
    let rig = rig(Fake { script: vec![holding(), stuck], ..Fake::new(Outcome::Done) }).await;
    assert_eq!(run(&rig.client, start_v5()).await, Exit::Limbo);
    assert_eq!(run(&rig.client, Cutover::Watch).await, Exit::Limbo);
    assert_eq!(command::status(&rig.client, JSON).await, Exit::Limbo);
}

#[tokio::test]
async fn soaking_is_not_waited_for() {
    let soaking = Status { state: Stage::Soaking, active: "v5".into(), gate: Phase::Open, ..holding() };
    let rig = rig(Fake { script: vec![holding(), soaking], ..Fake::new(Outcome::Done) }).await;
    assert_eq!(run(&rig.client, start_v5()).await, Exit::Done);
    assert_eq!(run(&rig.client, Cutover::Watch).await, Exit::Done);
}

#[tokio::test]
async fn a_cutover_of_an_earlier_process_has_no_report_and_is_not_waited_for() {
    let fake = Fake::new(Outcome::Done);
    let soaking = Status { state: Stage::Soaking, active: "v5".into(), gate: Phase::Open, ..holding() };
    fake.status.send_replace(soaking);
    let rig = rig(fake).await;
    assert_eq!(run(&rig.client, Cutover::Watch).await, Exit::Done);
}

#[tokio::test]
async fn a_plan_that_is_not_go_starts_nothing() {
    let rig = rig(Fake { go: false, ..Fake::new(Outcome::Done) }).await;
    assert_eq!(run(&rig.client, Cutover::Plan { to: "v5".into() }).await, Exit::Refused);
    assert_eq!(run(&rig.client, start_v5()).await, Exit::Refused);
    assert_eq!(run(&rig.client, Cutover::Plan { to: "v9&to=v5".into() }).await, Exit::Refused);
    assert!(rig.fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_cross_the_socket_whole() {
    let rig = rig(Fake::new(Outcome::Done)).await;
    let Err(ClientError::Refused(refusal)) = rig.client.abort("too late").await else {
        panic!("not refused")
    };
    assert_eq!(refusal, Refusal::new("the decision stands", "a cutover in the other direction"));
    assert_eq!(run(&rig.client, Cutover::Watch).await, Exit::Refused, "no cutover runs");
    assert_eq!(run(&rig.client, Cutover::Report).await, Exit::Refused, "there was none");
    assert_eq!(*rig.fake.calls.lock().unwrap(), ["abort too late"]);
}

#[tokio::test]
async fn nothing_starts_before_the_recovery_is_over_or_while_stopping() {
    let rig = rig(Fake::new(Outcome::Done)).await;
    for life in [Life::Starting, Life::Stopping] {
        rig.life.send_replace(life);
        let Err(ClientError::Refused(_)) = rig.client.start("v5").await else {
            panic!("{life:?}: not refused")
        };
        assert!(rig.client.status().await.is_ok(), "{life:?}: status is always answered");
    }
    assert!(rig.fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn adopt_goes_to_the_running_bascule_and_else_to_the_journal() {
    let rig = rig(Fake::new(Outcome::Done)).await;
    let adopt = || Cutover::Adopt { pool: "v5".into(), reason: "burnt".into(), unproved: false };
    assert_eq!(run(&rig.client, adopt()).await, Exit::Done);
    assert_eq!(*rig.fake.calls.lock().unwrap(), ["adopt v5 burnt"]);

    let nobody = Client::new("/nonexistent/control.sock".into());
    let mut offline = None;
    let exit = command::cutover(adopt(), &nobody, JSON, |pool, reason, _| {
        offline = Some(format!("{pool} {reason}"));
        Exit::Done
    })
    .await;
    assert_eq!((exit, offline.as_deref()), (Exit::Done, Some("v5 burnt")));
    assert_eq!(command::cutover(adopt(), &nobody, JSON, |_, _, _| Exit::Usage).await, Exit::Usage);
}

#[tokio::test]
async fn not_running_has_its_own_exit_code() {
    let nobody = Client::new("/nonexistent/control.sock".into());
    assert_eq!(command::status(&nobody, JSON).await, Exit::NotRunning);
    assert_eq!(run(&nobody, start_v5()).await, Exit::NotRunning);
}

#[tokio::test]
async fn a_bascule_that_dies_during_a_cutover_is_reported_as_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(socket::NAME);
    let listener = socket::bind(&path).await.unwrap();
    let fake = Arc::new(Fake { script: vec![holding()], ..Fake::new(Outcome::Done) });
    let mut changes = fake.watch();
    let life = watch::Sender::new(Life::Serving);
    // A runtime of its own dies with all its connections, as the process would.
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = listener.into_std().unwrap();
    let (served, subscribed) = (fake.clone(), life.subscribe());
    other.spawn(async move {
        api::serve(tokio::net::UnixListener::from_std(listener).unwrap(), served, subscribed).await;
    });
    let client = Client::new(path);
    let mut seen = client.watch().await.unwrap();
    let command = tokio::spawn(async move { run(&client, start_v5()).await });
    changes.wait_for(|status| status.cutover.is_some()).await.unwrap();
    while seen.next().await.unwrap().is_some_and(|status| status.cutover.is_none()) {}
    other.shutdown_background();
    assert_eq!(command.await.unwrap(), Exit::NotRunning);
}

/// What comes back on a request written by hand.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    let text = format!("{request} HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn whatever_is_not_understood_is_refused_in_json() {
    let rig = rig(Fake::new(Outcome::Done)).await;
    for (request, status) in [
        ("GET /v2/status", "404"),
        ("GET /v1/abort", "405"),
        ("GET /v1/plan", "400"),
        ("POST /v1/cutover", "400"),
        ("GET /v1/report", "404"),
    ] {
        let socket = tokio::net::UnixStream::connect(rig.dir.path().join(socket::NAME)).await.unwrap();
        let answer = exchange(socket, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(serde_json::from_str::<Refusal>(body).is_ok(), "{request}: {answer}");
    }
    assert!(rig.fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_monitoring_port_follows_the_life_of_the_process() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let life = watch::Sender::new(Life::Starting);
    tokio::spawn(observe::serve(listener, Arc::new(Fake::new(Outcome::Done)), life.subscribe()));
    let ask =
        async |request: &str| exchange(tokio::net::TcpStream::connect(address).await.unwrap(), request).await;

    assert!(ask("GET /healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("GET /readyz").await.ends_with("starting\n"));
    life.send_replace(Life::Serving);
    assert!(ask("GET /readyz").await.starts_with("HTTP/1.1 200 "));
    life.send_replace(Life::Stopping);
    assert!(ask("GET /readyz").await.starts_with("HTTP/1.1 503 "));
    assert!(ask("GET /metrics").await.ends_with("bascule_epoch 3\n"));
    assert!(ask("GET /v1/status").await.starts_with("HTTP/1.1 404 "), "the control API is not on this port");
}

#[tokio::test]
async fn sessions_and_status_cross_the_socket() {
    let rig = rig(Fake::new(Outcome::Done)).await;
    assert_eq!(rig.client.sessions().await.unwrap(), [row()]);
    assert_eq!(command::sessions(&rig.client, JSON).await, Exit::Done);
    assert_eq!(rig.client.status().await.unwrap(), idle("v4"));
}

#[test]
fn the_command_line_parses_as_documented() {
    Cli::command().debug_assert();
    let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
    assert_eq!(parse("bascule init --active v4").unwrap(), Command::Init { active: "v4".into() });
    assert_eq!(parse("bascule check-config --json").unwrap(), Command::CheckConfig);
    assert_eq!(parse("bascule serve --log json").unwrap(), Command::Serve { log: LogFormat::Json });
    assert_eq!(parse("bascule serve").unwrap(), Command::Serve { log: LogFormat::Text });
    assert!(parse("bascule serve --log xml").is_err());
    assert_eq!(parse("bascule sessions list").unwrap(), Command::Sessions(Sessions::List));
    assert_eq!(parse("bascule cutover start v5 --yes --json").unwrap(), Command::Cutover(start_v5()));
    let reason = "asked for by the operator".into();
    assert_eq!(parse("bascule cutover abort").unwrap(), Command::Cutover(Cutover::Abort { reason }));
    assert!(parse("bascule cutover adopt v5").is_err(), "adopt needs a reason");
    assert!(parse("bascule cutover adopt v5 --reason=").is_err(), "a reason has words");
    let long = parse(&format!("bascule cutover abort --reason={}", "x".repeat(501))).unwrap_err();
    assert!(long.to_string().contains("500 bytes or less, these are 501"), "{long}");
    assert!(parse("bascule init").is_err(), "init needs the active pool");
    assert!(parse("bascule cutover start").is_err());
}

#[test]
fn a_file_that_is_being_edited_still_leads_to_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bascule.toml");
    let text = "[server]\nhostname = \"m\"\nstate_dir = \"/var/lib/bascule\" # here\n";
    fs::write(&path, text).unwrap();
    let whole = format!("{:?}", command::client(&path).unwrap());
    fs::write(&path, format!("broken = [\n{text}")).unwrap();
    assert_eq!(format!("{:?}", command::client(&path).unwrap()), whole);
    fs::write(&path, "broken = [\n").unwrap();
    assert!(command::client(&path).unwrap_err().instead.contains("--config"));
}

#[test]
fn the_configuration_is_named_by_option_then_variable_then_default() {
    let path = |line: &str, variable: Option<&str>| {
        Cli::try_parse_from(line.split(' ')).unwrap().config_path(variable.map(Into::into))
    };
    assert_eq!(path("bascule --config a.toml status", Some("b.toml")).as_os_str(), "a.toml");
    assert_eq!(path("bascule status --config a.toml", Some("b.toml")).as_os_str(), "a.toml");
    assert_eq!(path("bascule status", Some("b.toml")).as_os_str(), "b.toml");
    assert_eq!(path("bascule status", Some("")).as_os_str(), DEFAULT_CONFIG);
}

#[test]
fn help_names_every_exit_code_and_each_command_has_an_example() {
    let top = Cli::command().render_long_help().to_string();
    for exit in [Exit::Done, Exit::Refused, Exit::Usage, Exit::Aborted, Exit::Limbo, Exit::NotRunning] {
        assert!(top.contains(&format!("\n    {}   ", exit as u8)), "{exit:?} is missing in:\n{top}");
    }
    fn leaves(command: &clap::Command) {
        if command.has_subcommands() {
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(leaves);
        } else {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Exits ") && help.contains("Example"), "{}:\n{help}", command.get_name());
        }
    }
    leaves(&Cli::command());
}

#[test]
fn a_server_that_cannot_be_reached_comes_next() {
    let down = vec!["imap [::1]:143: refused (for 4 s)".to_owned(), "lmtp a:24: refused (for 2 s)".into()];
    for state in [Stage::Idle, Stage::Soaking] {
        let text = show::status(&Status { state, not_reached: down.clone(), ..idle("v4") }, 0);
        assert!(text.contains("NOT REACHED") && text.contains("lmtp a:24: refused"), "{text}");
        assert!(text.contains("bring back imap [::1]:143 of pool v4:"), "{text}");
    }
    let text = show::status(&Status { not_reached: down, ..holding() }, 0);
    assert!(text.contains("bascule cutover abort"), "first the cutover: {text}");
}

#[test]
fn status_says_what_is_active_since_when_and_what_to_do() {
    let now = 1_700_000_000_000 + 2 * 86_400_000 + 3 * 3_600_000 + 5;
    let text = show::status(&idle("v4"), now);
    assert!(text.contains("v4 (epoch 3), since 2023-11-14T22:13:20Z (2days 3h ago)"), "{text}");
    assert!(text.contains("idle: no cutover runs") && text.contains("bascule cutover plan"), "{text}");

    let text = show::status(&holding(), 1_700_000_003_000);
    assert!(text.contains("waits for     answers to what was sent (for 1.80 s); 2 writes: alice"), "{text}");
    for part in ["7: v4 → v5, begun 3s ago", "alice, bob", "4.20 s", "nothing is lost", "shut", "held: 14"]
    {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(text.contains("bascule cutover abort"), "{text}");

    let limbo = Status { state: Stage::Limbo, limbo: Some("release v4's fence".into()), ..holding() };
    let text = show::status(&limbo, now);
    assert!(
        text.contains("LIMBO") && text.contains("release v4's fence") && text.contains("adopt"),
        "{text}"
    );
    assert!(!text.contains("bascule cutover abort"), "an abort cannot help in Limbo:\n{text}");
}

#[test]
fn every_state_has_a_meaning_and_a_next_step() {
    for state in Stage::ALL {
        let text = show::status(&Status { state, ..holding() }, 0);
        assert!(text.contains(&format!("{}: {}", state.name(), show::meaning(state))), "{text}");
        assert_eq!(serde_json::to_value(state).unwrap(), state.name(), "JSON and text name it alike");
        assert!(labels::STATES.contains(&state.name()), "{state} has no metric");
    }
}

#[test]
fn every_phase_of_the_gate_has_one_name() {
    for gate in [Phase::Open, Phase::Shut, Phase::Expired, Phase::Deciding, Phase::Decided, Phase::FailStop] {
        assert_eq!(serde_json::to_value(gate).unwrap(), gate.name());
        assert!(labels::GATE.contains(&gate.name()));
    }
}

#[test]
fn a_plan_shows_each_answer_in_columns() {
    let text = show::plan(&plan(false));
    assert!(text.starts_with("NO-GO: v4 → v5\n"), "{text}");
    assert!(text.contains("\nanswer   what          seen\n"), "{text}");
    assert!(text.contains("\npass     capabilities  both known\n"), "{text}");
    assert!(text.contains("\nUNKNOWN  check cdc     timed out\n"), "{text}");
    assert!(show::plan(&plan(true)).starts_with("GO:"));
    assert_eq!(plan(false).refusal().why, ["check cdc: timed out"]);
}

#[test]
fn a_report_shows_phases_holds_and_who_was_given_up() {
    let text = show::report(&done(Outcome::Aborted));
    let parts = [
        "aborted: v4 serves as before",
        "lag 12",
        "1.56 s",
        "fence 1.24 s",
        "212: 211 kept, 210 moved",
        "3 held, 41 relayed",
        "1 pipe",
    ];
    for part in parts {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(text.contains("\nhold_own       14     0.812 ms  12.345 ms  1000.001 ms\n"), "{text}");
}

#[test]
fn sessions_are_a_table_without_control_characters() {
    let text = show::sessions(&[row()]);
    let parts = [
        "alice@example.org",
        "1h 1m",
        "v4+v5",
        "idle, 1 reading, 2 held",
        "INBOX\u{fffd}[2J",
        "\nsessions: 1\n",
    ];
    for part in parts {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn refusals_say_why_and_what_instead() {
    let text = show::refusal(&Refusal { why: vec!["a".into(), "b".into()], instead: "c".into() });
    assert_eq!(text, "bascule: a\nbascule: b\ninstead: c\n");
}

#[test]
fn the_socket_is_found_in_a_configuration_that_is_otherwise_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bascule.toml");
    fs::write(&path, "[server]\nstate_dir = \"/run/b\"\nnonsense = 1\n[pool]\n").unwrap();
    assert!(format!("{:?}", command::client(&path).unwrap()).contains("/run/b/control.sock"));
    fs::write(&path, "[server]\n").unwrap();
    assert!(command::client(&path).unwrap_err().why[0].contains("state_dir"));
    assert!(command::client(&dir.path().join("none")).unwrap_err().instead.contains("--config"));
}
