//! The harness of the measurements, for some seconds, with bascule alone.
//!
//! Rule: every figure is there and is a number; what it says is nobody's business in a test.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails")]

use std::{path::Path, process::Command};

use serde_json::Value;

const TOGETHER: [&str; 7] = [
    "noop_cpu_us",
    "noop_paced_cpu_us",
    "fetch_64kb_cpu_s_per_gb",
    "fetch_5mb_cpu_s_per_gb",
    "login_cpu_us",
    "added_p50_us",
    "added_p99_us",
];
const EDGES: [&str; 5] = ["silent", "nameless", "handshake", "reader", "writer"];

fn number(figures: &Value, key: &str) {
    let value = &figures[key]["bascule"];
    assert!(value.as_f64().is_some_and(f64::is_finite), "{key}: {figures:#}");
}

#[test]
fn every_figure_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peers.json");
    let peers = Path::new(env!("CARGO_BIN_EXE_bascule-peers"));
    let bascule = std::env::var_os("BASCULE_BIN").unwrap_or_else(|| peers.with_file_name("bascule").into());
    let ran = Command::new(peers)
        .args(["--proxies", "bascule", "--legs", "tls-plain,tls-tls", "--rounds", "1", "--seconds", "0.2"])
        .args(["--idle", "10,20", "--crowd", "30", "--json"])
        .arg(&file)
        .arg("--bascule")
        .arg(bascule)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");

    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    for leg in ["tls-plain", "tls-tls"] {
        for key in TOGETHER.into_iter().chain(["idle_10_kb", "idle_20_kb"]) {
            number(&last[leg], key);
        }
    }
    for size in ["1kb", "100kb", "1mb"] {
        number(&last["tls-plain"], &format!("mail_{size}_cpu_us"));
    }
    for key in
        ["web_1kb_cpu_us", "web_64kb_cpu_us", "two_1kb_cpu_us", "two_64kb_cpu_us", "kept_10_kb", "kept_20_kb"]
    {
        number(&last["tls-plain"], key);
    }
    for habit in EDGES {
        for what in ["kb", "left_percent", "healthy_p50_us", "healthy_p99_us"] {
            number(&last["tls-plain"], &format!("{habit}_{what}"));
        }
    }
    let all: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(all["summary"], last);
    assert_eq!(all["failures"], Value::Array(Vec::new()));
}
