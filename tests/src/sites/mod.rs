//! A real web site beside each Dovecot of a rig: nginx with pages, and Radicale with calendars, in one folder or in one each.
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
    store: PathBuf,
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

    /// Starts it beside this server of the rig, with its calendars in this folder of the rig.
    pub async fn start(pair: &Pair, beside: &Dovecot, store: &str) -> Result<Self> {
        let (folder, store) = (pair.path(&format!("site-{}", beside.name())), pair.path(store));
        std::fs::create_dir_all(folder.join("pages"))?;
        let fill = |text: &str| {
            text.replace("@FOLDER@", &folder.display().to_string())
                .replace("@STORE@", &store.display().to_string())
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
        calendars(&store)?;
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("orders"), rustix::fs::Mode::RWXU)?;
        let ctl = folder.join("ctl");
        ensure!(
            Path::new("/usr/bin/radicale").exists() && Path::new("/usr/sbin/nginx").exists(),
            "needs real servers: no nginx or Radicale; `tests/run real` installs them"
        );
        let process = process::tied(&ctl).arg("run").spawn()?;
        let at = |port| SocketAddr::from((beside.relay(), port));
        let site = Self { pages: at(10081), calendars: at(10232), folder, store, _process: process };
        site.act(true).await?;
        Ok(site)
    }

    /// The command line that stops it, or starts it again; it is so when that returns.
    pub fn fence(&self, open: bool) -> Vec<String> {
        vec![self.folder.join("ctl").display().to_string(), if open { "open" } else { "shut" }.to_owned()]
    }

    /// A hook that gives it the calendars of this other one, as an operator copies them, before this other hook. What
    /// Radicale keeps for itself stays behind: that is where it knows its sync tokens.
    pub fn takes_over(&self, from: &Self, hook: &[String]) -> Vec<String> {
        let script = "rm -r \"$1/collection-root\" && tar -C \"$0\" --exclude .Radicale.cache -c collection-root | \
                      tar -C \"$1\" -x && shift && exec \"$@\"";
        let [from, to] = [from, self].map(|site| site.store.display().to_string());
        let shell = ["/bin/bash", "-o", "pipefail", "-c", script].map(str::to_owned).to_vec();
        [&shell[..], &[from, to], hook].concat()
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

    /// What is in a user's calendar: how often each SUMMARY.
    pub fn events(&self, user: &str) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(calendar(&self.store, user))? {
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

/// An empty calendar for each user; they are there already for the second site of one store.
fn calendars(store: &Path) -> Result<()> {
    let users: String = USERS.iter().map(|user| format!("{user}:pass\n")).collect();
    for user in USERS {
        let calendar = calendar(store, user);
        std::fs::create_dir_all(&calendar)?;
        std::fs::write(calendar.join(".Radicale.props"), r#"{"tag": "VCALENDAR"}"#)?;
    }
    Ok(std::fs::write(store.join("users"), users)?)
}

fn calendar(store: &Path, user: &str) -> PathBuf {
    store.join("collection-root").join(user).join("calendar")
}
