//! Two in-memory IMAP platforms as one process, and the client of its control socket.
//!
//! Rule: `serve` ends when its standard input does, so that it never outlives who started it.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use bascule_tests::{
    fake::{Options, Store, control, smtp},
    process,
};
use clap::Parser;
use tokio::net::UnixListener;

/// In-memory IMAP platforms for demos and tests.
#[derive(Debug, Parser)]
enum Command {
    /// Start two platforms; their addresses are the first two lines of output.
    Serve(Serve),
    /// Give one order: `fence NAME off|readonly|refuse|stop`, `leak NAME on|off`, `promote NAME`,
    /// `demote NAME`, `caught-up FROM`, `lag FROM MS`, `pause FROM`, `resume FROM`, `say NAME LINE`,
    /// `cut NAME`, `address NAME [imap|relay|submission|lmtp]`, `counters NAME`, `logins NAME`, `queue NAME`,
    /// `hold-queue NAME on|off`, `die NAME kept|lost`.
    Ctl {
        /// The control socket.
        socket: PathBuf,
        /// The order.
        #[arg(required = true, trailing_var_arg = true)]
        order: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where to listen for orders.
    #[arg(long)]
    socket: PathBuf,
    /// The names of the platforms.
    #[arg(long, num_args = 2, default_values = ["old", "new"])]
    names: Vec<String>,
    /// Accounts: user1, user2, …, and the probes probe1 and probe2.
    #[arg(long, default_value_t = 10)]
    users: usize,
    /// Messages in every INBOX.
    #[arg(long, default_value_t = 20)]
    messages: usize,
    /// The password of all accounts.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Replication is so late, milliseconds.
    #[arg(long, default_value_t = 20)]
    lag: u64,
    /// Doors for mail: a relay, submission and LMTP for example.org.
    #[arg(long)]
    mail: bool,
    /// One store under both platforms instead of replication.
    #[arg(long)]
    shared: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Serve(serve) => {
            run(serve).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Ctl { socket, order } => {
            let reply = control::ask(&socket, &order.join(" ")).await?;
            say(&reply.text)?;
            Ok(ExitCode::from(reply.code))
        }
    }
}

async fn run(serve: Serve) -> anyhow::Result<()> {
    let [first, second] = serve.names.as_slice() else { anyhow::bail!("two names are needed") };
    let names = [first.as_str(), second.as_str()];
    let filled = || {
        let store = Store::new(&serve.password);
        fill(&store, serve.users, serve.messages);
        store
    };
    let options = Options { smtp: serve.mail.then(smtp::Options::default), ..Options::default() };
    let pair = if serve.shared {
        control::Pair::shared(names, filled(), options).await?
    } else {
        control::Pair::replicated(names, [filled(), filled()], Duration::from_millis(serve.lag), options)
            .await?
    };
    let socket = UnixListener::bind(&serve.socket).with_context(|| serve.socket.display().to_string())?;
    for name in names {
        say(&pair.platform(name).context("no such platform")?.address().to_string())?;
    }
    tokio::select! {
        served = Arc::new(pair).serve(socket) => served?,
        () = process::input_ends() => {}
    }
    Ok(())
}

/// The same on every store that is to be a replica: same messages, same UIDs.
fn fill(store: &Store, users: usize, messages: usize) {
    let names = (1..=users).map(|n| format!("user{n}")).chain(["probe1".into(), "probe2".into()]);
    for user in names {
        store.add_user(&user);
        for n in 1..=messages {
            let body = format!(
                "From: someone@example.org\r\nTo: {user}@example.org\r\nSubject: Message {n} for {user}\r\n\
                 Message-ID: <{user}.{n}@example.org>\r\n\r\nThis is message {n}.\r\n"
            );
            store.deliver(&user, "INBOX", body.as_bytes());
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
