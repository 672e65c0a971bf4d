//! HTTP under load while everything moves there and back: `tests/run load http MINUTES`, half a minute of it otherwise.
//!
//! Rule: nobody asks twice, and nobody is patient with anything but a success: an answer other than 2xx and a connection
//! that ends fail the test. What was posted is counted while it runs.

use std::{
    collections::{BTreeSet, HashSet},
    io::Write as _,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bascule_tests::{
    http::{Answer, Client, Two},
    process,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{USERS, plan};
use crate::fakes::{
    rig::Rig,
    windows::{Waits, Window, cutover, cutovers, duration, memory},
};

/// Connections of our own clients: HTTP/1.1 in clear text, over TLS, and HTTP/2.
const OWN: [usize; 3] = [8, 6, 3];
/// Requests of one HTTP/2 connection at once.
const STREAMS: usize = 6;

/// What was asked and answered.
#[derive(Default)]
struct Book {
    waits: Waits,
    posted: Mutex<HashSet<String>>,
    next: AtomicUsize,
    bytes: AtomicUsize,
}

/// What was found of what was posted.
#[derive(Default)]
struct Found {
    once: HashSet<String>,
    doubled: Vec<String>,
    by_wrk: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_all_kinds_while_everything_moves_there_and_back() {
    let rig = Arc::new(plan().limits("http.header = \"60s\"\n").start(USERS).await);
    rig.web().iter().for_each(|web| web.forget());
    let book = Arc::new(Book::default());
    let (leave, leaving) = watch::channel(false);
    let mut crowd = crowd(&rig, &book, &leaving);
    let mut tools = tools(&rig);
    let end = Instant::now() + duration();
    let (mut found, mut windows) = (Found::default(), Vec::new());
    for to in ["new", "old"].into_iter().cycle() {
        tokio::select! {
            () = sleep(Duration::from_millis(fastrand::u64(500..3000))) => {}
            ended = crowd.join_next() => panic!("a client ended: {ended:?}"),
        }
        windows.push(cutover(&rig, to).await);
        found.take(&rig);
        // Everybody back where they began.
        if to == "old" && Instant::now() > end {
            break;
        }
    }
    leave.send_replace(true);
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap().unwrap();
    }
    let mut said = Vec::new();
    while let Some(ended) = tools.join_next().await {
        said.push(ended.unwrap().unwrap());
    }
    found.take(&rig);
    print(&book, &windows, &said, &found, memory(&rig.proxy, "VmHWM"));
    judge(&book, &said, &found);
    assert!(windows.len() > 1);
}

impl Found {
    fn take(&mut self, rig: &Rig) {
        for effect in rig.shelf.take_effects() {
            let id = effect.target.strip_prefix("/effect/").expect("only effects are posted").to_owned();
            let new = if id.starts_with("wrk") {
                self.by_wrk.insert(id.clone())
            } else {
                self.once.insert(id.clone())
            };
            if !new {
                self.doubled.push(id);
            }
        }
    }
}

// ---- clients of our own -------------------------------------------------------------------------------------

fn crowd(rig: &Arc<Rig>, book: &Arc<Book>, leaving: &watch::Receiver<bool>) -> JoinSet<Result<()>> {
    let mut crowd = JoinSet::new();
    for (kind, count) in OWN.into_iter().enumerate() {
        for _ in 0..count {
            let (rig, book, leaving) = (rig.clone(), book.clone(), leaving.clone());
            crowd.spawn(async move {
                match kind {
                    0 => one(rig.browser().await, &book, &leaving).await,
                    1 => one(rig.secure_browser().await, &book, &leaving).await,
                    _ => two(rig.two().await, &book, &leaving).await,
                }
            });
        }
    }
    crowd
}

async fn one(mut client: Client, book: &Book, leaving: &watch::Receiver<bool>) -> Result<()> {
    while !*leaving.borrow() {
        let asked = Asked::any(book);
        let since = Instant::now();
        let answer = client.ask(asked.method, &asked.target, &asked.body).await;
        asked.answered(answer.map_err(Into::into), book, "1.1", since)?;
    }
    Ok(())
}

async fn two(client: Two, book: &Arc<Book>, leaving: &watch::Receiver<bool>) -> Result<()> {
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (mut client, book, leaving) = (client.clone(), book.clone(), leaving.clone());
        streams.spawn(async move {
            while !*leaving.borrow() {
                let asked = Asked::any(&book);
                let since = Instant::now();
                let answer = client.ask(asked.method, &asked.target, &asked.body).await;
                asked.answered(answer, &book, "2", since)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = streams.join_next().await {
        ended??;
    }
    Ok(())
}

/// One request.
struct Asked {
    method: &'static str,
    target: String,
    body: Vec<u8>,
    id: String,
}

impl Asked {
    fn any(book: &Book) -> Self {
        let id = format!("own-{}", book.next.fetch_add(1, Ordering::Relaxed));
        // Mostly small; some are larger than what is kept of a body.
        let size = match fastrand::u32(0..100) {
            0..80 => fastrand::usize(1..2_000),
            80..97 => fastrand::usize(2_000..64_000),
            _ => fastrand::usize(64_000..400_000),
        };
        let (method, target, size) = match fastrand::u32(0..10) {
            0..5 => ("POST", format!("/effect/{id}"), size),
            5..7 => ("PUT", format!("/dav/{}", fastrand::u32(0..50)), size),
            _ => ("GET", format!("/page/{id}"), 0),
        };
        Self { method, target, body: vec![b'x'; size], id }
    }

    fn answered(self, answer: Result<Answer>, book: &Book, version: &str, since: Instant) -> Result<()> {
        let answer = answer
            .with_context(|| format!("{} {} of {} bytes", self.method, self.target, self.body.len()))?;
        ensure!(answer.ok(), "{} {} of {} bytes: {answer:?}", self.method, self.target, self.body.len());
        if self.method == "GET" {
            ensure!(answer.text().ends_with(&self.target), "{}: {answer:?}", self.target);
        }
        book.waits.note(&format!("{} {version}", self.method), since);
        book.bytes.fetch_add(self.body.len(), Ordering::Relaxed);
        if self.method == "POST" {
            book.posted.lock().unwrap().insert(self.id);
        }
        Ok(())
    }
}

// ---- clients of others --------------------------------------------------------------------------------------

/// What a tool has said.
struct Said {
    name: &'static str,
    text: String,
}

/// Asks with ids of its own, and says at its end what went wrong.
const WRK: &str = r#"
local threads = {}
setup = function(thread) thread:set("me", #threads); table.insert(threads, thread) end
init = function(args) n, good, others = 0, 0, 0 end
request = function() n = n + 1; return wrk.format("POST", "/effect/wrk-" .. me .. "-" .. n, nil, "from wrk") end
response = function(status) if status == 201 then good = good + 1 else others = others + 1 end end
done = function(summary, latency, requests)
  local e, good, wrong = summary.errors, 0, 0
  for _, thread in ipairs(threads) do good, wrong = good + thread:get("good"), wrong + thread:get("others") end
  io.write(string.format("answered %d wrong %d\n", good, wrong + e.connect + e.read + e.write + e.timeout))
end
"#;
/// Connections of wrk.
const WRK_CONNECTIONS: usize = 8;

fn tools(rig: &Rig) -> JoinSet<Result<Said>> {
    let seconds = duration().as_secs().to_string();
    let (http, https) = (rig.proxy.http(), rig.proxy.https());
    let script = rig.proxy.path("post.lua");
    std::fs::write(&script, WRK).unwrap();
    let connections = WRK_CONNECTIONS.to_string();
    let commands: [(&'static str, Vec<String>); 3] = [
        (
            "wrk",
            words(&[
                "-t1",
                "-c",
                &connections,
                "-d",
                &seconds,
                "--timeout",
                "60s",
                "-s",
                script.to_str().unwrap(),
            ]),
        ),
        ("h2load 2", words(&["-D", &seconds, "-c4", "-m8", "-t1", &format!("https://{https}/h2")])),
        ("h2load 1.1", words(&["-D", &seconds, "-c4", "-t1", "--h1", &format!("https://{https}/h1")])),
    ];
    let mut tools = JoinSet::new();
    for (name, mut arguments) in commands {
        if name == "wrk" {
            arguments.push(format!("http://{http}/"));
        }
        tools.spawn(async move {
            let mut command = process::tied(name.split(' ').next().unwrap_or(name));
            command.args(&arguments).stdin(Stdio::null());
            let output = command.output().await.context(name)?;
            ensure!(output.status.success(), "{name}: {output:?}");
            Ok(Said { name, text: String::from_utf8_lossy(&output.stdout).into_owned() })
        });
    }
    tools
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Said {
    /// Answers of 2xx, and everything that was not: other answers, requests and connections without one.
    fn counts(&self) -> (usize, usize) {
        match self.name {
            "wrk" => {
                let [good, wrong] = self.numbers("answered ");
                (good, wrong)
            }
            _ => {
                let [.., failed, errored, late]: [usize; 7] = self.numbers("requests: ");
                let [good, redirects, clients, servers] = self.numbers("status codes: ");
                (good, redirects + clients + servers + failed + errored + late)
            }
        }
    }

    /// Those of the line that begins so.
    fn numbers<const N: usize>(&self, begin: &str) -> [usize; N] {
        let line = self.text.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_default();
        let words = line.split([' ', ',']);
        let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().unwrap_or_else(|_| panic!("{}: {begin}: {}", self.name, self.text))
    }
}

// ---- what came of it ----------------------------------------------------------------------------------------

fn judge(book: &Book, said: &[Said], found: &Found) {
    let posted = book.posted.lock().unwrap();
    assert!(
        !posted.is_empty() && posted.is_subset(&found.once),
        "lost: {:?}",
        posted.difference(&found.once)
    );
    assert_eq!(found.once.len(), posted.len(), "everything that was posted was answered");
    assert_eq!(found.doubled, Vec::<String>::new());
    for tool in said {
        let (good, wrong) = tool.counts();
        assert!(good > 0 && wrong == 0, "{}: {}", tool.name, tool.text);
        if tool.name == "wrk" {
            // Its last requests were not waited for.
            let more = found.by_wrk.len().checked_sub(good);
            assert!(
                more.is_some_and(|more| more <= WRK_CONNECTIONS),
                "{good} answered, {} found",
                found.by_wrk.len()
            );
        }
    }
}

fn print(book: &Book, windows: &[Window], said: &[Said], found: &Found, memory: u64) {
    let requests = book.next.load(Ordering::Relaxed);
    let posted = book.posted.lock().unwrap().len();
    let mut text = format!(
        "load: {requests} requests with {} MB of bodies by our own clients, {} cutovers; {posted} posts answered, {} found, \
         doubled {}\nload: peak memory of bascule {} MB\n",
        book.bytes.load(Ordering::Relaxed) / 1_000_000,
        windows.len(),
        found.once.len(),
        found.doubled.len(),
        memory / 1_000_000,
    );
    for tool in said {
        let (good, wrong) = tool.counts();
        text += &format!("load: {}: {good} answered 2xx, {wrong} not", tool.name);
        text +=
            &if tool.name == "wrk" { format!("; {} effects\n", found.by_wrk.len()) } else { "\n".to_owned() };
    }
    text += &cutovers(windows);
    text += &book.waits.held(windows);
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
