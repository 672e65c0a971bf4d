//! Several servers of one service: who serves whom, and what happens when one is away.
//!
//! Rule: a client stays with its server while that is there; a server that is away costs nobody an answer.

use bascule_tests::{fake::http::At, http::Client};

use super::{
    super::rig::{Plan, Rig, Spoken, Twins},
    USERS, plan,
};

/// Which server answers a browser that has these fields.
async fn server(client: &mut Client, fields: &str) -> String {
    let answer = client.ask_with("GET", "/who", fields, b"").await.unwrap();
    answer.text().split(' ').next().unwrap_or_default().to_owned()
}

impl Rig {
    fn named(&self, name: &str) -> &bascule_tests::fake::http::Web {
        let at = ["old", "new", "old2", "new2"].iter().position(|own| *own == name).unwrap();
        &self.webs[at]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_costs_nobody_an_answer() {
    let rig = plan().twins(Twins::Same).service("balance = \"header:x-user\"\n").start(USERS).await;
    let mut client = rig.browser().await;
    let user = |n: usize| format!("X-User: user{n}\r\n");
    let mut first = Vec::new();
    for n in 0..20 {
        first.push(server(&mut client, &user(n)).await);
    }
    assert!(first.iter().any(|name| name == "old") && first.iter().any(|name| name == "old2"), "{first:?}");
    rig.named("old2").stop().await;
    for n in 0..20 {
        assert_eq!(server(&mut client, &user(n)).await, "old");
        assert_eq!(client.ask_with("POST", "/effect", &user(n), b"x").await.unwrap().status, 201);
    }
    assert_eq!(rig.shelf.effects().len(), 20);
    // Both gone: whoever comes waits, and goes to the one that is back.
    rig.named("old").stop().await;
    let at = first.iter().position(|name| name == "old").unwrap();
    client.write(Client::head("GET", "/who", &user(at), 0)).await.unwrap();
    rig.held(1).await;
    rig.named("old2").serve();
    assert_eq!(client.answer().await.unwrap().text(), "old2 /who");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_of_ours_keeps_a_browser_with_its_server_for_an_epoch() {
    let rig = plan().twins(Twins::Same).service("balance = \"cookie\"\n").start(USERS).await;
    let mut client = rig.secure_browser().await;
    let answer = client.ask("GET", "/who", b"").await.unwrap();
    let mut own = answer.text();
    let given = |answer: &bascule_tests::http::Answer| {
        answer.field("set-cookie").map(|field| field.split(';').next().unwrap_or_default().to_owned())
    };
    let field = answer.field("set-cookie").unwrap();
    assert!(field.starts_with("bascule-webmail=") && field.contains("; Secure"), "{field}");
    assert!(field.contains("; HttpOnly; SameSite=Lax"), "{field}");
    let first = given(&answer).unwrap();
    for _ in 0..3 {
        let fields = format!("Cookie: a=b; {first}; c=d\r\n");
        let answer = client.ask_with("GET", "/who", &fields, b"").await.unwrap();
        assert_eq!((answer.text(), given(&answer)), (own.clone(), None));
    }
    let name = own.split(' ').next().unwrap().to_owned();
    let seen = rig.named(&name).seen();
    assert!(seen.last().unwrap().head.contains("a=b; c=d\r\n"), "ours is for nobody else: {seen:?}");
    // Its server is away: another one, and a new cookie for that.
    rig.named(&name).stop().await;
    let answer = client.ask_with("GET", "/who", &format!("Cookie: {first}\r\n"), b"").await.unwrap();
    let second = given(&answer).unwrap();
    assert!(answer.text() != own && second != first);
    own = answer.text();
    rig.named(&name).serve();
    let answer = client.ask_with("GET", "/who", &format!("Cookie: {second}\r\n"), b"").await.unwrap();
    assert_eq!((answer.text(), given(&answer)), (own, None));
    // One of another epoch is none, and neither is one that nobody gave out.
    rig.cutover("new").await;
    for cookie in [&second, "bascule-webmail=AAAAAAAA"] {
        let answer = client.ask_with("GET", "/who", &format!("Cookie: {cookie}\r\n"), b"").await.unwrap();
        assert!(answer.text().starts_with("new") && given(&answer).is_some(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_got_a_session_from_a_server_comes_back_to_it() {
    let rig = plan().twins(Twins::Same).service("balance = \"cookie:SESSION\"\n").start(USERS).await;
    let mut client = rig.browser().await;
    let mut login = async |fields: &'static str| {
        for web in [0, 2] {
            rig.webs[web].fault("/login", At::Say(200, fields), 1);
        }
        let server = client.ask("POST", "/login", b"").await.unwrap().text();
        let cookie = fields.strip_prefix("Set-Cookie: ").unwrap().split(';').next().unwrap();
        (server, format!("Cookie: {cookie}\r\n"))
    };
    let mut sessions = Vec::new();
    for fields in [
        "Set-Cookie: SESSION=1; Path=/\r\n",
        "Set-Cookie: SESSION=2; Path=/\r\n",
        "Set-Cookie: SESSION=3; Path=/\r\n",
        "Set-Cookie: SESSION=4; Path=/\r\n",
    ] {
        sessions.push(login(fields).await);
    }
    for (name, cookie) in sessions {
        assert_eq!(server(&mut client, &cookie).await, name, "{cookie}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_of_http_2_has_not_looked_at_is_said_again_whatever_it_is() {
    let rig = speaking(Spoken::Two).start(USERS).await;
    rig.web()[0].fault("/effect", At::Head, 2);
    let mut client = rig.browser().await;
    assert_eq!(client.ask("POST", "/effect", b"refused").await.unwrap().status, 201);
    rig.web()[0].fault("/reset", At::Done, 1);
    assert_eq!(client.ask("POST", "/reset", b"done").await.unwrap().status, 502, "this one was looked at");
    assert_eq!(rig.shelf.effects().len(), 2);
    // GOAWAY before the first stream.
    let rig = speaking(Spoken::TwoAway).start(USERS).await;
    let answer = rig.browser().await.ask("POST", "/effect", b"away").await.unwrap();
    assert_eq!((answer.status, rig.shelf.effects().len()), (201, 1));
}

fn speaking(spoken: Spoken) -> Plan {
    Plan::replicated().web("", spoken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_servers_is_not_said_for_ever() {
    let rig = plan().start(USERS).await;
    rig.web()[0].fault("/killer", At::Whole, 100);
    let answer = rig.browser().await.ask("GET", "/killer", b"").await.unwrap();
    assert_eq!((answer.status, answer.field("retry-after").is_some()), (503, true));
    assert_eq!(rig.web()[0].count("/killer"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_a_server_knows_a_client_by_are_nobody_elses() {
    let rig = plan().start(USERS).await;
    let (mut anna, mut bert) = (rig.browser().await, rig.browser().await);
    let ntlm = "Authorization: NTLM TlRMTVNTUAAB\r\n";
    for _ in 0..2 {
        anna.ask_with("GET", "/anna", ntlm, b"").await.unwrap();
        anna.ask("GET", "/anna", b"").await.unwrap();
        bert.ask("GET", "/bert", b"").await.unwrap();
    }
    let seen = rig.web()[0].seen();
    let of = |path: &str| {
        let mut of: Vec<_> =
            seen.iter().filter(|one| one.head.contains(path)).map(|one| one.connection).collect();
        of.dedup();
        of
    };
    assert_eq!((of("/anna").len(), of("/bert").len()), (1, 1), "kept: {seen:?}");
    assert_ne!(of("/anna"), of("/bert"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_a_connections_stays_on_it_whatever_its_requests_bring() {
    let rig = plan().start(USERS).await;
    for target in ["/mapi", "/poll"] {
        let mut client = rig.browser().await;
        // The body comes with the last message of the handshake (curl, WinHTTP), and what follows needs none.
        let asked =
            [("POST", "NTLM one", ""), ("POST", "NTLM three", "body"), ("GET", "", ""), ("POST", "", "body")];
        for (method, token, body) in asked {
            let field = if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") };
            assert!(client.ask_with(method, target, &field, body.as_bytes()).await.unwrap().ok());
        }
        let seen = rig.web()[0].seen();
        let mut of: Vec<_> =
            seen.iter().filter(|one| one.head.contains(target)).map(|one| one.connection).collect();
        assert_eq!(of.len(), 4);
        of.dedup();
        assert_eq!(of.len(), 1, "{target}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_on_a_connection_of_its_clients_own_begins_again_on_the_new_pool() {
    let rig = plan().stops().start(USERS).await;
    let poll = rig.web()[0].stall("/poll");
    let mut client = rig.browser().await;
    let head = Client::head("POST", "/poll", "Authorization: NTLM one\r\n", 4);
    client.write([head.as_bytes(), b"body"].concat()).await.unwrap();
    poll.reached(1).await;
    rig.cutover("new").await;
    assert_eq!(client.answer().await.unwrap().text(), "new");
    assert_eq!(rig.shelf.effects().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pool_is_not_believed_at_once_about_credentials() {
    let rig = plan().brief().waits("8s").start(USERS).await;
    let mut client = rig.browser().await;
    let known = "Authorization: Basic YW5uYTpwdw==\r\n";
    let unknown = "Authorization: Basic YW5uYTp4\r\n";
    assert_eq!(client.ask_with("PROPFIND", "/page", known, b"").await.unwrap().status, 404);
    assert_eq!(client.ask_with("GET", "/page", known, b"").await.unwrap().status, 200);
    rig.cutover("new").await;
    let refusal = At::Say(401, "WWW-Authenticate: Basic realm=\"x\"\r\n");
    // It comes to its senses.
    rig.web()[1].fault("/page", refusal.clone(), 2);
    assert_eq!(client.ask_with("GET", "/page", known, b"").await.unwrap().status, 200);
    rig.web()[1].fault("/effect", refusal.clone(), 1);
    assert_eq!(client.ask_with("POST", "/effect", known, b"x").await.unwrap().status, 201);
    assert_eq!(rig.shelf.effects().len(), 1);
    // It does not.
    rig.web()[1].fault("/page", refusal, 1000);
    assert_eq!(client.ask_with("GET", "/page", known, b"").await.unwrap().status, 503);
    let mut other = rig.browser().await;
    assert_eq!(
        other.ask_with("GET", "/page", unknown, b"").await.unwrap().status,
        401,
        "nobody ever took that"
    );
}
