//! The driver of the model: what a session of the proxy does with the machine, without sockets.
//!
//! Rule: it decides nothing that the session does not decide the same way.

use crate::smtp::{
    data::Bare,
    keywords::{Keywords, Pinned},
    relay::{AMBIGUOUS, Command, Own, POISONED, Relay, Role, Then, Told, Verdict},
    reply::Reply,
};

#[derive(Debug)]
enum Waiting {
    Command(Command),
    Commit,
}

/// A session between the client and whatever backend there is.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) role: Role,
    /// `ambiguous = "replay"`
    pub(super) replays: bool,
    pub(super) gate: bool,
    pub(super) input: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    pub(super) to_server: Vec<u8>,
    relay: Relay,
    pinned: Pinned,
    connected: bool,
    kept: Vec<u8>,
    /// Bytes of `kept` that the backend was sent; `None`: it has not asked.
    streamed: Option<usize>,
    waiting: Option<Waiting>,
    parked: Option<Own>,
}

impl Driver {
    pub(super) fn new(role: Role, replays: bool) -> Self {
        let server: Keywords = ["CHUNKING"].into_iter().collect();
        Self {
            role,
            replays,
            gate: true,
            input: Vec::new(),
            to_client: Vec::new(),
            to_server: Vec::new(),
            relay: Relay::new(role, Bare::Normalize, true, false),
            pinned: Pinned::of(&[&server], 100_000, false),
            connected: false,
            kept: Vec::new(),
            streamed: None,
            waiting: None,
            parked: None,
        }
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_none() && self.parked.is_none() && self.input.is_empty() && self.relay.answered()
    }

    /// Does everything that has become possible.
    pub(super) fn pump(&mut self) {
        loop {
            self.stream();
            let done = self.carry_on() || self.answer_parked() || self.read();
            if !done {
                return;
            }
        }
    }

    fn stream(&mut self) {
        if let (true, Some(at)) = (self.connected, self.streamed) {
            self.to_server.extend(&self.kept[at.min(self.kept.len())..]);
            self.streamed = Some(self.kept.len());
        }
    }

    fn carry_on(&mut self) -> bool {
        // It was refused or withdrawn meanwhile, and its client told, if a server was asked.
        if matches!(self.waiting, Some(Waiting::Commit)) && !self.relay.waits_to_commit() {
            if self.relay.is_orphaned() {
                let Some(words) = self.relay.refuse_orphan() else { return false };
                self.to_client.extend(words);
            }
            self.waiting = None;
            self.drop_content();
        }
        if let Some(Waiting::Command(command)) = &self.waiting
            && self.relay.refuses(command)
        {
            if !self.relay.answered() {
                return false;
            }
            self.parked = Some(Own::Say(self.relay.refusal(command)));
            self.waiting = None;
        }
        if self.waiting.is_none() || !self.connected || self.relay.replays() || !self.gate {
            return false;
        }
        let commit = matches!(self.waiting, Some(Waiting::Commit));
        let streamed = self.streamed == Some(self.kept.len());
        if commit && !(streamed && self.relay.answered() && self.relay.waits_to_commit()) {
            return false;
        }
        match self.waiting.take() {
            Some(Waiting::Command(command)) => self.forward(command),
            Some(Waiting::Commit) => {
                let end = self.relay.end();
                self.to_server.extend(end);
            }
            None => {}
        }
        true
    }

    fn forward(&mut self, command: Command) {
        let wire = Relay::wire(&command);
        if matches!(command, Command::Mail(_)) {
            self.drop_content();
        }
        let chunk = matches!(command, Command::Chunk { .. });
        self.relay.commit(command);
        self.to_server.extend(wire);
        if chunk {
            self.streamed = Some(self.kept.len());
        }
        if self.relay.waits_to_commit() {
            self.waiting = Some(Waiting::Commit);
        }
    }

    fn drop_content(&mut self) {
        self.kept.clear();
        self.streamed = None;
    }

