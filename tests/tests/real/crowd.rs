//! Many sessions at once.
//!
//! Rule: every answer is read and every acknowledged message is looked up afterwards; how long it took is
//! printed and never asserted.

use std::{io::Write as _, time::Duration};

use bascule_tests::client::{Client, Result};
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

use super::scene::{MESSAGE, Scene};

/// Sessions of each kind.
const SESSIONS: usize = 100;
/// What a person takes to think.
const THINK: Duration = Duration::from_millis(400);

#[tokio::test]
async fn scenario_37_two_hundred_sessions() {
    let scene = Scene::new().await;
    let mut idle = Vec::new();
    let mut busy = Vec::new();
    let (stop, stopped) = watch::channel(false);
    for n in 0..SESSIONS {
        idle.push(scene.idle(&format!("idle{n}"), 1).await);
        let client = scene.selected(&format!("busy{n}"), 1).await;
        busy.push(tokio::spawn(work(client, n, stopped.clone())));
    }
    let heard: Vec<_> = idle.iter().map(Client::received).collect();
    let ran = scene.moved().await;
    assert_eq!(ran.json["sessions"], 2 * SESSIONS, "{ran:?}");
    print("scenario 37", &ran.json);

    stop.send_replace(true);
    let mut work = Vec::new();
    for task in busy {
        work.push(task.await.unwrap().unwrap());
    }
    assert_eq!(idle.iter().map(Client::received).collect::<Vec<_>>(), heard);
    for client in &mut idle {
        client.done().await.unwrap().ok().unwrap();
        assert_eq!(client.uids().await.unwrap(), [1]);
    }
    for (n, (mut client, appended)) in work.into_iter().enumerate() {
        let mut direct = scene.pair.new.session(&format!("busy{n}")).await.unwrap();
        direct.select("INBOX").await.unwrap().ok().unwrap();
        let uids: Vec<u32> = (1..=1 + appended).collect();
        assert_eq!(direct.uids().await.unwrap(), uids, "session {n}: nothing lost, nothing doubled");
        assert_eq!(client.uids().await.unwrap(), uids, "session {n}");
    }
}

/// Issues one command after the other until it is told to stop. How many messages it appended.
pub(super) async fn work(
    mut client: Client,
    n: usize,
    stopped: watch::Receiver<bool>,
) -> Result<(Client, u32)> {
    let mut appended = 0;
    for turn in n.. {
        match turn % 4 {
            0 => {
                // Cyrus takes so many of the same, and no more.
                let message = [format!("X-Turn: {turn}\r\n").as_bytes(), MESSAGE].concat();
                client.append("INBOX", &message).await?.ok()?;
                appended += 1;
            }
            1 => drop(client.command("UID FETCH 1:* (FLAGS)").await?.ok()?),
            2 => drop(client.command("NOOP").await?.ok()?),
            _ => drop(client.command("UID STORE 1 +FLAGS (\\Seen)").await?.ok()?),
        }
        if *stopped.borrow() {
            break;
        }
        sleep(THINK).await;
    }
    Ok((client, appended))
}

/// The budget as it was used.
pub(super) fn print(title: &str, report: &Value) {
    let mut text = format!("{title}, milliseconds:");
    for phase in report["phases"].as_array().unwrap() {
        text += &format!(" {} {}", phase["name"].as_str().unwrap(), phase["ms"]);
    }
    text += &format!(
        "; gate shut {}; {} sessions, {} kept, {} moved; messages {}\n",
        report["pause_ms"], report["sessions"], report["kept"], report["moved"], report["messages"]
    );
    for hold in ["hold", "hold_own"] {
        let ms = |key: &str| report[hold][key].as_f64().unwrap() / 1000.0;
        text += &format!(
            "{title}, {hold} of {} held commands, milliseconds: p50 {:.1}, p99 {:.1}, max {:.1}\n",
            report[hold]["count"],
            ms("p50_us"),
            ms("p99_us"),
            ms("max_us")
        );
    }
    say(&text);
}

/// Past the capturing of the test harness.
pub(super) fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
