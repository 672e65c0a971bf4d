//! A session in memory: the relay driven as `proxy/src/session/imap` drives it, without sockets, tasks and time.
//!
//! Rule: the same decisions in the same order; where the proxy has a limit or a deadline, this has a number.

use std::collections::VecDeque;

use super::super::input::{Cuts, shown};
use crate::imap::{
    command::{self, Verb},
    farewell::{self, Farewell, Standing, answer},
    fragment::Literal,
    relay::{Event, Own, Relay, Sent, Verdict, What},
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
        let roused = !self.relay.idles_alone();
        self.queue.is_empty() && self.sending.is_none() && !self.relay.probing() && roused && self.flows()
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

    // ---- the client's side ----------------------------------------------------------------------------

    fn read(&mut self) {
        let inbox = std::mem::take(&mut self.inbox);
        let (n, verdict) = self.relay.client(&inbox);
        match verdict {
            Verdict::NeedMore => {}
            Verdict::Command(sent, bytes) => {
                let bytes = bytes.into_owned();
                self.queue_or_send(sent, bytes);
            }
            Verdict::Literal { begins, line, literal } => {
                let line = line.to_vec();
                self.literal(begins, line, literal);
            }
            Verdict::Data(bytes) => {
                let bytes = bytes.to_vec();
                self.data(&bytes);
            }
            Verdict::Last(line) => {
                let line = line.to_vec();
                self.last(line);
            }
            Verdict::Own(own) => {
                self.parked = Some(own);
                self.answer_parked();
            }
            Verdict::Close(words) => {
                self.say(&words);
                self.end = Some(End::Client);
            }
        }
        self.inbox = inbox[n..].to_vec();
    }

    fn queue_or_send(&mut self, sent: Sent, bytes: Vec<u8>) {
        if self.free_way() {
            self.to_server.extend_from_slice(&bytes);
            self.relay.commit(sent);
        } else {
            self.queue.push_back((sent, Body::Line(bytes)));
        }
    }

    fn literal(&mut self, begins: Option<(Tag, Verb)>, line: Vec<u8>, literal: Literal) {
        if let Some((tag, verb)) = begins {
            let willing = literal.sync || !self.manner.waits;
            let streams = self.manner.streams && verb.uploads() && willing && self.free_way();
            self.upload = Some(Upload { tag, verb, whole: Whole::default(), streams, answered: false });
        }
        let Some(upload) = &mut self.upload else { panic!("a literal of no command") };
        let size = usize::try_from(literal.size).unwrap_or(usize::MAX);
        if literal.size > BIG && !upload.streams {
            let tag = upload.tag.clone();
            self.upload = None;
            return self.refuse(&tag, literal);
        }
        if literal.size > BIG {
            // The backend has half of this command.
            return self.farewell();
        }
        upload.whole.segments.push((line.clone(), size, literal.binary));
        if upload.streams {
            let (tag, answered) = (upload.tag.clone(), upload.answered);
            self.to_server.extend(announcement(&line, size, literal.sync, literal.binary));
            if !answered {
                self.relay.stream_upload(tag.clone());
            }
            if literal.sync {
                return self.relay.await_go(tag);
            }
        } else if literal.sync {
            self.say(b"+ OK\r\n");
        }
        self.relay.accept();
    }

    fn refuse(&mut self, tag: &Tag, literal: Literal) {
        match self.relay.refuse(tag, literal) {
            Ok(true) => self.say(&answer(tag, "NO [TOOBIG] Literal too large.")),
            Ok(false) => {}
            Err(_) => {
                self.say(&answer(tag, "BAD Literal too large."));
                self.farewell();
            }
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        let Some(upload) = &mut self.upload else { panic!("data of no command") };
        upload.whole.data.extend_from_slice(bytes);
        if upload.streams {
            self.to_server.extend_from_slice(bytes);
        }
    }

    fn last(&mut self, line: Vec<u8>) {
        let Some(mut upload) = self.upload.take() else { panic!("the end of no command") };
        upload.whole.last.clone_from(&line);
        let sent = Sent { tag: upload.tag, what: What::Upload };
        if upload.streams {
            if upload.answered || self.free_way() {
                self.to_server.extend([&line[..], b"\r\n"].concat());
                if !upload.answered {
                    self.relay.commit(sent);
                }
            } else {
                self.queue.push_back((sent, Body::Streamed(upload.whole)));
            }
            return;
        }
        let sent = if upload.verb.uploads() { Ok(sent) } else { self.relay.sent(&upload.whole.flat()) };
        match sent {
            Ok(sent) => self.queue.push_back((sent, Body::Whole(upload.whole))),
            Err(own) => self.parked = Some(own),
        }
    }

    /// Answers what the proxy answers itself, once nothing before it is unanswered (D5).
    fn answer_parked(&mut self) {
        let Some(own) = &self.parked else { return };
        let in_idle = matches!(own, Own::Done | Own::NotDone);
        let quiet = self.queue.is_empty() && self.sending.is_none() && self.upload.is_none();
        if self.end.is_some() || !in_idle && !(quiet && self.relay.answered()) {
            return;
        }
        match self.parked.take() {
            Some(Own::Idle(tag)) => {
                let words = self.relay.begin_idle(tag);
                self.say(words);
            }
            Some(Own::Done) => {
                let (client, server) = self.relay.end_idle(self.flows());
                server.into_iter().for_each(|line| self.tell(line));
                client.into_iter().for_each(|words| self.say(&words));
            }
            Some(Own::NotDone) => {
                let tag = self.relay.abandon_idle();
                tag.into_iter().for_each(|tag| self.say(&answer(&tag, "BAD Expected DONE.")));
            }
            Some(Own::Capability(tag) | Own::Id(tag, _)) => self.say(&answer(&tag, "OK ours")),
            Some(Own::Refuse(words)) => self.say(&words),
            Some(Own::Logout(tag)) => {
                self.say(&answer(&tag, "OK ours"));
                self.end = Some(End::Client);
            }
            None => {}
        }
    }

    // ---- to the backend -------------------------------------------------------------------------------

    /// Releases what waits, in order, until something has to wait again.
    fn release(&mut self) {
        if !self.relay.idling()
            && let Some(done) = self.relay.rouse_backend()
        {
            self.tell(done);
        }
        while !self.relay.probing() && self.end.is_none() {
            if self.sending.is_some() {
                if !self.send_piece() {
                    return;
                }
                continue;
            }
            if self.upload.as_ref().is_some_and(|u| u.streams) {
                return;
            }
            match self.queue.pop_front() {
                None => return,
                Some((sent, Body::Whole(whole))) => {
                    self.sending =
                        Some(Sending { sent, whole, next: 0, at: 0, waits: false, answered: false });
                }
                Some((sent, Body::Line(bytes))) => {
                    self.to_server.extend(bytes);
                    self.relay.commit(sent);
                }
                Some((sent, Body::Streamed(whole))) => {
                    self.to_server.extend([&whole.last[..], b"\r\n"].concat());
                    self.relay.commit(sent);
                }
            }
        }
    }

    /// A line that announces a literal, data, or the line that commits. False: it waits.
    fn send_piece(&mut self) -> bool {
        let Some(sending) = self.sending.as_mut().filter(|s| !s.waits) else { return false };
        let due: usize = sending.whole.segments.iter().take(sending.next).map(|s| s.1).sum();
        if sending.at < due {
            let all = due - sending.at;
            let n = if self.manner.takes == 0 { all } else { all.min(self.manner.takes) };
            self.to_server.extend_from_slice(&sending.whole.data[sending.at..sending.at + n]);
            sending.at += n;
            return n == all;
        }
        if let Some((line, size, binary)) = sending.whole.segments.get(sending.next) {
            let wait = self.manner.waits;
            self.to_server.extend(announcement(line, *size, wait, *binary));
            (sending.waits, sending.next) = (wait, sending.next + 1);
            let tag = sending.sent.tag.clone();
            match (wait, sending.answered) {
                (true, _) => self.relay.await_go(tag),
                (false, false) => self.relay.stream_upload(tag),
                (false, true) => {}
            }
            return !wait;
        }
        self.to_server.extend([&sending.whole.last[..], b"\r\n"].concat());
        if let Some(sending) = self.sending.take()
            && !sending.answered
        {
            self.relay.commit(sending.sent);
        }
        true
    }

    /// Before the backend is given up: what streams to it is only kept from now on.
    fn detach(&mut self) -> Result<(), ()> {
        if let Some(sending) = self.sending.take_if(|sending| !sending.answered) {
            self.queue.push_front((sending.sent, Body::Whole(sending.whole)));
        }
        self.sending = None;
        let undecided = self.relay.undecided();
        if let Some(upload) = self.upload.as_mut().filter(|upload| upload.streams) {
            if upload.answered {
                return Err(());
            }
            upload.streams = false;
            if undecided {
                self.relay.accept();
                self.say(b"+ OK\r\n");
            }
        }
        for (_, body) in &mut self.queue {
            if let Body::Streamed(whole) = body {
                *body = Body::Whole(std::mem::take(whole));
            }
        }
        Ok(())
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
        if self.relay.own_outstanding() || !whole || !self.flows() {
            return self.farewell();
        }
        self.end = Some(End::Pipe);
        self.relays(&self.relay.unsent().to_vec());
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

impl Whole {
    /// As one slice with its literals in place.
    fn flat(&self) -> Vec<u8> {
        let (mut out, mut at) = (vec![], 0);
        for (line, size, _) in &self.segments {
            out.extend(announcement(line, *size, true, false));
            out.extend_from_slice(&self.data[at..at + size]);
            at += size;
        }
        out.extend_from_slice(&self.last);
        out
    }
}

fn announcement(line: &[u8], size: usize, waits: bool, binary: bool) -> Vec<u8> {
    let (tilde, plus) = (if binary { "~" } else { "" }, if waits { "" } else { "+" });
    [line, format!("{tilde}{{{size}{plus}}}\r\n").as_bytes()].concat()
}
