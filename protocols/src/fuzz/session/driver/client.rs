//! The client's side: commands, literals, what the proxy answers itself.
//!
//! Rule: an answer of the proxy's own waits until nothing before it is unanswered (D5).

use super::{BIG, Body, End, Session, Upload, Whole, release::announcement};
use crate::imap::{
    command::Verb,
    farewell::answer,
    fragment::Literal,
    relay::{Own, Sent, Verdict, What},
    tag::Tag,
};

impl Session {
    pub(super) fn read(&mut self) {
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
        if upload.answered && literal.sync {
            self.to_server.extend([&line[..], b"\r\n"].concat());
            self.relay.cancel_literal();
            self.upload = None;
            return;
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
    pub(super) fn answer_parked(&mut self) {
        let Some(own) = &self.parked else { return };
        let in_idle = matches!(own, Own::Done | Own::NotDone);
        let quiet = self.queue.is_empty() && self.sending.is_none() && self.upload.is_none();
        let due = in_idle || quiet && self.relay.answered();
        if self.end.is_some() || !due {
            return;
        }
        match self.parked.take() {
            Some(Own::Idle(_)) if self.relay.untold() => self.farewell(),
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
}
