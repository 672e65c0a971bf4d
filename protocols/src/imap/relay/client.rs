//! The client's side: commands, literals, what belongs to IDLE.
//!
//! Rule: what follows a line that cannot be framed is never read.

use std::borrow::Cow;

use super::{ABSURD, Own, Reading, Relay, Sent, Verdict, What, bounded};
use crate::{
    imap::{
        command::{self, Class, Head, Verb},
        farewell::answer,
        fragment::{self, LineError, Literal},
        state::Selected,
        tag::{Tag, TagMaker},
    },
    lines::TooLong,
};

impl Relay {
    /// Takes bytes of the client. Returns how many, and what they are.
    pub fn client<'a>(&'a mut self, input: &'a [u8]) -> (usize, Verdict<'a>) {
        match &mut self.reading {
            Reading::Data(left) => {
                let n = bounded(input.len(), *left);
                *left -= n as u64;
                if *left == 0 {
                    self.reading = Reading::AfterData;
                }
                return (n, Verdict::Data(&input[..n]));
            }
            Reading::Discard(_, left) if *left > 0 => {
                let n = bounded(input.len(), *left);
                *left -= n as u64;
                return (n, Verdict::NeedMore);
            }
            Reading::Announced(_) => return (0, Verdict::NeedMore),
            Reading::Command | Reading::AfterData | Reading::Idle | Reading::Discard(..) => {}
        }
        let (n, line) = self.client.next(input, self.line_limit);
        let line = match line {
            Ok(None) => return (n, Verdict::NeedMore),
            Ok(Some(line)) => line,
            // Where the line begins is not at hand, and RFC 3501 §7.1.3 has this very case without a tag.
            Err(error) => return (n, close(b"", error.into())),
        };
        let text = fragment::text(line);
        if let Err(error) = fragment::check(text) {
            if error.is_framed() && matches!(self.reading, Reading::Command) {
                let refusal = refusal(command::tag_of(text), &format!("BAD {error}."));
                return (n, Verdict::Own(Own::Refuse(refusal)));
            }
            return (n, close(text, error));
        }
        let reading = std::mem::replace(&mut self.reading, Reading::Command);
        let verdict = match reading {
            Reading::Idle if text.eq_ignore_ascii_case(b"DONE") => Verdict::Own(Own::Done),
            // Its data would be read as commands.
            Reading::Idle if fragment::literal(text).is_some() => return (n, close(text, LineError::Marker)),
            Reading::Idle => Verdict::Own(Own::NotDone),
            Reading::Discard(refusal, _) => {
                if let Some(literal) = fragment::literal(text) {
                    // A chain of refused literals: the synchronising ones will not come.
                    if !literal.sync {
                        self.reading = Reading::Discard(refusal, literal.size);
                        return (n, Verdict::NeedMore);
                    }
                }
                Verdict::Own(Own::Refuse(refusal))
            }
            Reading::Command | Reading::AfterData | Reading::Announced(_) | Reading::Data(_) => {
                if let Some(literal) = fragment::literal(text) {
                    self.reading = Reading::Announced(literal.size);
                    let begins = match reading {
                        Reading::AfterData => None,
                        Reading::Command
                        | Reading::Announced(_)
                        | Reading::Data(_)
                        | Reading::Idle
                        | Reading::Discard(..) => match command::head(text) {
                            Ok(head) => {
                                self.tags.avoid(head.tag);
                                Some((Tag::new(head.tag), head.verb))
                            }
                            Err(_) => return (n, close(text, LineError::OpenQuote)),
                        },
                    };
                    Verdict::Literal { begins, line: &text[..literal.marker], literal }
                } else if matches!(reading, Reading::AfterData) {
                    Verdict::Last(text)
                } else {
                    whole(line, text, &mut self.tags, &mut self.reading, &self.enableable)
                }
            }
        };
        (n, verdict)
    }

    /// The announced literal is read: [`Verdict::Data`] follows.
    pub fn accept(&mut self) {
        if let Reading::Announced(size) = self.reading {
            self.reading = if size == 0 { Reading::AfterData } else { Reading::Data(size) };
        }
    }

    /// The announced literal is not wanted. A client that waits for `+` sends nothing more of it; one that does
    /// not is read to the command's end and refused then. True: the refusal is the caller's to say now.
    pub fn refuse(&mut self, tag: &Tag, literal: Literal) -> Result<bool, LineError> {
        if literal.sync {
            self.reading = Reading::Command;
            return Ok(true);
        }
        if literal.size > ABSURD {
            return Err(TooLong.into());
        }
        self.reading = Reading::Discard(answer(tag, "NO [TOOBIG] Literal too large."), literal.size);
        Ok(false)
    }

    /// The command whose literals are being read is not wanted any more: it is read to its end, and refused then.
    pub fn discard(&mut self, refusal: Vec<u8>) {
        let left = match self.reading {
            Reading::Data(left) => left,
            Reading::AfterData => 0,
            Reading::Command | Reading::Announced(_) | Reading::Idle | Reading::Discard(..) => return,
        };
        self.reading = Reading::Discard(refusal, left);
    }

    /// The backend refused an upload before its literal was sent: the next line is a command.
    pub fn cancel_literal(&mut self) {
        self.reading = Reading::Command;
        self.awaits_go = None;
        self.uploading = None;
    }

    /// The command in `whole` (its literals in place, without the last line end), or what the proxy says to it.
    pub fn sent(&self, whole: &[u8]) -> Result<Sent, Own> {
        let refuse = |text| Own::Refuse(refusal(command::tag_of(whole), text));
        let head = command::head(whole).map_err(|_| refuse("BAD Not a command."))?;
        let tag = Tag::new(head.tag);
        match (head.verb.class(), head.verb) {
            (_, Verb::Id) => Err(Own::Id(tag, head.arguments.into())),
            (Class::Own | Class::Denied, _) => Err(refuse("BAD Not available here.")),
            (_, Verb::Enable) => Err(refuse("BAD ENABLE takes atoms.")),
            _ if updates(&head) => Err(refuse("BAD CONTEXT is not available here.")),
            (Class::Read | Class::Write, _) => Ok(sent(&head)),
        }
    }

    /// Whether the client is inside a literal or between two.
    pub fn mid_command(&self) -> bool {
        !matches!(self.reading, Reading::Command | Reading::Idle) || !self.client.unfinished().is_empty()
    }

    /// Whether the client waits for the driver's word on a literal.
    pub fn undecided(&self) -> bool {
        matches!(self.reading, Reading::Announced(_))
    }

    /// What the client sent of an unfinished line; for the byte pipe.
    pub fn unfinished(&self) -> &[u8] {
        self.client.unfinished()
    }
}

