//! The server's side: whole lines go on in one run, and each is looked at on its way.
//!
//! Rule: no incomplete line reaches the client, except a literal that streams.

use super::{
    ENABLEABLE, Event, Fate, Probe, RESPONSE_LINE, Relay, Sent, ServerIdle, Step, What, bounded,
    idle::idle_completed,
};
use crate::imap::{
    fragment,
    response::{self, Response, Status},
    state::{Selected, State},
    tag::Tag,
    view::View,
};

impl Relay {
    /// Takes bytes of the backend. Whole lines go on in one run; the run ends at a line that needs more.
    pub fn server(&mut self, input: &[u8]) -> Step {
        let mut at = 0;
        while at < input.len() {
            if self.literal > 0 {
                let n = bounded(input.len() - at, self.literal);
                if self.continues == Some(false) {
                    self.literal -= n as u64;
                    return Step { forward: at, swallow: n, ..Step::default() };
                }
                self.literal -= n as u64;
                at += n;
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', &input[at..]).map(|n| at + n + 1) else {
                return self.unfinished_line(input, at);
            };
            if !self.server.is_empty() {
                return self.finished_line(&input[..end]);
            }
            match self.line(&input[at..end]) {
                Fate::Forward(None) => at = end,
                Fate::Forward(event) => return Step { forward: end, event, ..Step::default() },
                Fate::Swallow(event) => {
                    return Step { forward: at, swallow: end - at, event, ..Step::default() };
                }
                Fate::Lost(why) => {
                    return Step { forward: at, event: Some(Event::Lost(why)), ..Step::default() };
                }
            }
        }
        Step { forward: at, ..Step::default() }
    }

    fn unfinished_line(&mut self, input: &[u8], at: usize) -> Step {
        if at > 0 {
            return Step { forward: at, ..Step::default() };
        }
        self.server.extend_from_slice(input);
        let event = (self.server.len() > RESPONSE_LINE).then_some(Event::Lost("response line too long"));
        Step { swallow: input.len(), event, ..Step::default() }
    }

    fn finished_line(&mut self, rest: &[u8]) -> Step {
        let mut line = std::mem::take(&mut self.server);
        line.extend_from_slice(rest);
        let (owned, event) = match self.line(&line) {
            Fate::Forward(event) => (line, event),
            Fate::Swallow(event) => (Vec::new(), event),
            Fate::Lost(why) => {
                self.server = line;
                (Vec::new(), Some(Event::Lost(why)))
            }
        };
        Step { owned, swallow: rest.len(), event, ..Step::default() }
    }

    fn line(&mut self, line: &[u8]) -> Fate {
        let text = fragment::text(line);
        if let Some(forward) = self.continues.take() {
            self.literal = fragment::literal(text).map_or(0, |l| l.size);
            if self.literal > 0 || fragment::literal(text).is_some() {
                self.continues = Some(forward);
            }
            return if forward { Fate::Forward(None) } else { Fate::Swallow(None) };
        }
        let Ok(response) = Response::parse(text) else { return Fate::Lost("not a response") };
        let fate = self.response(&response);
        if response.is_data() && fragment::literal(text).is_some() {
            self.literal = response::literal_after(&response, text);
            self.continues = Some(matches!(fate, Fate::Forward(_)));
        }
        fate
    }

    fn response(&mut self, response: &Response<'_>) -> Fate {
        match *response {
            Response::Continue => self.on_continue(),
            Response::Tagged { tag, status, text } => self.on_tagged(tag, status, text),
            Response::Untagged { status: Status::Bye, .. } => Fate::Swallow(Some(Event::Bye)),
            Response::Untagged { text, .. } => self.on_status(text),
            Response::Exists(n) => self.mailbox(|m| m.on_exists(n)),
            Response::Recent(n) => self.mailbox(|m| m.recent = n),
            Response::Expunge(n) => self.removal(|m| m.on_expunge(n)),
            Response::Vanished { earlier: true, .. } => Fate::Forward(None),
            Response::Vanished { earlier: false, set } => self.removal(|m| m.on_vanished(set)),
            Response::Fetch(n, items) => self.mailbox(|m| {
                if m.view.is_some()
                    && let Some(uid) = response::fetch_uid(items)
                {
                    m.on_fetch(n, uid);
                }
            }),
            Response::Esearch(data) => self.on_esearch(data),
            // CAPABILITY is never forwarded, so nobody asked for this one (I7).
            Response::Capability(_) => Fate::Swallow(None),
            Response::Enabled(words) => {
                self.state.enable(words);
                Fate::Forward(None)
            }
            Response::Data => Fate::Forward(None),
        }
    }

