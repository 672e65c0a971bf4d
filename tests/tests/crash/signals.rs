//! SIGTERM and SIGHUP.
//!
//! Rule: an end that was asked for says goodbye, and nothing that was acknowledged is lost by it.

use std::{path::Path, sync::Arc};

use bascule_tests::{
    bascule::Bascule,
    client::{Client, Error, Status},
};
use rustix::process::Signal;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rig::{Rig, When};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_says_goodbye_and_exits_well() {
    let mut rig = Rig::start().await;
    let mut idling = rig.client("user1").await;
    assert!(idling.idle().await.unwrap().is_none());
    let mut quiet = rig.client("user2").await;
    rig.append(&mut quiet).await.ok().unwrap();
    let mut stranger = Client::connect(rig.proxy.imaps(), rig.security()).await.unwrap();
    rig.proxy.signal(Signal::TERM).unwrap();
    for client in [&mut idling, &mut quiet, &mut stranger] {
        let end = loop {
            if let Err(error) = client.notice().await {
                break error;
            }
        };
        assert!(matches!(&end, Error::Closed(Some(bye)) if !bye.contains("ALERT")), "{end}");
    }
    assert!(rig.proxy.ended().await.unwrap().success());
    rig.proxy.serve().await.unwrap();
    rig.serves("old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_a_hold_goes_back_first() {
    let mut rig = Rig::start().await;
    let mut client = rig.client("user1").await;
    let fence = rig.stall("fence old readonly", When::After);
    rig.cutover_until(fence.reached(1)).await;
    let (id, message) = rig.ledger.message(300);
    let tag = client.start_append("INBOX", &message).await.unwrap();
    rig.proxy.until(|status| status["held"] == 1).await.unwrap();
    rig.proxy.signal(Signal::TERM).unwrap();
    let reply = client.finish(&tag).await.unwrap();
    assert_eq!(reply.status, Status::Ok, "{reply:?}");
    rig.ledger.settle(&id, bascule_tests::ledger::Fate::Acknowledged);
    assert!(rig.proxy.ended().await.unwrap().success());
    assert_eq!(rig.history().last().unwrap(), "undone");
    rig.no_stalls();
    rig.proxy.serve().await.unwrap();
    rig.serves("old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_is_obeyed_at_once() {
    let mut rig = Rig::start().await;
    let mut client = rig.client("user1").await;
    rig.append(&mut client).await.ok().unwrap();
    let engage = rig.stall("fence old readonly", When::After);
    let release = rig.stall("fence old off", When::Before);
    rig.cutover_until(engage.reached(1)).await;
    rig.proxy.signal(Signal::TERM).unwrap();
    // The way back cannot end: its hook waits for us.
    release.reached(1).await;
    rig.proxy.signal(Signal::TERM).unwrap();
    assert!(rig.proxy.ended().await.unwrap().success());
    assert_eq!(rig.history().last().unwrap(), "entered fenced");
    rig.no_stalls();
    rig.proxy.serve().await.unwrap();
    rig.serves("old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_serves_the_new_certificate_and_keeps_the_old_one_for_a_broken_one() {
    let rig = Rig::start().await;
    let mut client = rig.client("user1").await;
    let folder = rig.proxy.state_dir().parent().map(Path::to_path_buf).unwrap();
    let first = shown(&rig).await;

    rig.proxy.authority.issue(&[Bascule::HOST]).write(&folder, "server").unwrap();
    rig.proxy.signal(Signal::HUP).unwrap();
    said(&rig, "certificates read again").await;
    let second = shown(&rig).await;
    assert_ne!(first, second);

    // A key that belongs to another certificate, and no certificate at all.
    std::fs::write(folder.join("server.key"), rig.proxy.authority.issue(&["other"]).key).unwrap();
    rig.proxy.signal(Signal::HUP).unwrap();
    said(&rig, "the configuration is refused, nothing changed").await;
    assert_eq!(shown(&rig).await, second);

    rig.append(&mut client).await.ok().unwrap();
    rig.serves("old").await;
}

/// Waits for words in the log: nothing else tells that a signal was acted on.
async fn said(rig: &Rig, words: &str) {
    while !rig.proxy.log().contains(words) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The certificate that a new connection is shown.
async fn shown(rig: &Rig) -> CertificateDer<'static> {
    let trust: Arc<_> = bascule_tests::client::trusting(&rig.proxy.authority.pem()).unwrap();
    let tcp = TcpStream::connect(rig.proxy.imaps()).await.unwrap();
    let stream = TlsConnector::from(trust).connect(Bascule::HOST.try_into().unwrap(), tcp).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
