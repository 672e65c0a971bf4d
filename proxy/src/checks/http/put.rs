//! A resource that a probe account writes: what shows whether a service can be written to.
//!
//! Rule: a PUT counts only if the resource is then there, and a refusal only if it may come from a fence; a missing
//! folder and a full disk are refused without one.

use std::{io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::ask::{Ask, At, Lost, Said, Talk};
use crate::{
    checks::{
        Answer,
        canary::{Entrance, Tried},
        server::refused_everywhere,
        trial::{Write, nonce},
    },
    config::{Account, HttpService},
    session::http::Shared,
};

/// One server of a service as a way to write into a pool.
#[derive(Debug)]
pub(in crate::checks) struct ByHttp<'a> {
    pub(super) http: &'a Shared,
    pub(super) service: HttpService,
    pub(super) server: String,
    pub(super) host: String,
    pub(super) account: Account,
    /// Where the account may write; `None`: the service stores nothing by itself.
    pub(super) path: Option<String>,
}

/// A connection, and what is written over it. Without a path nothing is.
#[derive(Debug)]
pub(in crate::checks) struct Put {
    talk: Talk,
    path: Option<String>,
    login: Zeroizing<String>,
}

impl ByHttp<'_> {
    /// A connection over which the account has written and taken away again. The positive control.
    pub(in crate::checks) async fn open(&self) -> Result<Put, Write> {
        let mut put = self.connect().await.map_err(|error| self.unclear(&error))?;
        self.written(&mut put).await?;
        Ok(put)
    }

    /// Whether the account can write; where nothing is to be written, whether anybody answers.
    pub(in crate::checks) async fn takes(&self) -> Answer {
        self.open().await.map_or_else(Write::wanted, |_| Answer::Pass)
    }

    /// Writes, looks, and takes away.
    async fn written(&self, put: &mut Put) -> Result<(), Write> {
        let Some(path) = put.path.clone() else {
            let said = self.asked(put, "GET", "/", b"").await?;
            return if said.status < 500 { Ok(()) } else { Err(needed("GET /", &said)) };
        };
        let nonce = nonce();
        let taken = self.asked(put, "PUT", &path, body(&path, &nonce).as_bytes()).await?;
        if taken.status / 100 != 2 {
            return Err(needed(&format!("PUT {path}"), &taken));
        }
        let found = self.asked(put, "GET", &path, b"").await?;
        let has = found.body.windows(nonce.len()).any(|part| part == nonce.as_bytes());
        if found.status != 200 || !has {
            let saw = format!("PUT {path} was answered OK, and GET {} without it", found.status);
            return Err(Write::Unclear(saw));
        }
        let gone = self.asked(put, "DELETE", &path, b"").await?;
        if gone.status / 100 == 2 { Ok(()) } else { Err(needed(&format!("DELETE {path}"), &gone)) }
    }

    /// An answer, on another connection where the server keeps none.
    async fn asked(&self, put: &mut Put, method: &str, path: &str, body: &[u8]) -> Result<Said, Write> {
        let mut said = put.say(method, path, body).await;
        if matches!(said, Err(Lost::Unsent)) {
            *put = self.connect().await.map_err(|error| self.unclear(&error))?;
            said = put.say(method, path, body).await;
        }
        said.map_err(|lost| Write::Unclear(format!("{method} {path}: {lost}")))
    }

    fn unclear(&self, error: &io::Error) -> Write {
        Write::Unclear(format!("{}: {error}", self.server))
    }

    async fn connect(&self) -> io::Result<Put> {
        let Self { http, service, server, host, .. } = self;
        let talk = Talk::open(At { http, service, server, host }).await?;
        let path = self.path.as_ref().map(|path| path.replace("{user}", &self.account.user));
        Ok(Put { talk, path, login: basic(&self.account) })
    }
}

impl Entrance for ByHttp<'_> {
    type Session = Put;

    fn server(&self) -> &str {
        &self.server
    }

    async fn afresh(&self) -> Answer {
        if self.path.is_none() {
            return Answer::Pass;
        }
        let answer = match self.connect().await {
            Ok(put) => match put.attempt().await.0 {
                // Somebody accepts connections and says nothing: that is no refusal.
                Write::Refused { said, closed: true, .. } => Answer::Unknown(said),
                write @ (Write::Done(_) | Write::Refused { .. } | Write::Unclear(_)) => write.unwanted(),
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused_everywhere(&self.server).await
            }
            Err(error) => Answer::Unknown(error.to_string()),
        };
        answer.named("fresh connection")
    }
}

impl Tried for Put {
    async fn ended(&mut self, wait: Duration) -> bool {
        self.talk.ended(wait).await
    }

