//! A session in memory: the relay driven as `proxy/src/session/imap` drives it, without sockets, tasks and time.
//!
//! Rule: the same decisions in the same order; where the proxy has a limit or a deadline, this has a number.

mod client;
mod release;

use std::collections::VecDeque;

use super::super::input::{Cuts, shown};
use crate::imap::{
    command::{self, Verb},
    farewell::{self, Farewell, Standing},
    relay::{Event, Own, Relay, Sent},
    tag::{Tag, TagMaker},
};

/// The longest line.
pub(crate) const LINE: usize = 200;
/// Literals above this are refused.
pub(crate) const BIG: u64 = 60;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client is gone, or was told to go.
    Client,
    /// It could not be kept.
    Farewell,
    /// The stream could not be followed: bytes pass.
    Pipe,
}

/// A command with its literals.
#[derive(Debug, Default)]
struct Whole {
    /// Line without its marker, size of the literal, whether it is binary.
    segments: Vec<(Vec<u8>, usize, bool)>,
    data: Vec<u8>,
    last: Vec<u8>,
}

#[derive(Debug)]
enum Body {
    Line(Vec<u8>),
    Whole(Whole),
    /// It streamed to the backend up to its commit point.
    Streamed(Whole),
}

#[derive(Debug)]
struct Upload {
    tag: Tag,
    verb: Verb,
    whole: Whole,
    streams: bool,
    /// The backend refused it before its end.
    answered: bool,
}

#[derive(Debug)]
struct Sending {
    sent: Sent,
    whole: Whole,
    /// The segments announced, and how much data was sent.
    next: usize,
    at: usize,
    /// `+` has not come.
    waits: bool,
    /// The backend refused it before its end; the rest only keeps it in step.
    answered: bool,
}

/// What is fixed for a session.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    pub(crate) cuts: Cuts,
    /// Uploads go to the backend while they come.
    pub(crate) streams: bool,
    /// The backend says `+` to every literal.
    pub(crate) waits: bool,
    /// The backend takes only so many bytes of a literal at a time; 0: all.
    pub(crate) takes: usize,
}

pub(crate) struct Session {
    pub(crate) relay: Relay,
    manner: Manner,
    /// What the client sent and nobody has read.
    inbox: Vec<u8>,
    parked: Option<Own>,
    queue: VecDeque<(Sent, Body)>,
    upload: Option<Upload>,
    sending: Option<Sending>,
    open: bool,
    backend: bool,
    /// Words of ours that wait for the end of a response.
    deferred: Vec<u8>,
    /// Everything that the client sees, in order.
    pub(crate) to_client: Vec<u8>,
    /// Of it, what the server said.
    pub(crate) relayed: Vec<u8>,
    /// Everything that the servers see, in order.
    pub(crate) to_server: Vec<u8>,
    /// Tags of our own that were sent.
    pub(crate) own: Vec<Tag>,
    events: Vec<String>,
    pub(crate) end: Option<End>,
}

impl Session {
    pub(crate) fn new(manner: Manner) -> Self {
        let mut relay = Relay::new(TagMaker::new(7), LINE);
        relay.show(b"IMAP4rev1 ENABLE CONDSTORE");
        Self {
            relay,
            manner,
            inbox: vec![],
            parked: None,
            queue: VecDeque::new(),
            upload: None,
            sending: None,
            open: true,
            backend: true,
            deferred: vec![],
            to_client: vec![],
            relayed: vec![],
            to_server: vec![],
            own: vec![],
            events: vec![],
            end: None,
        }
    }

    /// All that must not depend on the cuts.
    pub(crate) fn outcome(&self) -> (String, String, String, Vec<String>) {
        let relay = &self.relay;
        let standing = (relay.in_flight(), relay.answered(), relay.safepoint(), relay.mid_command());
        // What is left over after the end is nobody's.
        let standing = self.end.is_none().then_some(standing);
        let state = format!("{:?} {standing:?} {} {:?}", relay.state, relay.idling(), self.end);
        (shown(&self.to_client), shown(&self.to_server), state, self.events.clone())
    }

    /// Bytes of the client.
    pub(crate) fn client(&mut self, bytes: &[u8]) {
        for piece in self.manner.cuts.clone().pieces(bytes) {
            self.inbox.extend_from_slice(piece);
            self.advance();
        }
    }

    /// Bytes of the server.
    pub(crate) fn server(&mut self, bytes: &[u8]) {
        for mut piece in self.manner.cuts.clone().pieces(bytes) {
            while !piece.is_empty() && self.backend {
                match self.end {
                    Some(End::Pipe) => self.relays(std::mem::take(&mut piece)),
                    Some(End::Client | End::Farewell) => return,
                    None => piece = &piece[self.step(piece)..],
                }
            }
            self.advance();
        }
    }

    /// The proxy learns the view, if the moment is quiet.
    pub(crate) fn probe(&mut self) {
        let quiet = self.flows() && self.relay.safepoint() && self.queue.is_empty() && self.sending.is_none();
        if quiet
            && self.end.is_none()
            && let Some(line) = self.relay.probe()
        {
            self.tell(&line);
        }
    }

    /// The gate shuts.
    pub(crate) fn shut(&mut self) {
        self.open = false;
        if let Some(words) = self.relay.answer_done() {
            self.say(&words);
        }
        self.advance();
    }

