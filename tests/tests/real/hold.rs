//! What a client gets while the gate is shut, and when it opens again, on either side.
//!
//! Rule: the hold begins and ends with a barrier that the test answers.

use bascule_tests::{
    bascule::Setup,
    client::{Client, Status},
    dovecot::{Action, Format, Options, Pair},
};

use super::scene::{MESSAGE, Scene, all_moved, barrier, deliver, patient, question};

#[tokio::test]
async fn scenario_29_a_barrier_that_fails_aborts() {
    // As short as it may be: the barrier is asked again until its share is over.
    let short = |pair: &Pair, port| {
        let setup = barrier(patient(pair), port, "barrier");
        Setup { cutover: setup.cutover.replace("barrier = \"15s\"", "barrier = \"4s\""), ..setup }
    };
    let scene = Scene::asking(Options::default(), short).await;
    let mut idle = scene.idle("alice", 1).await;
    let mut busy = scene.selected("bob", 1).await;
    let heard = idle.received();
    let inside = async {
        let barrier = scene.asked().await;
        let append = busy.start_append("INBOX", MESSAGE).await.unwrap();
        let fetch = busy.start("UID FETCH 1:* (FLAGS)").await.unwrap();
        scene.held(2).await;
        barrier.answer(2).await;
        [append, fetch]
    };
    let (ran, [append, fetch]) = scene.cutover_while(inside).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.json["reason"].as_str().unwrap().contains("exit 2"), "{ran:?}");
    assert_eq!([&ran.json["sessions"], &ran.json["kept"]], [2, 2], "{ran:?}");
    assert_eq!(scene.proxy.status().await.unwrap()["active"], "old");
    assert!(scene.pair.new.session("alice").await.is_err(), "2.4 was never started");

    assert!(busy.finish(&append).await.unwrap().ok().unwrap().text.starts_with("[APPENDUID "));
    busy.finish(&fetch).await.unwrap().ok().unwrap();
    assert_eq!(idle.received(), heard);
    idle.done().await.unwrap().ok().unwrap();
    idle.append("INBOX", MESSAGE).await.unwrap().ok().unwrap();
    for user in ["alice", "bob"] {
        let mut direct = scene.pair.old.session(user).await.unwrap();
        direct.select("INBOX").await.unwrap().ok().unwrap();
        assert_eq!(direct.uids().await.unwrap(), [1, 2], "{user}");
    }
}

#[tokio::test]
async fn scenario_39_done_is_answered_at_once() {
    let scene = Scene::with_barrier().await;
    let mut client = scene.idle("alice", 3).await;
    let inside = async {
        client.done().await.unwrap().ok().unwrap();
        let fetch = client.start("UID FETCH 2 (UID)").await.unwrap();
        scene.held(1).await;
        fetch
    };
    let fetch = scene.moved_while(inside).await;
    let answer = client.finish(&fetch).await.unwrap().ok().unwrap();
    assert_eq!(answer.texts(), ["* 2 FETCH (UID 2)"]);
}

