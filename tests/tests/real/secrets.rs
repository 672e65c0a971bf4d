//! Scenario 127: what nobody may find.
//!
//! Rule: every secret is used in every way that there is, with every log line on, and looked for as it is and as
//! it was encoded.

use std::{
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
};

use bascule_tests::{
    bascule::{Bascule, Setup},
    client::Status,
    dovecot::{Action, Options, Pair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::process::Command;

use super::scene::{Scene, all_moved, barrier, patient};

/// What alice knows.
const PASSWORD: &str = "correct-horse-9c41";
/// What she typed instead once: the password of something else.
const MISTYPED: &str = "battery-staple-77aa";
/// What the new pool's master knows.
const MASTER: &str = "over-all-boxes-51e0";
/// What she writes about.
const BODY: &str = "the-merger-is-on-2d6b";

#[tokio::test]
async fn scenario_127_no_secret_is_left_anywhere() {
    let mut scene = scene().await;
    let mut alice = scene.proxy.connect().await.unwrap();
    assert_eq!(alice.login("alice", MISTYPED).await.unwrap().status, Status::No);
    assert_eq!(alice.authenticate("", "alice", MISTYPED, true).await.unwrap().status, Status::No);
    alice.authenticate("", "alice", PASSWORD, false).await.unwrap().ok().unwrap();
    alice.select("INBOX").await.unwrap().ok().unwrap();
    let message = format!("Subject: {BODY}\r\n\r\n{BODY}\r\n");
    alice.append("INBOX", message.as_bytes()).await.unwrap().ok().unwrap();
    let inside = async {
        let mut next = scene.proxy.connect().await.unwrap();
        let append = alice.start_append("INBOX", message.as_bytes()).await.unwrap();
        let search = alice.start(&format!("UID SEARCH SUBJECT {BODY}")).await.unwrap();
        let login = next.start(&format!("LOGIN alice {PASSWORD}")).await.unwrap();
        scene.held(3).await;
        nothing_is_found(&scene.proxy).await;
        (append, search, next, login)
    };
    let (append, search, mut next, login) = scene.moved_while(inside).await;
    alice.finish(&append).await.unwrap().ok().unwrap();
    alice.finish(&search).await.unwrap().ok().unwrap();
    next.finish(&login).await.unwrap().ok().unwrap();
    // Back, with the clients' own words.
    all_moved(&scene.proxy.cutover("old").await.unwrap());
    let mut literal = scene.proxy.connect().await.unwrap();
    literal.login_by_literals("alice", PASSWORD).await.unwrap().ok().unwrap();
    assert_eq!(alice.uids().await.unwrap(), [1, 2]);
    nothing_is_found(&scene.proxy).await;
    dumps_no_core(&mut scene.proxy).await;
}

/// Clients restore a session on the old pool, a master on the new one.
async fn scene() -> Scene {
    let pair = Pair::shared(Options::default()).await.unwrap();
    // Declared for the way back, when it is a standby that does not run.
    let capabilities = pair.old.session("probe1").await.unwrap().command("CAPABILITY").await.unwrap();
    let capabilities: Vec<_> =
        capabilities.texts()[0].split_whitespace().skip(2).map(str::to_owned).collect();
    pair.old.configure("args = password=pass\n", &format!("args = password={PASSWORD}\n")).unwrap();
    pair.old.act(Action::Stop).await.unwrap();
    pair.old.act(Action::Start).await.unwrap();
    for (before, after) in [("pass", PASSWORD), ("master", MASTER)] {
        let line = |password| format!("passdb_static_password = {password}\n");
        pair.new.configure(&line(before), &line(after)).unwrap();
    }
    let secret = pair.path("master.password");
    std::fs::write(&secret, MASTER).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let restore = format!(
        "[pool.new.imap.restore]\nmode = \"master\"\nuser = \"bascule\"\npassword_file = {secret:?}\n"
    );
    let setup = |pair: &Pair, port| {
        let mut setup = barrier(patient(pair), port, "barrier");
        for pool in &mut setup.pools {
            PASSWORD.clone_into(&mut pool.password);
        }
        setup.pools[0].capabilities = capabilities;
        Setup { tables: setup.tables + &restore, ..setup }
    };
    let mut scene = Scene::asking_of(pair, setup).await;
    scene.proxy.kill().await.unwrap();
    scene.proxy.set_logs("trace");
    scene.proxy.serve().await.unwrap();
    scene
}

/// Looks through everything that the proxy writes or shows.
async fn nothing_is_found(proxy: &Bascule) {
    let mut seen = Vec::new();
    read_all(&proxy.path(""), &mut seen);
    for path in ["/metrics", "/healthz", "/readyz", "/"] {
        seen.push((path.to_owned(), proxy.observe(path).await.unwrap().1.into_bytes()));
    }
    for command in
        [&["status"][..], &["sessions", "list"], &["cutover", "plan", "new"], &["cutover", "report"]]
    {
        let ran = proxy.run(command).await.unwrap();
        seen.push((format!("{command:?}"), format!("{}{}", ran.json, ran.stderr).into_bytes()));
    }
    for name in ["environ", "cmdline", "comm", "status", "mountinfo"] {
        let path = format!("/proc/{}/{name}", proxy.id().unwrap());
        seen.push((path.clone(), std::fs::read(path).unwrap()));
    }
    // It does find what is there.
    for (place, what) in [
        ("log", "TRACE"),
        ("sessions", "alice"),
        ("journal", "new"),
        ("/metrics", "bascule"),
        ("cmdline", "serve"),
    ] {
        let found = seen.iter().any(|(name, bytes)| name.contains(place) && contains(bytes, what));
        assert!(found, "{what} is not in {place}");
    }
    for secret in [PASSWORD, MISTYPED, MASTER, BODY] {
        for needle in guises(secret) {
            for (place, bytes) in &seen {
                assert!(!contains(bytes, &needle), "{secret} is in {place} as {needle}");
            }
        }
    }
}

/// A secret as it is, as part of something in base64, and as bytes that somebody printed.
fn guises(secret: &str) -> Vec<String> {
    let mut guises = vec![secret.to_owned()];
    for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
        let encoded = STANDARD_NO_PAD.encode([&vec![0; before], secret.as_bytes()].concat());
        // Without the characters that depend on what stands before and behind.
        guises.push(encoded[shared..(before + secret.len()) * 8 / 6].to_owned());
    }
    guises.push(format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned());
    guises
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// All files under a folder but those that hold the passwords that the proxy is given.
fn read_all(folder: &Path, seen: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, seen);
        } else if path.is_file() && path.extension().is_none_or(|extension| extension != "password") {
            seen.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

/// Crashes it with no limit on core files.
async fn dumps_no_core(proxy: &mut Bascule) {
    // The control: here, a process that may does.
    let folder = tempfile::tempdir().unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -c unlimited && kill -ABRT $$"]).current_dir(folder.path());
    assert!(shell.status().await.unwrap().core_dumped(), "this system writes no core files at all");

    let id = Pid::from_raw(proxy.id().unwrap().cast_signed()).unwrap();
    prlimit(Some(id), Resource::Core, Rlimit { current: None, maximum: None }).unwrap();
    proxy.signal(Signal::ABORT).unwrap();
    let ended = proxy.ended().await.unwrap();
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!ended.core_dumped());
}
