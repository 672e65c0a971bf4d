//! To the backend: what waited, in order, and uploads piece by piece.
//!
//! Rule: nothing overtakes what waits, and what the backend refused before its end is only sent to its end.

use super::{Body, Sending, Session, Whole};

impl Session {
    /// Releases what waits, in order, until something has to wait again.
    pub(super) fn release(&mut self) {
        if !self.relay.idling()
            && let Some(done) = self.relay.rouse_backend()
        {
            self.tell(done);
        }
        while !self.relay.probing() && !self.relay.idles_alone() && self.end.is_none() {
            if self.sending.is_some() {
                if !self.send_piece() {
                    return;
                }
                continue;
            }
            if self.upload.as_ref().is_some_and(|u| u.streams) {
                return;
            }
            if self.relay.untold() && self.queue.front().is_some_and(|(sent, _)| !sent.leaves_mailbox()) {
                return self.farewell();
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
    pub(super) fn detach(&mut self) -> Result<(), ()> {
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
}

impl Whole {
    /// As one slice with its literals in place.
    pub(super) fn flat(&self) -> Vec<u8> {
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

pub(super) fn announcement(line: &[u8], size: usize, waits: bool, binary: bool) -> Vec<u8> {
    let (tilde, plus) = (if binary { "~" } else { "" }, if waits { "" } else { "+" });
    [line, format!("{tilde}{{{size}{plus}}}\r\n").as_bytes()].concat()
}
