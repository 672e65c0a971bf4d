//! HAProxy and nginx, and pingora with nothing added.
//!
//! Rule: as Debian packages them, with one worker, long timeouts and as many connections as the descriptors allow;
//! what is not named here is their default.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bascule_tests::{bascule::Bascule, process};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use crate::{
    backend::Backend,
    leg::{Leg, Speech},
};

pub(super) const HAPROXY: &str = "/usr/sbin/haproxy";
pub(super) const NGINX: &str = "/usr/sbin/nginx";

/// Longest wait for it to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of them, running.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    process: Child,
    folder: tempfile::TempDir,
}

impl Peer {
    pub(super) async fn haproxy(leg: Leg, speech: Speech, backend: &Backend) -> Result<Self> {
        let (folder, address) = place(leg)?;
        let names = if speech == Speech::Http { " alpn h2,http/1.1" } else { "" };
        let front = match leg.secure() {
            true => format!(" ssl crt {} ssl-min-ver TLSv1.3{names}", backend.bundle.display()),
            false => String::new(),
        };
        let back = match leg {
            Leg::TlsTls => {
                format!(" ssl verify required ca-file {} verifyhost {}", backend.ca.display(), Bascule::HOST)
            }
            Leg::TlsPlain | Leg::PlainPlain => String::new(),
        };
        let mode = if speech == Speech::Http { "http" } else { "tcp" };
        let config = format!(
            "global\n  nbthread 1\n  maxconn 9900\n\
             defaults\n  mode {mode}\n  timeout http-keep-alive 1h\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
             frontend mail\n  bind {address}{front}\n  default_backend mail\n\
             backend mail\n  server mail {}{back}\n",
            backend.behind(leg, speech)
        );
        let file = write(&folder, &config)?;
        Self::start(folder, address, Path::new(HAPROXY), &["-db".into(), "-f".into(), file]).await
    }

    pub(super) async fn nginx(leg: Leg, speech: Speech, backend: &Backend) -> Result<Self> {
        let (folder, address) = place(leg)?;
        let front = match leg.secure() {
            true => format!(
                "listen {address} ssl{} backlog=4096;\n  ssl_protocols TLSv1.3;\n  ssl_certificate {};\n  ssl_certificate_key {};",
                if speech == Speech::Http { " http2" } else { "" },
                backend.cert.display(),
                backend.key.display()
            ),
            false => format!("listen {address} backlog=4096;"),
        };
        let protocol = match speech {
            Speech::Http => return Self::nginx_http(folder, address, &front, backend).await,
            Speech::Imap => "protocol imap;",
            // Told nothing about the client, as HAProxy's backend is.
            Speech::Smtp => {
                "protocol smtp;\n  smtp_auth none;\n  xclient off;\n  smtp_capabilities PIPELINING \"SIZE 52428800\" 8BITMIME;"
            }
        };
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\n\
             worker_processes 1;\nworker_rlimit_nofile 20000;\ndaemon off;\n\
             pid {folder}/pid;\nerror_log {folder}/log warn;\n\
             events {{\n  worker_connections 19900;\n}}\n\
             mail {{\n  server_name {host};\n  auth_http {auth}/;\n  timeout 1h;\n  proxy_timeout 1h;\n  server {{\n  \
             {protocol}\n  {front}\n  }}\n}}\n",
            folder = folder.path().display(),
            host = Bascule::HOST,
            auth = backend.auth,
        );
        let file = write(&folder, &config)?;
        Self::start(folder, address, Path::new(NGINX), &["-c".into(), file]).await
    }

    /// As its documentation shows a reverse proxy that keeps its connections.
    async fn nginx_http(
        folder: tempfile::TempDir,
        address: SocketAddr,
        front: &str,
        backend: &Backend,
    ) -> Result<Self> {
        let config = format!(
            "worker_processes 1;\nworker_rlimit_nofile 20000;\ndaemon off;\n\
             pid {folder}/pid;\nerror_log {folder}/log warn;\n\
             events {{\n  worker_connections 19900;\n}}\n\
             http {{\n  access_log off;\n  keepalive_timeout 1h;\n  keepalive_requests 1000000000;\n  \
             client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
             fastcgi_temp_path {folder}/a;\n  uwsgi_temp_path {folder}/b;\n  scgi_temp_path {folder}/c;\n  \
             upstream web {{\n  server {http};\n  keepalive 64;\n  keepalive_requests 1000000000;\n  }}\n  \
             server {{\n  {front}\n  location / {{\n  proxy_pass http://web;\n  proxy_http_version 1.1;\n  \
             proxy_set_header Connection \"\";\n  }}\n  }}\n}}\n",
            folder = folder.path().display(),
            http = backend.http,
        );
        let file = write(&folder, &config)?;
        Self::start(folder, address, Path::new(NGINX), &["-c".into(), file]).await
    }

    pub(super) async fn pingora(program: &Path, leg: Leg, backend: &Backend) -> Result<Self> {
        let (folder, address) = place(leg)?;
        let mut arguments: Vec<PathBuf> =
            ["--listen", &address.to_string(), "--server", &backend.http.to_string()].map(Into::into).into();
        if leg.secure() {
            arguments.extend(["--cert".into(), backend.cert.clone(), "--key".into(), backend.key.clone()]);
        }
        Self::start(folder, address, program, &arguments).await
    }

    async fn start(
        folder: tempfile::TempDir,
        address: SocketAddr,
        program: &Path,
        arguments: &[PathBuf],
    ) -> Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log"))?;
        // TERM, so that a master process takes its worker along.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut peer = Self { address, process, folder };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = peer.process.try_wait()? {
                bail!("{} ended with {status}:\n{}", program.display(), peer.log());
            }
            ensure!(Instant::now() < deadline, "{} does not listen:\n{}", program.display(), peer.log());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(peer)
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.terminate();
        self.process.wait().await?;
        Ok(())
    }

    pub(super) fn log(&self) -> String {
        process::tail(&self.folder.path().join("log"), 20)
    }

    fn terminate(&self) {
        let id = self.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        // It may have ended by itself.
        let _ = id.map(|id| kill_process(id, Signal::TERM));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// A folder and an address of its own.
fn place(leg: Leg) -> Result<(tempfile::TempDir, SocketAddr)> {
    let [address, ..] = process::addresses();
    let port = if leg.secure() { 10993 } else { 10143 };
    Ok((tempfile::Builder::new().prefix("bascule-peers-").tempdir()?, (address, port).into()))
}

fn write(folder: &tempfile::TempDir, config: &str) -> Result<PathBuf> {
    let file = folder.path().join("config");
    std::fs::write(&file, config)?;
    Ok(file)
}

/// The first line that a program says about its version.
pub(super) async fn version(program: &Path) -> Result<String> {
    let flag = if program.ends_with("nginx") || program.ends_with("haproxy") { "-v" } else { "--version" };
    let ran = Command::new(program).arg(flag).output().await;
    let ran = ran.with_context(|| format!("{} (bench/peers installs the peers)", program.display()))?;
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