#[tokio::test]
async fn scenario_40_done_and_idle_in_one_packet() {
    let scene = Scene::with_barrier().await;
    let mut client = scene.selected("alice", 1).await;
    let first = client.start("IDLE").await.unwrap();
    assert!(client.go_ahead(&first).await.unwrap().is_none());
    let inside = async {
        client.announce("again", "IDLE");
        client.write(b"DONE\r\nagain IDLE\r\n").await.unwrap();
        client.finish(&first).await.unwrap().ok().unwrap();
        assert!(client.go_ahead("again").await.unwrap().is_none());
        client.received()
    };
    let heard = scene.moved_while(inside).await;
    assert_eq!(client.received(), heard);
    deliver(&scene.pair.new, "alice").await;
    assert_eq!(client.notice().await.unwrap().text(), "* 2 EXISTS");
    client.write(b"DONE\r\n").await.unwrap();
    client.finish("again").await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn scenario_41_garbage_instead_of_done() {
    let scene = Scene::with_barrier().await;
    let mut client = scene.selected("alice", 1).await;
    refuses_garbage(&mut client).await;
    let inside = async {
        refuses_garbage(&mut client).await;
        let search = client.start("UID SEARCH ALL").await.unwrap();
        scene.held(1).await;
        search
    };
    let search = scene.moved_while(inside).await;
    assert_eq!(client.finish(&search).await.unwrap().ok().unwrap().texts(), ["* SEARCH 1"]);
    refuses_garbage(&mut client).await;
    assert_eq!(client.uids().await.unwrap(), [1]);
}

async fn refuses_garbage(client: &mut Client) {
    let idle = client.start("IDLE").await.unwrap();
    assert!(client.go_ahead(&idle).await.unwrap().is_none());
    client.write(b"DONNE\r\n").await.unwrap();
    let answer = client.finish(&idle).await.unwrap();
    assert_eq!(answer.status, Status::Bad, "{answer:?}");
}

#[tokio::test]
async fn scenario_44_a_large_upload_is_taken_during_the_hold() {
    const SIZE: usize = 50_000_000;
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    while message.len() < SIZE {
        message
            .extend_from_slice(b"a line of a large attachment, as long as such lines are, seventy-eight\r\n");
    }
    message.truncate(SIZE - 2);
    message.extend_from_slice(b"\r\n");

    let scene = Scene::with_barrier().await;
    let mut client = scene.selected("alice", 1).await;
    let inside = async {
        let append = client.begin(&format!("APPEND INBOX {{{SIZE}}}")).await.unwrap();
        assert!(client.go_ahead(&append).await.unwrap().is_none(), "no +");
        client.complete(&append, &message).await.unwrap();
        scene.held(1).await;
        append
    };
    let append = scene.moved_while(inside).await;
    let answer = client.finish(&append).await.unwrap().ok().unwrap();
    assert!(answer.text.starts_with("[APPENDUID "), "{answer:?}");
    let size = client.command("UID FETCH 2 (RFC822.SIZE)").await.unwrap().ok().unwrap().texts().concat();
    assert!(size.contains(&format!("RFC822.SIZE {SIZE}")), "{size}");
    let mut direct = scene.pair.new.session("alice").await.unwrap();
    direct.select("INBOX").await.unwrap().ok().unwrap();
    assert_eq!(direct.uids().await.unwrap(), [1, 2]);
}

#[tokio::test]
async fn scenario_46_pipelined_replies_keep_their_order() {
    let scene = Scene::with_barrier().await;
    let mut client = scene.selected("alice", 1).await;
    let inside = async {
        let append = client.start_append("INBOX", b"Subject: x").await.unwrap();
        let noop = client.start("NOOP").await.unwrap();
        scene.held(2).await;
        [append, noop]
    };
    let [append, noop] = scene.moved_while(inside).await;
    // The client's oracle insists on the order.
    client.finish(&append).await.unwrap().ok().unwrap();
    client.finish(&noop).await.unwrap().ok().unwrap();
    assert_eq!(client.uids().await.unwrap(), [1, 2]);
}

#[tokio::test]
async fn scenarios_31_and_54_a_login_that_the_new_server_refuses_aborts() {
    let pair = Pair::shared(Options::default()).await.unwrap();
    // As many connections as alice has, so that one too many would be refused with [LIMIT].
    let limit = ["mail_max_userip_connections = 10000", "mail_max_userip_connections = 3"];
    pair.old.configure(limit[0], limit[1]).unwrap();
    pair.old.act(Action::Stop).await.unwrap();
    pair.old.act(Action::Start).await.unwrap();
    std::fs::write(pair.path("denied"), "alice\n").unwrap();
    let denied =
        "passdb denied {\n  driver = passwd-file\n  deny = yes\n  passwd_file_path = /mnt/denied\n}\n";
    pair.new.configure("passdb masters {", &format!("{denied}passdb masters {{")).unwrap();
    let setup = patient(&pair);
    let scene = Scene::start(pair, &setup).await;

    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(scene.idle("alice", 0).await);
    }
    let heard: Vec<_> = clients.iter().map(Client::received).collect();
    let ran = scene.proxy.cutover("new").await.unwrap();
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!([&ran.json["sessions"], &ran.json["kept"]], [3, 3], "{ran:?}");
    assert!(!ran.json["unmovable"].as_object().unwrap().is_empty(), "{ran:?}");
    assert_eq!(clients.iter().map(Client::received).collect::<Vec<_>>(), heard);
    for client in &mut clients {
        client.done().await.unwrap().ok().unwrap();
        client.command("NOOP").await.unwrap().ok().unwrap();
    }
    assert!(!scene.pair.old.log().contains("Maximum number of connections"));
    // The limit is one: a fourth session is refused, and in the server's own words.
    let fourth = scene.pair.old.session("alice").await.unwrap_err().to_string();
    assert!(fourth.contains("Maximum number of connections"), "{fourth}");
}

#[tokio::test]
async fn a_mailbox_that_grew_in_the_hold_is_announced() {
    let maildir = Options { format: Format::Maildir, ..Options::default() };
    let scene = Scene::asking(maildir, |pair, port| barrier(patient(pair), port, "barrier")).await;
    let mut idle = scene.idle("alice", 2).await;
    let mut quiet = scene.selected("alice", 0).await;
    scene
        .moved_while(async {
            // Neither server runs: an MTA writes into the store past both.
            let file = scene.pair.mail("alice").join("new/1763775000.M1P1.test");
            std::fs::write(&file, MESSAGE).unwrap();
            std::os::unix::fs::chown(&file, Some(5000), Some(5000)).unwrap();
        })
        .await;
    grew(&mut idle).await;
    let notices = [quiet.notice().await.unwrap().text(), quiet.notice().await.unwrap().text()];
    assert_eq!(notices[0], "* 3 EXISTS");
    assert!(notices[1].ends_with(" RECENT"), "{notices:?}");
    assert_eq!(quiet.uids().await.unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn a_delivery_to_the_new_server_before_the_sessions_come_is_announced() {
    // The promotion asks once 2.4 runs, and before any session goes there.
    let promoting = |pair: &Pair, port| {
        let mut setup = patient(pair);
        let start = setup.pools[1].promote.take().unwrap().join(" ");
        setup.pools[1].promote = Some(question(port, &start));
        setup
    };
    let scene = Scene::asking(Options::default(), promoting).await;
    let mut idle = scene.idle("alice", 2).await;
    let inside = async {
        let promotion = scene.asked().await;
        deliver(&scene.pair.new, "alice").await;
        promotion.answer(0).await;
    };
    let (ran, ()) = scene.cutover_while(inside).await;
    all_moved(&ran);
    grew(&mut idle).await;
}

/// An idle session with two messages hears of a third and can read it.
async fn grew(idle: &mut Client) {
    let notices = [idle.notice().await.unwrap().text(), idle.notice().await.unwrap().text()];
    assert_eq!(notices[0], "* 3 EXISTS");
    assert!(notices[1].ends_with(" RECENT"), "{notices:?}");
    idle.done().await.unwrap().ok().unwrap();
    assert_eq!(idle.uids().await.unwrap(), [1, 2, 3]);
    let body = idle.fetch_body(3).await.unwrap().unwrap();
    assert!(body.ends_with(MESSAGE), "{}", String::from_utf8_lossy(&body));
}
