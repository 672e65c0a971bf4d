//! A real web site beside each Dovecot of a rig: nginx with pages, and Radicale with calendars, which both have in one folder.
//!
//! Rule: everything lies in the rig's folder and ends with the test; the fence stops both servers, and what was written
//! is looked up in the folder.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    process::{Child, Command},
    time::{Duration, timeout},
};

use crate::{
    dovecot::{Dovecot, Pair},
    process,
};

/// nginx and Radicale at [`Dovecot::relay`], to be dropped before the pair.
#[derive(Debug)]
pub struct Site {
    pages: SocketAddr,
    calendars: SocketAddr,
    folder: PathBuf,
    _process: Child,
}

/// Who has a calendar.
const USERS: [&str; 4] = ["alice", "bob", "probe1", "probe2"];
/// Longest wait for servers to listen.
const PATIENCE: Duration = Duration::from_secs(30);

impl Site {
    /// What its pages are reached by; everything else is its calendars'.
    pub const PAGES: &'static str = "www.bascule.test";
    /// The length of `/large`.
    pub const LARGE: usize = 3_000_000;

    /// Starts it beside this server of the rig.
    pub async fn start(pair: &Pair, beside: &Dovecot) -> Result<Self> {
        let (folder, shared) = (pair.path(&format!("site-{}", beside.name())), pair.path("calendars"));
        std::fs::create_dir_all(folder.join("pages"))?;
        let fill = |text: &str| {
            text.replace("@FOLDER@", &folder.display().to_string())
                .replace("@SHARED@", &shared.display().to_string())
                .replace("@ADDRESS@", &beside.relay().to_string())
                .replace("@NAME@", beside.name())
        };
        for (name, text) in [
            ("nginx.conf", include_str!("nginx.conf")),
            ("radicale.conf", include_str!("radicale.conf")),
            ("ctl", include_str!("ctl")),
        ] {
            std::fs::write(folder.join(name), fill(text))?;
        }
        std::fs::set_permissions(folder.join("ctl"), PermissionsExt::from_mode(0o755))?;
        std::fs::write(folder.join("pages/index.html"), format!("<title>{}</title>\n", beside.name()))?;
        std::fs::write(folder.join("pages/large"), vec![b'x'; Self::LARGE])?;
        calendars(&shared)?;
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("orders"), rustix::fs::Mode::RWXU)?;
        let ctl = folder.join("ctl");
        ensure!(
            Path::new("/usr/bin/radicale").exists() && Path::new("/usr/sbin/nginx").exists(),
            "needs real servers: no nginx or Radicale; `tests/run real` installs them"
        );
        let process = process::tied(&ctl).arg("run").spawn()?;
        let at = |port| SocketAddr::from((beside.relay(), port));
        let site = Self { pages: at(10081), calendars: at(10232), folder, _process: process };
        site.act(true).await?;
        Ok(site)
    }

    /// The command line that stops it, or starts it again; it is so when that returns.
    pub fn fence(&self, open: bool) -> Vec<String> {
        vec![self.folder.join("ctl").display().to_string(), if open { "open" } else { "shut" }.to_owned()]
    }

    /// Stops it or starts it.
    pub async fn act(&self, open: bool) -> Result<()> {
        let command = self.fence(open);
        let ran = timeout(PATIENCE, Command::new(&command[0]).args(&command[1..]).output()).await;
        let ran = ran.with_context(|| format!("{command:?} does not return:\n{}", self.log()))??;
        ensure!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
        Ok(())
    }

    /// Where its pages are.
    pub fn pages(&self) -> SocketAddr {
        self.pages
    }

    /// Where its calendars are.
    pub fn calendars(&self) -> SocketAddr {
        self.calendars
    }

    /// The end of its logs.
    pub fn log(&self) -> String {
        ["console.log", "nginx.log"].map(|name| process::tail(&self.folder.join(name), 100)).concat()
    }
}

impl Drop for Site {
    #[expect(clippy::print_stderr, reason = "a failing test shows what its servers said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- site\n{}", self.log());
        }
    }
}

/// An empty calendar for each user; they are there already for the second site.
fn calendars(shared: &Path) -> Result<()> {
    let users: String = USERS.iter().map(|user| format!("{user}:pass\n")).collect();
    for user in USERS {
        let calendar = calendar(shared, user);
        std::fs::create_dir_all(&calendar)?;
        std::fs::write(calendar.join(".Radicale.props"), r#"{"tag": "VCALENDAR"}"#)?;
    }
    Ok(std::fs::write(shared.join("users"), users)?)
}

fn calendar(shared: &Path, user: &str) -> PathBuf {
    shared.join("collection-root").join(user).join("calendar")
}

/// What is in a user's calendar: how often each SUMMARY.
pub fn events(pair: &Pair, user: &str) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(calendar(&pair.path("calendars"), user))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ics") {
            let text = std::fs::read_to_string(&path)?;
            for line in text.lines().filter_map(|line| line.strip_prefix("SUMMARY:")) {
                *found.entry(line.trim_end().to_owned()).or_default() += 1;
            }
        }
    }
    Ok(found)
}