    async fn attempt(mut self) -> (Write, Option<Self>) {
        let write = match self.path.clone() {
            Some(path) => self.put(&path, &nonce()).await,
            // It can do no harm; whether it still stands is all that there is to know.
            None => Write::Refused { said: "it stores nothing by itself".to_owned(), closed: false },
        };
        if let (Write::Done(_), Some(path)) = (&write, self.path.clone()) {
            // What a fence let through is taken away, if that is let through as well.
            let _ = self.say("DELETE", &path, b"").await;
        }
        let goes_on = matches!(write, Write::Done(_) | Write::Refused { closed: false, .. });
        (write, goes_on.then_some(self))
    }
}

impl Put {
    async fn put(&mut self, path: &str, nonce: &str) -> Write {
        match self.say("PUT", path, body(path, nonce).as_bytes()).await {
            Ok(said) if said.status / 100 == 2 => Write::Done("PUT"),
            Ok(said) => refused(&format!("PUT {path}"), &said),
            Err(Lost::Unsent) => Write::Refused { said: Lost::Unsent.to_string(), closed: true },
            Err(lost @ (Lost::Unanswered(_) | Lost::Nonsense(_))) => {
                Write::Unclear(format!("PUT {path}: {lost}"))
            }
        }
    }

    async fn say(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Said, Lost> {
        let fields: &[(&str, &str)] = match body {
            b"" => &[("Authorization", &self.login)],
            _ => &[("Authorization", &self.login), ("Content-Type", kind(path))],
        };
        self.talk.ask(Ask { method, path, fields, body }).await
    }
}

/// Refusals that may come from a fence: of the login, of the method, of the resource, of everything.
const OF_A_FENCE: [u16; 5] = [401, 403, 405, 423, 503];

/// What it means where it must succeed. 503 is what stands before a web server that has just begun (RFC 9110 §15.6.4); by
/// IMAP no such word is waited for, since UNAVAILABLE is also what pools say that were not promoted.
fn needed(what: &str, said: &Said) -> Write {
    if said.status == 503 { Write::Unclear(told(what, said)) } else { refused(what, said) }
}

fn refused(what: &str, said: &Said) -> Write {
    let text = told(what, said);
    if OF_A_FENCE.contains(&said.status) {
        Write::Refused { said: text, closed: false }
    } else {
        Write::Unclear(text)
    }
}

fn told(what: &str, said: &Said) -> String {
    format!("{what}: {} {}", said.status, words(&said.body)).trim_end().to_owned()
}

/// What a body says to people: a server may refuse with 403 what it does not like about a resource.
fn words(body: &[u8]) -> String {
    let (mut text, mut tag) = (String::new(), false);
    for c in String::from_utf8_lossy(&body[..body.len().min(4096)]).chars() {
        match c {
            '<' => tag = true,
            '>' => {
                tag = false;
                text.push(' ');
            }
            c if !tag => text.push(c),
            _ => {}
        }
    }
    let text = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    text.collect::<Vec<_>>().join(" ").chars().take(160).collect()
}

fn basic(account: &Account) -> Zeroizing<String> {
    let pair = Zeroizing::new([account.user.as_bytes(), b":", &account.password.0[..]].concat());
    Zeroizing::new(format!("Basic {}", *Zeroizing::new(STANDARD.encode(&*pair))))
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, kind)| kind) {
        Some("ics") => "text/calendar; charset=utf-8",
        Some("vcf") => "text/vcard; charset=utf-8",
        Some(_) | None => "text/plain; charset=utf-8",
    }
}

