//! Puts the parts together: which command needs what, and the start of the proxy itself.
//!
//! Rule: commands that look at or change a running bascule go through its socket; the others work on files.

mod capabilities;
mod farewells;
mod listen;
mod local;
mod plane;
mod process;
mod relays;
mod reload;
mod serve;
pub(crate) mod stop;

use std::{env, path::Path};

use crate::{
    admin::{
        cli::{Cli, Command, Exit, Sessions},
        client::Client,
        command::{self, Output},
    },
    cutover::types::Refusal,
};

/// Carries the command line out.
pub fn run(cli: Cli) -> Exit {
    let path = cli.config_path(env::var_os("BASCULE_CONFIG"));
    let output = Output { json: cli.json };
    match cli.command {
        Command::Init { active } => local::ended(local::init(&path, &active, output), output),
        Command::CheckConfig => local::ended(local::check(&path, output), output),
        Command::Serve { log } => local::ended(serve::serve(&path, log), output),
        Command::Status => remote(&path, output, async |client| command::status(client, output).await),
        Command::Sessions(Sessions::List) => {
            remote(&path, output, async |client| command::sessions(client, output).await)
        }
        Command::Cutover(cutover) => remote(&path, output, async |client| {
            let offline = |pool: &str, reason: &str, unproved: bool| {
                local::ended(local::adopt(&path, pool, reason, unproved), output)
            };
            command::cutover(cutover, client, output, offline).await
        }),
    }
}

/// The command line cannot be read, or asks for help.
pub fn misspoken(error: &clap::Error) -> Exit {
    if !error.use_stderr() || !env::args_os().any(|word| word == "--json") {
        error.exit();
    }
    let text = error.to_string();
    let why = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    Output { json: true }.refuse(&Refusal::new(why, "see `bascule --help`"));
    Exit::Usage
}

/// Runs what talks to a running bascule.
fn remote(path: &Path, output: Output, work: impl AsyncFnOnce(&Client) -> Exit) -> Exit {
    let client = match command::client(path) {
        Ok(client) => client,
        Err(refusal) => {
            output.refuse(&refusal);
            return Exit::Usage;
        }
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work(&client)),
        Err(error) => {
            output.refuse(&Refusal::new(format!("no runtime: {error}"), ""));
            Exit::Refused
        }
    }
}