    fn mailbox(&mut self, change: impl FnOnce(&mut Selected)) -> Fate {
        // Only the oldest command speaks: before its turn a pipelined SELECT has selected nothing, and an IDLE of
        // ours is older than every command.
        let idles = !matches!(self.server_idle, ServerIdle::No);
        let pending = self.flight.front_mut().and_then(|s| match &mut s.what {
            What::Select(selected) if !idles => Some(selected),
            What::Select(_)
            | What::Read
            | What::Write
            | What::Upload
            | What::Deselect { .. }
            | What::Enable
            | What::SaveSearch => None,
        });
        if let Some(selected) = pending.or(self.state.selected.as_mut()) {
            change(selected);
        }
        Fate::Forward(None)
    }

    /// EXPUNGE or VANISHED. Where only a command of ours made the backend speak, the client must not hear it
    /// now (semantics §1.c.9), and cannot be followed, nor served, afterwards.
    fn removal(&mut self, change: impl FnOnce(&mut Selected)) -> Fate {
        if self.flight.is_empty() && self.client_idle.is_none() && self.own_outstanding() && self.answered() {
            if let Some(selected) = &mut self.state.selected {
                (selected.diverged, selected.untold) = (true, true);
            }
            return Fate::Swallow(None);
        }
        self.mailbox(change)
    }

    /// Answers come in the order of the questions, and an IDLE is always older than a literal that waits.
    fn on_continue(&mut self) -> Fate {
        match std::mem::replace(&mut self.server_idle, ServerIdle::No) {
            ServerIdle::Asked(ours) => {
                self.server_idle = ServerIdle::Running(ours);
                return Fate::Swallow(None);
            }
            ServerIdle::Ending { ours, plus: false, answer } => {
                self.server_idle = ServerIdle::Ending { ours, plus: true, answer };
                return Fate::Swallow(None);
            }
            other @ (ServerIdle::No | ServerIdle::Running(_) | ServerIdle::Ending { .. }) => {
                self.server_idle = other
            }
        }
        match self.awaits_go.take() {
            Some(_) => Fate::Swallow(Some(Event::Go)),
            None => Fate::Lost("continuation that nobody asked for"),
        }
    }

    fn on_status(&mut self, text: &[u8]) -> Fate {
        match response::code(text) {
            Some((name, _)) if name.eq_ignore_ascii_case(b"CAPABILITY") => Fate::Swallow(None),
            Some((name, _)) if name.eq_ignore_ascii_case(b"CLOSED") => {
                self.state.selected = None;
                Fate::Forward(None)
            }
            Some(_) => self.mailbox(|m| m.on_code(text)),
            None => Fate::Forward(None),
        }
    }

    fn on_esearch(&mut self, data: &[u8]) -> Fate {
        let Probe::Searching { ours } = &self.probe else { return Fate::Forward(None) };
        let result = response::esearch(data);
        if result.tag != Some(ours.as_bytes()) {
            return Fate::Forward(None);
        }
        // The view as of this line: an EXISTS behind it makes it grow.
        if let (Some(selected), Some(count)) = (&mut self.state.selected, result.count)
            && count == selected.exists
        {
            selected.view = result.all.and_then(|set| View::new(set, count));
        }
        Fate::Swallow(None)
    }

