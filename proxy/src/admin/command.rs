//! What each command of the command line does with the control API.
//!
//! Rule: results go to stdout, everything else to stderr, and every way out has its exit code.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{
    admin::{
        cli::{Cutover, Exit},
        client::{Client, ClientError},
        progress::Progress,
        show, socket,
    },
    cutover::types::{Outcome, Refusal, Report, Stage, Status},
};

/// The client of the bascule that this configuration belongs to. Only `state_dir` is read, so that status and
/// abort work while somebody is editing the rest.
pub fn client(config: &Path) -> Result<Client, Refusal> {
    #[derive(serde::Deserialize)]
    struct File {
        server: Server,
    }
    #[derive(serde::Deserialize)]
    struct Server {
        state_dir: std::path::PathBuf,
    }
    let broken = |e: &dyn std::fmt::Display| {
        let why = format!("{}: {e}", config.display());
        Refusal::new(why, "name the configuration with --config FILE or BASCULE_CONFIG")
    };
    let text = std::fs::read_to_string(config).map_err(|e| broken(&e))?;
    let state_dir = match toml::from_str::<File>(&text) {
        Ok(file) => file.server.state_dir,
        // A hold does not wait until somebody has found the missing comma: no other table has this key.
        Err(error) => {
            text.lines()
                .find_map(|line| toml::from_str::<Server>(line).ok())
                .ok_or_else(|| broken(&error.message()))?
                .state_dir
        }
    };
    Ok(Client::new(state_dir.join(socket::NAME)))
}

/// Where results and refusals go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
}

impl Output {
    /// A result, on stdout.
    pub fn say<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) {
        let text = if self.json { json(value) } else { text(value) };
        // Whoever closed the pipe has read enough.
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }

    /// Why there is none: on stderr, as JSON on stdout.
    pub fn refuse(self, refusal: &Refusal) {
        if self.json {
            self.say(refusal, show::refusal);
        } else {
            tell(&show::refusal(refusal));
        }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string_pretty(value);
    text.map_or_else(|e| format!("{{\"why\": [\"{e}\"], \"instead\": \"\"}}\n"), |text| text + "\n")
}

/// Words for whoever sits there, on stderr.
pub fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `bascule status`
pub async fn status(client: &Client, output: Output) -> Exit {
    let result = client.status().await.map(|status| {
        output.say(&status, |s| show::status(s, now_ms()));
        if status.limbo.is_some() { Exit::Limbo } else { Exit::Done }
    });
    ended(result, output)
}

/// `bascule sessions list`
pub async fn sessions(client: &Client, output: Output) -> Exit {
    let result = client.sessions().await.map(|sessions| {
        output.say(&sessions, |s| show::sessions(s));
        Exit::Done
    });
    ended(result, output)
}

/// `bascule cutover …`, `adopt` without a running bascule excepted: that is up to `offline`, which says why it failed.
pub async fn cutover(
    command: Cutover,
    client: &Client,
    output: Output,
    offline: impl FnOnce(&str, &str, bool) -> Exit,
) -> Exit {
    let result = match command {
        Cutover::Plan { to } => plan(client, output, &to).await,
        Cutover::Start { to, yes } => start(client, output, &to, yes).await,
        Cutover::Watch => watch(client, output).await,
        Cutover::Abort { reason } => client.abort(&reason).await.map(|()| {
            let text = "The abort has begun. `bascule cutover watch` follows it.\n";
            output.say(&serde_json::json!({}), |_| text.to_owned());
            Exit::Done
        }),
        Cutover::Adopt { pool, reason, unproved } => {
            let offline = || offline(&pool, &reason, unproved);
            adopt(client, output, &pool, &reason, offline).await
        }
        Cutover::Report => report(client, output).await,
    };
    ended(result, output)
}

/// The exit code of a call that may have failed, after saying why.
fn ended(result: Result<Exit, ClientError>, output: Output) -> Exit {
    let (exit, refusal) = match result {
        Ok(exit) => return exit,
        Err(ClientError::Refused(refusal)) => (Exit::Refused, refusal),
        Err(e @ ClientError::NotRunning { .. }) => {
            (Exit::NotRunning, Refusal::new(e.to_string(), "start it: bascule serve"))
        }
        Err(e @ ClientError::Forbidden { .. }) => {
            (Exit::Refused, Refusal::new(e.to_string(), "run this as the user of bascule, or as root"))
        }
        Err(e @ (ClientError::Lost(_) | ClientError::Ended)) => {
            let instead = "`bascule serve` undoes or completes what its journal says was begun";
            (Exit::NotRunning, Refusal::new(e.to_string(), instead))
        }
        Err(e @ ClientError::Foreign(_)) => (Exit::Refused, Refusal::new(e.to_string(), "")),
    };
    output.refuse(&refusal);
    exit
}

