//! Commands with literals on their way in: streamed to the backend and kept, or only kept.
//!
//! Rule: whoever is told `+` is read to the end; whoever is not, waits for an open gate or is refused.

use std::time::Instant;

use bascule_protocols::imap::{
    command::Verb,
    farewell::answer,
    fragment::Literal,
    relay::{Sent, What},
    tag::Tag,
};

use super::{
    super::door::Door,
    hold::{Body, Held},
    relay::{Backend, End, Session, WaitingLiteral},
    upload::{Path, Upload, Whole, marker, must_wait},
};

/// A literal that no platform takes, bytes.
const ABSURD: u64 = 1 << 40;

impl Session {
    pub(super) fn streams_upload(&self) -> bool {
        self.upload.as_ref().is_some_and(|u| matches!(u.path, Path::Streaming { .. }))
    }

    pub(super) fn on_literal(
        &mut self,
        begins: Option<(Tag, Verb)>,
        line: Vec<u8>,
        literal: Literal,
    ) -> Result<(), End> {
        if literal.size > ABSURD {
            return self.refuse_absurd(begins, literal);
        }
        if let Some((tag, verb)) = &begins {
            let streams = verb.uploads()
                && self.free_way()
                && self
                    .backend
                    .as_ref()
                    .is_some_and(|b| literal.sync || !must_wait(&b.capabilities, literal.size));
            let path = if streams {
                Path::Streaming { generation: self.generation, answered: false }
            } else {
                Path::Kept
            };
            let kept = Some(Whole::new(&self.world().spool));
            self.upload =
                Some(Box::new(Upload { tag: tag.clone(), verb: *verb, kept, path, progress: (0, 0) }));
        }
        let Some(upload) = &mut self.upload else { return Err(End::Farewell("protocol")) };
        upload.progress.1 = upload.progress.1.saturating_add(literal.size);
        match upload.path {
            Path::Streaming { .. } => self.stream_literal(&line, literal),
            Path::Kept => self.keep_literal(begins, line, literal),
        }
    }

    /// Such a literal goes to no backend: one that reads the number differently would read commands in it.
    fn refuse_absurd(&mut self, begins: Option<(Tag, Verb)>, literal: Literal) -> Result<(), End> {
        self.world().metrics.limits_hit.count("upload");
        match (begins, &self.upload) {
            (Some((tag, _)), _) => self.refuse_literal(&tag, literal),
            // The backend may have half of this command.
            (None, Some(upload)) => {
                let words = answer(&upload.tag, "BAD Literal too large.");
                self.say(&words);
                Err(End::Farewell("limit"))
            }
            (None, None) => Err(End::Farewell("protocol")),
        }
    }

    pub(super) fn stream_literal(&mut self, line: &[u8], literal: Literal) -> Result<(), End> {
        let (Some(upload), Some(backend)) = (&mut self.upload, &mut self.backend) else {
            return Err(End::Farewell("protocol"));
        };
        if literal.sync && matches!(upload.path, Path::Streaming { answered: true, .. }) {
            // Its client waits for `+` and has its answer instead (RFC 3501 §7.5): the next line is a command. The
            // line end only keeps the backend in step.
            self.tell_backend(&[line, b"\r\n"].concat());
            self.relay.cancel_literal();
            self.upload = None;
            return Ok(());
        }
        if let Some(kept) = &mut upload.kept {
            kept.segment(line, literal.size, literal.binary);
        }
        let bytes = [line, marker(literal.size, literal.sync, literal.binary).as_bytes()].concat();
        let pushed = backend.out.push(&mut backend.leg, &bytes);
        if let Path::Streaming { answered: false, .. } = upload.path {
            self.relay.stream_upload(upload.tag.clone());
        }
        if literal.sync {
            self.relay.await_go(upload.tag.clone());
        } else {
            self.relay.accept();
        }
        if pushed.is_err() { self.on_backend_end() } else { Ok(()) }
    }

    pub(super) fn keep_literal(
        &mut self,
        begins: Option<(Tag, Verb)>,
        line: Vec<u8>,
        literal: Literal,
    ) -> Result<(), End> {
        let flows = self.flows();
        let limits = &self.door.world.config.limits;
        let Some(upload) = &mut self.upload else { return Err(End::Farewell("protocol")) };
        let Some(kept) = &mut upload.kept else { return Err(End::Farewell("upload")) };
        let limit = if upload.verb.uploads() { limits.upload } else { limits.command as u64 };
        if kept.announced().saturating_add(literal.size) > limit {
            self.door.world.metrics.limits_hit.count(if upload.verb.uploads() {
                "upload"
            } else {
                "command"
            });
            let tag = upload.tag.clone();
            // While the gate is shut a large upload waits for a backend that can take it (scenario 45).
            if !flows && begins.is_some() && upload.verb.uploads() {
                self.upload = None;
                let since = Instant::now();
                self.waiting_literal = Some(Box::new(WaitingLiteral { begins, line, literal, since }));
                return Ok(());
            }
            self.upload = None;
            return self.refuse_literal(&tag, literal);
        }
        kept.segment(&line, literal.size, literal.binary);
        if literal.sync {
            self.say(b"+ OK\r\n");
        }
        self.relay.accept();
        self.describe_queue();
        Ok(())
    }