/// A command line without literals.
fn whole<'a>(
    line: &'a [u8],
    text: &'a [u8],
    tags: &mut TagMaker,
    reading: &mut Reading,
    enableable: &[&str],
) -> Verdict<'a> {
    let head = match command::head(text) {
        Ok(head) => head,
        Err(error) => {
            return Verdict::Own(Own::Refuse(refusal(command::tag_of(text), &format!("BAD {error}."))));
        }
    };
    tags.avoid(head.tag);
    let tag = Tag::new(head.tag);
    match (head.verb.class(), head.verb) {
        (Class::Own, Verb::Idle) => {
            *reading = Reading::Idle;
            Verdict::Own(Own::Idle(tag))
        }
        (Class::Own, Verb::Capability) => Verdict::Own(Own::Capability(tag)),
        (Class::Own, Verb::Id) => Verdict::Own(Own::Id(tag, head.arguments.into())),
        (Class::Own, _) => Verdict::Own(Own::Logout(tag)),
        (Class::Denied, _) => Verdict::Own(Own::Refuse(answer(&tag, "BAD Not available here."))),
        (Class::Read | Class::Write, _) if updates(&head) => {
            Verdict::Own(Own::Refuse(answer(&tag, "BAD CONTEXT is not available here.")))
        }
        (_, Verb::Enable) => enable(&head, enableable),
        (Class::Read | Class::Write, _) => {
            let bytes = if line.ends_with(b"\r\n") {
                Cow::Borrowed(line)
            } else {
                Cow::Owned([text, b"\r\n"].concat())
            };
            Verdict::Command(sent(&head), bytes)
        }
    }
}

/// ENABLE of what clients are shown; the rest is ignored, as RFC 5161 §3.1 has it for unknown words.
fn enable<'a>(head: &Head<'_>, enableable: &[&str]) -> Verdict<'a> {
    let wanted: Vec<&[u8]> = head
        .arguments
        .split(|b| *b == b' ')
        .filter(|word| enableable.iter().any(|have| have.as_bytes().eq_ignore_ascii_case(word)))
        .collect();
    if wanted.is_empty() {
        let nothing = [b"* ENABLED\r\n", &answer(&Tag::new(head.tag), "OK Enabled.")[..]].concat();
        return Verdict::Own(Own::Refuse(nothing));
    }
    let line = [head.tag, b" ENABLE ", &wanted.join(&b' '), b"\r\n"].concat();
    Verdict::Command(sent(head), Cow::Owned(line))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other verb goes by its class")]
fn sent(head: &Head<'_>) -> Sent {
    let what = match head.verb {
        Verb::Select | Verb::Examine => match command::astring(head.arguments) {
            Some((name, parameters)) => {
                let parameters = parameters.to_ascii_uppercase();
                let condstore = [&b"CONDSTORE"[..], b"QRESYNC"].iter().any(|p| contains(&parameters, p));
                What::Select(Box::new(Selected::new(&name, head.verb == Verb::Examine, condstore)))
            }
            None => What::Read,
        },
        Verb::Close => What::Deselect { close: true },
        Verb::Unselect => What::Deselect { close: false },
        Verb::Enable => What::Enable,
        Verb::Search | Verb::Sort | Verb::Thread if returns(head, b"SAVE") => What::SaveSearch,
        verb => match verb.class() {
            Class::Write => What::Write,
            Class::Read | Class::Own | Class::Denied => What::Read,
        },
    };
    Sent { tag: Tag::new(head.tag), what }
}

/// `SEARCH RETURN (… option …)`
fn returns(head: &Head<'_>, option: &[u8]) -> bool {
    let (first, rest) = command::word(head.arguments);
    let Some(inner) = rest.strip_prefix(b"(").filter(|_| first.eq_ignore_ascii_case(b"RETURN")) else {
        return false;
    };
    let end = memchr::memchr(b')', inner).unwrap_or(inner.len());
    inner[..end].split(|b| *b == b' ').any(|word| word.eq_ignore_ascii_case(option))
}

fn updates(head: &Head<'_>) -> bool {
    matches!(head.verb, Verb::Search | Verb::Sort) && returns(head, b"UPDATE")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

fn refusal(tag: &[u8], text: &str) -> Vec<u8> {
    [tag, b" ", text.as_bytes(), b"\r\n"].concat()
}

fn close(line: &[u8], error: LineError) -> Verdict<'static> {
    let mut out = refusal(command::tag_of(fragment::text(line)), &format!("BAD {error}."));
    out.extend_from_slice(b"* BYE Protocol error\r\n");
    Verdict::Close(out)
}