async fn plan(client: &Client, output: Output, to: &str) -> Result<Exit, ClientError> {
    let plan = client.plan(to).await?;
    output.say(&plan, show::plan);
    Ok(if plan.go { Exit::Done } else { Exit::Refused })
}

async fn start(client: &Client, output: Output, to: &str, yes: bool) -> Result<Exit, ClientError> {
    if !yes && !io::stdin().is_terminal() {
        output.refuse(&Refusal::new("there is no terminal to ask for confirmation", "say --yes"));
        return Ok(Exit::Usage);
    }
    let plan = client.plan(to).await?;
    if !plan.go && output.json {
        return Err(ClientError::Refused(plan.refusal()));
    }
    if !output.json {
        output.say(&plan, show::plan);
    }
    if !plan.go {
        return Ok(Exit::Refused);
    }
    if !yes && !confirmed(to) {
        output.refuse(&Refusal::new("not confirmed, nothing was started", ""));
        return Ok(Exit::Refused);
    }
    let id = client.start(to).await?;
    follow(client, output, id).await
}

/// Asks for the pool's name.
fn confirmed(to: &str) -> bool {
    tell(&format!("\nType the pool's name ({}) to start the cutover: ", show::clean(to)));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).is_ok() && line.trim() == to
}

async fn watch(client: &Client, output: Output) -> Result<Exit, ClientError> {
    match client.status().await? {
        Status { limbo: Some(_), .. } => Ok(status(client, output).await),
        Status { cutover: Some(running), .. } => follow(client, output, running.id).await,
        Status { cutover: None, .. } => {
            let instead = "bascule cutover report shows the last one";
            Err(ClientError::Refused(Refusal::new("no cutover runs", instead)))
        }
    }
}

async fn report(client: &Client, output: Output) -> Result<Exit, ClientError> {
    let none = || ClientError::Refused(Refusal::new("there has been no cutover yet", ""));
    Ok(finish(&client.report().await?.ok_or_else(none)?, output))
}

async fn adopt(
    client: &Client,
    output: Output,
    pool: &str,
    reason: &str,
    offline: impl FnOnce() -> Exit,
) -> Result<Exit, ClientError> {
    match client.adopt(pool, reason).await {
        Err(ClientError::NotRunning { .. }) => {
            let exit = offline();
            if exit != Exit::Done {
                return Ok(exit);
            }
        }
        answer => answer?,
    }
    output.say(&serde_json::json!({ "active": pool }), |_| {
        format!("{} is the active pool.\n", show::clean(pool))
    });
    Ok(Exit::Done)
}

/// Shows cutover `id` until every session has moved or is back, then its report.
async fn follow(client: &Client, output: Output, id: u64) -> Result<Exit, ClientError> {
    let mut changes = client.watch().await?;
    let mut progress = Progress::new(!output.json && io::stderr().is_terminal());
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut interrupted = Box::pin(tokio::signal::ctrl_c());
    let mut seen = None;
    loop {
        let status = tokio::select! {
            change = changes.next() => change?.ok_or(ClientError::Ended)?,
            _ = tick.tick() => {
                progress.draw();
                continue;
            }
            _ = &mut interrupted => {
                progress.clear();
                tell("\nThe cutover goes on. Follow it: bascule cutover watch. Go back: bascule cutover abort.\n");
                return Ok(Exit::Interrupted);
            }
        };
        progress.update(&status);
        if status.limbo.is_some() {
            progress.clear();
            output.say(&status, |s| show::status(s, now_ms()));
            return Ok(Exit::Limbo);
        }
        let ours = status.cutover.clone().filter(|running| running.id == id);
        let runs = ours.is_some() && status.state != Stage::Soaking;
        seen = ours.or(seen);
        if runs {
            continue;
        }
        if let Some(report) = client.report().await?.filter(|report| report.id == id) {
            progress.clear();
            return Ok(finish(&report, output));
        }
        // Right after the start the status may still be the one from before. Afterwards only a cutover that an
        // earlier process decided has no report.
        if let Some(running) = &seen {
            progress.clear();
            output.say(&status, |s| show::status(s, now_ms()));
            return Ok(if status.active == running.to { Exit::Done } else { Exit::Aborted });
        }
    }
}

fn finish(report: &Report, output: Output) -> Exit {
    output.say(report, show::report);
    match report.outcome {
        Outcome::Done => Exit::Done,
        Outcome::Aborted => Exit::Aborted,
        Outcome::Limbo => Exit::Limbo,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