    pub(super) fn refuse_literal(&mut self, tag: &Tag, literal: Literal) -> Result<(), End> {
        match self.relay.refuse(tag, literal) {
            Ok(true) => {
                self.say(&answer(tag, "NO [TOOBIG] Literal too large."));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(_) => {
                self.say(&answer(tag, "BAD Literal too large."));
                Err(End::Farewell("limit"))
            }
        }
    }

    /// The line after the last literal: the commit point of a command with literals.
    pub(super) fn on_last(&mut self, line: Vec<u8>) -> Result<(), End> {
        let Some(upload) = self.upload.take() else { return Err(End::Farewell("protocol")) };
        match upload.path {
            Path::Streaming { answered: true, .. } => {
                // Refused before its end; the line end only keeps the backend in step.
                self.tell_backend(&[&line[..], b"\r\n"].concat());
            }
            Path::Streaming { generation, .. } => {
                let sent = Sent { tag: upload.tag, what: What::Upload };
                if self.queue.is_empty() && self.admit(true) {
                    self.tell_backend(&[&line[..], b"\r\n"].concat());
                    self.commit(sent, None);
                } else {
                    self.hold(sent, Body::Streamed { generation, last: line, kept: upload.kept });
                }
            }
            Path::Kept => {
                let Some(mut whole) = upload.kept else { return Err(End::Farewell("upload")) };
                whole.finish(&line);
                let sent = match whole.flat() {
                    _ if upload.verb.uploads() => Ok(Sent { tag: upload.tag, what: What::Upload }),
                    Ok(flat) => self.relay.sent(&flat),
                    Err(_) => return Err(End::Farewell("limit")),
                };
                let sent = match sent {
                    Ok(sent) => sent,
                    Err(own) => {
                        self.parked = Some(own);
                        return self.parked();
                    }
                };
                self.hold(sent, Body::Whole(whole));
                if self.flows() {
                    self.release()?;
                }
            }
        }
        self.describe_queue();
        Ok(())
    }

    /// An upload that outgrew what is kept outside of a cutover: it ends where it began, and is waited for.
    pub(super) fn uploads_unkept(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.kept.is_none())
    }

    /// Before the backend is given up: what streams to it is only kept from now on.
    pub(super) fn detach_uploads(&mut self) -> Result<(), End> {
        if let Some(answered) = self.sending.take_if(|sending| sending.answered) {
            self.no_longer_held(answered.since);
        }
        if let Some(sending) = self.sending.take() {
            self.queue.put_back(Held {
                sent: sending.sent,
                body: Body::Whole(sending.whole),
                since: sending.since,
                arrived: sending.arrived,
            });
        }
        let undecided = self.relay.undecided();
        if let Some(upload) = &mut self.upload
            && let Path::Streaming { answered, .. } = upload.path
        {
            let Some(kept) = upload.kept.as_ref().filter(|_| !answered) else {
                return Err(End::Farewell("upload"));
            };
            if kept.announced() > self.door.world.config.limits.upload {
                return Err(End::Farewell("upload"));
            }
            upload.path = Path::Kept;
            if undecided {
                // The client waits for a `+` that the backend will not give any more.
                self.relay.accept();
                self.say(b"+ OK\r\n");
            }
        }
        self.queue.backend_lost().map_err(|()| End::Farewell("upload"))
    }
}

/// Bytes of a literal: kept, and streamed where the upload streams.
pub(super) fn receive(
    upload: &mut Option<Box<Upload>>,
    backend: &mut Option<Backend>,
    door: &Door,
    bytes: &[u8],
) -> Result<(), &'static str> {
    let Some(upload) = upload else { return Err("protocol") };
    let limits = &door.world.config.limits;
    upload.progress.0 += bytes.len() as u64;
    let keeps_all = upload.path == Path::Kept || door.world.gate.armed();
    if let Some(kept) = &mut upload.kept {
        let outgrown = kept.received() + bytes.len() as u64 > limits.upload_memory as u64;
        if outgrown && !keeps_all {
            upload.kept = None;
        } else if kept.push(bytes, limits.upload_memory).is_err() {
            door.world.metrics.limits_hit.count("spool");
            upload.kept = None;
        }
    }
    match (upload.path, backend) {
        (Path::Streaming { .. }, Some(backend)) => {
            backend.out.push(&mut backend.leg, bytes).map_err(|_| "backend_lost")
        }
        (Path::Streaming { .. }, None) | (Path::Kept, _) if upload.kept.is_none() => Err("limit"),
        (Path::Streaming { .. }, None) | (Path::Kept, _) => Ok(()),
    }
}
