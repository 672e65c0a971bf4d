//! The least that pingora can be asked to do: every request to one server. What it costs is pingora's own share of what
//! bascule costs.
//!
//! Rule: pingora's defaults, one thread; what is set is what the other peers are set to as well.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use clap::Parser;
use pingora_core::{
    listeners::tls::TlsSettings,
    server::{RunArgs, Server, configuration::ServerConf},
    services::listening::Service,
    upstreams::peer::HttpPeer,
};
use pingora_http::RequestHeader;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy_service};

/// A reverse proxy of pingora with nothing added.
#[derive(Debug, Parser)]
#[command(name = "bascule-pingora")]
struct Args {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    server: SocketAddr,
    /// PEM; with them it speaks TLS
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
}

/// All requests go there.
struct To(SocketAddr);

#[async_trait]
impl ProxyHttp for To {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn early_request_filter(&self, session: &mut Session, (): &mut ()) -> pingora_error::Result<()> {
        session.set_keepalive(Some(3600));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_error::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        _: &mut RequestHeader,
        (): &mut (),
    ) -> pingora_error::Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let conf = ServerConf {
        threads: 1,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, To(args.server));
    listen(&mut proxy, &args)?;
    server.add_service(proxy);
    server.run(RunArgs::default());
    Ok(())
}

fn listen(proxy: &mut Service<HttpProxy<To>>, args: &Args) -> Result<()> {
    let place = args.listen.to_string();
    let (Some(cert), Some(key)) = (&args.cert, &args.key) else {
        proxy.add_tcp(&place);
        return Ok(());
    };
    let [cert, key] = [cert, key].map(|path| path.to_string_lossy());
    let mut tls = TlsSettings::intermediate(&cert, &key).map_err(|error| anyhow!("{error}"))?;
    tls.enable_h2();
    proxy.add_tls_with_settings(&place, None, tls);
    Ok(())
}
