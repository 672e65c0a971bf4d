//! A browser with a page, a stream of events and a WebSocket, while Dovecot and the web servers beside it change.
//!
//! Rule: nobody looks but the browser itself: nothing failed for it, its console is empty, and it heard every event once.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bascule_tests::{
    bascule::{Bascule, Ran},
    dovecot::{Options, Pair},
    web::{Browser, WebServer},
};
use serde_json::{Value, json};

use super::scene::patient;

/// Writes an event every few milliseconds until it is asked how many there are, or dropped.
struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Publisher {
    fn start(folder: &Path) -> Self {
        let mut news = OpenOptions::new().create(true).append(true).open(folder.join("news")).unwrap();
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                news.write_all(format!("news {count}\n").as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(7));
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A picture for whoever wants to see it, in the folder BASCULE_PICTURES.
async fn picture(browser: &mut Browser, name: &str) {
    if let Some(folder) = std::env::var_os("BASCULE_PICTURES") {
        browser.picture(&Path::new(&folder).join(name)).await.unwrap();
    }
}

/// All sessions but the WebSockets' moved; these were told.
fn went_well(ran: &Ran) {
    let report = &ran.json;
    assert_eq!(
        (ran.code, &report["outcome"], &report["unmovable"]),
        (0, &"done".into(), &json!({})),
        "{ran:?}"
    );
    assert_eq!(report["streams"], json!({"events_moved": 1, "sockets_told": 1}), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_notices_nothing_of_three_cutovers() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut setup = patient(&pair);
    setup.http = "routes = [{ path = \"/\", service = \"webmail\" }]\n".into();
    setup.tables += "[limits]\nhttp.hold = \"60s\"\n";
    let mut servers = Vec::new();
    for (pool, dovecot) in setup.pools.iter_mut().zip([&pair.old, &pair.new]) {
        let at = (dovecot.imap().ip(), 10081).into();
        let web = WebServer::start(&pool.name, at, folder.path()).await.unwrap();
        let fence = pool.fence.as_mut().unwrap();
        fence.engage = web.stops_before(&fence.engage);
        fence.release = web.starts_before(&fence.release);
        pool.promote = pool.promote.as_ref().map(|promote| web.starts_before(promote));
        servers.push(web);
        pool.http = vec![("webmail", vec![at], "tls = { mode = \"none\" }\nprobe = \"none\"".into())];
    }
    let proxy = Bascule::start(&setup, "old").await.unwrap();
    let mut mail = proxy.session("alice", "pass").await.unwrap();
    mail.select("INBOX").await.unwrap().ok().unwrap();
    let publisher = Publisher::start(folder.path());
    let mut browser = Browser::start().await.unwrap();
    browser.visit(&format!("https://{}/", proxy.https())).await.unwrap();
    browser.until("return seen.sockets", |said| said.to_string().contains("old")).await.unwrap();
    picture(&mut browser, "before.png").await;
    let mut sockets = vec!["open", "old"];
    for (n, to) in ["new", "old", "new"].into_iter().enumerate() {
        let mut running = pin!(proxy.cutover(to));
        tokio::select! {
            ran = &mut running => panic!("it did not begin: {ran:?}"),
            status = proxy.until(|status| status["gate"] != "open") => drop(status.unwrap()),
        }
        let name = format!("during-{n}.png");
        let ((), ran) = tokio::join!(picture(&mut browser, &name), running);
        went_well(&ran.unwrap());
        sockets.extend(["open", to]);
        browser.until("return seen.sockets", |said| *said == json!(sockets)).await.unwrap();
        let answers = "return seen.answers.slice(-1)[0]";
        browser.until(answers, |answer| answer == to).await.unwrap();
    }
    mail.command("NOOP").await.unwrap().ok().unwrap();
    let count = publisher.end();
    browser.until("return seen.events.length", |heard| *heard == count).await.unwrap();
    picture(&mut browser, "after.png").await;
    let seen = browser.run("return seen").await.unwrap();
    judge(&seen, count, &std::fs::read_to_string(folder.path().join("posts")).unwrap());
    assert_eq!(browser.console().await.unwrap(), Vec::<String>::new());
}

/// What the page saw, against what there was.
fn judge(seen: &Value, count: usize, posts: &str) {
    let events: Vec<String> = (1..=count).map(|n| format!("{n} news {n}")).collect();
    assert_eq!(seen["events"], json!(events));
    assert_eq!(
        (&seen["opened"], &seen["errors"]),
        (&json!(1), &json!([])),
        "opened once, and no error of any kind"
    );
    assert_eq!(seen["closes"], json!(["1012 true", "1012 true", "1012 true"]));
    let answers: BTreeSet<&str> =
        seen["answers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(answers, BTreeSet::from(["new", "old"]));
    let posted: Vec<&str> = posts.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let known = seen["posts"].as_u64().unwrap() as usize;
    let wanted: Vec<String> = (0..posted.len()).map(|n| format!("post {n}")).collect();
    // The page goes on while it is looked at.
    assert!(posted == wanted && posted.len() >= known, "{known} known of {posted:?}");
}
