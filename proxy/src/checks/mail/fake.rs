//! A small server for mail for the tests of the probes.
//!
//! Rule: it says what its script says at the moment of the command, so that a test can change its mind between two
//! commands of one session; what it took is kept.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::Post;
use crate::config::{ClientAddress, Protocol, Restore, Service, ServiceTls};

/// What it says to commands that begin with these words; to all others it says yes.
#[derive(Debug, Default)]
struct Script {
    replies: BTreeMap<&'static str, &'static str>,
    heard: Vec<String>,
    taken: Vec<String>,
}

/// The server; clones are the same one.
#[derive(Debug, Clone)]
pub(in crate::checks) struct Fake {
    script: Arc<Mutex<Script>>,
    stop: watch::Sender<bool>,
    address: String,
}

impl Fake {
    pub(in crate::checks) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Self { script: Arc::default(), stop: watch::Sender::new(false), address };
        let (serving, mut stop) = (fake.clone(), fake.stop.subscribe());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    Ok((tcp, _)) = listener.accept() => drop(tokio::spawn(serving.clone().serve(tcp))),
                }
            }
        });
        fake
    }

    /// From now on `command` is answered so; with an empty reply the connection ends instead. `.` is the final dot.
    pub(in crate::checks) fn says(&self, command: &'static str, reply: &'static str) {
        self.script.lock().unwrap().replies.insert(command, reply);
    }

    /// It says yes again.
    pub(in crate::checks) fn mends(&self) {
        self.script.lock().unwrap().replies.clear();
    }

    /// Every session ends, dials are refused.
    pub(in crate::checks) async fn stop(&self) {
        self.stop.send_replace(true);
        while TcpStream::connect(&self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// The messages that it took.
    pub(in crate::checks) fn taken(&self) -> Vec<String> {
        self.script.lock().unwrap().taken.clone()
    }

    /// The commands that it heard, after the introduction.
    pub(in crate::checks) fn heard(&self) -> Vec<String> {
        self.script.lock().unwrap().heard.clone()
    }

    pub(in crate::checks) fn post(&self, protocol: Protocol) -> Post<'static> {
        let service = Service {
            server: self.address.clone(),
            tls: ServiceTls::None,
            restore: Restore::Client,
            client_address: ClientAddress::Xclient,
            dial_timeout: Duration::from_secs(5),
            keywords: None,
        };
        Post { protocol, service, connector: None, hostname: "mx.bascule.test".into() }
    }

    fn reply(&self, command: &str) -> Option<String> {
        let script = self.script.lock().unwrap();
        let scripted = script.replies.iter().find(|(words, _)| command.starts_with(**words));
        let reply = match (scripted, command.split(' ').next()) {
            (Some((_, reply)), _) => reply,
            (None, Some("EHLO" | "LHLO")) => "250-fake\r\n250-XCLIENT ADDR\r\n250 AUTH PLAIN",
            (None, Some("XCLIENT")) => "220 fake",
            (None, Some("AUTH")) => "235 2.7.0 ok",
            (None, Some("DATA")) => "354 go on",
            (None, Some("QUIT")) => "221 2.0.0 bye",
            (None, _) => "250 2.0.0 ok",
        };
        (!reply.is_empty()).then(|| format!("{reply}\r\n"))
    }

    async fn serve(self, tcp: TcpStream) {
        let mut stop = self.stop.subscribe();
        let talk = async {
            let mut stream = BufReader::new(tcp);
            stream.write_all(b"220 fake\r\n").await?;
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                let command = line.trim_end().to_owned();
                line.clear();
                self.script.lock().unwrap().heard.push(command.clone());
                let Some(reply) = self.reply(&command) else { break };
                stream.write_all(reply.as_bytes()).await?;
                if command == "QUIT" {
                    break;
                }
                if reply.starts_with("354") && !self.message(&mut stream).await? {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        tokio::select! {
            _ = talk => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Reads a message up to its final dot. False: it did not come.
    async fn message(&self, stream: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
        let (mut message, mut line) = (String::new(), String::new());
        while stream.read_line(&mut line).await? > 0 {
            if line == ".\r\n" {
                let Some(reply) = self.reply(".") else { return Ok(false) };
                if reply.starts_with('2') {
                    self.script.lock().unwrap().taken.push(message);
                }
                stream.write_all(reply.as_bytes()).await?;
                return Ok(true);
            }
            message += &line;
            line.clear();
        }
        Ok(false)
    }
}
