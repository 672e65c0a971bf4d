//! The backend that all proxies share, and the certificate that all show.
//!
//! Rule: one process for the whole run; no proxy has one of its own.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use bascule_certs::testing::Authority;
use bascule_tests::{bascule::Bascule, process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin},
};

use crate::{
    beside_us,
    leg::{Leg, Speech},
    load::Door,
};

/// It, running.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// Where mail goes to.
    pub(crate) smtp: SocketAddr,
    /// Where requests of HTTP go to.
    pub(crate) http: SocketAddr,
    /// Where nginx asks.
    pub(crate) auth: SocketAddr,
    /// PEM: the authority, the certificate (P-256) with its key, and both in one file.
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) bundle: PathBuf,
    _process: Child,
    _orders: ChildStdin,
    _folder: tempfile::TempDir,
}

impl Backend {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bascule-peers-").tempdir()?;
        let authority = Authority::new();
        let leaf = authority.issue(&[Bascule::HOST]);
        let ca = authority.write(folder.path())?;
        let (cert, key) = leaf.write(folder.path(), "server")?;
        let bundle = folder.path().join("server.pem");
        std::fs::write(&bundle, leaf.cert + &leaf.key)?;
        let [address, ..] = process::addresses();
        let [plain, tls, smtp, auth, http] =
            [10143, 10993, 10025, 10080, 10081].map(|port| SocketAddr::from((address, port)));
        let mut process = process::tied(beside_us("bascule-backend")?)
            .args(["--plain", &plain.to_string(), "--tls", &tls.to_string()])
            .args(["--smtp", &smtp.to_string(), "--auth", &auth.to_string(), "--http", &http.to_string()])
            .arg("--cert")
            .arg(&cert)
            .arg("--key")
            .arg(&key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().context("it has a pipe")?;
        let mut said = BufReader::new(process.stdout.take().context("it has a pipe")?).lines();
        let ready = said.next_line().await?;
        ensure!(ready.as_deref() == Some("ready"), "the backend does not start");
        Ok(Self {
            plain,
            tls,
            smtp,
            http,
            auth,
            ca,
            cert,
            key,
            bundle,
            _process: process,
            _orders: orders,
            _folder: folder,
        })
    }

    /// Where a proxy connects to on this leg.
    pub(crate) fn behind(&self, leg: Leg, speech: Speech) -> SocketAddr {
        match (speech, leg) {
            (Speech::Smtp, _) => self.smtp,
            (Speech::Http, _) => self.http,
            (Speech::Imap, Leg::TlsTls) => self.tls,
            (Speech::Imap, Leg::TlsPlain | Leg::PlainPlain) => self.plain,
        }
    }

    /// A door that clients of this leg go through.
    pub(crate) fn door(&self, leg: Leg, address: SocketAddr) -> Door<'_> {
        Door { address, ca: leg.secure().then_some(&*self.ca) }
    }

    /// The backend itself, as clients of this leg would meet it without a proxy.
    pub(crate) fn direct(&self, leg: Leg) -> Door<'_> {
        self.door(leg, if leg.secure() { self.tls } else { self.plain })
    }
}
