//! A whole SMTP or LMTP session: a client that pipelines, backends that refuse and die at any moment, a gate.
//!
//! Rule: one reply per command, in order; a message that was acknowledged is with exactly one backend, unchanged and with
//! the recipients that were accepted; one that was not is nowhere, unless its backend died without a word.

mod client;
mod driver;
mod server;

use self::{client::Client, driver::Driver, server::Server};
use super::input::Input;
use crate::smtp::relay::Role;

/// `role, what becomes of an ambiguous message, deeds`
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let role = if input.flag() { Role::Lmtp } else { Role::Relay };
    let mut world = World::new(role, input.flag());
    while !input.is_empty() {
        world.deed(&mut input);
    }
    world.settle();
    world.judge();
}

struct World {
    client: Client,
    driver: Driver,
    /// Those that are gone, and the one that is there.
    gone: Vec<Server>,
    server: Option<Server>,
}

impl World {
    fn new(role: Role, replays: bool) -> Self {
        let mut world = Self {
            client: Client::new(role),
            driver: Driver::new(role, replays),
            gone: Vec::new(),
            server: None,
        };
        world.client.hello();
        world
    }

    fn deed(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0..=3 => self.client.speak(input),
            4 | 5 => self.travel(usize::from(input.byte())),
            6 | 7 => self.work(input.byte()),
            8 => self.answer(),
            9 if self.server.is_some() => self.lose(),
            9 if self.driver.gate => self.appear(),
            9 => self.driver.ceiling(),
            10 => self.driver.gate = !self.driver.gate,
            _ => {
                self.travel(usize::MAX);
                self.work(0);
                self.answer();
            }
        }
        self.pump();
    }

    /// Bytes of the client reach the proxy.
    fn travel(&mut self, count: usize) {
        let count = count.min(self.client.wire.len());
        self.driver.input.extend(self.client.wire.drain(..count));
    }

    /// The backend reads one command. `choice` says what it thinks of it.
    fn work(&mut self, choice: u8) {
        if let Some(server) = &mut self.server {
            server.work(choice);
        }
    }

    /// One reply of the backend reaches the proxy.
    fn answer(&mut self) {
        if let Some(code) = self.server.as_mut().and_then(|server| server.outbox.pop_front())
            && self.driver.reply(code)
        {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.gone.extend(self.server.take());
        self.driver.lose();
    }

    fn appear(&mut self) {
        if self.server.is_none() && self.driver.gate {
            self.server = Some(Server::new(self.driver.role));
            self.driver.appear();
        }
    }

    fn pump(&mut self) {
        self.driver.pump();
        if let Some(server) = &mut self.server {
            server.inbox.append(&mut self.driver.to_server);
        }
        self.driver.to_server.clear();
        self.client.hear(&std::mem::take(&mut self.driver.to_client));
    }

    /// From here on everything goes well, and so everything has an end.
    fn settle(&mut self) {
        self.driver.gate = true;
        for _ in 0..2000 {
            self.client.finish();
            self.travel(usize::MAX);
            self.appear();
            self.pump();
            self.work(0);
            self.answer();
            self.pump();
            if self.client.is_done() && self.driver.is_quiet() {
                return;
            }
        }
        panic!("no end: {:?}\n{:?}", self.client, self.driver);
    }

    fn judge(&self) {
        let servers: Vec<&Server> = self.gone.iter().chain(&self.server).collect();
        for message in &self.client.messages {
            message.judge(self.driver.role, &servers, self.driver.replays);
        }
    }
}
