//! One message as a list of steps, so that anything can happen between any two of them.
//!
//! Rule: a step is sent whole; who sends a step that is answered reads all its replies before the next one.

use bascule_tests::{
    client::Result,
    fake::smtp::Door,
    ledger::Ledger,
    smtp::{Client, Reply, Sent, stuffed},
};

use super::{ALICE, BOB, FROM, NOBODY};

/// Something that a client sends.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// For people and for the oracle: the command that begins here.
    pub(super) line: Option<String>,
    bytes: Vec<u8>,
    answered: bool,
}

impl Step {
    fn command(line: &str) -> Self {
        Self { line: Some(line.into()), bytes: format!("{line}\r\n").into_bytes(), answered: true }
    }

    fn bytes(bytes: &[u8]) -> Self {
        Self { line: None, bytes: bytes.into(), answered: false }
    }

    fn chunk(bytes: &[u8], last: bool) -> Self {
        let line = format!("BDAT {}{}", bytes.len(), if last { " LAST" } else { "" });
        let bytes = [line.as_bytes(), b"\r\n", bytes].concat();
        Self { line: Some(line), bytes, answered: true }
    }

    /// The same in two steps.
    fn halves(self) -> [Self; 2] {
        let (head, tail) = self.bytes.split_at(self.bytes.len() / 2);
        [
            Self { line: self.line, bytes: head.into(), answered: false },
            Self { line: None, bytes: tail.into(), answered: true },
        ]
    }
}

/// How a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// DATA, its content in ten pieces, the dot by itself.
    Data,
    /// Chunks, one of them in two pieces, the last with content.
    Chunks,
    /// Chunks, and a last one without content.
    Empty,
}

impl Form {
    pub(super) const ALL: [Self; 3] = [Self::Data, Self::Chunks, Self::Empty];
}

/// A message on its way: to alice and bob, and to nobody, who is refused.
pub(super) struct Talk {
    pub(super) client: Client,
    /// For whoever reads a failure.
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
    pub(super) id: String,
    at: usize,
    said: Vec<(String, Vec<Reply>)>,
}

/// The recipients of a [`Talk`].
pub(super) const TO: [&str; 3] = [ALICE, NOBODY, BOB];

impl Talk {
    pub(super) fn new(client: Client, door: Door, form: Form, size: usize, ledger: &Ledger) -> Self {
        let (id, message) = ledger.mail(size, &TO);
        let mut steps = vec![Step::command(&format!("MAIL FROM:<{FROM}>"))];
        steps.extend(TO.map(|to| Step::command(&format!("RCPT TO:<{to}>"))));
        steps.extend(content(form, &message));
        Self { client, name: format!("{door:?} {form:?}"), steps, id, at: 0, said: Vec::new() }
    }

    /// The step that comes next.
    pub(super) fn next(&self) -> Option<&Step> {
        self.steps.get(self.at)
    }

    /// Sends the next step; whether it is answered.
    pub(super) async fn send(&mut self) -> Result<bool> {
        let step = &self.steps[self.at];
        self.at += 1;
        if let Some(line) = &step.line {
            self.client.announce(line);
            self.said.push((line.clone(), Vec::new()));
        }
        self.client.write(&step.bytes).await?;
        Ok(step.answered)
    }

    /// Reads the replies to what was sent. An answer that ends the message skips the rest of it.
    pub(super) async fn hear(&mut self) -> Result<()> {
        let replies = self.client.ends().await?;
        let Some((line, heard)) = self.said.last_mut() else { return Ok(()) };
        let over = replies.iter().any(|r| r.code >= 400) && !line.starts_with("RCPT");
        heard.extend(replies);
        if over {
            self.at = self.steps.len();
        }
        Ok(())
    }

    /// Sends the next step and reads its replies.
    pub(super) async fn step(&mut self) -> Result<()> {
        if self.send().await? { self.hear().await } else { Ok(()) }
    }

    /// Goes on to this step.
    pub(super) async fn until(&mut self, at: usize) -> Result<()> {
        while self.at < at {
            self.step().await?;
        }
        Ok(())
    }

    /// Goes on to the end, and tells the ledger.
    pub(super) async fn finish(&mut self, ledger: &Ledger) -> Result<Sent> {
        self.until(self.steps.len()).await?;
        let sent = self.sent();
        ledger.record(&self.id, &TO, &sent);
        Ok(sent)
    }

    /// What was heard. A refusal before the end of the message stands for its end.
    fn sent(&self) -> Sent {
        let of = |verb: &'static str| {
            self.said.iter().filter(move |(line, _)| line.starts_with(verb)).flat_map(|(_, r)| r.clone())
        };
        let last = self.said.last().map(|(_, replies)| replies.clone()).unwrap_or_default();
        let mail = of("MAIL").next().unwrap_or_else(|| panic!("{}: no MAIL", self.name));
        Sent {
            data: of("DATA").next().unwrap_or_else(|| mail.clone()),
            mail,
            rcpts: of("RCPT").collect(),
            ends: last,
        }
    }
}

fn content(form: Form, message: &[u8]) -> Vec<Step> {
    let wire = stuffed(message);
    let pieces = |bytes: &[u8], count: usize| {
        bytes.chunks(bytes.len().div_ceil(count)).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    match form {
        Form::Data => {
            let content = pieces(&wire, 10).into_iter().map(|piece| Step::bytes(&piece)).collect();
            let dot = Step { line: Some("DOT".into()), bytes: b".\r\n".into(), answered: true };
            [vec![Step::command("DATA")], content, vec![dot]].concat()
        }
        Form::Chunks | Form::Empty => {
            let [first, second, third] = &pieces(message, 3)[..] else { panic!("three pieces") };
            let mut steps = vec![Step::chunk(first, false)];
            steps.extend(Step::chunk(second, false).halves());
            if form == Form::Chunks {
                steps.extend(Step::chunk(third, true).halves());
            } else {
                steps.extend([Step::chunk(third, false), Step::chunk(b"", true)]);
            }
            steps
        }
    }
}
