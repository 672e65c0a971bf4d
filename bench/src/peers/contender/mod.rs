//! The proxies, each with one worker in front of the same backend, with the same certificate.
//!
//! Rule: everything that differs between them is below here; who measures knows doors and processes only.

mod bascule;
mod peer;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bascule_tests::bascule::Bascule;

use self::peer::Peer;
use crate::{
    backend::Backend,
    clocks::Processes,
    leg::{Leg, Speech},
    load::Door,
};

/// One of those that are compared.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Further lines of `[limits]`, for bascule.
    pub(crate) limits: String,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This build of bascule.
    Bascule(PathBuf),
    /// HAProxy in tcp mode; for HTTP in its mode for that.
    Haproxy,
    /// nginx's mail module; for HTTP its proxy module.
    Nginx,
    /// Nothing but pingora, which bascule uses for HTTP: no peer, but a share of what bascule costs.
    Pingora(PathBuf),
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    pub(crate) name: &'a str,
    pub(crate) door: Door<'a>,
    proxy: Proxy,
}

#[derive(Debug)]
enum Proxy {
    Bascule(Box<Bascule>),
    Peer(Box<Peer>),
}

impl Contender {
    /// Whether it is compared with, and not what is compared.
    pub(crate) fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Haproxy | Kind::Nginx)
    }

    /// Why it cannot serve this leg.
    pub(crate) fn refuses(&self, leg: Leg, speech: Speech) -> Option<&'static str> {
        match (&self.kind, leg, speech) {
            (Kind::Bascule(_), Leg::PlainPlain, Speech::Imap) => Some("allows no login in clear text"),
            (Kind::Nginx, Leg::TlsTls, Speech::Imap | Speech::Smtp) => {
                Some("cannot speak TLS to a mail backend")
            }
            (Kind::Pingora(_), _, Speech::Imap | Speech::Smtp) => Some("speaks HTTP only"),
            (Kind::Haproxy | Kind::Bascule(_) | Kind::Nginx | Kind::Pingora(_), _, _) => None,
        }
    }

    /// What it calls itself.
    pub(crate) async fn version(&self) -> Result<String> {
        let program: &Path = match &self.kind {
            Kind::Bascule(program) | Kind::Pingora(program) => program,
            Kind::Haproxy => Path::new(peer::HAPROXY),
            Kind::Nginx => Path::new(peer::NGINX),
        };
        peer::version(program).await
    }

    /// Starts it; it serves when this returns.
    pub(crate) async fn start<'a>(
        &'a self,
        leg: Leg,
        speech: Speech,
        backend: &'a Backend,
    ) -> Result<Running<'a>> {
        let (address, proxy) = match &self.kind {
            Kind::Bascule(program) => {
                let proxy = bascule::start(program, &self.limits, leg, speech, backend).await?;
                let address = match speech {
                    Speech::Imap => proxy.imaps(),
                    Speech::Smtp if leg.secure() => proxy.smtps(),
                    Speech::Smtp => proxy.smtp(),
                    Speech::Http if leg.secure() => proxy.https(),
                    Speech::Http => proxy.http(),
                };
                (address, Proxy::Bascule(Box::new(proxy)))
            }
            Kind::Haproxy => {
                let proxy = Peer::haproxy(leg, speech, backend).await?;
                (proxy.address, Proxy::Peer(Box::new(proxy)))
            }
            Kind::Nginx => {
                let proxy = Peer::nginx(leg, speech, backend).await?;
                (proxy.address, Proxy::Peer(Box::new(proxy)))
            }
            Kind::Pingora(program) => {
                let proxy = Peer::pingora(program, leg, backend).await?;
                (proxy.address, Proxy::Peer(Box::new(proxy)))
            }
        };
        Ok(Running { name: &self.name, door: backend.door(leg, address), proxy })
    }
}

impl Running<'_> {
    /// Its processes as they are now.
    pub(crate) fn processes(&self) -> Result<Processes> {
        let id = match &self.proxy {
            Proxy::Bascule(proxy) => proxy.id(),
            Proxy::Peer(proxy) => proxy.id(),
        };
        Processes::of(id.with_context(|| format!("{} has ended", self.name))?)
    }

    /// Ends it and waits for its end.
    pub(crate) async fn stop(self) -> Result<()> {
        match self.proxy {
            Proxy::Bascule(mut proxy) => proxy.kill().await,
            Proxy::Peer(proxy) => proxy.stop().await,
        }
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        match &self.proxy {
            Proxy::Bascule(proxy) => proxy.log(),
            Proxy::Peer(proxy) => proxy.log(),
        }
    }
}
