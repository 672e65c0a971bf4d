//! bascule as a contender.
//!
//! Rule: set up as an operator would, with one thread for sessions; its other threads count as well.

use std::path::Path;

use anyhow::{Result, ensure};
use bascule_tests::bascule::{Bascule, Pool, Service, Setup};

use crate::{
    backend::Backend,
    leg::{Leg, Speech},
};

/// As many sessions as the descriptors allow, and time enough for those that misbehave to be looked at.
const LIMITS: &str =
    "[limits]\nconnections = 9900\nhandshake = \"10m\"\nlogin = \"10m\"\nhttp.idle = \"1h\"\n";
const ROUTES: &str = "routes = [{ path = \"/\", service = \"web\" }]\n";

pub(super) async fn start(
    program: &Path,
    limits: &str,
    leg: Leg,
    speech: Speech,
    backend: &Backend,
) -> Result<Bascule> {
    let mut setup = setup(program, leg, speech, backend);
    setup.tables += limits;
    let mut proxy = Bascule::lay(&setup)?;
    std::fs::copy(&backend.cert, proxy.path("server.crt"))?;
    std::fs::copy(&backend.key, proxy.path("server.key"))?;
    let init = proxy.run(&["init", "--active", "pool"]).await?;
    ensure!(init.code == 0, "init: {init:?}");
    proxy.serve().await?;
    Ok(proxy)
}

fn setup(program: &Path, leg: Leg, speech: Speech, backend: &Backend) -> Setup {
    let smtp = || Service { protocol: "smtp", server: backend.smtp, tls: None, lines: String::new() };
    // The peers tell the server nothing about the client either.
    let lines = "tls = { mode = \"none\" }\nclient_address = \"none\"\n";
    let web = || ("web", vec![backend.http], lines.to_owned());
    Setup {
        program: Some(program.to_owned()),
        threads: 1,
        pools: vec![Pool {
            name: "pool".into(),
            server: backend.behind(leg, Speech::Imap),
            tls: (leg == Leg::TlsTls).then(|| (backend.ca.clone(), Bascule::HOST.to_owned())),
            contract: "storage = \"replicated\"",
            password: "secret".into(),
            capabilities: Vec::new(),
            mail: (speech == Speech::Smtp).then(smtp).into_iter().collect(),
            http: (speech == Speech::Http).then(web).into_iter().collect(),
            fence: None,
            promote: None,
        }],
        http: if speech == Speech::Http { ROUTES.into() } else { String::new() },
        tables: LIMITS.into(),
        ..Setup::default()
    }
}