    fn answer_parked(&mut self) -> bool {
        if self.parked.is_none() || !self.relay.answered() || self.waiting.is_some() {
            return false;
        }
        match self.parked.take() {
            Some(Own::Hello(hello)) => {
                if self.relay.greet(hello, self.connected) {
                    self.to_server.extend(b"RSET\r\n");
                }
                self.drop_content();
                self.to_client.extend(b"250 hello\r\n");
            }
            Some(Own::Reset) => {
                if self.relay.reset(self.connected) {
                    self.to_server.extend(b"RSET\r\n");
                }
                self.drop_content();
                self.to_client.extend(b"250 2.0.0 Ok\r\n");
            }
            Some(Own::Say(reply)) => self.to_client.extend(reply),
            Some(Own::Refuse(reply)) => {
                self.relay.over();
                self.drop_content();
                self.to_client.extend(reply);
            }
            Some(own @ (Own::Starttls | Own::Auth(_) | Own::Quit | Own::Close(_))) => panic!("{own:?}"),
            None => {}
        }
        true
    }

    fn read(&mut self) -> bool {
        let wants = self.waiting.is_none() && self.parked.is_none() && self.relay.reads();
        if !wants || self.input.is_empty() {
            return false;
        }
        let input = std::mem::take(&mut self.input);
        let (n, verdict) = self.relay.client(&input, &self.pinned);
        match verdict {
            Verdict::NeedMore => {}
            Verdict::Command(command) => self.waiting = Some(Waiting::Command(command)),
            Verdict::Content(bytes) => self.kept.extend(bytes),
            Verdict::End => self.waiting = Some(Waiting::Commit),
            Verdict::Own(own) => self.parked = Some(own),
            Verdict::Answer(_) => panic!("nobody logs in"),
        }
        self.input = input[n..].to_vec();
        true
    }

    /// A reply of the backend. True: the backend is lost.
    pub(super) fn reply(&mut self, code: u16) -> bool {
        let reply = Reply::own(code, "2.0.0 backend");
        let outcome = self.relay.reply(&reply);
        match outcome.client {
            Told::Reply => self.to_client.extend(reply.bytes.repeat(outcome.times)),
            Told::Withdrawn => self.to_client.extend(POISONED),
            Told::Nothing => {}
        }
        match outcome.then {
            Then::Nothing => {}
            Then::Stream => self.streamed = Some(0),
            Then::Whole if self.waiting.is_some() => {}
            Then::Whole => self.waiting = Some(Waiting::Commit),
            Then::Ended => {
                if self.relay.must_reset() {
                    self.to_server.extend(b"RSET\r\n");
                }
                self.drop_content();
            }
            Then::Lost(why) => panic!("lost by its own words: {why}"),
        }
        self.go_on();
        false
    }

    fn go_on(&mut self) {
        let Some(next) = self.relay.go_on() else { return };
        self.to_server.extend(&next.send);
        if next.stream {
            self.streamed = Some(0);
        }
        self.to_client.extend(&next.say);
        if next.withdrawn && !next.say.is_empty() {
            self.drop_content();
        }
    }

    /// The client has waited long enough. There is no backend.
    pub(super) fn ceiling(&mut self) {
        const AGAIN: &[u8] = b"451 4.3.2 Please try again\r\n";
        if self.relay.awaits_backend() {
            let say = self.relay.abandon(AGAIN);
            self.to_client.extend(say);
            self.drop_content();
            return;
        }
        match self.waiting.take() {
            Some(Waiting::Command(command)) => {
                let say = self.relay.refuse_command(&command, AGAIN);
                self.to_client.extend(say);
            }
            Some(Waiting::Commit) => {
                let owed = if self.role == Role::Lmtp { self.relay.replies_owed().max(1) } else { 1 };
                self.to_client.extend(AGAIN.repeat(owed));
                self.relay.over();
                self.drop_content();
            }
            None => {}
        }
    }

    pub(super) fn appear(&mut self) {
        self.connected = true;
        self.streamed = None;
        let envelope = self.relay.replay();
        self.to_server.extend(envelope);
        self.go_on();
    }

    pub(super) fn lose(&mut self) {
        self.connected = false;
        self.streamed = None;
        let loss = self.relay.lose_backend();
        self.to_client.extend(loss.say);
        if loss.ambiguous {
            if self.replays {
                self.relay.forget_commit();
                self.waiting = Some(Waiting::Commit);
            } else {
                self.to_client.extend(AMBIGUOUS.repeat(self.relay.replies_owed()));
                self.relay.over();
                self.drop_content();
            }
        }
        if self.relay.waits_to_commit() && self.waiting.is_none() {
            self.waiting = Some(Waiting::Commit);
        }
    }
}
