//! Programs that send mail, each stopped in the middle of its dialogue while everything moves to the new version.
//!
//! Rule: a program knows nothing of the test; what it sent is looked up in the mailboxes.

use super::smtp_rig::{Post, Sender};
use bascule_tests::{client::Security, smtp::{Client, Dialect}, dovecot::Action};

#[tokio::test]
async fn probe() {
    for sender in [Sender::Dovecot, Sender::Postfix] {
        let post = Post::new(sender).await;
        post.moved().await;
        for (at, dialect, security) in [
            (post.proxy.smtp(), Dialect::Smtp, Security::Plain),
            (post.proxy.submissions(), Dialect::Smtp, post.proxy.tls().unwrap()),
            (post.proxy.lmtp(), Dialect::Lmtp, Security::Plain),
            (post.postfixes[1].relay(), Dialect::Smtp, Security::Plain),
            (post.postfixes[1].submission(), Dialect::Smtp, Security::Plain),
            (post.pair.new.submission(), Dialect::Smtp, Security::Plain),
            (post.pair.new.lmtp(), Dialect::Lmtp, Security::Plain),
        ] {
            let mut c = Client::connect(at, security, dialect).await.unwrap();
            eprintln!("{at} {:?}", c.hello().await.unwrap());
        }
        let _ = Action::Stop;
    }
}