/// Something that servers for this kind of resource take. Cyrus 3.6 takes no event without an end after its start.
fn body(path: &str, nonce: &str) -> String {
    match path.rsplit_once('.').map(|(_, kind)| kind) {
        Some("ics") => format!(
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//bascule//probe//EN\r\nBEGIN:VEVENT\r\nUID:bascule-probe\r\n\
             DTSTAMP:20000101T000000Z\r\nDTSTART:20000101T000000Z\r\nDTEND:20000101T010000Z\r\n\
             SUMMARY:{nonce}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
        ),
        Some("vcf") => format!(
            "BEGIN:VCARD\r\nVERSION:3.0\r\nUID:bascule-probe\r\nFN:bascule probe\r\nN:probe;bascule;;;\r\nNOTE:{nonce}\r\n\
             END:VCARD\r\n"
        ),
        Some(_) | None => format!("{nonce}\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        checks::fake::account,
        config::{HttpAddress, HttpBalance, HttpProof, HttpVersion, ServiceTls, defaults},
    };

    /// A server that keeps no connection and answers a request so; `None`: it closes before anybody asked.
    async fn server(answer: impl Fn(&str, &str) -> Option<String> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut stored = String::new();
            while let Ok((tcp, _)) = listener.accept().await {
                if answer("", "").is_none() {
                    continue;
                }
                let mut stream = BufReader::new(tcp);
                let (mut head, mut length) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).await.unwrap() > 0 {}
                for line in head.lines() {
                    length = line.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                if head.starts_with("PUT ") {
                    stored = String::from_utf8(body).unwrap();
                }
                let method = head.split(' ').next().unwrap();
                let said = answer(method, &stored).unwrap();
                // It may be too long for whoever asked.
                let _ = stream.write_all(said.as_bytes()).await;
            }
        });
        address
    }

    fn said(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} Said\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn way<'a>(http: &'a Shared, server: &str, path: Option<&str>) -> ByHttp<'a> {
        let service = HttpService {
            servers: vec![server.to_owned()],
            tls: ServiceTls::None,
            version: HttpVersion::One,
            client_address: HttpAddress::Headers,
            balance: HttpBalance::Address,
            concurrency: None,
            queue: 0,
            dial_timeout: defaults::DIAL_TIMEOUT,
            silence: defaults::HTTP_SILENCE,
            proof: HttpProof::default(),
        };
        let (server, host, path) = (server.to_owned(), "www.test".to_owned(), path.map(str::to_owned));
        ByHttp { http, service, server, host, account: account("probe1"), path }
    }

    /// Its answers to PUT, and to GET what was put.
    async fn writes(put: u16) -> String {
        server(move |method, stored| {
            Some(match method {
                "PUT" => said(put, ""),
                "GET" => said(200, stored),
                _ => said(204, "").replace("Content-Length: 0\r\n", ""),
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_server_that_keeps_no_connection_can_be_seen_to_write() {
        let http = Shared::default();
        let server = writes(201).await;
        assert_eq!(way(&http, &server, Some("/{user}/x.ics")).takes().await, Answer::Pass);
        let Answer::Fail(saw) = way(&http, &server, Some("/x")).afresh().await else { panic!() };
        assert_eq!(saw, "fresh connection: PUT was answered OK");
    }

    #[tokio::test]
    async fn only_what_a_fence_may_say_is_a_refusal() {
        let http = Shared::default();
        for (status, refuses) in
            [(401, true), (403, true), (503, true), (404, false), (500, false), (507, false)]
        {
            let server = writes(status).await;
            let answer = way(&http, &server, Some("/x")).afresh().await;
            assert_eq!(answer.passed(), refuses, "{status}: {answer}");
            assert!(!matches!(answer, Answer::Fail(_)), "{status}: {answer}");
        }
    }

    #[tokio::test]
    async fn who_says_that_it_will_pass_may_just_have_begun() {
        let (http, server) = (Shared::default(), writes(503).await);
        let answer = way(&http, &server, Some("/x")).takes().await;
        assert_eq!(answer, Answer::Unknown("PUT /x: 503".into()));
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_servers_words() {
        let xml = "<?xml version=\"1.0\"?>\n<D:error><C:valid-calendar-data/><D:text>DTEND must\r\noccur</D:text></D:error>";
        let (http, server) = (Shared::default(), server(move |_, _| Some(said(403, xml))).await);
        let answer = way(&http, &server, Some("/x")).takes().await;
        assert_eq!(answer, Answer::Fail("PUT /x: 403 DTEND must occur".into()));
        assert_eq!(words("é".repeat(3000).as_bytes()).chars().count(), 160);
    }

    #[tokio::test]
    async fn somebody_who_accepts_and_says_nothing_has_not_refused() {
        let (http, server) = (Shared::default(), server(|_, _| None).await);
        let answer = way(&http, &server, Some("/x")).afresh().await;
        assert!(matches!(answer, Answer::Unknown(_)), "{answer}");
    }

    #[tokio::test]
    async fn a_write_without_effect_is_none() {
        let http = Shared::default();
        let server = server(|method, _| Some(said(if method == "PUT" { 201 } else { 200 }, "other"))).await;
        let Answer::Unknown(saw) = way(&http, &server, Some("/x")).takes().await else { panic!() };
        assert!(saw.contains("PUT /x was answered OK, and GET 200 without it"), "{saw}");
    }

    #[tokio::test]
    async fn a_page_may_be_as_long_as_it_likes() {
        let http = Shared::default();
        let long = said(200, &"x".repeat(3_000_000));
        let server = server(move |_, _| Some(long.clone())).await;
        assert_eq!(way(&http, &server, None).takes().await, Answer::Pass);
    }
}
