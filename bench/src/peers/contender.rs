//! The proxies, each started with one worker in front of the backend.
//!
//! Rule: everything that differs between them is here; who measures knows doors and processes only.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use bascule_tests::bascule::{self, Bascule, Setup};

use crate::{backend::Backend, clocks::Processes, leg::Leg};

/// One of those that are compared.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// This build of it.
    Bascule(PathBuf),
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) processes: Processes,
    proxy: Bascule,
}

impl Contender {
    /// Why it cannot serve this leg.
    pub(crate) fn refuses(&self, leg: Leg) -> Option<&'static str> {
        match (&self.kind, leg) {
            (Kind::Bascule(_), Leg::PlainPlain) => Some("allows no login in clear text"),
            _ => None,
        }
    }

    pub(crate) async fn start(&self, leg: Leg, backend: &Backend) -> Result<Running> {
        let Kind::Bascule(program) = &self.kind;
        let mut proxy = Bascule::lay(&setup(program.clone(), leg, backend))?;
        std::fs::copy(&backend.cert, proxy.path("server.crt"))?;
        std::fs::copy(&backend.key, proxy.path("server.key"))?;
        let init = proxy.run(&["init", "--active", "pool"]).await?;
        anyhow::ensure!(init.code == 0, "init: {init:?}");
        proxy.serve().await?;
        let id = proxy.id().context("it does not run")?;
        Ok(Running { name: self.name.clone(), address: proxy.imaps(), processes: Processes::of(id)?, proxy })
    }
}

impl Running {
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.proxy.kill().await
    }
}

fn setup(program: PathBuf, leg: Leg, backend: &Backend) -> Setup {
    let tls = leg == Leg::TlsTls;
    Setup {
        program: Some(program),
        threads: 1,
        pools: vec![bascule::Pool {
            name: "pool".into(),
            server: if tls { backend.tls } else { backend.plain },
            tls: tls.then(|| (backend.ca.clone(), Bascule::HOST.to_owned())),
            contract: "storage = \"replicated\"",
            password: "secret".into(),
            capabilities: Vec::new(),
            fence: None,
            promote: None,
        }],
        // As many sessions as the descriptors allow.
        tables: "[limits]\nconnections = 9900\n".into(),
        ..Setup::default()
    }
}