    /// The gate opens.
    pub(crate) fn open(&mut self) {
        self.open = true;
        self.advance();
    }

    pub(crate) fn has_backend(&self) -> bool {
        self.backend
    }

    /// The backend's stream ends. At a shut gate it was expected.
    pub(crate) fn lose_backend(&mut self) {
        let (writes, reads) = self.relay.in_flight();
        let moves = self.relay.state.selected.as_ref().is_none_or(|s| s.movable().is_ok());
        if self.relay.mid_response() || reads > 0 || self.open && (writes > 0 || !moves) {
            return self.farewell();
        }
        let words = self.relay.lose_backend();
        self.say(&words);
        if self.detach().is_err() {
            return self.farewell();
        }
        self.backend = false;
        self.advance();
    }

    /// Another backend serves.
    pub(crate) fn attach(&mut self) {
        self.backend = true;
        self.advance();
    }

    fn flows(&self) -> bool {
        self.open && self.backend
    }

    fn free_way(&self) -> bool {
        let in_step = !self.relay.probing() && !self.relay.idles_alone() && !self.relay.untold();
        self.queue.is_empty() && self.sending.is_none() && in_step && self.flows()
    }

    fn wants_client(&self) -> bool {
        self.parked.is_none() && !self.relay.undecided() && (!self.relay.probing() || self.relay.idling())
    }

    /// Does everything that has become possible.
    fn advance(&mut self) {
        while self.end.is_none() {
            if self.flows() {
                self.release();
            }
            self.answer_parked();
            if self.free_way()
                && let Some(line) = self.relay.idle_backend()
            {
                self.tell(&line);
            }
            if self.inbox.is_empty() || !self.wants_client() || self.end.is_some() {
                break;
            }
            self.read();
        }
    }

    // ---- from the backend -----------------------------------------------------------------------------

    fn step(&mut self, piece: &[u8]) -> usize {
        let step = self.relay.server(piece);
        self.relays(&step.owned);
        self.relays(&piece[..step.forward]);
        if !self.relay.mid_response() {
            let words = std::mem::take(&mut self.deferred);
            self.to_client.extend(words);
        }
        if let Some(event) = step.event {
            self.happened(event);
        }
        step.forward + step.swallow
    }

    fn happened(&mut self, event: Event) {
        self.events.push(format!("{event:?}"));
        match event {
            Event::Go => match &mut self.sending {
                Some(sending) => sending.waits = false,
                None => {
                    self.relay.accept();
                    self.say(b"+ OK\r\n");
                }
            },
            Event::Answered(tag) => self.answered(&tag),
            Event::Send(line) => self.tell(&line),
            Event::IdleEnded(words) => words.into_iter().for_each(|words| self.say(&words)),
            Event::Probed => {}
            Event::Bye => self.lose_backend(),
            Event::Lost(_) => self.lost(),
        }
    }

    fn answered(&mut self, tag: &Tag) {
        self.sending.take_if(|sending| sending.sent.tag == *tag && sending.waits);
        if let Some(sending) = self.sending.as_mut().filter(|sending| sending.sent.tag == *tag) {
            sending.answered = true;
        }
        let streamed = |(sent, body): &(Sent, Body)| sent.tag == *tag && matches!(body, Body::Streamed(_));
        if let Some(at) = self.queue.iter().position(streamed)
            && let Some((_, Body::Streamed(whole))) = self.queue.remove(at)
        {
            // Refused before its commit point; the line end only keeps the backend in step.
            self.to_server.extend([&whole.last[..], b"\r\n"].concat());
        }
        if let Some(upload) = self.upload.as_mut().filter(|upload| upload.tag == *tag) {
            if self.relay.undecided() {
                self.relay.cancel_literal();
                self.upload = None;
            } else {
                upload.answered = true;
            }
        }
    }

    fn lost(&mut self) {
        let whole = self.upload.is_none() && self.sending.is_none() && self.queue.is_empty();
        let in_step = !self.relay.own_outstanding() && !self.relay.untold();
        if !in_step || !whole || !self.flows() {
            return self.farewell();
        }
        self.end = Some(End::Pipe);
        let unsent = self.relay.unsent().to_vec();
        self.relays(&unsent);
    }

    fn farewell(&mut self) {
        self.end = Some(End::Farewell);
        let held = !self.queue.is_empty() || self.sending.is_some();
        let standing = match () {
            () if self.relay.mid_response() => Standing::Cut,
            () if self.relay.mid_command() || self.relay.in_flight().1 > 0 || held => Standing::Reading,
            () => Standing::Quiet,
        };
        match farewell::farewell(standing, &self.relay.ambiguous()) {
            Farewell::Say(words) => self.to_client.extend(words),
            Farewell::Close => {}
        }
    }

    /// Bytes of the server for the client.
    fn relays(&mut self, bytes: &[u8]) {
        self.to_client.extend_from_slice(bytes);
        self.relayed.extend_from_slice(bytes);
    }

    /// Words of ours to the client: never within a response.
    fn say(&mut self, words: &[u8]) {
        let within = self.relay.mid_response();
        if within { &mut self.deferred } else { &mut self.to_client }.extend_from_slice(words);
    }

    /// A line of ours to the server.
    fn tell(&mut self, line: &[u8]) {
        self.to_server.extend_from_slice(line);
        let tag = command::tag_of(line);
        if line != b"DONE\r\n" {
            self.own.push(Tag::new(tag));
        }
    }
}