    fn on_tagged(&mut self, tag: &[u8], status: Status, text: &[u8]) -> Fate {
        if let Some(fate) = self.on_own(tag, status) {
            return fate;
        }
        let waiting = [&mut self.awaits_go, &mut self.uploading];
        let mut early = false;
        for waits in waiting {
            if waits.as_ref().is_some_and(|t| t.as_bytes() == tag) {
                *waits = None;
                early = true;
            }
        }
        if early {
            return Fate::Forward(Some(Event::Answered(Tag::new(tag))));
        }
        let Some(at) = self.flight.iter().position(|s| s.tag.as_bytes() == tag) else {
            return Fate::Lost("unknown tag");
        };
        let Some(sent) = self.flight.remove(at) else { return Fate::Lost("unknown tag") };
        let upload = matches!(sent.what, What::Upload);
        self.complete(sent, status == Status::Ok, text);
        Fate::Forward(upload.then(|| Event::Answered(Tag::new(tag))))
    }

    fn on_own(&mut self, tag: &[u8], status: Status) -> Option<Fate> {
        let idle = match &self.server_idle {
            ServerIdle::Asked(ours) | ServerIdle::Running(ours) | ServerIdle::Ending { ours, .. } => {
                Some(ours)
            }
            ServerIdle::No => None,
        };
        if idle.is_some_and(|ours| ours.as_bytes() == tag) {
            let was = std::mem::replace(&mut self.server_idle, ServerIdle::No);
            if let Probe::Wanted = self.probe {
                return Some(Fate::Swallow(Some(Event::Send(self.search()))));
            }
            let answer = match was {
                ServerIdle::Ending { answer, .. } => answer.map(|tag| idle_completed(&tag)),
                // Refused, or ended by the server: the client's IDLE goes on all the same.
                ServerIdle::No | ServerIdle::Asked(_) | ServerIdle::Running(_) => {
                    self.idle_refused = status != Status::Ok;
                    None
                }
            };
            return Some(Fate::Swallow(Some(Event::IdleEnded(answer))));
        }
        match std::mem::replace(&mut self.probe, Probe::No) {
            Probe::Searching { ours } if ours.as_bytes() == tag => Some(Fate::Swallow(Some(Event::Probed))),
            other @ (Probe::No | Probe::Wanted | Probe::Searching { .. }) => {
                self.probe = other;
                None
            }
        }
    }

    /// The beginning of a line of the backend, or the line at which step was lost: only a byte pipe shows it to
    /// the client.
    pub fn unsent(&self) -> &[u8] {
        &self.server
    }

    /// How often the selected mailbox has changed.
    pub fn selections(&self) -> u32 {
        self.selections
    }

    fn complete(&mut self, sent: Sent, ok: bool, text: &[u8]) {
        self.selections += u32::from(matches!(sent.what, What::Select(_) | What::Deselect { .. }));
        match sent.what {
            What::Select(mut selected) if ok => {
                selected.writable = response::says(text, b"READ-WRITE");
                self.state.condstore |= selected.condstore;
                self.state.selected = Some(selected);
            }
            // A failed SELECT leaves no mailbox selected (RFC 3501 §6.3.1).
            What::Select(_) => self.state.selected = None,
            What::Deselect { .. } if ok => self.state.selected = None,
            What::SaveSearch => {
                if let Some(selected) = &mut self.state.selected {
                    selected.saved_search = true;
                }
            }
            What::Read | What::Write | What::Upload | What::Deselect { .. } | What::Enable => {}
        }
    }
}

impl State {
    fn enable(&mut self, words: &[u8]) {
        // What a restore cannot ask for again is not kept, however much a server says.
        let known = |word: &&[u8]| ENABLEABLE.iter().any(|have| have.as_bytes().eq_ignore_ascii_case(word));
        for word in words.split(|b| *b == b' ').filter(known) {
            if !self.enabled.iter().any(|have| have.eq_ignore_ascii_case(word)) {
                self.condstore |=
                    word.eq_ignore_ascii_case(b"CONDSTORE") || word.eq_ignore_ascii_case(b"QRESYNC");
                self.enabled.push(word.into());
            }
        }
    }
}
