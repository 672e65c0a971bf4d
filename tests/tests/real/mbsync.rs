//! mbsync through the proxy, across a cutover (scenario 89).
//!
//! Rule: what both sides hold at the end is counted message by message, and mbsync's own word is its exit code.

use std::{path::Path, process::Stdio, time::Duration};

use bascule_tests::{dovecot::Options, process};
use tokio::{process::Child, time::sleep};

use super::scene::{Scene, all_moved, barrier, guard};

/// Mailboxes, and messages that each has on each side.
const MAILBOXES: usize = 8;
const MESSAGES: usize = 50;

#[tokio::test]
async fn scenario_89_mbsync_does_not_notice() {
    // The barrier waits for an event, and so does the last guard before the gate shuts.
    let scene =
        Scene::asking(Options::default(), |pair, port| barrier(guard(pair, port), port, "barrier")).await;
    let local = tempfile::tempdir().unwrap();
    lay(&scene, local.path()).await;

    let inside = async {
        let guard = scene.armed().await;
        let mut mbsync = start(local.path());
        // It is in the middle: some mailboxes are done, others are not.
        until_it_has(local.path(), MAILBOXES / 4 * MESSAGES).await;
        guard.answer(0).await;
        let barrier = scene.asked().await;
        assert!(mbsync.try_wait().unwrap().is_none(), "it has ended too early");
        scene.proxy.until(|status| status["held"].as_u64() >= Some(1)).await.unwrap();
        barrier.answer(0).await;
        mbsync
    };
    let (ran, mbsync) = scene.cutover_while(inside).await;
    all_moved(&ran);
    succeeded(mbsync).await;
    let all = complete(&scene, local.path()).await;

    // Once more: there is nothing left to do.
    succeeded(start(local.path())).await;
    assert_eq!(complete(&scene, local.path()).await, all);
}

/// Messages on both sides that the other one lacks.
async fn lay(scene: &Scene, local: &Path) {
    let mut client = scene.pair.old.session("alice").await.unwrap();
    for n in 0..MAILBOXES {
        let mailbox = format!("box{n}");
        client.command(&format!("CREATE {mailbox}")).await.unwrap().ok().unwrap();
        let folder = local.join(&mailbox);
        for part in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        for m in 0..MESSAGES {
            let far = message(&format!("far {n} {m}"));
            client.append(&mailbox, far.as_bytes()).await.unwrap().ok().unwrap();
            let near = message(&format!("near {n} {m}")).replace("\r\n", "\n");
            std::fs::write(folder.join(format!("new/1763775000.{n}_{m}.test")), near).unwrap();
        }
    }
    client.logout().await.unwrap();
    let config = format!(
        "IMAPAccount far\nHost {address}\nPort {port}\nUser alice\nPass pass\nSSLType IMAPS\n\
         CertificateFile {certificate}\n\nIMAPStore far\nAccount far\n\nMaildirStore near\nPath {near}/\n\
         Inbox {near}/INBOX\nSubFolders Verbatim\n\nChannel all\nFar :far:\nNear :near:\nPatterns box*\n\
         Create Both\nExpunge None\nSyncState *\n",
        address = scene.proxy.imaps().ip(),
        port = scene.proxy.imaps().port(),
        certificate = scene.proxy.path("server.crt").display(),
        near = local.display(),
    );
    std::fs::write(local.join("mbsyncrc"), config).unwrap();
}

fn message(subject: &str) -> String {
    let filler = "as long as many are\r\n".repeat(100);
    format!("Message-ID: <{}@test>\r\nSubject: {subject}\r\n\r\n{filler}", subject.replace(' ', "."))
}

fn start(local: &Path) -> Child {
    let mut mbsync = process::tied("mbsync");
    mbsync.arg("--config").arg(local.join("mbsyncrc")).args(["--all"]).env("HOME", local);
    mbsync.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn succeeded(mbsync: Child) {
    let output = mbsync.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until mbsync has fetched so many messages.
async fn until_it_has(local: &Path, fetched: usize) {
    while near(local).len() < MAILBOXES * MESSAGES + fetched {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Every message is once on either side; the mailboxes, as the new server has them.
async fn complete(scene: &Scene, local: &Path) -> Vec<String> {
    let mut expected: Vec<_> = (0..MAILBOXES)
        .flat_map(|n| (0..MESSAGES).map(move |m| (n, m)))
        .flat_map(|(n, m)| [format!("far {n} {m}"), format!("near {n} {m}")])
        .collect();
    expected.sort();
    assert_eq!(near(local), expected);
    let (mut found, mut listing) = (Vec::new(), Vec::new());
    let mut client = scene.pair.new.session("alice").await.unwrap();
    for n in 0..MAILBOXES {
        client.select(&format!("box{n}")).await.unwrap().ok().unwrap();
        let reply = client.command("UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])").await.unwrap();
        for response in reply.ok().unwrap().lines {
            found.extend(response.literals().filter_map(|header| subject(&String::from_utf8_lossy(header))));
            listing.push(response.text());
        }
    }
    found.sort();
    assert_eq!(found, expected);
    listing
}

/// The subjects of all messages in the local mailboxes.
fn near(local: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for n in 0..MAILBOXES {
        for part in ["cur", "new"] {
            for file in std::fs::read_dir(local.join(format!("box{n}")).join(part)).unwrap() {
                // mbsync renames while this looks.
                let Ok(text) = std::fs::read_to_string(file.unwrap().path()) else { continue };
                found.extend(subject(&text));
            }
        }
    }
    found.sort();
    found
}

fn subject(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("Subject: ")).map(|line| line.trim_end().to_owned())
}
