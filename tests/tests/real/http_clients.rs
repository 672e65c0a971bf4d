//! Programs that speak HTTP, on real servers, while everything moves to the new version and back.
//!
//! Rule: a program knows nothing of the test; what it was told is counted, and what it wrote is looked up in the calendars'
//! folder.

use bascule_tests::{
    bascule::Bascule,
    dovecot::{Options, Pair},
    sites::Site,
    tools::{caldav, curl_pages},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    sync::watch,
    task::JoinSet,
    time::{Duration, timeout},
};

use super::{
    scene::patient,
    smtp_rig::{self, went_well},
};

/// Dovecots, web sites beside them, and a proxy in front of all, to be dropped from the last to the first.
async fn rig() -> (Pair, Vec<Site>, Bascule) {
    let pair = Pair::shared(Options::default()).await.unwrap();
    let mut setup = patient(&pair);
    let sites = smtp_rig::sites(&pair, &mut setup).await;
    let proxy = Bascule::start(&setup, "old").await.unwrap();
    (pair, sites, proxy)
}

/// Longest wait for a program.
const PATIENCE: Duration = Duration::from_secs(90);
/// What curl asks in one run.
const PAGES: usize = 50;

#[tokio::test]
async fn curl_gets_every_page_while_sites_move_there_and_back() {
    let (_pair, _sites, proxy) = rig().await;
    let (leave, leaving) = watch::channel(false);
    let mut crowd = JoinSet::new();
    let https = format!("https://{}", proxy.https());
    let http = format!("http://{}", proxy.http());
    let small = "<title>old</title>\n".len();
    for (base, version, page, length) in [
        (&http, "--http1.1", "/", small),
        (&https, "--http1.1", "/", small),
        (&https, "--http2", "/", small),
        (&https, "--http2", "/large", Site::LARGE),
    ] {
        let (url, leaving) = (format!("{base}{page}"), leaving.clone());
        crowd.spawn(async move {
            let host = format!("Host: {}", Site::PAGES);
            let mut runs = 0;
            while !*leaving.borrow() {
                let ran = curl_pages(&url, PAGES, &[version, "--header", &host]).await.unwrap();
                assert_eq!(ran.code, 0, "{ran:?}");
                // The first one connects, and nobody after it.
                let rest = format!("200 {length} 0\n").repeat(PAGES - 1);
                assert_eq!(ran.output, format!("200 {length} 1\n{rest}"), "{url} {version}");
                runs += 1;
            }
            runs
        });
    }
    for to in ["new", "old"] {
        went_well(&proxy.cutover(to).await.unwrap());
    }
    leave.send_replace(true);
    for runs in crowd.join_all().await {
        assert!(runs > 0);
    }
    // Three seconds between two pages: the connection is parked, and curl cannot tell.
    let (url, host) = (format!("{http}/"), format!("Host: {}", Site::PAGES));
    let slow = tokio::spawn(async move {
        curl_pages(&url, 2, &["--http1.1", "--rate", "20/m", "--header", &host]).await.unwrap()
    });
    while proxy.metric("bascule_http_parked").await.unwrap() < 1.0 {
        assert!(!slow.is_finished(), "nothing was parked: {:?}", slow.await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(slow.await.unwrap().output, format!("200 {small} 1\n200 {small} 0\n"));
}

#[tokio::test]
async fn a_calendar_program_goes_on_with_the_other_server_and_every_event_is_there_once() {
    let (_pair, sites, proxy) = rig().await;
    let mut program = caldav(&format!("https://{}/alice/", proxy.https()), "alice", "pass").unwrap();
    let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut taken = Vec::new();
    for to in ["new", "old"] {
        for _ in 0..5 {
            taken.push(next(&mut said, &mut program).await);
        }
        let mut cutover = std::pin::pin!(proxy.cutover(to));
        let ran = loop {
            tokio::select! {
                ran = &mut cutover => break ran.unwrap(),
                event = next(&mut said, &mut program) => taken.push(event),
            }
        };
        went_well(&ran);
    }
    for _ in 0..5 {
        taken.push(next(&mut said, &mut program).await);
    }
    drop(program.stdin.take());
    while let Some(line) = said.next_line().await.unwrap() {
        taken.push(line);
    }
    assert!(program.wait().await.unwrap().success());
    let found = sites[0].events("alice").unwrap();
    assert_eq!(found.keys().len(), taken.len(), "{found:?} {taken:?}");
    assert!(taken.iter().all(|event| found.get(event) == Some(&1)), "{found:?}");
}

/// The next line that it says.
pub(super) async fn next(
    said: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    program: &mut tokio::process::Child,
) -> String {
    let line = timeout(PATIENCE, said.next_line()).await.expect("it says something");
    if let Some(line) = line.unwrap() {
        return line;
    }
    let mut why = String::new();
    program.stderr.take().unwrap().read_to_string(&mut why).await.unwrap();
    panic!("it ended: {why}");
}
